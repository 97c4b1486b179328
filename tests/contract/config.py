"""What every config source must do, whoever wrote its adapter; a class per backend inherits what it is held to."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TypeVar

from msgov.clock import monotonic
from msgov.config.layers import Tree
from msgov.config.source import ConfigSource, Reading
from msgov.errors import RuleError
from msgov.testing.leaks import no_leaks

T = TypeVar("T")

FIRST: Tree = {"pay": {"timeout": 1.5, "tries": 3}, "on": True, "name": "x"}
SECOND: Tree = {"pay": {"timeout": 2.5}, "hosts": ["a", "b"]}


class Watched:
    """A watch that a test looks at: what came, and what it failed with."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []
        self.failures: list[Exception] = []
        self._told = asyncio.Event()

    async def follow(self, source: ConfigSource) -> None:
        """Watch for ever; after a failure, again."""
        while True:
            try:
                async for reading in source.watch():
                    self.readings.append(reading)
                    self._told.set()
                self.failures.append(EOFError("the watch ended"))
            except Exception as error:
                self.failures.append(error)
            self._told.set()
            await asyncio.sleep(0.02)

    async def until(self, holds: Callable[[], bool], *, within: float = 5.0) -> float:
        """Wait until it is so; return how long it took, in seconds."""
        began = monotonic()
        async with asyncio.timeout(within):
            while not holds():
                self._told.clear()
                await self._told.wait()
        return monotonic() - began

    async def sees(self, tree: Tree, *, within: float = 5.0) -> float:
        """Wait until the last reading is this tree."""
        return await self.until(lambda: bool(self.readings) and self.readings[-1] == tree, within=within)

    async def refuses(self, *, within: float = 5.0) -> RuleError:
        """Wait until the last reading is a refusal, and return it."""
        await self.until(lambda: bool(self.readings) and isinstance(self.readings[-1], RuleError), within=within)
        refusal = self.readings[-1]
        assert isinstance(refusal, RuleError)
        return refusal


@asynccontextmanager
async def watching(source: ConfigSource) -> AsyncIterator[Watched]:
    """Watch a source for a block."""
    watched = Watched()
    task = asyncio.create_task(watched.follow(source))
    try:
        yield watched
    finally:
        task.cancel()
        await asyncio.wait([task])


def run(work: Coroutine[object, object, T], *, within: float = 30.0) -> T:
    """Run a test's coroutine, and not for ever."""
    return asyncio.run(asyncio.wait_for(work, within))


class Tells(ABC):
    """What is written is seen, whole, soon, and only when it is another.

    `visible` is the seconds in which a change must reach a watcher.
    """

    visible = 0.2

    @abstractmethod
    def source(self) -> ConfigSource:
        """Make the source under test, as one more process would; whoever asks closes it."""

    @abstractmethod
    async def write(self, tree: Tree) -> None:
        """Make the backend hold just this, as its users do."""

    def _run(self, work: Callable[[ConfigSource], Coroutine[object, object, None]]) -> None:
        async def main() -> None:
            source = self.source()
            try:
                await work(source)
            finally:
                await source.aclose()

        run(main())

    def test_first_word_is_the_whole_tree(self) -> None:
        """A start needs no change to happen."""

        async def main(source: ConfigSource) -> None:
            await self.write(FIRST)
            async with watching(source) as watched:
                await watched.sees(FIRST)

        self._run(main)

    def test_change_is_seen_soon(self) -> None:
        """Whole again, with nothing of before."""

        async def main(source: ConfigSource) -> None:
            await self.write(FIRST)
            async with watching(source) as watched:
                await watched.sees(FIRST)
                await self.write(SECOND)
                await watched.sees(SECOND, within=self.visible + 1.0)
                began = monotonic()
                await self.write(FIRST)
                await watched.sees(FIRST)
                assert monotonic() - began < self.visible + 0.5  # the half second is a busy machine's

        self._run(main)

    def test_deletion_is_seen(self) -> None:
        """A key that is gone is gone (kratos never hears of it)."""

        async def main(source: ConfigSource) -> None:
            await self.write(FIRST)
            async with watching(source) as watched:
                await watched.sees(FIRST)
                await self.write({"on": True})
                await watched.sees({"on": True})
                await self.write({})
                await watched.sees({})

        self._run(main)

    def test_same_again_is_not_told(self) -> None:
        """Who saves a file without a change starts no reload."""

        async def main(source: ConfigSource) -> None:
            await self.write(FIRST)
            async with watching(source) as watched:
                await watched.sees(FIRST)
                await self.write(FIRST)
                await asyncio.sleep(self.visible)  # long enough to be told of a change
                await self.write(SECOND)
                await watched.sees(SECOND)
                assert [reading for reading in watched.readings if reading == FIRST] == [FIRST]

        self._run(main)

    def test_last_of_a_burst_is_seen(self) -> None:
        """What comes between may be passed over, the last word never."""

        async def main(source: ConfigSource) -> None:
            await self.write({"n": 0})
            async with watching(source) as watched:
                await watched.sees({"n": 0})
                for number in range(1, 31):
                    await self.write({"n": number})
                await watched.sees({"n": 30})

        self._run(main)

    def test_each_watcher_sees_all(self) -> None:
        """Processes do not take each other's news away."""

        async def main(source: ConfigSource) -> None:
            other = self.source()
            try:
                await self.write(FIRST)
                async with watching(source) as one, watching(other) as two:
                    await one.sees(FIRST)
                    await two.sees(FIRST)
                    await self.write(SECOND)
                    await one.sees(SECOND)
                    await two.sees(SECOND)
            finally:
                await other.aclose()

        self._run(main)

    def test_read_at_once_is_what_the_watch_says(self) -> None:
        """Where a source can be read without a loop, it says the same."""

        async def main(source: ConfigSource) -> None:
            await self.write(FIRST)
            found = await asyncio.to_thread(source.now)
            assert found in (None, FIRST)

        self._run(main)

    def test_origin_says_where(self) -> None:
        """A message must lead to what is to be changed."""

        async def main(source: ConfigSource) -> None:
            assert source.name
            assert source.origin(("pay", "timeout"))

        self._run(main)

    def test_watch_leaves_nothing(self) -> None:
        """No task, thread or file outlives it."""
        with no_leaks():
            self.test_change_is_seen_soon()


