"""What is in force is always a merge of whole layers, made anew: precedence cannot drift, and a deletion is seen.

A layer is a tree: tables within tables, and leaves (text, numbers, true and false, lists, tables with nothing in them).
Tables merge key by key; a leaf replaces whatever stands below it, and an empty table a leaf. Nothing here waits, and no
value is ever changed in place.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeGuard

from msgov.errors import Problem, RuleError

Value: TypeAlias = "str | int | float | bool | Sequence[Value] | Mapping[str, Value]"
Tree: TypeAlias = Mapping[str, Value]
Path: TypeAlias = tuple[str, ...]

NOTHING: Final[Mapping[str, Tree]] = {}


class Layers:
    """Trees by layer name, the lowest first; frozen, so an older one can be returned to.

    Merging is a pure function of all the trees: it never starts from an earlier merge.
    """

    __slots__ = ("merged", "order", "trees")

    def __init__(self, order: Sequence[str], trees: Mapping[str, Tree] = NOTHING) -> None:
        self.order = tuple(order)
        self.trees: Mapping[str, Tree] = {name: trees[name] for name in self.order if name in trees}
        unknown = [name for name in trees if name not in self.order]
        if unknown:
            raise RuleError.at("layers", unknown[0], "one of " + ", ".join(self.order))
        merged: dict[str, Value] = {}
        for tree in self.trees.values():
            _lay(merged, tree)
        self.merged: Tree = merged

    def having(self, name: str, tree: Tree) -> Layers:
        """Return these layers with one of them replaced."""
        return Layers(self.order, {**self.trees, name: tree})

    def without(self, name: str) -> Layers:
        """Return these layers with one of them gone."""
        return Layers(self.order, {other: tree for other, tree in self.trees.items() if other != name})

    def explain(self, path: Path) -> tuple[Leaf, ...]:
        """Say of each leaf at or beneath `path` which layer set it, and what it shadows, the nearest first."""
        found = at(self.merged, path)
        if found is None:
            return ()
        return tuple(self._leaf(path + rest, value) for rest, value in leaves(found) if path + rest)

    def winner(self, path: Path) -> str:
        """Name the highest layer that says anything at `path`, or decides what stands above it; "" for none."""
        for name in reversed(self.order):
            if name in self.trees and _said(self.trees[name], path) is not None:
                return name
        return ""

    def _leaf(self, path: Path, value: Value) -> Leaf:
        said = [
            Said(name, found)
            for name in reversed(self.order)
            if name in self.trees and (found := _said(self.trees[name], path)) is not None
        ]
        return Leaf(path, value, said[0].layer, tuple(said[1:]))


@dataclass(frozen=True, slots=True)
class Said:
    """What one layer says at a path."""

    layer: str
    value: Value


@dataclass(frozen=True, slots=True)
class Leaf:
    """A value in force: where it stands, the layer it came from, and what lower layers say there in vain."""

    path: Path
    value: Value
    layer: str
    shadows: tuple[Said, ...]

    def __str__(self) -> str:
        """Read as a line of `msgov explain`."""
        line = f"{shown(self.path)} = {json.dumps(self.value, ensure_ascii=False)}  ({self.layer})"
        return line + "".join(
            f"  shadows {json.dumps(said.value, ensure_ascii=False)} ({said.layer})" for said in self.shadows
        )


@dataclass(frozen=True, slots=True)
class Change:
    """A leaf that is no longer what it was; None stands for absent, which no leaf can be."""

    path: Path
    old: Value | None
    new: Value | None


def diff(old: Tree, new: Tree) -> tuple[Change, ...]:
    """List the leaves in which two trees differ; 1, 1.0 and true are three values."""
    found: list[Change] = []
    _differ(old, new, (), found)
    return tuple(found)


def at(tree: Tree, path: Path) -> Value | None:
    """Return what stands at a path, None for nothing; the empty path is the tree itself."""
    found: Value | None = tree
    for part in path:
        if not table(found):
            return None
        found = found.get(part)
    return found


def table(value: object) -> TypeGuard[Mapping[str, Value]]:
    """Whether a value is a table; asked of every leaf, and an abstract class answers ten times as slowly."""
    kind = type(value)
    return kind is dict or (kind not in _LEAVES and isinstance(value, Mapping))


_LEAVES = frozenset((str, int, float, bool, list, type(None)))


def leaves(value: Value) -> Iterator[tuple[Path, Value]]:
    """Walk the leaves beneath a value, which may be a leaf itself."""
    if not (table(value) and value):
        yield (), value
        return
    for key, inner in value.items():
        for rest, leaf in leaves(inner):
            yield (key, *rest), leaf


def version(tree: Tree) -> str:
    """Name a tree by its content: the same tree has the same version in every process."""
    return hashlib.sha256(_text(tree).encode()).hexdigest()[:12]


_BARE = re.compile(r"[^\s.\"'\\=]+")
_PART = re.compile(r'"((?:[^"\\]|\\.)*)"|([^\s."\'\\=]+)')


def path(text: str) -> Path:
    """Read a dotted key: `pay.timeout`, or `call."order.placed".retry` where a part holds a dot itself.

    Raises `RuleError` when it is none.
    """
    parts: list[str] = []
    begin = 0
    while True:
        found = _PART.match(text, begin)
        if found is None:
            raise RuleError.at("key", text, 'parts joined by dots; a part with a dot or a space in "quotes"')
        parts.append(found[2] if found[1] is None else _unquoted(found[0], text))
        if found.end() == len(text):
            return tuple(parts)
        if text[found.end()] != ".":
            raise RuleError.at("key", text, "a dot between its parts")
        begin = found.end() + 1


def shown(parts: Path) -> str:
    """Write a path the way `path` reads it."""
    return ".".join(part if _BARE.fullmatch(part) else json.dumps(part, ensure_ascii=False) for part in parts)


def problem(parts: Path, value: object, allowed: str) -> Problem:
    """Say what is wrong at a path."""
    return Problem(shown(parts), value, allowed)


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _unquoted(quoted: str, text: str) -> str:
    try:
        return str(json.loads(quoted))
    except ValueError:
        raise RuleError.at("key", text, "a quoted part is written as in JSON") from None


def _lay(under: dict[str, Value], tree: Tree) -> None:
    """Lay a tree on a merge under way, which holds no table but its own."""
    for key, value in tree.items():
        if not table(value):
            under[key] = value
            continue
        below = under.get(key)
        own: dict[str, Value] = below if isinstance(below, dict) else {}
        under[key] = own
        _lay(own, value)


def _said(tree: Tree, path: Path) -> Value | None:
    """Return what a layer says at a path: the leaf there, the leaf that stands above it, the table beneath it."""
    found: Value = tree
    for part in path:
        if not table(found):
            return found
        inner = found.get(part)
        if inner is None:
            return None
        found = inner
    return found


def _differ(old: Tree, new: Tree, path: Path, found: list[Change]) -> None:
    for key in (*old, *(key for key in new if key not in old)):
        was, now = old.get(key), new.get(key)
        if was is now:
            continue
        here = (*path, key)
        if (table(was) and was) or (table(now) and now):
            if not (table(was) and was):
                if was is not None:
                    found.append(Change(here, was, None))
                was = {}
            if not (table(now) and now):
                if now is not None:
                    found.append(Change(here, None, now))
                now = {}
            _differ(was, now, here, found)
        elif type(was) is not type(now) or was != now or (isinstance(now, list) and _text(was) != _text(now)):
            found.append(Change(here, was, now))
