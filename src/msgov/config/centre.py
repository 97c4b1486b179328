"""The configuration in force: typed, live, and never worse than the last good one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from types import EllipsisType
from typing import Final, Self, TypeVar, cast

from msgov.clock import Clock, monotonic
from msgov.config.adopt import Adopted, Adoption
from msgov.config.handle import Handle, Snapshot
from msgov.config.layers import Leaf, Path, Tree, Value, at, path, shown
from msgov.config.pump import Pump, recalled
from msgov.config.source import ConfigSource
from msgov.config.typed import Typed
from msgov.errors import Fact, RuleError, SourceError
from msgov.event import Observer, Observers
from msgov.latest import DiskCopy, Latest

T = TypeVar("T")

PATIENCE: Final = 2.0  # seconds that a start waits for a config centre before it takes the copy on disk


class Config:
    """Layers merged into one tree, read by handles that are always current.

    Args:
        sources: The layers by name, the lowest first: what a later one says wins. Usual names, in this order, are
            "defaults", "file", "centre", "env" and "command line".
        copy: Where the last good trees of sources that may be away at the next start are kept (`ConfigSource.kept`).
        patience: Seconds that `start` waits for such a source; default 2.
        observers: Told of "config.changed", "config.rejected", "config.copy_ignored" and "config.copy_failed": which
            layer and which keys, never the values, for they may be secrets.

    In asyncio: `async with Config({...}) as config`. For threads, and before a loop runs, `load` reads once what can be
    read at once. A change is taken at once, further ones at most five times a second, the last one wins. It is taken
    whole, when every handle can read it, or refused, and then everything stays as it was.
    """

    def __init__(
        self,
        sources: Mapping[str, ConfigSource],
        *,
        copy: DiskCopy | None = None,
        patience: float = PATIENCE,
        clock: Clock = monotonic,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.sources = dict(sources)
        self.observers = Observers(*observers)
        self.knowledge: Mapping[str, Latest[Tree]] = {name: Latest(f"config {name}") for name in sources}
        self._adopted = Adopted(tuple(sources), origin=lambda name, where: self.sources[name].origin(where))
        self._copy = copy
        self._patience = patience
        self._clock = clock
        self._typed: dict[tuple[Path, type[object]], list[tuple[Typed[object], Handle[object]]]] = {}
        self._pump: Pump | None = None

    @property
    def version(self) -> str:
        """A short hash of the whole tree: processes with the same configuration show the same."""
        return self._adopted.snapshot.version

    @property
    def refused(self) -> Mapping[str, RuleError]:
        """The layers that are not in force as they stand now, and why."""
        return self._adopted.refused

    @property
    def silent(self) -> Sequence[str]:
        """The layers of which nothing is known, neither from the source nor from a copy: reason for "not ready"."""
        return self._adopted.silent

    def snapshot(self) -> Snapshot:
        """Return the configuration at this moment; it does not change any more."""
        return self._adopted.snapshot

    def value(
        self,
        key: str,
        kind: type[T],
        *,
        default: T | EllipsisType = ...,
        gt: float | None = None,
        ge: float | None = None,
        lt: float | None = None,
        le: float | None = None,
    ) -> T:
        """Read one key now; raises `RuleError` when it is missing without a default, of another type, out of range."""
        try:
            return self.snapshot().value(key, kind, default=default, gt=gt, ge=ge, lt=lt, le=le)
        except RuleError as error:
            raise self._adopted.blamed(error, self._adopted.layers) from None

    def handle(
        self,
        key: str,
        kind: type[T],
        *,
        default: T | EllipsisType = ...,
        gt: float | None = None,
        ge: float | None = None,
        lt: float | None = None,
        le: float | None = None,
    ) -> Handle[T]:
        """Return a live value: `.value` is current, validated, and one attribute read.

        `key` is a dotted path, `kind` bool, int, float, str, a container of them, a rule or a pydantic model. Asking
        twice for the same gives the same handle. Raises `RuleError` when the value in force is not for it; before the
        first configuration is known it waits for that instead.
        """
        where = path(key)
        typed = Typed(kind, default=default, gt=gt, ge=ge, lt=lt, le=le)
        alike = self._typed.setdefault((where, kind), [])
        for other, found in alike:
            if typed.same(other):
                return cast("Handle[T]", found)
        name = shown(where)
        handle = Handle(name, (where,), lambda tree: typed.read(at(tree, where), name))
        self._adopted.bind(handle)
        alike.append((typed, cast("Handle[object]", handle)))
        return handle

    def derive(self, name: str, read: Callable[[Tree], T], *, keys: Sequence[str]) -> Handle[T]:
        """Return a live value made from what stands at or beneath some keys, as the rules are.

        `read` makes it from the whole tree and may veto a change by raising `RuleError`; it must not do anything else.
        It is asked again only when something at those keys has changed.
        """
        handle = Handle(name, [path(key) for key in keys], read)
        self._adopted.bind(handle)
        return handle

    def listen(self, key: str, listener: Callable[[Value | None, Value | None], None]) -> Callable[[], None]:
        """Tell `listener` (old, new) when the value at `key`, or anything beneath it, has changed; "" is everything.

        None stands for absent. Told after the change is in force, in the thread that made it. Returns a function that
        ends it.
        """
        return self._adopted.listen(path(key) if key else (), listener)

    def explain(self, key: str = "") -> tuple[Leaf, ...]:
        """Say of each leaf at or beneath `key` which layer set it, and what it shadows."""
        return self._adopted.layers.explain(path(key) if key else ())

    def load(self) -> None:
        """Read what can be read at once, in the caller's thread; the rest is known once `start` has run.

        Raises `RuleError` or `SourceError` for a source that is here and wrong. One that may be away is stood in for by
        its last good tree on disk.
        """
        if self._copy is not None:
            self._recall(recalled(self._copy))
        for name, source in self.sources.items():
            try:
                tree = source.now()
            except (RuleError, SourceError) as error:
                if not source.kept:
                    raise
                self.knowledge[name].fail(error)
                if isinstance(error, RuleError):
                    self._adopted.refuse(name, error)
                    self._rejected(name, error)
            else:
                if tree is not None:
                    self.knowledge[name].put(tree, self._clock())
                    self._adopted.hear(name, tree)
        self._decided(self._adopted.adopt())
        self._check_local()

    async def start(self) -> None:
        """Follow the sources until `close`.

        Returns when each has spoken, or has been waited for. Raises `RuleError` for a file that cannot be, or a handle
        left without a value; `SourceError` for a file that is not there: nothing runs on then.
        """
        if self._pump is not None:
            raise RuntimeError("started already")
        if self._copy is not None:
            self._recall(await asyncio.to_thread(recalled, self._copy))
        pump = self._pump = Pump(
            self.sources,
            self.knowledge,
            self._adopted,
            self._decided,
            refused=self._rejected,
            unsaved=self._unsaved,
            copy=self._copy,
            clock=self._clock,
        )
        try:
            await pump.first(self._patience)
            self._decided(self._adopted.adopt(complete=True))
            self._check_local()
            lacking = self._adopted.lacking()
            if lacking is not None:
                raise next(iter(self.refused.values()), lacking)  # what was refused would have had the value
        except BaseException:
            await self.close()
            raise
        pump.live()

    async def close(self) -> None:
        """Stop following and close the sources; what is known stays readable. Closing twice is fine."""
        pump, self._pump = self._pump, None
        if pump is not None:
            await pump.close()
        for source in self.sources.values():
            await source.aclose()

    async def __aenter__(self) -> Self:
        """Start, and return itself."""
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close."""
        await self.close()

    def _check_local(self) -> None:
        """Refuse to begin with a file or a variable that is wrong: whoever wrote it is there to mend it."""
        for name, source in self.sources.items():
            error = self.refused.get(name) or self.knowledge[name].error
            if error is not None and not source.kept and name in self.silent:
                raise error

    def _recall(self, trees: Mapping[str, Tree] | None) -> None:
        if trees is None:
            self._tell("config.copy_ignored", "", reason="damaged")
        else:
            kept = {name: tree for name, tree in trees.items() if name in self.sources and self.sources[name].kept}
            self._adopted.recall(kept)

    def _decided(self, adoption: Adoption) -> None:
        for name, error in adoption.refused.items():
            self._rejected(name, error)
        if adoption.changes:
            keys = [shown(change.path) for change in adoption.changes]
            self._tell("config.changed", "", leaves=len(keys), keys=", ".join(keys[:5]))

    def _rejected(self, layer: str, error: RuleError) -> None:
        self._tell("config.rejected", layer, where=error.where, path=error.path, allowed=error.allowed)

    def _unsaved(self, error: OSError) -> None:
        self._tell("config.copy_failed", "", reason=error.strerror or type(error).__name__)

    def _tell(self, kind: str, layer: str, **facts: Fact) -> None:
        self.observers.tell(kind, layer, self.version, self._clock(), **facts)
