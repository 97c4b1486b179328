"""A file is a layer, read again when it changes: written in place, renamed over, or swapped behind a symlink."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import TypeAlias

from msgov.config import text
from msgov.config.layers import Tree
from msgov.config.source import ConfigSource, Reading
from msgov.config.watching import EVERY, TOLD, hints
from msgov.errors import RuleError, SourceError

_Stamp: TypeAlias = tuple[int, int, int, int]

SETTLED = 0.05  # seconds a changed file must stay as it is before it is read: a plain write truncates first


class File(ConfigSource):
    """A TOML, YAML or JSON file of at most 64 KiB; its ending says which.

    It is looked at each `every` seconds (default 0.5), and as soon as the kernel tells of a change (`told`, default
    where watchfiles is installed). What cannot be read is refused with line and column, and the last good stays; a
    file that is gone makes knowledge old, not absent. Raises `RuleError` for another ending.
    """

    def __init__(self, path: str | os.PathLike[str], *, every: float = EVERY, told: bool = TOLD) -> None:
        self.path = Path(path)
        self.name = str(path)
        self._every = every
        self._told = told
        form = text.FORMS.get(self.path.suffix.lower())
        if form is None:
            raise RuleError.at("file", self.name, "a name that ends in " + ", ".join(text.FORMS))
        self._form = form

    @classmethod
    def from_url(cls, url: str) -> File:
        """Make it from `file:msgov.toml`."""
        return cls(url.partition(":")[2])

    def now(self) -> Tree:
        """Read it; raises `SourceError` when it is not there, `RuleError` when it cannot be read."""
        return text.read(self._body(), self._form, where=self.name)

    async def watch(self) -> AsyncIterator[Reading]:
        """Yield what it holds, then each time its content has changed; raises `SourceError` while it is gone."""
        seen: _Stamp | None = None
        held: bytes | None = None
        async with aclosing(hints(self.path, every=self._every, told=self._told)) as looks:
            async for _ in looks:
                stamp = self._stamp()
                if stamp == seen:
                    continue
                if seen is not None:
                    stamp = await self._settled(stamp)
                body = await asyncio.to_thread(self._body)
                if self._stamp() != stamp:
                    continue  # written while it was read: look again
                seen = stamp
                if body != held:
                    held = body
                    yield await asyncio.to_thread(self._reading, body)

    def _reading(self, body: bytes) -> Reading:
        try:
            return text.read(body, self._form, where=self.name)
        except RuleError as error:
            return error

    async def _settled(self, stamp: _Stamp) -> _Stamp:
        while True:
            await asyncio.sleep(SETTLED)
            last, stamp = stamp, self._stamp()
            if stamp == last:
                return stamp

    def _stamp(self) -> _Stamp:
        try:
            found = self.path.stat()
        except OSError as error:
            raise SourceError(f"{self.name}: {error.strerror}") from None
        if not stat.S_ISREG(found.st_mode):
            raise SourceError(f"{self.name}: not a file")
        return found.st_mtime_ns, found.st_ino, found.st_dev, found.st_size

    def _body(self) -> bytes:
        self._stamp()
        try:
            with self.path.open("rb") as file:
                return file.read(text.LIMIT + 1)
        except OSError as error:
            raise SourceError(f"{self.name}: {error.strerror}") from None
