"""Whom a service calls: asked for when its stubs are made, followed from when it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from msgov.clock import Clock, monotonic
from msgov.discovery.directory import Directory
from msgov.discovery.instance import Snapshot
from msgov.discovery.pick import Pick
from msgov.discovery.two_choices import TwoChoices
from msgov.latest import Latest


class Targets:
    """One pick per target, shared by all that call it; `open` gives them their knowledge."""

    def __init__(self, *, clock: Clock = monotonic) -> None:
        self._clock = clock
        self._picks: dict[str, Pick[object]] = {}
        self._gone: list[Callable[[Iterable[Snapshot]], None]] = []
        self._directory: Directory | None = None

    @property
    def known(self) -> dict[str, Latest[Snapshot]]:
        """What is known of each target."""
        return {name: pick.latest for name, pick in self._picks.items()}

    def pick(self, target: str) -> Pick[object]:
        """Return the gate that chooses an instance for each attempt."""
        found = self._picks.get(target)
        if found is None:
            found = self._picks[target] = Pick(Latest(target), TwoChoices())  # type: ignore[arg-type]  # any ticket will do
            if self._directory is not None:
                self._follow(target, self._directory)
        return found

    def changed(self, listener: Callable[[Iterable[Snapshot]], None]) -> None:
        """Tell `listener` all snapshots known, each time that one has changed: who left can be let go of."""
        self._gone.append(listener)

    def _follow(self, target: str, directory: Directory) -> None:
        latest = self._picks[target].latest = directory.latest(target)
        latest.listen(lambda old, new: self._tell())

    def _tell(self) -> None:
        snapshots = [latest.value for latest in self.known.values() if latest.known]
        for listener in self._gone:
            listener(snapshots)

    async def open(self, directory: Directory, *, patience: float = 2.0) -> list[str]:
        """Follow all targets; return those of which nothing is known after `patience` seconds."""
        self._directory = directory
        for target in tuple(self._picks):
            self._follow(target, directory)
        until = self._clock() + patience
        while True:
            missing = [name for name, latest in self.known.items() if not latest.known]
            if not missing or self._clock() >= until:
                return missing
            await asyncio.sleep(0.01)

    def close(self) -> None:
        """Follow nobody from now on; what is known stays readable."""
        self._directory = None
