"""A transaction is whole or nothing, locks late, and lets go in time."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from msgov.connections.sqlite import StoreError
from msgov.errors import DeadlineExceeded
from msgov.messaging.inbox import handled
from msgov.messaging.message import Poison
from msgov.messaging.sqlite import Sqlite
from msgov.messaging.transaction import Duplicate, Once
from msgov.testing import no_leaks

SCHEMA = ("CREATE TABLE IF NOT EXISTS stock (sku TEXT PRIMARY KEY, count INTEGER CHECK (count >= 0))",)
ONCE = Once("g", ("id 1",))


@asynccontextmanager
async def opened(folder: Path, **options: float) -> AsyncIterator[Sqlite]:
    """Open a database, and see that it leaves nothing."""
    async with no_leaks(), Sqlite(folder / "a shop.db", schema=SCHEMA, source="shop", **options) as db:  # type: ignore[arg-type]
        yield db


def with_db(
    **options: float,
) -> Callable[[Callable[[Sqlite], Awaitable[None]]], Callable[[Path], None]]:
    """Run an async test on a fresh database."""

    def wrap(test: Callable[[Sqlite], Awaitable[None]]) -> Callable[[Path], None]:
        def run(tmp_path: Path) -> None:
            async def main() -> None:
                async with opened(tmp_path, **options) as db:
                    await test(db)

            asyncio.run(main())

        run.__name__, run.__doc__ = test.__name__, test.__doc__
        return run

    return wrap


async def stock(db: Sqlite) -> list[tuple[object, ...]]:
    """Read what is committed."""
    return [tuple(row) for row in await db.fetch("SELECT sku, count FROM stock ORDER BY sku")]


async def outbox(db: Sqlite) -> list[str]:
    """Read the topics that wait to be sent."""
    return [row["topic"] for row in await db.fetch("SELECT topic FROM msgov_outbox ORDER BY seq")]


@with_db()
async def test_effect_message_and_inbox_commit_together(db: Sqlite) -> None:
    """All three, or the books are wrong."""
    async with db.transaction(once=ONCE) as tx:
        await tx.execute("INSERT INTO stock VALUES (?, ?)", ("a", 5))
        await tx.publish("stock.added", {"sku": "a"}, key="a")
        assert await stock(db) == []
        (row,) = await tx.execute("SELECT count FROM stock WHERE sku = :sku", {"sku": "a"})
        assert row["count"] == 5
    assert await stock(db) == [("a", 5)]
    assert await outbox(db) == ["stock.added"]
    assert await db.handled(ONCE)


@with_db()
async def test_nothing_stays_of_a_block_that_raises(db: Sqlite) -> None:
    """No event without its state, no inbox entry without its effect."""
    with pytest.raises(ZeroDivisionError):
        async with db.transaction(once=ONCE) as tx:
            await tx.execute("INSERT INTO stock VALUES ('a', 5)")
            await tx.publish("stock.added", b"", key="a")
            raise ZeroDivisionError
    assert await stock(db) == []
    assert await outbox(db) == []
    assert not await db.handled(ONCE)


@with_db()
async def test_nothing_stays_of_a_block_that_is_cancelled(db: Sqlite) -> None:
    """Also in the middle of a statement; and the next transaction gets its turn."""
    inside = asyncio.Event()

    async def work() -> None:
        async with db.transaction() as tx:
            await tx.execute("INSERT INTO stock VALUES ('a', 5)")
            inside.set()
            for _ in range(10_000):
                await tx.execute("SELECT 1")

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await stock(db) == []
    async with db.transaction() as tx:
        await tx.execute("INSERT INTO stock VALUES ('b', 1)")
    assert await stock(db) == [("b", 1)]


@with_db()
async def test_failed_statement_undoes_itself_alone(db: Sqlite) -> None:
    """As in SQLite: whoever catches the error of a constraint may go on."""
    async with db.transaction() as tx:
        await tx.execute("INSERT INTO stock VALUES ('a', 1)")
        with pytest.raises(sqlite3.IntegrityError):
            await tx.execute("UPDATE stock SET count = -1")
        await tx.execute("INSERT INTO stock VALUES ('b', 2)")
    assert await stock(db) == [("a", 1), ("b", 2)]


@with_db()
async def test_second_entry_of_the_inbox_is_a_duplicate(db: Sqlite) -> None:
    """At the first statement, and at the end where there is none, whatever the block makes of it."""
    async with db.transaction(once=ONCE):
        pass
    with pytest.raises(Duplicate):
        async with db.transaction(once=ONCE) as tx:
            await tx.execute("INSERT INTO stock VALUES ('a', 1)")
    with pytest.raises(Duplicate):
        async with db.transaction(once=ONCE):
            pass
    with pytest.raises(Duplicate):
        async with db.transaction(once=ONCE) as tx:
            try:
                await tx.execute("INSERT INTO stock VALUES ('a', 1)")
            except Duplicate:
                pass
    with pytest.raises(Duplicate):
        async with db.transaction(once=ONCE) as tx:
            try:
                await tx.execute("INSERT INTO stock VALUES ('a', 1)")
            except Duplicate:
                raise KeyError from None
    assert await stock(db) == []


@with_db()
async def test_ids_count_within_their_group_and_each_of_them(db: Sqlite) -> None:
    """Another group has its own effect; the same business key under another message id has none."""
    async with db.transaction(once=Once("g", ("id 1", "key 7"))):
        pass
    async with db.transaction(once=Once("h", ("id 1", "key 7"))):
        pass
    with pytest.raises(Duplicate):
        async with db.transaction(once=Once("g", ("id 2", "key 7"))):
            pass
    assert not await db.handled(Once("g", ("id 2",))), "what was refused was not handled"


@with_db()
async def test_transactions_come_one_after_the_other(db: Sqlite) -> None:
    """What one has read cannot have changed when it writes: no update is lost."""
    async with db.transaction() as tx:
        await tx.execute("INSERT INTO stock VALUES ('a', 0)")

    async def add() -> None:
        async with db.transaction() as tx:
            (row,) = await tx.execute("SELECT count FROM stock")
            await asyncio.sleep(0.001)
            await tx.execute("UPDATE stock SET count = ?", (row["count"] + 1,))

    await asyncio.gather(*(add() for _ in range(20)))
    assert await stock(db) == [("a", 20)]


@with_db(hold=60.0)
async def test_nothing_is_locked_before_the_first_statement(db: Sqlite) -> None:
    """A handler that first calls another service must not make all writers wait for it."""
    async with db.transaction(once=ONCE) as slow:
        async with db.transaction() as quick:
            await quick.execute("INSERT INTO stock VALUES ('quick', 1)")
        await slow.execute("INSERT INTO stock VALUES ('slow', 1)")
    assert len(await stock(db)) == 2


@with_db()
async def test_reads_do_not_wait_for_a_transaction(db: Sqlite) -> None:
    """A query must be answered while a handler thinks."""
    async with db.transaction() as tx:
        await tx.execute("INSERT INTO stock VALUES ('a', 1)")
        assert await asyncio.wait_for(stock(db), 5) == []


@with_db(hold=0.3)
async def test_transaction_held_too_long_is_rolled_back(db: Sqlite) -> None:
    """Whatever it waits for: others get the lock, and it learns why at its next statement and at its end."""
    other = db.transaction()
    with pytest.raises(DeadlineExceeded, match="open for"):
        async with db.transaction() as tx:
            await tx.execute("INSERT INTO stock VALUES ('late', 1)")
            async with other as quick:
                await asyncio.create_task(quick.execute("INSERT INTO stock VALUES ('other', 1)"))
            with pytest.raises(DeadlineExceeded):
                await tx.execute("INSERT INTO stock VALUES ('later', 1)")
    assert await stock(db) == [("other", 1)]


@with_db(hold=0.4)
async def test_transaction_of_a_loop_that_stood_still_may_finish(db: Sqlite) -> None:
    """A process that was stopped has let nobody wait for longer by finishing now."""
    async with db.transaction() as tx:
        await tx.execute("INSERT INTO stock VALUES ('a', 1)")
        time.sleep(0.5)  # noqa: ASYNC251  the loop stands still
        await tx.execute("INSERT INTO stock VALUES ('b', 1)")
    assert len(await stock(db)) == 2


@with_db(hold=0.3)
async def test_statement_that_takes_too_long_is_broken_off(db: Sqlite) -> None:
    """A runaway query must not hold the lock either."""
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    with pytest.raises(DeadlineExceeded):
        async with db.transaction() as tx:
            await asyncio.wait_for(tx.execute(endless), 10)
    async with db.transaction() as tx:
        await tx.execute("INSERT INTO stock VALUES ('a', 1)")


@with_db()
async def test_transaction_inside_another_of_the_same_task_is_refused(db: Sqlite) -> None:
    """It would wait for itself."""
    async with db.transaction() as tx:
        await tx.execute("INSERT INTO stock VALUES ('a', 1)")
        with pytest.raises(RuntimeError, match="wait for itself"):
            async with db.transaction() as inner:
                await inner.execute("INSERT INTO stock VALUES ('b', 1)")
    assert await stock(db) == [("a", 1)]


@with_db(wait=0.1, hold=60.0)
async def test_turn_that_does_not_come_is_an_error(db: Sqlite) -> None:
    """Bounded, and saying whose fault it is."""

    async def impatient() -> None:
        async with db.transaction() as tx:
            await tx.execute("SELECT 1")

    async with db.transaction() as tx:
        await tx.execute("SELECT 1")
        with pytest.raises(StoreError, match="this process") as late:
            await asyncio.create_task(impatient())
    assert late.value.reason == "store_locked"
    await impatient()


@with_db(wait=0.4)
async def test_lock_of_another_process_is_waited_for_and_then_an_error(db: Sqlite) -> None:
    """For as long as allowed; then nothing is held, and the next one works."""
    other = sqlite3.connect(db.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        async with db.transaction() as tx:
            await tx.execute("INSERT INTO stock VALUES ('a', 1)")
    asyncio.get_running_loop().call_later(0.02, other.rollback)
    async with db.transaction() as tx:
        await tx.execute("INSERT INTO stock VALUES ('b', 1)")
    other.close()
    assert await stock(db) == [("b", 1)]


@with_db()
async def test_transaction_that_is_over_is_over(db: Sqlite) -> None:
    """A task that outlived the block must not write into the next one's transaction."""
    async with db.transaction() as tx:
        await tx.execute("SELECT 1")
    with pytest.raises(RuntimeError, match="over"):
        await tx.execute("SELECT 1")


