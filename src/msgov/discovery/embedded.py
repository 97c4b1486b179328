"""A SQLite file is registry enough for all processes of one machine: no server, nothing to install.

Watchers look every 50 ms at one number, and at the leases four times a second; holders and watchers write once a
second. The file may be deleted, replaced or locked under their hands: instances are put again, and watchers keep what
they knew meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sqlite3
from collections.abc import AsyncIterator, Callable
from functools import partial
from itertools import count
from typing import Final, Self, TypeVar

from msgov.clock import Clock, monotonic
from msgov.connections.process import Origin, origin
from msgov.connections.sqlite import Database, StoreError
from msgov.discovery import embedded_tables as tables
from msgov.discovery.backend import Discovery
from msgov.discovery.instance import Instance, Snapshot, record
from msgov.discovery.leases import Leases, Override
from msgov.discovery.registrar import Registrar
from msgov.errors import RuleError

T = TypeVar("T")

POLL: Final = 0.05  # seconds; half of it is the mean delay, and 1 % of a core is what it costs, however many services
RECHECK: Final = 0.25  # seconds between readings of the leases themselves: how soon a killed process is noticed
PATIENCE: Final = 0.1  # seconds that a watcher waits to write; what it cannot write now is not worth going blind for


class Embedded(Discovery, Registrar):
    """The registry in a SQLite file, shared by the processes of one machine.

    Args:
        path: The file; made when it is not there. Its folder must exist, on a local disk.
        ttl: Seconds that others believe in an instance that moves no more; default 3, so that a missed renewal (one a
            second) or a busy machine does not matter. A process that was killed is noticed within 0.4 s all the same
            where the kernel tells (Linux, same container).

    As a URL: `embedded:path`.
    """

    def __init__(self, path: str | os.PathLike[str], *, ttl: float = 3.0, clock: Clock = monotonic) -> None:
        if not 0.3 <= ttl <= 300:
            raise RuleError.at("ttl", ttl, "0.3 to 300 s; default 3")
        self.ttl = ttl
        self._clock = clock
        self._db = Database(path, schema=tables.SCHEMA, synchronous="NORMAL", wait=1.0)
        self._token = secrets.token_hex(8)
        self._numbers = count(1)
        self._leases: dict[str, Leases] = {}
        self._still: dict[str, dict[str, tuple[int, float]]] = {}
        self._wrote = float("-inf")

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Take the path after `embedded:`; raises `RuleError` when there is none."""
        path = url.removeprefix("embedded:")
        if not path:
            raise RuleError.at("registry", url, "embedded:path, such as embedded:registry.db")
        return cls(path)

    async def aclose(self) -> None:
        """Close the file."""
        await self._db.aclose()

    async def put(self, instance: Instance) -> int:
        """Write a lease; one that says the same as before is no change for watchers."""
        text = json.dumps(record(instance), separators=(",", ":"), sort_keys=True)
        row, mine = self._row(instance), str(origin())
        return await self._write(lambda connection: tables.put(connection, row, text, self.ttl, mine))

    async def beat(self, instance: Instance) -> bool:
        """Move the counter of the lease; False when the lease is not there."""
        row = self._row(instance)
        return await self._write(lambda connection: tables.move(connection, row))

    async def remove(self, instance: Instance) -> None:
        """Delete the lease; another holder's of the same instance stays."""
        row = self._row(instance)
        await self._write(lambda connection: tables.release(connection, row))

    async def seen(self, service: str, revision: int) -> bool:
        """Tell whether every watcher that lives has taken a snapshot of this revision or a later one."""
        now = self._clock()
        before, still, gone = self._still.get(service, {}), {}, []
        behind = await self._db.read(lambda connection: tables.behind(connection, service, revision))
        for watcher, beat, text in behind:
            was = before.get(watcher)
            still[watcher] = was if was is not None and was[0] == beat else (beat, now)
            if _dead(text) or now - still[watcher][1] >= self.ttl:  # whoever stands still so long takes no calls either
                gone.append(watcher)
        self._still[service] = still
        if gone:
            await self._attempt(lambda connection: tables.leave(connection, service, gone))
        return len(gone) == len(behind)

    async def override(self, service: str, name: str, wish: Override | None) -> None:
        """Say what an operator wants of the instance with this id; None takes it back.

        It is kept apart from the registration, so it stays when the instance registers anew.
        """
        await self._write(lambda connection: tables.wish(connection, service, name, wish))

    async def watch(self, service: str) -> AsyncIterator[Snapshot]:
        """Yield the instances now, and within 100 ms of each change; raises `StoreError` when the file fails."""
        watcher = _Watcher(service, f"{self._holder}.{next(self._numbers)}")
        said: Snapshot | None = None
        try:
            while True:
                await self._announce(watcher)
                now = await self._db.read(partial(self._look, watcher, self._clock()))
                if now is not None:
                    if now != said:
                        said = now
                        yield now
                    if watcher.seen != now.revision:  # whoever asks for more has taken it: say so at once
                        watcher.seen = now.revision
                        continue
                if ended := watcher.ended:
                    await self._attempt(lambda connection: tables.delete(connection, service, ended))
                await asyncio.sleep(POLL - self._clock() % POLL)  # so that all watches of a process wake together
        finally:
            await self._attempt(lambda connection: tables.leave(connection, service, [watcher.name]))

    def _look(self, watcher: _Watcher, now: float, connection: sqlite3.Connection) -> Snapshot | None:
        """Read who lives; None when that cannot have changed. Runs in the file's thread."""
        state = tables.state(connection, watcher.service)
        if state == watcher.state and now < watcher.recheck:
            return None
        if state[0] != watcher.state[0]:
            watcher.told = None  # another file: it does not know us
        watcher.state, watcher.recheck = state, now + RECHECK
        leases = self._leases.setdefault(watcher.service, Leases(watcher.service))
        found = leases.take(
            tables.leases(connection, watcher.service),
            era=state[0],
            revision=state[1],
            now=now,
            writable=now - self._wrote < self.ttl / 2,
            dead=_dead,
            overrides=tables.wishes(connection, watcher.service),
        )
        watcher.ended = leases.ended
        return found

    async def _announce(self, watcher: _Watcher) -> None:
        """Tell the registry what a watcher has seen, and once in a third of the lease that we are here at all."""
        if watcher.told == watcher.seen and self._clock() - self._wrote < self.ttl / 3:
            return
        row = (watcher.service, watcher.name, self._holder, watcher.seen, str(origin()))
        if await self._attempt(lambda connection: tables.tell(connection, row)):
            watcher.told = row[3]

    async def _attempt(self, work: Callable[[sqlite3.Connection], None]) -> bool:
        """Write if the file lets us soon: going blind for it would be worse."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._write(work)
        except (StoreError, TimeoutError):
            return False
        return True

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        value = await self._db.write(work)
        self._wrote = self._clock()
        return value

    def _row(self, instance: Instance) -> tuple[str, str, str]:
        return instance.service, instance.id, self._holder

    @property
    def _holder(self) -> str:
        return f"{self._token}.{os.getpid()}"  # a forked child is another holder


class _Watcher:
    """One watch: what it has taken, and what the registry was told of that."""

    __slots__ = ("ended", "name", "recheck", "seen", "service", "state", "told")

    def __init__(self, service: str, name: str) -> None:
        self.service = service
        self.name = name
        self.seen = -1
        self.told: int | None = None
        self.state = ("", -1)
        self.recheck = 0.0
        self.ended: list[tuple[str, str, int]] = []


def _dead(text: str) -> bool:
    try:
        return Origin.parse(text).dead()
    except ValueError:
        return False  # a stranger: judged by its counter alone
