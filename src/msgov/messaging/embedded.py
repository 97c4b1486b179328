"""The bus of one machine: one SQLite file, shared by all processes that open it; a published message is on disk."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from msgov.clock import Clock, monotonic, wall
from msgov.connections.process import boot_id
from msgov.connections.sqlite import Database
from msgov.errors import RuleError
from msgov.messaging import doorbell, letters, tables
from msgov.messaging.doorbell import Doorbell
from msgov.messaging.pump import Backend, Step, T, TableBus
from msgov.messaging.tables import Moment


class Embedded(TableBus):
    """A bus in a file, for the processes of one machine: as durable as its disk, and nothing to install.

    Args:
        path: The file; made when it is not there, in a folder that exists, on a local file system.
        retention: Seconds that a message stays after all groups have settled it, for groups that come late; default an
            hour. An inbox must remember for longer.
        capacity: Messages kept at most; default a million. Settled ones make room first; when a group does not settle
            its messages for that long, `publish` is refused, so that the outbox keeps what the bus cannot.
        lease: Seconds after which a silent consumer's messages go to others; default 5, ten times what a busy machine
            keeps a process waiting. A consumer that is only slow keeps its messages: its lease is renewed beside it.

    What is published survives a power cut. A claim or its end may not: the message is delivered again.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        retention: float = 3600.0,
        capacity: int = 1_000_000,
        lease: float = 5.0,
    ) -> None:
        if not 0.1 <= lease <= 600.0:
            raise RuleError.at("lease", lease, "0.1 to 600 seconds")
        self.path = Path(path)
        super().__init__(_File(self.path, monotonic, wall), retention=retention, capacity=capacity, lease=lease)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Make one from `embedded:path`; all after the colon is the path, spaces and all."""
        path = url.partition(":")[2]
        if not path:
            raise RuleError.at("bus", url, "embedded: and the path of a file, such as embedded:bus.db")
        return cls(path)


class _File(Backend):
    """Two connections: one that flushes each commit, for messages; one that does not, for claims and their end."""

    def __init__(self, path: Path, clock: Clock, now: Clock) -> None:
        super().__init__()
        schema = (*tables.SCHEMA, *letters.SCHEMA)
        self._messages = Database(path, schema=schema, synchronous="FULL")
        self._claims = Database(path, schema=schema, synchronous="NORMAL")
        self._folder = path.absolute().parent
        self._clock = clock
        self._now = now
        self._epoch = 0
        self._bell: Doorbell | None = None

    async def moment(self) -> Moment:
        if not self._epoch:
            mono = self._clock()
            self._epoch = await self._claims.write(lambda connection: tables.wake(connection, boot_id(), mono))
        return Moment(self._clock(), self._now(), self._epoch)

    async def append(self, step: Step[T]) -> T:
        return await self._messages.write(step)

    async def change(self, step: Step[T]) -> T:
        return await self._claims.write(step)

    async def read(self, step: Step[T]) -> T:
        return await self._claims.read(step)

    def ring(self, bells: Iterable[str]) -> None:
        doorbell.ring(bells)

    def bell(self) -> str:
        if self._bell is None:
            self._bell = Doorbell(self._folder, self.wake)
        return self._bell.path

    def forget(self, bell: str) -> None:
        if bell:
            doorbell.remove(bell)

    async def aclose(self) -> None:
        if self._bell is not None:
            self._bell.close()
        await self._claims.aclose()
        await self._messages.aclose()
