"""The shop's processes: all are ready or none stays, who dies is started again, and at the end nobody is left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from .child import Child, Died

PATIENCE: Final = 12.0  # seconds that they get to end by themselves: a little more than their own limit
PAUSE, LONGEST = 0.1, 2.0  # seconds before one that died is started again

APART: Final[Mapping[str, int]] = {
    "user": 1,
    "product": 1,
    "inventory": 2,
    "payment": 2,
    "order": 2,
    "audit": 1,
    "storefront": 1,
}
TOGETHER: Final[Mapping[str, int]] = {"together": 1}


class Tree:
    """Runs so many instances of each service for as long as the block lasts.

    `restarts` counts those that died and were started again; `tell` gets a line about each. Entering raises `Died` for
    a service that does not get ready, with all others stopped.
    """

    def __init__(self, plan: Mapping[str, int], *, folder: Path, tell: Callable[[str], None]) -> None:
        self.plan = plan
        self.restarts = 0
        self._folder = folder
        self._tell = tell
        self._children: dict[tuple[str, int], Child] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._ending = False

    @property
    def children(self) -> list[Child]:
        """All processes, in the order of the plan."""
        return list(self._children.values())

    def of(self, service: str) -> list[Child]:
        """Return the instances of a service that are ready."""
        return [child for child in self.children if child.service == service and child.up]

    @property
    def front(self) -> str:
        """The shop's address; the last one known while there is none."""
        name = "storefront" if "storefront" in self.plan else "together"
        return f"http://127.0.0.1:{self._children[name, 1].port}"

    async def __aenter__(self) -> Self:
        """Start all of them at once and wait until they are ready."""
        try:
            for service, count in self.plan.items():
                for number in range(1, count + 1):
                    self._children[service, number] = Child(service, number, folder=self._folder)
            starts = [asyncio.create_task(child.ready()) for child in self.children]
            try:
                await asyncio.gather(*starts)
            finally:
                for start in starts:
                    start.cancel()
                await asyncio.gather(*starts, return_exceptions=True)
        except BaseException:
            await self._end()
            raise
        self._keepers = [asyncio.create_task(self._keep(*key)) for key in self._children]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all of them: ask, wait, kill."""
        self._ending = True
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await self._end()

    async def _end(self) -> None:
        ends = [asyncio.create_task(child.ended()) for child in self.children]
        for child in self.children:
            child.end()
        if ends:
            _, late = await asyncio.wait(ends, timeout=PATIENCE)
            for child, end in zip(self.children, ends, strict=True):
                if end in late:
                    child.kill()
            await asyncio.gather(*ends)

    async def _keep(self, service: str, number: int) -> None:
        """Start an instance again whenever it has ended."""
        child, pause = self._children[service, number], PAUSE
        while True:
            code = await child.ended()
            self.restarts += 1
            self._tell(f"{child.name} (pid {child.pid}) ended with {code}: starting it again")
            await asyncio.sleep(pause)
            front = child.port
            child = self._children[service, number] = Child(service, number, folder=self._folder)
            child.port = front
            try:
                await child.ready()
            except Died as died:
                self._tell(str(died))
                pause = min(LONGEST, pause * 2)
            else:
                self._tell(f"{child.name} is back (pid {child.pid}, port {child.port})")
                pause = PAUSE
