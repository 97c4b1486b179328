"""The bus of one process: the same tables as the embedded one, in memory, gone with the process."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable
from typing import Self

from msgov.clock import Clock, monotonic, wall
from msgov.errors import RuleError, SourceError
from msgov.messaging import letters, tables
from msgov.messaging.pump import Backend, Step, T, TableBus
from msgov.messaging.tables import Moment


class Memory(TableBus):
    """A bus for one process: for tests, for a modular monolith, for trying things out.

    Publishers and consumers may live on several loops and threads. `capacity` is how many messages it keeps: default
    100 000, some 200 MB with bodies of a kilobyte. `retention`, in seconds, is how long it keeps those that all groups
    have settled, for groups that come late: default 600.
    """

    def __init__(
        self, *, capacity: int = 100_000, retention: float = 600.0, clock: Clock = monotonic, now: Clock = wall
    ) -> None:
        super().__init__(_Tables(clock, now), retention=retention, capacity=capacity, lease=None)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Make one from `memory:`; it has no name, so every call makes another."""
        if url != "memory:":
            raise RuleError.at("bus", url, "memory: and nothing after it; hand the object itself to those who share it")
        return cls()


class _Tables(Backend):
    """Tables that no other process sees: nothing to flush, nobody to wait for, so a step runs where it is asked for."""

    def __init__(self, clock: Clock, now: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._now = now
        self._lock = threading.Lock()
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        for statement in (*tables.SCHEMA, *letters.SCHEMA):
            connection.execute(statement)
        self._connection: sqlite3.Connection | None = connection

    async def moment(self) -> Moment:
        return Moment(self._clock(), self._now(), 0)

    async def append(self, step: Step[T]) -> T:
        with self._lock, self._tables() as connection:
            connection.execute("BEGIN")
            return step(connection)

    change = append

    async def read(self, step: Step[T]) -> T:
        with self._lock:
            return step(self._tables())

    def ring(self, bells: Iterable[str]) -> None:
        self.wake()

    def bell(self) -> str:
        return ""

    def forget(self, bell: str) -> None:
        pass

    async def aclose(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def _tables(self) -> sqlite3.Connection:
        if self._connection is None:
            raise SourceError("the bus is closed")
        return self._connection
