"""A change is adopted whole or not at all: every reader of it is asked first, and one refusal keeps the last good.

Nothing here waits or reads a clock: the pump in `msgov.config.centre` says what was heard and when to decide.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias, TypeVar, cast

from msgov.config.handle import Handle, Snapshot
from msgov.config.layers import Change, Layers, Path, Tree, Value, at, diff, path, version
from msgov.errors import Problem, RuleError
from msgov.event import unraisable

T = TypeVar("T")

Origin: TypeAlias = Callable[[str, Path], str]
_News: TypeAlias = "tuple[Handle[object], object, object]"  # a handle, its value before and after
Listener: TypeAlias = "Callable[[Value | None, Value | None], None]"

HANDLES: Final = 100_000  # keys come from code: who makes them from what clients send is stopped here


@dataclass(frozen=True, slots=True)
class Adoption:
    """What a decision came to: the leaves that changed, and the layers that were refused for the first time."""

    changes: Sequence[Change] = ()
    refused: Mapping[str, RuleError] = field(default_factory=dict)


class Adopted:
    """The layers in force and who reads them; safe to use from any thread.

    `hear` only remembers, `adopt` decides. A layer that was refused is tried again whenever something else was heard:
    it may have been wrong only beside another. `origin` names where a layer writes a path; `refused` says which layers
    are not in force as they stand, and why.
    """

    def __init__(self, order: Sequence[str], *, origin: Origin) -> None:
        self.layers = Layers(order)
        self.snapshot = Snapshot(version({}), {})
        self.refused: Mapping[str, RuleError] = {}
        self._origin = origin
        self._heard: dict[str, Tree] = {}
        self._told: set[str] = set()
        self._recalled: dict[str, Tree] = {}
        self._complete = False
        self._handles: dict[Path, list[Handle[object]]] = {}
        self._unknown: list[Handle[object]] = []
        self._count = 0
        self._listeners: tuple[tuple[Path, Listener], ...] = ()
        self._lock = threading.RLock()

    @property
    def silent(self) -> tuple[str, ...]:
        """The layers of which nothing good is known yet."""
        return tuple(name for name in self.layers.order if name not in self.layers.trees)

    def hear(self, layer: str, tree: Tree) -> None:
        """Remember what a layer says now."""
        with self._lock:
            self._heard[layer] = tree
            self._told.discard(layer)

    def recall(self, trees: Mapping[str, Tree]) -> None:
        """Take what was last good before a restart, for layers that stay silent; what no longer fits is dropped."""
        with self._lock:
            self._recalled = dict(trees)

    def refuse(self, layer: str, error: RuleError) -> None:
        """Remember that a layer cannot be read: its last good tree stays."""
        with self._lock:
            self._heard.pop(layer, None)
            self.refused = {**self.refused, layer: error}

    def adopt(self, *, complete: bool = False) -> Adoption:
        """Adopt what was heard, or what of it can be; tell who listens; return what became of it.

        `complete` says that no other layer will speak before the values are needed: from then on a change must give
        every handle its value, and `lacking` is what has none.
        """
        with self._lock:
            self._complete |= complete
            before = self.layers
            changes, told = self._decide()
            fresh = {name: self.refused[name] for name in self._heard if name not in self._told}
            self._told.update(fresh)
        for handle, old, new in told:
            _tell(handle.listeners, old, new)
        if changes:
            for where, listener in self._listeners:
                if any(_touches(change.path, where) for change in changes):
                    _tell((listener,), at(before.merged, where), at(self.layers.merged, where))
        return Adoption(changes, fresh)

    def bind(self, handle: Handle[T]) -> None:
        """Keep a handle current from now on; raises `RuleError` when what is in force is not for it."""
        with self._lock:
            if self._count >= HANDLES:
                raise RuleError.at(
                    handle.key, "one handle more", f"at most {HANDLES}: keys come from code, not clients"
                )
            try:
                handle.take(handle.read(self.layers.merged))
            except RuleError as error:
                if self._complete or not self.silent:
                    raise self.blamed(error, self.layers) from None
                handle.wait()
                self._unknown.append(cast("Handle[object]", handle))
            self._count += 1
            for where in handle.paths:
                self._handles.setdefault(where, []).append(cast("Handle[object]", handle))

    def lacking(self) -> RuleError | None:
        """Say which handles have no value by what is in force, and why; None when all have one."""
        with self._lock:
            problems: list[Problem] = []
            for handle in self._unknown:
                try:
                    handle.read(self.layers.merged)
                except RuleError as error:
                    problems += error.problems
            return self.blamed(RuleError(problems), self.layers) if problems else None

    def listen(self, where: Path, listener: Listener) -> Callable[[], None]:
        """Tell `listener` (old, new) when anything at or beneath a path has changed; return a function that ends it."""
        entry = (where, listener)
        with self._lock:
            self._listeners = (*self._listeners, entry)

        def end() -> None:
            with self._lock:
                self._listeners = tuple(other for other in self._listeners if other is not entry)

        return end

    def blamed(self, error: RuleError, layers: Layers) -> RuleError:
        """Say of each problem in which source it is written."""
        places = [self._place(problem, layers) for problem in error.problems]
        if len(set(places)) == 1:
            return RuleError(error.problems, where=places[0])
        problems = [
            Problem(f"{place}: {p.path}" if place else p.path, p.value, p.allowed)
            for place, p in zip(places, error.problems, strict=True)
        ]
        return RuleError(problems)

    def _decide(self) -> tuple[Sequence[Change], Sequence[_News]]:
        """Try what was heard, leaving out what is to blame, until what is left can be read by all."""
        pending = {name: tree for name, tree in self._heard.items() if self.layers.trees.get(name) != tree}
        mended = {name for name in self._heard if name not in pending}
        refused: dict[str, RuleError] = {}
        changes: Sequence[Change] = ()
        told: Sequence[_News] = ()
        while pending or self._unknown or self._recalled:
            trial = Layers(self.layers.order, {**self._recalled, **self.layers.trees, **pending})
            found = diff(self.layers.merged, trial.merged)
            values, problems = self._read(trial, found)
            if not problems:
                changes, told = found, self._commit(trial, values)
                break
            blame = {name for problem in problems for name in self._blame(problem, trial, pending)}
            for name in blame:
                if name in pending:
                    refused[name] = self.blamed(RuleError(problems), trial)
                    del pending[name]
                else:
                    del self._recalled[name]
            if not blame:
                refused |= dict.fromkeys(pending, self.blamed(RuleError(problems), trial))
                break
        self._heard = {name: tree for name, tree in self._heard.items() if name in refused}
        mended |= set(pending) - set(refused)
        self.refused = {**{name: error for name, error in self.refused.items() if name not in mended}, **refused}
        return changes, told

    def _read(
        self, trial: Layers, changes: Sequence[Change]
    ) -> tuple[list[tuple[Handle[object], object]], list[Problem]]:
        """Ask every handle that the trial touches, or that has no value yet."""
        values: list[tuple[Handle[object], object]] = []
        problems: list[Problem] = []
        lenient = any(name not in trial.trees for name in trial.order)
        for handle in self._touched(changes):
            try:
                values.append((handle, handle.read(trial.merged)))
            except RuleError as error:
                if not (lenient and not handle.known):
                    problems += error.problems
        return values, problems

    def _touched(self, changes: Iterable[Change]) -> Iterable[Handle[object]]:
        found = {id(handle): handle for handle in self._unknown}
        seen: set[Path] = set()
        for change in changes:
            for size in range(len(change.path), -1, -1):
                where = change.path[:size]
                if where in seen:
                    break  # what stands above was met with it
                seen.add(where)
                found |= {id(handle): handle for handle in self._handles.get(where, ())}
        return found.values()

    def _commit(self, trial: Layers, values: Sequence[tuple[Handle[object], object]]) -> Sequence[_News]:
        self.layers = trial
        self.snapshot = Snapshot(version(trial.merged), trial.merged)
        told: list[_News] = []
        for handle, new in values:
            if not handle.known:
                handle.take(new)
                told.append((handle, new, new))
            elif (old := handle.value) != new:
                handle.value = new
                told.append((handle, old, new))
        self._unknown = [handle for handle in self._unknown if not handle.known]
        self._recalled = {}
        return told

    def _blame(self, problem: Problem, trial: Layers, pending: Mapping[str, Tree]) -> Iterable[str]:
        """Name the layers that a problem comes from, and that can be left out: who wrote a value, or took it away."""
        where = _path(problem.path)
        if at(trial.merged, where) is None:
            took = [name for name in pending if at(self.layers.trees.get(name, {}), where) is not None]
            if took:
                return took
        return [name for name in (trial.winner(where),) if name in pending or name in self._recalled]

    def _place(self, problem: Problem, layers: Layers) -> str:
        where = _path(problem.path)
        while where:
            name = layers.winner(where)
            if name:
                return self._origin(name, where)
            where = where[:-1]
        return ""


def _path(text: str) -> Path:
    try:
        return path(text)
    except RuleError:
        return ()


def _touches(changed: Path, where: Path) -> bool:
    return changed[: len(where)] == where


def _tell(listeners: Iterable[Callable[[T, T], None]], old: T, new: T) -> None:
    for listener in listeners:
        try:
            listener(old, new)
        except Exception as fault:  # noqa: BLE001  a listener's fault does not undo what is in force
            unraisable(fault, listener)
