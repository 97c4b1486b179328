"""A transaction happens whole or not at all, and nobody waits for it on the loop."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from pathlib import Path

import pytest

from shop.db import Database
from shop.errors import Unavailable

SCHEMA = "CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY); CREATE INDEX IF NOT EXISTS i ON t (n);"


async def numbers(db: Database) -> list[int]:
    """Read what is committed."""
    return [row["n"] for row in await db.fetch("SELECT n FROM t ORDER BY n")]


def test_a_block_that_raises_leaves_nothing(tmp_path: Path) -> None:
    """Also what ran before the error."""

    async def story() -> None:
        async with Database(tmp_path / "a.db", schema=SCHEMA) as db:

            async def write_then_fail() -> None:
                async with db.transaction() as tx:
                    await tx.execute("INSERT INTO t VALUES (1)")
                    raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await write_then_fail()
            async with db.transaction() as tx:
                await tx.execute("INSERT INTO t VALUES (2)")
            assert await numbers(db) == [2]

    asyncio.run(story())


def test_readers_see_what_is_committed_while_somebody_writes(tmp_path: Path) -> None:
    """A read waits for no writer and sees no half of one."""

    async def story() -> None:
        async with Database(tmp_path / "a.db", schema=SCHEMA) as db:
            async with db.transaction() as tx:
                await tx.execute("INSERT INTO t VALUES (1)")
                assert await numbers(db) == []
            assert await numbers(db) == [1]

    asyncio.run(story())


@pytest.mark.parametrize("after", range(7))
def test_a_cancelled_block_leaves_nothing_and_harms_no_one_after_it(tmp_path: Path, after: int) -> None:
    """Wherever it was: waiting to begin, in a statement, or between two."""

    async def story() -> None:
        async with Database(tmp_path / "a.db", schema=SCHEMA) as db:

            async def write() -> None:
                async with db.transaction() as tx:
                    await tx.execute("INSERT INTO t VALUES (1)")
                    await tx.execute("INSERT INTO t VALUES (2)")
                    await asyncio.Event().wait()

            task = asyncio.create_task(write())
            for _ in range(after):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with db.transaction() as tx:
                await tx.execute("INSERT INTO t VALUES (3)")
            assert await numbers(db) == [3]

    asyncio.run(story())


def test_transactions_of_one_instance_take_turns(tmp_path: Path) -> None:
    """One connection writes: what one task reads inside is not changed by another before it commits."""

    async def story() -> None:
        async with Database(tmp_path / "a.db", schema=SCHEMA) as db:

            async def next_number() -> None:
                async with db.transaction() as tx:
                    ((most,),) = await tx.execute("SELECT coalesce(max(n), 0) FROM t")
                    await tx.execute("INSERT INTO t VALUES (?)", (most + 1,))

            await asyncio.gather(*(next_number() for _ in range(20)))
            assert await numbers(db) == list(range(1, 21))

    asyncio.run(story())


def test_two_instances_share_the_file(tmp_path: Path) -> None:
    """Both open it at once, and both write."""

    async def story() -> None:
        path = tmp_path / "with space#.db"
        async with contextlib.AsyncExitStack() as stack:
            pair = [Database(path, schema=SCHEMA) for _ in range(2)]
            await asyncio.gather(*(stack.enter_async_context(db) for db in pair))

            async def next_number(db: Database) -> None:
                async with db.transaction() as tx:
                    ((most,),) = await tx.execute("SELECT coalesce(max(n), 0) FROM t")
                    await tx.execute("INSERT INTO t VALUES (?)", (most + 1,))

            await asyncio.gather(*(next_number(db) for db in pair * 10))
            assert await numbers(pair[0]) == list(range(1, 21))

    asyncio.run(story())


def test_a_writer_that_stands_still_is_waited_for_in_patience(tmp_path: Path) -> None:
    """Then the caller is told to come back, and reads have gone on all the time."""

    async def story() -> None:
        async with Database(tmp_path / "a.db", schema=SCHEMA, patience=0.05) as db:
            with contextlib.closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(Unavailable, match=r"a\.db is busy"):
                    async with db.transaction():
                        raise AssertionError("began")
                assert await numbers(db) == []
                other.execute("ROLLBACK")
            async with db.transaction() as tx:
                await tx.execute("INSERT INTO t VALUES (1)")

    asyncio.run(story())


def test_statements_run_off_the_loop_and_the_thread_ends(tmp_path: Path) -> None:
    """A flush to disk must not stop everybody else; and nothing is left when the block ends."""

    async def story() -> None:
        async with Database(tmp_path / "a.db", schema=SCHEMA) as db:
            names = {thread.name for thread in threading.enumerate()}
            assert any(name.startswith("db-a") for name in names)
            await numbers(db)
        assert not any(thread.name.startswith("db-a") for thread in threading.enumerate())

    asyncio.run(story())


def test_commits_are_flushed(tmp_path: Path) -> None:
    """What was acknowledged survives the power going out: WAL, with synchronous FULL."""

    async def story() -> None:
        async with Database(tmp_path / "a.db", schema=SCHEMA) as db, db.transaction() as tx:
            assert [tuple(row) for row in await tx.execute("PRAGMA synchronous")] == [(2,)]
            assert [tuple(row) for row in await tx.execute("PRAGMA journal_mode")] == [("wal",)]

    asyncio.run(story())


def test_a_place_that_cannot_hold_a_database_is_named(tmp_path: Path) -> None:
    """And no thread stays behind."""

    async def story() -> None:
        with pytest.raises(sqlite3.OperationalError):
            async with Database(tmp_path / "nowhere" / "a.db", schema=SCHEMA):
                raise AssertionError("opened")
        with pytest.raises(OSError, match=r":memory:.*cannot do WAL"):
            async with Database(Path(":memory:"), schema=SCHEMA):
                raise AssertionError("opened")
        assert not any(thread.name.startswith("db-") for thread in threading.enumerate())

    asyncio.run(story())


def test_misuse_is_said_plainly(tmp_path: Path) -> None:
    """Used unopened, or asked to publish without an outbox."""

    async def story() -> None:
        db = Database(tmp_path / "a.db", schema=SCHEMA)
        with pytest.raises(RuntimeError, match="not open"):
            await numbers(db)
        async with db, db.transaction() as tx:
            with pytest.raises(RuntimeError, match="no outbox"):
                await tx.publish("topic", {}, key="k")

    asyncio.run(story())
