"""The outbox is a machine too: what is written leaves in order, to one relay at a time, and only when confirmed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from msgov import wire
from msgov.errors import DeliveryError
from msgov.messaging import outbox
from msgov.messaging.message import Poison


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    """Give a user's own connection, of the plain sort, with the tables in it."""
    connection = sqlite3.connect(":memory:")
    with connection:
        outbox.create_table(connection)
        outbox.create_table(connection)
    yield connection
    connection.close()


def write(db: sqlite3.Connection, *bodies: bytes) -> None:
    """Publish and commit."""
    with db:
        for body in bodies:
            outbox.publish(db, "t", body, key="k")


def sent(batch: outbox.Batch) -> list[bytes]:
    """Return what a batch would send."""
    return [row.body for row in batch.rows]


def seqs(batch: outbox.Batch) -> list[int]:
    """Return the numbers of a batch."""
    return [row.seq for row in batch.rows]


def test_message_of_a_transaction_that_is_rolled_back_was_never_there(db: sqlite3.Connection) -> None:
    """No ghost message: an event whose state never came to be."""
    with pytest.raises(KeyError), db:
        outbox.publish(db, "t", b"ghost", key="k")
        raise KeyError
    assert outbox.backlog(db) == (0, None)


def test_message_is_as_it_was_published(db: sqlite3.Connection) -> None:
    """The envelope is made in the transaction, with its id."""
    with db:
        message = outbox.publish(db, "t", {"n": 1}, key="k", headers={"x": "y"}, source="shop")
    (row,) = outbox.advance(db, "me", done=(), most=1).rows
    assert row.message(row.stamp) == message


def test_time_in_the_outbox_is_taken_off_the_deadline(db: sqlite3.Connection) -> None:
    """A request that waited for the broker must not live longer for it."""
    with db:
        outbox.publish(db, "t", b"", expires=10.0, now=lambda: 100.0)
    (row,) = outbox.advance(db, "me", done=(), most=1).rows
    assert row.message(104.0).headers[wire.DEADLINE] == "6000"


def test_batch_is_claimed_in_order_and_struck_off_when_done(db: sqlite3.Connection) -> None:
    """The next batch comes with the confirmation of the last: one commit a batch."""
    write(db, b"1", b"2", b"3")
    first = outbox.advance(db, "me", done=(), most=2)
    assert sent(first) == [b"1", b"2"]
    second = outbox.advance(db, "me", done=seqs(first), most=2)
    assert sent(second) == [b"3"]
    assert outbox.backlog(db)[0] == 1
    last = outbox.advance(db, "me", done=seqs(second), most=2)
    assert (last.rows, last.holder, outbox.lease(db)[0]) == ([], "", "")
    assert outbox.backlog(db) == (0, None)


def test_unconfirmed_batch_is_claimed_again_from_its_first(db: sqlite3.Connection) -> None:
    """Leaving one out after an error would be a gap in its key."""
    write(db, b"1", b"2")
    outbox.advance(db, "me", done=(), most=2)
    assert sent(outbox.advance(db, "me", done=(), most=2)) == [b"1", b"2"]


def test_second_relay_gets_nothing_while_the_first_is_at_it(db: sqlite3.Connection) -> None:
    """Two that send the same rows reorder them."""
    write(db, b"1")
    mine = outbox.advance(db, "me", done=(), most=2)
    yours = outbox.advance(db, "you", done=(), most=2)
    assert (yours.rows, yours.holder, yours.beat) == ([], "me", mine.beat)
    outbox.vacate(db, "me")
    assert sent(outbox.advance(db, "you", done=(), most=2)) == [b"1"]


def test_dead_relay_is_replaced_unless_it_has_moved(db: sqlite3.Connection) -> None:
    """The judgement is about one count: a relay that came back in between keeps its place."""
    write(db, b"1")
    mine = outbox.advance(db, "me", done=(), most=2)
    assert outbox.renew(db, "me")
    assert outbox.advance(db, "you", done=(), most=2, dead=("me", mine.beat)).rows == []
    assert sent(outbox.advance(db, "you", done=(), most=2, dead=("me", mine.beat + 1))) == [b"1"]
    assert not outbox.renew(db, "me")


def test_relay_that_lost_its_place_strikes_nothing_off(db: sqlite3.Connection) -> None:
    """It cannot know what its successor has sent; sending twice is allowed, leaving out is not."""
    write(db, b"1", b"2")
    mine = outbox.advance(db, "me", done=(), most=1)
    outbox.advance(db, "you", done=(), most=1, dead=("me", mine.beat))
    late = outbox.advance(db, "me", done=seqs(mine), most=1)
    assert (late.rows, late.holder, late.lost) == ([], "you", True)
    assert outbox.backlog(db)[0] == 2
    assert not outbox.refuse(db, "me", seqs(mine)[0], "cause")


def test_place_that_was_lost_and_given_up_again_is_told_too(db: sqlite3.Connection) -> None:
    """The successor has finished: what the late one sent is gone, and it begins afresh."""
    write(db, b"1")
    mine = outbox.advance(db, "me", done=(), most=1)
    yours = outbox.advance(db, "you", done=(), most=1, dead=("me", mine.beat))
    outbox.advance(db, "you", done=seqs(yours), most=1)
    write(db, b"2")
    late = outbox.advance(db, "me", done=seqs(mine), most=1)
    assert (sent(late), late.lost) == ([b"2"], True)


def test_refused_message_stands_aside_with_its_cause(db: sqlite3.Connection) -> None:
    """It can never be sent, and must neither block the others nor vanish."""
    write(db, b"bad", b"good")
    batch = outbox.advance(db, "me", done=(), most=9)
    assert outbox.refuse(db, "me", batch.rows[0].seq, "too large for this broker")
    assert sent(outbox.advance(db, "me", done=(), most=9)) == [b"good"]
    row = db.execute("SELECT body, cause FROM msgov_outbox_refused").fetchone()
    assert row == (b"bad", "too large for this broker")


def test_outbox_that_is_full_refuses(db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a bus that is away for good, the state must not run on unheard."""
    monkeypatch.setattr(outbox, "LIMIT", 2)
    write(db, b"1", b"2")
    with pytest.raises(DeliveryError, match="2 messages"):
        write(db, b"3")


def test_bad_message_is_refused_where_it_is_written(db: sqlite3.Connection) -> None:
    """The caller can still do something about it."""
    with pytest.raises(Poison):
        outbox.publish(db, "a b", b"")
