"""A dead source makes knowledge old, never absent, and is watched again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from msgov import aio
from msgov.backoff import Backoff
from msgov.latest import Latest
from msgov.testing import LoadedDice, run


class Watched:
    """A source that plays one script per watch: values to yield, seconds to wait, an error to raise."""

    def __init__(self, *watches: list[object]) -> None:
        self.watches = list(watches)
        self.began: list[float] = []

    async def watch(self) -> AsyncIterator[str]:
        """Play the next script; the last one goes on for ever."""
        self.began.append(asyncio.get_running_loop().time())
        for step in self.watches.pop(0):
            if isinstance(step, Exception):
                raise step
            if isinstance(step, float):
                await asyncio.sleep(step)
            else:
                yield str(step)
        if not self.watches:
            await asyncio.get_running_loop().create_future()


def followed(source: Watched, seconds: float) -> Latest[str]:
    """Follow a source for so long."""

    async def scene() -> Latest[str]:
        loop = asyncio.get_running_loop()
        latest: Latest[str] = Latest("prices")
        backoff = Backoff(LoadedDice(0.0, cycle=True), base=2.0, cap=8.0)
        task = asyncio.ensure_future(aio.follow(source, latest, clock=loop.time, backoff=backoff))
        await asyncio.sleep(seconds)
        task.cancel()
        await asyncio.wait([task])
        return latest

    return run(scene())


def test_values_are_put_as_they_come() -> None:
    """With the time at which they came."""
    latest = followed(Watched(["one", 3.0, "two"]), 5.0)
    assert (latest.value, latest.since, latest.changes, latest.stale) == ("two", 3.0, 2, False)


def test_failed_source_leaves_the_last_value_and_its_age() -> None:
    """And says that it is stale, and why."""
    error = ConnectionError("lost")
    latest = followed(Watched(["one", error], []), 0.5)
    assert (latest.value, latest.stale, latest.error, latest.age(4.0)) == ("one", True, error, 4.0)


def test_failed_source_is_watched_again_later_and_later() -> None:
    """With a growing wait, so that a dead backend is not hammered; a value starts it over."""
    lost = ConnectionError("lost")
    source = Watched([lost], [lost], [lost], ["one", lost], ["two"])
    latest = followed(source, 60.0)
    assert source.began == [0.0, 1.0, 3.0, 7.0, 8.0]
    assert (latest.value, latest.stale) == ("two", False)


def test_watch_that_just_ends_is_a_failure_too() -> None:
    """A source that says nothing more is a source that is lost."""
    latest = followed(Watched(["one"], []), 0.5)
    assert isinstance(latest.error, EOFError)
