"""A key is taken once, keeps its reply, and means one body."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from msgov.call import PERMANENT
from msgov.errors import RuleError
from msgov.messaging.idempotency import REPLY_LIMIT, Idempotency, Kept, KeyConflict
from msgov.messaging.message import Body
from msgov.messaging.sqlite import Sqlite

PLACE = Idempotency("order.place")


async def begin(db: Sqlite, key: str, body: Body, store: Idempotency = PLACE) -> Kept | None:
    """Take a key in a transaction of its own."""
    async with db.transaction() as tx:
        return await store.begin(tx, key, body)


async def finish(db: Sqlite, key: str, reply: bytes) -> None:
    """Keep a reply in a transaction of its own."""
    async with db.transaction() as tx:
        await PLACE.finish(tx, key, reply)


def test_second_asking_gets_the_reply_of_the_first(tmp_path: Path) -> None:
    """While the work goes on it learns that; afterwards it gets what the first one got."""

    async def main() -> None:
        async with Sqlite(tmp_path / "o.db") as db:
            assert await begin(db, "k", b"body") is None
            assert await begin(db, "k", b"body") == Kept(None)
            await finish(db, "k", b"reply")
            await finish(db, "k", b"another")
            assert await begin(db, "k", b"body") == Kept(b"reply")

    asyncio.run(main())


def test_same_key_with_another_body_is_a_conflict(tmp_path: Path) -> None:
    """It is a bug of the caller, and must have no effect; the order of a mapping's keys is no difference."""

    async def main() -> None:
        async with Sqlite(tmp_path / "o.db") as db:
            await begin(db, "k", {"a": 1, "b": {"c": 2, "d": 3}})
            assert await begin(db, "k", {"b": {"d": 3, "c": 2}, "a": 1}) == Kept(None)
            with pytest.raises(KeyConflict) as conflict:
                await begin(db, "k", {"a": 2, "b": {"c": 2, "d": 3}})
            assert conflict.value.verdict is PERMANENT

    asyncio.run(main())


def test_key_counts_within_its_operation(tmp_path: Path) -> None:
    """Two operations may be asked for with the same key."""

    async def main() -> None:
        async with Sqlite(tmp_path / "o.db") as db:
            await begin(db, "k", b"place")
            assert await begin(db, "k", b"cancel", Idempotency("order.cancel")) is None

    asyncio.run(main())


def test_key_of_work_that_is_rolled_back_is_free_again(tmp_path: Path) -> None:
    """Or a crash would turn every retry away."""

    async def main() -> None:
        async with Sqlite(tmp_path / "o.db") as db:
            with pytest.raises(KeyError):
                async with db.transaction() as tx:
                    await PLACE.begin(tx, "k", b"body")
                    raise KeyError
            assert await begin(db, "k", b"body") is None

    asyncio.run(main())


def test_of_many_at_once_one_takes_the_key(tmp_path: Path) -> None:
    """A client that is impatient asks in parallel."""

    async def main() -> None:
        async with Sqlite(tmp_path / "o.db") as db:
            found = await asyncio.gather(*(begin(db, "k", b"body") for _ in range(20)))
            assert found.count(None) == 1

    asyncio.run(main())


def test_old_keys_are_forgotten(tmp_path: Path) -> None:
    """The table must not grow for ever; other operations' keys are not ours to forget."""

    async def main() -> None:
        now = [0.0]
        store = Idempotency("order.place", retention=10.0, now=lambda: now[0])
        other = Idempotency("order.cancel", now=lambda: now[0])
        async with Sqlite(tmp_path / "o.db") as db:
            await begin(db, "old", b"", store)
            await begin(db, "old", b"", other)
            now[0] = 11.0
            await begin(db, "young", b"", store)
            async with db.transaction() as tx:
                await store.forget(tx)
            assert await begin(db, "young", b"", store) == Kept(None)
            assert await begin(db, "old", b"", other) == Kept(None)
            assert await begin(db, "old", b"", store) is None

    asyncio.run(main())


@pytest.mark.parametrize("key", ["", "k" * 256])
def test_key_of_a_wrong_length_is_refused(tmp_path: Path, key: str) -> None:
    """Clients choose it: it is bounded like everything that comes from outside."""

    async def main() -> None:
        async with Sqlite(tmp_path / "o.db") as db:
            with pytest.raises(RuleError, match="255"):
                await begin(db, key, b"")

    asyncio.run(main())


def test_reply_too_large_to_keep_is_refused(tmp_path: Path) -> None:
    """It would be kept for a day."""

    async def main() -> None:
        async with Sqlite(tmp_path / "o.db") as db:
            await begin(db, "k", b"")
            with pytest.raises(RuleError, match="bytes"):
                await finish(db, "k", b"x" * (REPLY_LIMIT + 1))

    asyncio.run(main())
