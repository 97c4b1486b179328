"""What the shop's services ask of the house they live in; nothing here names a library."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

Value = str | int | float | None
Params = Sequence[Value] | Mapping[str, Value]
Body = bytes | Mapping[str, object]

Clock = Callable[[], float]
"""Seconds: `time.time` where a stamp is stored, `time.monotonic` where patience is measured."""


class Read(Protocol):
    """Whatever answers a question in SQL: `store.fetch` outside a transaction, `tx.execute` inside."""

    def __call__(self, sql: str, params: Params = (), /) -> Awaitable[Sequence[sqlite3.Row]]:
        """Run one statement and return its rows."""
        ...


class Tx(Protocol):
    """One transaction, open: all of it happens, or none."""

    async def execute(self, sql: str, params: Params = (), /) -> Sequence[sqlite3.Row]:
        """Run one statement and return its rows."""
        ...


class PublishingTx(Tx, Protocol):
    """A transaction that can also say something to the world, if and only if it commits."""

    async def publish(self, topic: str, body: Body, /, *, key: str) -> None:
        """Put a message into the outbox; messages of one `key` arrive in the order they were put."""
        ...


class Store(Protocol):
    """A service's own database."""

    def transaction(self) -> AbstractAsyncContextManager[PublishingTx]:
        """Begin; commit when the block ends, roll back when it raises or is cancelled."""
        ...

    async def fetch(self, sql: str, params: Params = (), /) -> Sequence[sqlite3.Row]:
        """Read what is committed, without waiting for writers."""
        ...


class Event(Protocol):
    """One consumed message; the same `id` may come more than once."""

    @property
    def id(self) -> str:
        """Tell it from all others."""
        ...

    @property
    def topic(self) -> str:
        """Say what it is about."""
        ...

    @property
    def key(self) -> str:
        """Say whom it concerns: messages of one key come in order."""
        ...

    @property
    def body(self) -> Body:
        """Carry what happened: a mapping, or the same as JSON."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Carry what travels along."""
        ...
