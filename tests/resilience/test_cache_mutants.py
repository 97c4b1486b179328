"""What only a changed line of the cache showed."""

from __future__ import annotations

import asyncio

import pytest

from msgov.call import TRANSIENT, Call, Outcome
from msgov.resilience import Cache, CacheRule
from msgov.testing import ManualClock, run


class Judged:
    """A judge that remembers how long what it judged had taken."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, call: Call, error: BaseException, seconds: float) -> Outcome:
        """Judge."""
        self.seconds.append(seconds)
        return Outcome(TRANSIENT, error=error)


def test_failure_is_judged_by_how_long_it_took() -> None:
    """Not by how late it is; under asyncio."""
    judge = Judged()

    async def failing(call: Call) -> object:
        await asyncio.sleep(2)
        raise ConnectionError

    async def scene() -> None:
        await asyncio.sleep(100)
        cached = Cache(CacheRule()).aio(failing, judge, asyncio.get_running_loop().time)
        with pytest.raises(ConnectionError):
            await cached(Call("shop", idempotent=True))

    run(scene())
    assert judge.seconds == [2]


def test_failure_is_judged_by_how_long_it_took_in_threads_too() -> None:
    """The same for blocking code."""
    judge, clock = Judged(), ManualClock(100.0)

    def failing(call: Call) -> object:
        clock.advance(2)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        Cache(CacheRule()).sync(failing, judge, clock)(Call("shop", idempotent=True))
    assert judge.seconds == [2]


def test_refresh_behind_is_held_until_it_ends_and_judged_by_its_own_time() -> None:
    """A task that nobody holds may be collected; one that ended is held no longer."""
    judge, cache = Judged(), Cache(CacheRule(ttl=1.0, stale_while_revalidate=50.0))
    calls: list[Call] = []

    async def once(call: Call) -> object:
        calls.append(call)
        if len(calls) == 1:
            return "apple"
        await asyncio.sleep(2)
        raise ConnectionError

    async def scene() -> None:
        await asyncio.sleep(100)
        cached = cache.aio(once, judge, asyncio.get_running_loop().time)
        assert await cached(Call("shop", idempotent=True)) == "apple"
        await asyncio.sleep(5)
        assert await cached(Call("shop", idempotent=True)) == "apple"
        await asyncio.sleep(1)
        assert len(cache._behind) == 1
        await asyncio.sleep(2)
        assert not cache._behind

    run(scene())
    assert judge.seconds == [2]


def test_refresh_that_is_cancelled_is_cancelled() -> None:
    """A loop that ends cancels its tasks, and they must not look as if they had ended well."""
    cache = Cache(CacheRule(ttl=1.0, stale_while_revalidate=50.0))
    calls: list[Call] = []

    async def slow(call: Call) -> object:
        calls.append(call)
        if len(calls) > 1:
            await asyncio.sleep(20)
        return "apple"

    async def scene() -> bool:
        cached = cache.aio(slow, Judged(), asyncio.get_running_loop().time)
        await cached(Call("shop", idempotent=True))
        await asyncio.sleep(5)
        await cached(Call("shop", idempotent=True))
        (task,) = cache._behind
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert run(scene())