@with_db()
async def test_statement_that_ends_the_transaction_is_refused(db: Sqlite) -> None:
    """The block ends it; a COMMIT inside would part the effect from its inbox."""
    with pytest.raises(sqlite3.ProgrammingError, match="ended the transaction"):
        async with db.transaction() as tx:
            await tx.execute("INSERT INTO stock VALUES ('a', 1)")
            await tx.execute("ROLLBACK")
    assert await stock(db) == []


@with_db()
async def test_listener_is_told_after_a_commit_that_published(db: Sqlite) -> None:
    """Before, there is nothing to send; without a message, nothing either."""
    told: list[list[str]] = []
    with db.listening(lambda: told.append([])):
        async with db.transaction() as tx:
            await tx.execute("INSERT INTO stock VALUES ('a', 1)")
        assert told == []
        async with db.transaction() as tx:
            await tx.publish("t", b"", key="k")
            assert told == []
        assert len(told) == 1
        with pytest.raises(KeyError):
            async with db.transaction() as tx:
                await tx.publish("t", b"", key="k")
                raise KeyError
    async with db.transaction() as tx:
        await tx.publish("t", b"", key="k")
    assert len(told) == 1


@with_db()
async def test_message_that_cannot_be_is_refused_at_once(db: Sqlite) -> None:
    """Not by the relay, where nobody can do anything about it; and the transaction may go on."""
    async with db.transaction() as tx:
        with pytest.raises(Poison):
            await tx.publish("a topic with blanks", b"", key="k")
        await tx.execute("INSERT INTO stock VALUES ('a', 1)")
    assert await stock(db) == [("a", 1)]


