"""A config source that says what a test feeds it: trees, refusals, failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from msgov.config.layers import Path, Tree
from msgov.config.source import ConfigSource, Reading


class Feed(ConfigSource):
    """Yields what is fed, in order, and raises what is fed as an exception that is no refusal."""

    def __init__(self, *fed: Reading | Exception, name: str = "feed", kept: bool = False) -> None:
        self.name = name
        self.kept = kept
        self.watched = 0
        self.closed = 0
        self._fed: asyncio.Queue[Reading | Exception] = asyncio.Queue()
        for each in fed:
            self._fed.put_nowait(each)

    def feed(self, each: Reading | Exception) -> None:
        """Say it next."""
        self._fed.put_nowait(each)

    async def watch(self) -> AsyncIterator[Reading]:
        """Yield what is fed, for ever."""
        self.watched += 1
        while True:
            each = await self._fed.get()
            if isinstance(each, Exception) and not isinstance(each, ValueError):
                raise each
            yield each

    async def aclose(self) -> None:
        """Count it."""
        self.closed += 1

    def origin(self, where: Path) -> str:
        """Name the source and the key."""
        return f"{self.name}:{'/'.join(where)}"


async def settled() -> None:
    """Let every task go on until it waits for something else than its turn."""
    for _ in range(20):
        await asyncio.sleep(0)


def tree(**values: object) -> Tree:
    """Write a tree shortly."""
    return values  # type: ignore[return-value]  # tests write what they like
