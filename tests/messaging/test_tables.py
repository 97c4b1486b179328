"""The tables are a machine: numbers in, rows out, and no order of events loses or reorders a message."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from msgov.messaging import letters, tables
from msgov.messaging.bus import Delivery
from msgov.messaging.message import Message
from msgov.messaging.tables import Lost, Moment

CAPACITY = 100_000


def opened() -> sqlite3.Connection:
    """Open tables in memory."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for statement in (*tables.SCHEMA, *letters.SCHEMA):
        connection.execute(statement)
    return connection


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    """Give tables in memory."""
    connection = opened()
    yield connection
    connection.close()


def at(mono: float, *, wall: float | None = None, epoch: int = 1) -> Moment:
    """Make a moment."""
    return Moment(mono, mono if wall is None else wall, epoch)


def put(db: sqlite3.Connection, *messages: Message, mono: float = 0.0, capacity: int = CAPACITY) -> list[str]:
    """Publish."""
    return tables.publish(db, messages, at(mono), capacity=capacity)


def test_reader_of_a_topic_is_rung_for_it(db: sqlite3.Connection) -> None:
    """Who publishes must know whom to wake, and nobody else."""
    tables.join(db, "t", "g", "one", "/bell one")
    tables.join(db, "t", "h", "two", "")
    tables.join(db, "u", "g", "three", "/bell three")
    assert put(db, Message("t"), Message("t")) == ["/bell one"]


def test_claims_of_a_silent_consumer_are_freed_and_counted(db: sqlite3.Connection) -> None:
    """A message that kills its consumer must reach the dead letters some day."""
    tables.join(db, "t", "g", "one", "bell")
    tables.join(db, "t", "g", "two", "")
    put(db, Message("t", b"x", key="k"), Message("t", b"y", key="k"))
    (held,) = tables.claim(db, "one", 5, at(1))
    counts = tables.beat(db, "two")
    assert tables.reap(db, "one", counts["one"] + 1, 2) is None, "it has moved since"
    assert tables.reap(db, "one", counts["one"], 2) == "bell"
    assert tables.reap(db, "one", counts["one"], 2) is None, "somebody did that already"
    (again,) = tables.claim(db, "two", 5, at(3))
    assert (again.message, again.attempt) == (held.message, 2)
    assert not tables.settle(db, held)
    assert not tables.again(db, held, 9, counted=True)
    assert not letters.bury(db, held, "poison", "", at(3))
    with pytest.raises(Lost):
        tables.beat(db, "one")
    with pytest.raises(Lost):
        tables.claim(db, "one", 1, at(3))


def test_claim_held_again_by_the_same_consumer_is_another_claim(db: sqlite3.Connection) -> None:
    """A late settle of the first delivery must not settle the second."""
    tables.join(db, "t", "g", "one", "")
    put(db, Message("t"))
    (first,) = tables.claim(db, "one", 1, at(0))
    tables.again(db, first, 0, counted=True)
    (second,) = tables.claim(db, "one", 1, at(1))
    assert not tables.settle(db, first)
    assert tables.settle(db, second)


def test_look_tells_when_something_can_be_claimed(db: sqlite3.Connection) -> None:
    """Waiting shorter burns the CPU, waiting longer makes the delay longer than asked."""
    tables.join(db, "t", "g", "one", "")
    assert tables.look(db, "one", 0) is None
    put(db, Message("t", key="k"), Message("t", key="k"))
    assert tables.look(db, "one", 0) == 0
    (first,) = tables.claim(db, "one", 5, at(0))
    assert tables.look(db, "one", 0) is None, "the second waits behind the first"
    tables.again(db, first, 8, counted=True)
    assert tables.look(db, "one", 5) == 3
    assert tables.look(db, "one", 8) == 0


def test_many_messages_of_a_blocked_key_hide_nobody(db: sqlite3.Connection) -> None:
    """A window of fixed size would fill with them, and one bad key would stop the topic."""
    tables.join(db, "t", "g", "one", "")
    put(db, *(Message("t", key="stuck") for _ in range(3 * tables.CHUNK)), Message("t", b"free", key="other"))
    (stuck, free) = tables.claim(db, "one", 2, at(0))
    assert (stuck.message.key, free.message.body) == ("stuck", b"free")


