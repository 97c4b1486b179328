"""One SQLite file is a service's own database, shared by all its instances on this machine."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from .errors import Unavailable
from .seams import Body, Params, Publish

T = TypeVar("T")
Execute = Callable[[str, Params], Awaitable[Sequence[sqlite3.Row]]]
PAUSE = 0.0005  # seconds between tries for the lock; SQLite's own handler sleeps up to 100 ms and starves writers


class Database:
    """Open `path` for as long as the block lasts; every statement runs in one thread of its own.

    `schema` is SQL that may run at every start (CREATE ... IF NOT EXISTS), its statements ended by ";".
    `patience` is how long to wait for another process that writes, in seconds (default 5: a commit takes
    milliseconds, so who waits longer waits for something that stands still). `publish` puts messages into the outbox.
    Raises `Unavailable` when patience runs out, `OSError` when the file system cannot do WAL.
    """

    def __init__(self, path: Path, *, schema: str, patience: float = 5.0, publish: Publish | None = None) -> None:
        self.path = path
        self._schema = [statement for statement in schema.split(";") if statement.strip()]
        self._patience = patience
        self._publish = publish
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"db-{path.stem}")
        self._open: tuple[sqlite3.Connection, sqlite3.Connection] | None = None

    async def __aenter__(self) -> Self:
        """Open both connections, one to write and one to read, and bring the schema."""
        try:
            await self._patiently(self._connect)
            async with self.transaction() as tx:
                for statement in self._schema:
                    await tx.execute(statement)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Let the open transaction end, then close."""
        async with self._turn:
            await self._close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Begin at once as a writer; commit at the end of the block, roll back when it raises or is cancelled.

        Never wait for anything but the transaction inside the block: all other writers of the file wait with you.
        """
        async with self._turn:
            writer = self._writer
            try:
                await self._patiently(lambda: writer.execute("BEGIN IMMEDIATE"))
                yield Transaction(self._execute, self._publish)
                await self._run(writer.commit)
            except BaseException:
                # The thread works in order: whatever a cancelled await left running there is over before this runs.
                await asyncio.shield(self._run(writer.rollback))
                raise

    async def fetch(self, sql: str, params: Params = (), /) -> Sequence[sqlite3.Row]:
        """Read what is committed, without waiting for writers."""
        reader = self._reader
        return await self._patiently(lambda: reader.execute(sql, params).fetchall())

    async def _execute(self, sql: str, params: Params) -> Sequence[sqlite3.Row]:
        writer = self._writer
        return await self._run(lambda: writer.execute(sql, params).fetchall())

    @property
    def _writer(self) -> sqlite3.Connection:
        return self._connections()[0]

    @property
    def _reader(self) -> sqlite3.Connection:
        return self._connections()[1]

    def _connections(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        if self._open is None:
            raise RuntimeError(f"{self.path.name} is not open: use it inside `async with`")
        return self._open

    def _run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _patiently(self, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience
        while True:
            try:
                return await self._run(work)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    raise
                if loop.time() >= until:
                    raise Unavailable(f"database {self.path.name} is busy") from error
            await asyncio.sleep(PAUSE)

    def _connect(self) -> None:
        writer = self._connection()
        try:
            self._open = writer, self._connection()
        except BaseException:
            writer.close()
            raise

    def _connection(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=True)
        try:
            (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
            if mode != "wal":
                raise OSError(f"{self.path}: its file system cannot do WAL (stayed {mode!r}): use a local disk")
            connection.execute("PRAGMA synchronous=FULL")  # acknowledged means on disk
            connection.execute("PRAGMA foreign_keys=ON")
        except BaseException:
            connection.close()
            raise
        connection.row_factory = sqlite3.Row
        return connection

    def _shut(self) -> None:
        for connection in self._open or ():
            connection.close()
        self._open = None

    async def _close(self) -> None:
        try:
            await asyncio.shield(self._run(self._shut))
        finally:
            self._thread.shutdown()  # waits for what it still has to do


class Transaction:
    """One open transaction; made by `Database.transaction`."""

    def __init__(self, execute: Execute, publish: Publish | None) -> None:
        self._execute = execute
        self._publish = publish

    async def execute(self, sql: str, params: Params = (), /) -> Sequence[sqlite3.Row]:
        """Run one statement and return its rows."""
        return await self._execute(sql, params)

    async def publish(self, topic: str, body: Body, /, *, key: str) -> None:
        """Put a message into the outbox, in this transaction."""
        if self._publish is None:
            raise RuntimeError("this database has no outbox: give Database(..., publish=...)")
        await self._publish(self, topic, body, key)
