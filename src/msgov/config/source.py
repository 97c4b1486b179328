"""A layer comes from a source: whole trees, or the reason why what stands there cannot be one."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping
from importlib.metadata import entry_points
from typing import TypeAlias

from msgov.config.layers import Path, Tree, Value, path, shown
from msgov.config.scalar import scalar
from msgov.config.text import vet
from msgov.errors import RuleError

Reading: TypeAlias = "Tree | RuleError"

GROUP = "msgov.config"


class ConfigSource(ABC):
    """What a layer is read from: the environment, a file, a config centre.

    `name` says in messages where it is. `kept` says that its last good tree is worth keeping on disk, since the source
    may be away when the process starts next.
    """

    name: str
    kept: bool = False

    @abstractmethod
    def watch(self) -> AsyncIterator[Reading]:
        """Yield the tree now, then each time it has changed; a `RuleError` for one that cannot be, and go on.

        Raises when the backend fails: whoever follows it backs off and calls `watch` again. It does not end by itself.
        """

    async def aclose(self) -> None:  # noqa: B027  most have nothing to close
        """Close what was opened; closing twice is fine."""

    def now(self) -> Tree | None:
        """Read it at once, in the caller's thread; None where that takes a loop. Raises what `watch` would."""
        return None

    def origin(self, where: Path) -> str:
        """Say where a value at this path is written, for messages and `explain`."""
        return self.name


class Fixed(ConfigSource):
    """A tree that does not change: defaults, or what the command line set.

    Raises `RuleError` when it is none.
    """

    def __init__(self, tree: Mapping[str, object], *, name: str) -> None:
        self.name = name
        self._tree = vet(tree, where=name)

    async def watch(self) -> AsyncIterator[Reading]:
        """Yield it, and stay."""
        yield self._tree
        await asyncio.Event().wait()

    def now(self) -> Tree:
        """Return it."""
        return self._tree


def command_line(pairs: Iterable[str], *, name: str = "command line") -> Fixed:
    """Read `key=value` arguments, such as `pay.timeout=2`; a value is a scalar of TOML, or text.

    Raises `RuleError` that names the argument.
    """
    found: dict[str, Value] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise RuleError.at(name, pair, "key=value")
        plant(found, path(key.strip()), scalar(text.strip()), where=f"{name} {pair}")
    return Fixed(found, name=name)


def plant(tree: dict[str, Value], parts: Path, value: Value, *, where: str) -> None:
    """Set a leaf, making the tables above it; raises `RuleError` where a value stands in their place already."""
    table = tree
    for part in parts[:-1]:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            raise RuleError.at(shown(parts), value, f"not beneath a value: {part} = {inner!r} is set too", where=where)
        table = inner
    if parts[-1] in table:
        raise RuleError.at(shown(parts), value, "set only once", where=where)
    table[parts[-1]] = value


def open(url: str) -> ConfigSource:  # noqa: A001  read as config.open
    """Make the source that a URL names: `file:msgov.toml` (or a bare path), `env:`, `embedded:config.db`.

    The scheme is looked up among the installed backends (entry points of the group "msgov.config"), ours and
    strangers' the same way. Raises `RuleError` for an unknown one, and what the backend's own `from_url` raises.
    """
    scheme, colon, _ = url.partition(":")
    known = {point.name: point for point in entry_points(group=GROUP)}
    if not colon:
        scheme, url = "file", f"file:{url}"
    if scheme not in known:
        raise RuleError.at("config", url, "a URL whose scheme is one of " + ", ".join(sorted(known)))
    source = known[scheme].load().from_url(url)
    if not isinstance(source, ConfigSource):
        raise RuleError.at("config", url, f"a ConfigSource; {known[scheme].value} makes a {type(source).__name__}")
    return source
