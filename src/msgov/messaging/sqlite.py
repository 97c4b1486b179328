"""One SQLite file is a service's own database, with its outbox, inbox and idempotency keys in it.

All instances of the service on this machine share the file.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from msgov.clock import Clock, wall
from msgov.connections.sqlite import Database
from msgov.messaging import idempotency, inbox, outbox
from msgov.messaging.message import Message
from msgov.messaging.sqlite_transaction import HOLD, WAIT, Line, Transaction, rows
from msgov.messaging.transaction import Once, Params

T = TypeVar("T")


class Sqlite:
    """A database that `async with` opens, making its tables, and closes; a consumer and a relay need nothing else.

    Args:
        path: The file; made when it is not there, in a folder that exists, on a local file system.
        schema: Statements that make the service's own tables, each harmless when repeated; run when it is opened.
        source: Who publishes, for the messages' `ce_source`: the service's name.
        hold: Seconds that a transaction may keep the write lock; then it is rolled back, and its next statement, or its
            end, raises `DeadlineExceeded`. Default 2: less than half of `wait`, so that others get their turn.
        wait: Seconds that a transaction waits for its turn; then it raises `StoreError`. Default 5.

    Commits are flushed (`synchronous=FULL`). Used on one loop.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        schema: Sequence[str] = (),
        source: str = "",
        hold: float = HOLD,
        wait: float = WAIT,
        now: Clock = wall,
    ) -> None:
        self.path = Path(path)
        self.source = source
        self._now = now
        self._schema = tuple(schema)
        self._database = Database(self.path, synchronous="FULL", wait=wait)
        self._line = Line(self.path, hold=hold, wait=wait)
        self._listeners: tuple[Callable[[], None], ...] = ()

    def transaction(self, *, once: Once | None = None) -> Transaction:
        """Begin, with the first statement; commit when the block ends, roll back when it raises or is cancelled.

        `once` is written to the inbox in the same transaction; when it is there already, `Duplicate` is raised.
        Between the first statement and the end, wait for nothing but the transaction: all other writers wait with you.
        """
        make = partial(Message.of, source=self.source, now=self._now)
        return Transaction(self._line, once=once, make=make, now=self._now, published=self._tell)

    async def fetch(self, sql: str, params: Params = (), /) -> Sequence[sqlite3.Row]:
        """Read what is committed, without waiting for writers."""
        return await self._database.read(partial(rows, sql=sql, params=params))

    async def read(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run `fn` in the database's thread, on what is committed."""
        return await self._database.read(fn)

    async def write(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run `fn` in the database's thread, in a transaction of its own; those that gather share a commit."""
        return await self._database.write(fn)

    async def handled(self, once: Once) -> bool:
        """Whether the inbox has one of these ids."""
        return await self._database.read(partial(inbox.handled, once=once))

    async def forget(self, before: float) -> int:
        """Remove up to 1000 inbox entries made before `before`, in seconds since 1970; return how many."""
        return await self._database.write(partial(inbox.forget, before=before))

    @contextlib.contextmanager
    def listening(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call `listener` after each commit here that wrote to the outbox, for the length of the block."""
        self._listeners = (*self._listeners, listener)
        try:
            yield
        finally:
            self._listeners = tuple(other for other in self._listeners if other is not listener)

    async def __aenter__(self) -> Self:
        """Open the file and make the tables; raises `StoreError` where that cannot be."""
        try:
            await self._database.write(self._lay_out)
        except BaseException:
            await self._database.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the open transaction end, then close."""
        await self._line.aclose()
        await self._database.aclose()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()

    def _lay_out(self, connection: sqlite3.Connection) -> None:
        for make in (outbox.create_table, inbox.create_table, idempotency.create_table):
            make(connection)
        for statement in self._schema:
            connection.execute(statement)
