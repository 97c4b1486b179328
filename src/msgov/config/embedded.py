"""A config centre in a SQLite file: who changed what, when and why, and every process sees it within 200 ms."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Final, Self, cast

from msgov.clock import Clock, wall
from msgov.config import embedded_tables as tables
from msgov.config.embedded_tables import Conflict, Version
from msgov.config.layers import Tree, Value, path, shown
from msgov.config.source import ConfigSource, Reading, plant
from msgov.config.text import LIMIT, vet
from msgov.connections.sqlite import Database
from msgov.errors import Problem, RuleError, SourceError

POLL: Final = 0.05  # seconds; a look costs a few microseconds, and a change waits half of it
WORDS: Final = 1_000  # characters of a `who` or a `why`


__all__ = ["Conflict", "Embedded", "Version"]


class Embedded(ConfigSource):
    """The configuration in a SQLite file, shared by the processes of one machine.

    `path` is made when it is not there; its folder must exist, on a local disk. As a URL: `embedded:path`. A value is
    what JSON can say, null excepted, in at most 64 KiB; keys do not overlap: where `pay` is set, `pay.timeout` is not.
    A file that has lost everything (deleted, replaced by an empty one) is taken for a failure, not for a deletion.
    """

    kept = True

    def __init__(self, path: str | os.PathLike[str], *, poll: float = POLL, clock: Clock = wall) -> None:
        self.name = f"embedded {os.fspath(path)}"
        self._poll = poll
        self._clock = clock
        self._db = Database(path, schema=tables.SCHEMA, wait=2.0)
        self._seen = 0

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Make it from `embedded:path`; all after the colon is the path, spaces and all."""
        path = url.partition(":")[2]
        path = path.removeprefix("//") if path.startswith("///") else path
        if not path:
            raise RuleError.at("config", url, "embedded: and the path of a file, such as embedded:config.db")
        return cls(path)

    async def watch(self) -> AsyncIterator[Reading]:
        """Yield what is set, then each time it has changed; raises `SourceError` when the file cannot be read."""
        last: tables.Moment | None = None
        held: Reading | None = None
        while True:
            moment = await self._db.read(tables.moment)
            if moment != last:
                moment, reading = await self._db.read(partial(tables.reading, self.name))
                self._lost(moment[0])
                last = moment
                if reading != held:
                    held = reading
                    yield reading
            await asyncio.sleep(self._poll)

    def now(self) -> Tree:
        """Read what is set, from a thread; raises `SourceError`, or `RuleError` for what somebody wrote by hand."""
        moment, reading = self._db.read_sync(partial(tables.reading, self.name))
        self._lost(moment[0])
        if isinstance(reading, RuleError):
            raise reading
        return reading

    async def aclose(self) -> None:
        """Close the file; closing twice is fine."""
        await self._db.aclose()

    async def get(self, key: str) -> Version | None:
        """Return what a key is set to, and since which change; None when it is not set."""
        return await self._db.read(partial(tables.current, shown(path(key))))

    async def set(self, key: str, value: object, *, who: str, why: str = "", expect: int | None = None) -> int:
        """Set a key and return the number of the change.

        With `expect` it is written only if the key is still at that version, 0 for not set.
        Raises `Conflict`, `RuleError` for what cannot be set, `SourceError` when the file cannot be written.
        """
        return await self.change({key: value}, who=who, why=why, expect=None if expect is None else {key: expect})

    async def delete(self, key: str, *, who: str, why: str = "", expect: int | None = None) -> int:
        """Set a key no more, and return the number of the change; 0 when it was not set. Raises as `set` does."""
        return await self.change({key: None}, who=who, why=why, expect=None if expect is None else {key: expect})

    async def change(
        self,
        values: Mapping[str, object],
        *,
        who: str,
        why: str = "",
        expect: Mapping[str, int] | None = None,
    ) -> int:
        """Set several keys at once, None for no more: every reader sees all of it or nothing.

        Returns the number of the last change. Raises as `set` does, and then nothing was written.
        """
        writes = _checked(values, who, why)
        expected = {shown(path(key)): version for key, version in (expect or {}).items()}
        return await self._db.write(partial(tables.change, writes, expected, who, why, self._clock()))

    async def history(self, key: str = "", *, most: int = 100) -> list[Version]:
        """List the changes at or beneath a key, the newest first; "" is everything. At most 1000 at once."""
        return await self._db.read(partial(tables.history, shown(path(key)) if key else "", max(0, min(most, 1000))))

    def _lost(self, version: int) -> None:
        if version == 0 and self._seen:
            raise SourceError(f"{self.name}: is empty, and was at version {self._seen}: the file was lost or replaced")
        self._seen = version


def _checked(values: Mapping[str, object], who: str, why: str) -> Mapping[str, str | None]:
    """Return what is to be written, by the one spelling of each key; raises one `RuleError` for all that cannot be."""
    writes: dict[str, str | None] = {}
    problems: list[Problem] = []
    for name, said in (("who", who), ("why", why)):
        if len(said) > WORDS or (name == "who" and not said.strip()):
            problems.append(Problem(name, said[:80], f"{'1' if name == 'who' else '0'} to {WORDS} characters"))
    for key, value in values.items():
        try:
            parts = path(key)
            alone: dict[str, Value] = {}
            plant(alone, parts, "" if value is None else cast("Value", value), where="")
            vet(alone, where="")
            text = None if value is None else json.dumps(value)
            if text is not None and len(text) > LIMIT:
                raise RuleError.at(key, f"{len(text)} bytes", f"at most {LIMIT} bytes of JSON")
            writes[shown(parts)] = text
        except RuleError as error:
            problems += error.problems
    if problems:
        raise RuleError(problems)
    return writes