class Refuses(Tells):
    """What cannot be read is told as such, and the watch goes on."""

    @abstractmethod
    async def poison(self) -> None:
        """Write what cannot be read."""

    def test_poison_is_refused_and_the_cure_is_seen(self) -> None:
        """By a reading, not by a failure: the last good stays, and nobody backs off from a typing error."""

        async def main(source: ConfigSource) -> None:
            await self.write(FIRST)
            async with watching(source) as watched:
                await watched.sees(FIRST)
                await self.poison()
                refusal = await watched.refuses()
                assert refusal.where == source.name
                await self.write(SECOND)
                await watched.sees(SECOND)
                assert watched.failures == []

        self._run(main)

    def test_poison_at_the_start_is_refused_too(self) -> None:
        """It was there before us."""

        async def main(source: ConfigSource) -> None:
            await self.poison()
            async with watching(source) as watched:
                await watched.refuses()
                await self.write(FIRST)
                await watched.sees(FIRST)

        self._run(main)

    def test_return_to_the_last_good_is_told(self) -> None:
        """Else the refusal would stand for ever."""

        async def main(source: ConfigSource) -> None:
            await self.write(FIRST)
            async with watching(source) as watched:
                await watched.sees(FIRST)
                await self.poison()
                await watched.refuses()
                await self.write(FIRST)
                await watched.sees(FIRST)

        self._run(main)


class Outlasts(Tells):
    """A backend that is away makes knowledge old: the watch fails, and begins anew when it is back."""

    @abstractmethod
    async def stop(self) -> None:
        """Take the backend away."""

    @abstractmethod
    async def start(self) -> None:
        """Bring it back, with what it held."""

    def test_outage_is_a_failure_and_not_an_empty_tree(self) -> None:
        """What is not known is not "nothing"."""

        async def main(source: ConfigSource) -> None:
            await self.write(FIRST)
            async with watching(source) as watched:
                await watched.sees(FIRST)
                await self.stop()
                await watched.until(lambda: bool(watched.failures))
                assert all(reading == FIRST for reading in watched.readings)
                await self.start()
                await self.write(SECOND)
                await watched.sees(SECOND)

        self._run(main)


class Remembers(Tells):
    """A backend that came back without its data is known for what it is."""

    @abstractmethod
    async def forget(self) -> None:
        """Restart the backend with nothing in it."""

    def test_loss_is_a_failure_and_not_a_deletion(self) -> None:
        """Every setting at once reset to its default is nobody's wish; the next word is heard."""

        async def main(source: ConfigSource) -> None:
            await self.write(FIRST)
            async with watching(source) as watched:
                await watched.sees(FIRST)
                await self.forget()
                await watched.until(lambda: bool(watched.failures))
                assert {} not in watched.readings
                await self.write(SECOND)
                await watched.sees(SECOND)

        self._run(main)
