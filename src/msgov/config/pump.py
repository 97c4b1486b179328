"""Every source is followed, a decision is taken at most five times a second, and the last good is kept on disk."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final

from msgov.aio import follow
from msgov.clock import Clock
from msgov.config.adopt import Adopted, Adoption
from msgov.config.layers import Tree
from msgov.config.source import ConfigSource
from msgov.config.text import vet
from msgov.errors import RuleError
from msgov.latest import DiskCopy, Latest

PACE: Final = (
    0.2  # seconds between two decisions: a config centre that flaps costs five a second, and the last one wins
)


class Pump:
    """The tasks of a `Config` in one loop, from `first` to `close`."""

    def __init__(
        self,
        sources: Mapping[str, ConfigSource],
        knowledge: Mapping[str, Latest[Tree]],
        adopted: Adopted,
        decided: Callable[[Adoption], None],
        *,
        refused: Callable[[str, RuleError], None],
        unsaved: Callable[[OSError], None],
        copy: DiskCopy | None,
        clock: Clock,
    ) -> None:
        self._adopted = adopted
        self._decided = decided
        self._refused = refused
        self._unsaved = unsaved
        self._copy = copy
        self._kept = tuple(name for name, source in sources.items() if source.kept)
        self._loop = asyncio.get_running_loop()
        self._spoke = {name: asyncio.Event() for name in sources}
        self._last = 0.0
        self._live = False
        self._timer: asyncio.TimerHandle | None = None
        self._saved = b""
        self._saver: asyncio.Task[None] | None = None
        self._tasks = [
            self._loop.create_task(
                follow(_Heard(self, name, source), knowledge[name], clock=clock), name=f"config {name}"
            )
            for name, source in sources.items()
        ]

    async def first(self, patience: float) -> None:
        """Wait until each source has spoken or failed; for those that may be away, `patience` seconds at most."""
        away = {name: event for name, event in self._spoke.items() if name in self._kept}
        waits = [self._loop.create_task(event.wait()) for event in away.values()]
        try:
            for name, event in self._spoke.items():
                if name not in away:
                    await event.wait()
            if waits:
                await asyncio.wait(waits, timeout=patience)
        finally:
            for wait in waits:
                wait.cancel()

    def live(self) -> None:
        """Decide by itself from now on."""
        self._live = True
        self._last = self._loop.time()
        self._save()
        self.note()

    async def close(self) -> None:
        """End every task; a copy being written is finished."""
        self._live = False
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._saver is not None:
            await self._saver

    def hear(self, layer: str, tree: Tree) -> None:
        """Take what a source says."""
        self._adopted.hear(layer, tree)
        self._spoke[layer].set()
        self.note()

    def refuse(self, layer: str, error: RuleError) -> None:
        """Take what cannot be read."""
        known = self._adopted.refused.get(layer)
        self._adopted.refuse(layer, error)
        self._spoke[layer].set()
        if str(known) != str(error):  # a source that raises it says it again at each try
            self._refused(layer, error)

    def fail(self, layer: str) -> None:
        """Take that a source is away."""
        self._spoke[layer].set()

    def note(self) -> None:
        """Decide at once, or as soon as the pace allows."""
        if not self._live or self._timer is not None:
            return
        early = self._last + PACE - self._loop.time()
        if early > 0:
            self._timer = self._loop.call_later(early, self._decide)
        else:
            self._decide()

    def _decide(self) -> None:
        self._timer = None
        self._last = self._loop.time()
        self._decided(self._adopted.adopt())
        self._save()

    def _save(self) -> None:
        if self._copy is not None and self._saver is None and self._body() != self._saved:
            self._saver = self._loop.create_task(self._saving(self._copy), name="config copy")

    async def _saving(self, copy: DiskCopy) -> None:
        while (body := self._body()) != self._saved:
            self._saved = body
            try:
                await asyncio.to_thread(copy.save, body)
            except OSError as error:
                self._unsaved(error)
        self._saver = None

    def _body(self) -> bytes:
        trees = self._adopted.layers.trees
        return json.dumps({name: trees[name] for name in self._kept if name in trees}).encode()


class _Heard:
    """A source of good trees: what its own source yields, save refusals, which go another way."""

    __slots__ = ("_layer", "_pump", "_source")

    def __init__(self, pump: Pump, layer: str, source: ConfigSource) -> None:
        self._pump = pump
        self._layer = layer
        self._source = source

    async def watch(self) -> AsyncIterator[Tree]:
        try:
            async for reading in self._source.watch():
                if isinstance(reading, RuleError):
                    self._pump.refuse(self._layer, reading)
                else:
                    self._pump.hear(self._layer, reading)
                    yield reading
        except RuleError as error:
            self._pump.refuse(self._layer, error)
            raise
        except Exception:
            self._pump.fail(self._layer)
            raise


def recalled(copy: DiskCopy) -> Mapping[str, Tree] | None:
    """Return the last good trees from a copy, {} when there is none yet, None when it is damaged or not ours."""
    body = copy.load()
    if body is None:
        return None if copy.path.exists() else {}
    try:
        found = json.loads(body)
        return {str(name): vet(tree, where=str(copy.path)) for name, tree in found.items()}
    except (ValueError, AttributeError, RecursionError):
        return None