@with_db()
async def test_full_disk_undoes_the_transaction_and_says_so(db: Sqlite) -> None:
    """No part of it stays, and it works again once there is room."""
    async with db.transaction() as tx:
        await tx.execute("INSERT INTO stock VALUES ('a', 1)")

        def shrink(connection: sqlite3.Connection) -> None:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {pages}")

        await tx.run(shrink)
    with pytest.raises(StoreError) as full:
        async with db.transaction() as tx:
            await tx.execute("INSERT INTO stock VALUES ('b', 1)")
            for number in range(100):
                await tx.publish("t", b"x" * 10_000, key=str(number))
    assert full.value.reason == "store_full"
    assert await stock(db) == [("a", 1)]
    async with db.transaction() as tx:
        await tx.execute("PRAGMA max_page_count = 1000000")
    async with db.transaction() as tx:
        await tx.publish("t", b"x" * 10_000, key="k")


def test_several_databases_of_one_file_share_it(tmp_path: Path) -> None:
    """Instances of a service do."""

    async def main() -> None:
        async with opened(tmp_path) as one, Sqlite(one.path, schema=SCHEMA) as two:
            async with one.transaction() as tx:
                await tx.execute("INSERT INTO stock VALUES ('a', 1)")
            with pytest.raises(sqlite3.IntegrityError):
                async with two.transaction() as tx:
                    await tx.execute("INSERT INTO stock VALUES ('a', 1)")
            assert await two.read(lambda connection: handled(connection, ONCE)) is False

    asyncio.run(main())


def test_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """At the start, and nothing is left open."""

    async def main() -> None:
        async with no_leaks():
            with pytest.raises(StoreError, match="no folder"):
                async with Sqlite(tmp_path / "none" / "shop.db"):
                    pass

    asyncio.run(main())