def test_reboot_frees_claims_and_ends_delays(db: sqlite3.Connection) -> None:
    """The monotonic clock begins anew: a due time of the last boot may be days away."""
    assert tables.wake(db, "boot one", 0) == 1
    tables.join(db, "t", "g", "one", "")
    put(db, Message("t", b"a"), Message("t", b"b"))
    delayed, _held = tables.claim(db, "one", 2, at(90_000))
    tables.again(db, delayed, 90_010, counted=True)
    assert tables.wake(db, "boot one", 90_001) == 1
    assert tables.wake(db, "boot two", 1) == 2
    with pytest.raises(Lost):
        tables.look(db, "one", 1)
    tables.join(db, "t", "g", "two", "")
    assert {d.message.body for d in tables.claim(db, "two", 5, at(1, epoch=2))} == {b"a", b"b"}


def test_due_times_out_of_reach_are_dropped_where_boots_are_not_told_apart(db: sqlite3.Connection) -> None:
    """A system without boot ids must not wait for the uptime of its last boot."""
    tables.wake(db, "", 0)
    tables.join(db, "t", "g", "one", "")
    put(db, Message("t"))
    (held,) = tables.claim(db, "one", 1, at(90_000))
    tables.again(db, held, 90_010, counted=True)
    tables.wake(db, "", 5)
    assert tables.look(db, "one", 5) == 0


def test_age_is_by_the_monotonic_clock_within_a_boot_and_by_the_wall_across(db: sqlite3.Connection) -> None:
    """A wall clock that jumps must not expire what is waiting; another boot has no other clock."""
    tables.join(db, "t", "g", "one", "")
    tables.publish(db, [Message("t"), Message("t")], Moment(10, 1000, 1), capacity=CAPACITY)
    (first,) = tables.claim(db, "one", 1, Moment(13, 9_999_999, 1))
    assert first.age == 3
    (second,) = tables.claim(db, "one", 1, Moment(14, 1060, 2))
    assert second.age == 60


def test_sweep_removes_what_all_groups_settled_and_is_old(db: sqlite3.Connection) -> None:
    """What one group still needs stays, however old; what is young stays for those who come late."""
    for group in "ab":
        tables.join(db, "t", group, group, "")
    put(db, *(Message("t", b"%d" % n) for n in range(4)), mono=100)
    put(db, Message("t", b"young"), mono=200)
    for held in tables.claim(db, "a", 9, at(200)):
        tables.settle(db, held)
    first, second, *_ = tables.claim(db, "b", 9, at(200))
    assert tables.sweep(db, before=150, capacity=CAPACITY) == 0
    tables.settle(db, second)
    tables.settle(db, first)
    assert tables.sweep(db, before=150, capacity=CAPACITY) == 2
    tables.join(db, "t", "late", "late", "")
    assert len(tables.claim(db, "late", 9, at(200))) == 3


def test_sweep_of_a_topic_without_groups_goes_by_age(db: sqlite3.Connection) -> None:
    """What nobody reads must not fill the disk."""
    put(db, Message("t"), mono=100)
    assert tables.sweep(db, before=100, capacity=CAPACITY) == 0
    assert tables.sweep(db, before=101, capacity=CAPACITY) == 1


def test_publisher_makes_room_itself(db: sqlite3.Connection) -> None:
    """With no consumer alive nobody else would: a topic that nobody reads must not stop those that are read."""
    for n in range(50):
        put(db, Message("unread"), mono=n, capacity=10)
    assert tables.span(db) <= 10


def test_dead_letters_beyond_the_limit_push_out_the_oldest(
    db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store of errors must not fill the disk."""
    monkeypatch.setattr(letters, "KEPT", 3)
    tables.join(db, "t", "g", "one", "")
    put(db, *(Message("t", b"%d" % n) for n in range(5)))
    for held in tables.claim(db, "one", 5, at(0)):
        letters.bury(db, held, "poison", "", at(0))
    kept = letters.page(db, topic="", group="", after=0, most=10)
    assert [letter.message.body for letter in kept] == [b"2", b"3", b"4"]


class Groups(RuleBasedStateMachine):
    """Two consumers of one group do, die and forget as they like; a plain list per key says what must come of it."""

    KEYS = st.sampled_from(["", "a", "b", "c"])
    WHO = st.sampled_from(["one", "two"])

    def __init__(self) -> None:
        super().__init__()
        self.db = opened()
        self.now = 0.0
        self.count = 0
        self.names = {"one": "", "two": ""}
        self.unsettled: dict[str, list[int]] = {}
        self.held: dict[int, tuple[str, Delivery]] = {}
        self.delayed: dict[int, float] = {}
        self.settled: set[int] = set()
        for who in self.names:
            self.come(who)

    def teardown(self) -> None:
        """Drain: every message that was not settled can still be had, each key in order, and no other."""
        self.now += 1000
        self.leave_with("one")
        self.leave_with("two")
        self.come("one")
        drained: dict[str, list[int]] = {}
        while got := tables.claim(self.db, self.names["one"], 3, at(self.now)):
            for delivery in got:
                drained.setdefault(delivery.message.key, []).append(int(delivery.message.body))
                assert tables.settle(self.db, delivery)
        self.db.close()
        expected = {key: line for key, line in self.unsettled.items() if line}
        assert {key: sorted(line) if not key else line for key, line in drained.items()} == {
            key: sorted(line) if not key else line for key, line in expected.items()
        }

    def come(self, who: str) -> None:
        self.count += 1
        self.names[who] = f"{who} {self.count}"
        tables.join(self.db, "t", "g", self.names[who], "")

    def free(self, who: str) -> None:
        for number in [n for n, (holder, _) in self.held.items() if holder == who]:
            del self.held[number]

    def leave_with(self, who: str) -> None:
        tables.leave(self.db, self.names[who], self.now)
        self.free(who)

    @rule(key=KEYS, count=st.integers(1, 4))
    def publish(self, key: str, count: int) -> None:
        messages = []
        for _ in range(count):
            self.count += 1
            self.unsettled.setdefault(key, []).append(self.count)
            messages.append(Message("t", b"%d" % self.count, key=key))
        put(self.db, *messages, mono=self.now)

    @rule(who=WHO, most=st.integers(1, 5))
    def claim(self, who: str, most: int) -> None:
        got = tables.claim(self.db, self.names[who], most, at(self.now))
        ready = [
            number
            for key, line in self.unsettled.items()
            for number in (line if not key else line[:1])
            if number not in self.held and self.delayed.get(number, 0) <= self.now
        ]
        assert len(got) == min(most, len(ready)), "what is ready is handed out, and nothing else"
        for delivery in got:
            number = int(delivery.message.body)
            assert number in ready
            self.held[number] = (who, delivery)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), how=st.sampled_from(["ack", "dead"]))
    def settle(self, data: st.DataObject, how: str) -> None:
        number = data.draw(st.sampled_from(sorted(self.held)))
        _, delivery = self.held.pop(number)
        done = (
            tables.settle(self.db, delivery) if how == "ack" else letters.bury(self.db, delivery, "r", "", at(self.now))
        )
        assert done
        self.unsettled[delivery.message.key].remove(number)
        self.settled.add(number)
        assert not tables.settle(self.db, delivery), "once"

    @precondition(lambda self: self.held)
    @rule(data=st.data(), delay=st.sampled_from([0.0, 1.0, 5.0]), counted=st.booleans())
    def retry(self, data: st.DataObject, delay: float, counted: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.held)))
        _, delivery = self.held.pop(number)
        self.delayed[number] = self.now + delay
        assert tables.again(self.db, delivery, self.now + delay, counted=counted)

    @rule(who=WHO)
    def die(self, who: str) -> None:
        other = "two" if who == "one" else "one"
        counts = tables.beat(self.db, self.names[other])
        name = self.names[who]
        assert tables.reap(self.db, name, counts[name], self.now) is not None
        self.free(who)
        self.come(who)

    @rule(who=WHO)
    def leave(self, who: str) -> None:
        self.leave_with(who)
        self.come(who)

    @rule(seconds=st.sampled_from([0.5, 2.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def sweep(self) -> None:
        tables.sweep(self.db, before=self.now, capacity=CAPACITY)

    @invariant()
    def lag_is_what_is_unsettled(self) -> None:
        assert tables.lag(self.db, self.names["one"]) == sum(map(len, self.unsettled.values()))


Groups.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestGroups = Groups.TestCase
