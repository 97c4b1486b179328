"""A transaction may span awaits, but not hold up the world: it locks late, and not for long.

It begins as a writer, with its first statement: what a handler does before that holds up nobody, and what it has read
cannot have changed when it writes. After `hold` seconds it is rolled back, whatever its task is waiting for.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

from msgov.backoff import ceiling
from msgov.call import NOTHING
from msgov.clock import Clock, dice
from msgov.connections.sqlite import StoreError
from msgov.connections.sqlite_file import WalFile, explained
from msgov.errors import DeadlineExceeded
from msgov.failpoint import failpoint
from msgov.messaging import inbox, outbox
from msgov.messaging.message import Body, Message
from msgov.messaging.transaction import Duplicate, Once, Params

T = TypeVar("T")

HOLD = 2.0  # seconds
WAIT = 5.0  # seconds
TICKS = 4
FIRST_TRY, LAST_TRY = 0.0005, 0.005  # seconds between tries for a lock that another process holds


class Make(Protocol):
    """How a message is made: `Message.of`, with the publisher's name."""

    def __call__(
        self, topic: str, body: Body, *, key: str, headers: Mapping[str, str], expires: float | None
    ) -> Message:
        """Make it; raises `Poison`."""
        ...


class Line:
    """One connection in one thread, which the transactions of a process use in turn: first come, first served."""

    def __init__(self, path: Path, *, hold: float, wait: float) -> None:
        self.path = path
        self.hold = hold
        self.owner: asyncio.Task[object] | None = None
        self._wait = wait
        self._turn = asyncio.Lock()
        self._file = WalFile(path, schema=(), synchronous="FULL")
        self._connection: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"transactions {path.name}")
        self._dice = dice()

    async def begin(self, first: Callable[[sqlite3.Connection], None]) -> None:
        """Wait for the turn and the write lock, then run `first`; raises `StoreError` after `wait` seconds.

        Whatever it raises, nothing is held then.
        """
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        if self.owner is not None and self.owner is task:
            raise RuntimeError(f"{self.path.name}: this task has a transaction open already and would wait for itself")
        until = loop.time() + self._wait
        try:
            async with asyncio.timeout_at(until):
                await self._turn.acquire()
        except TimeoutError as error:
            text = "the transactions of this process took too long: none may wait for anything but itself"
            raise StoreError("store_locked", self.path, text) from error
        self.owner = task
        try:
            tries = 0
            while True:
                try:
                    return await self.run(partial(self._start, first=first))
                except StoreError as error:
                    if error.reason != "store_locked" or loop.time() >= until:
                        raise
                await asyncio.sleep(ceiling(FIRST_TRY, 1.3, LAST_TRY, tries) * (0.5 + 0.5 * self._dice.random()))
                tries += 1
        except BaseException:
            await self.end(rollback)
            raise

    async def end(self, last: Callable[[sqlite3.Connection], None]) -> None:
        """Run `last`, which ends the transaction, and let the next one in; a cancellation comes after it."""
        ending = self.run(last)
        try:
            await asyncio.shield(ending)
        finally:
            try:
                if not ending.done():  # cancelled: the next one must not meet this one's transaction
                    await asyncio.wait([ending])
            finally:
                self.owner = None
                self._turn.release()

    def run(self, work: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """Run `work` in the thread, after all that was asked before."""
        return asyncio.get_running_loop().run_in_executor(self._thread, self._work, work)

    def interrupt(self) -> None:
        """Break off the statement that runs at this moment, if one does."""
        connection = self._connection
        if connection is not None:
            connection.interrupt()

    async def aclose(self) -> None:
        """Close the connection after the transaction that is open, and end the thread."""
        async with self._turn:
            if self._connection is not None:
                await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, self._file.close))
                self._connection = None
            self._thread.shutdown()

    def _start(self, connection: sqlite3.Connection, first: Callable[[sqlite3.Connection], None]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        first(connection)

    def _work(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            if self._connection is None or not self._connection.in_transaction:
                self._connection = self._file.connection()  # it follows the path, but not within a transaction
            return work(self._connection)
        except sqlite3.Error as error:
            made = explained(error, self.path)
            if made is error:
                raise
            raise made from error


def commit(connection: sqlite3.Connection) -> None:
    """Commit; what cannot be committed is rolled back."""
    try:
        connection.execute("COMMIT")
    except BaseException:
        rollback(connection)
        raise


def rollback(connection: sqlite3.Connection) -> None:
    """Roll back, if there is anything to."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def rows(connection: sqlite3.Connection, sql: str, params: Params) -> Sequence[sqlite3.Row]:
    """Run one statement and return its rows."""
    with closing(connection.cursor()) as cursor:  # an error's traceback would keep it, and the file with it
        cursor.row_factory = sqlite3.Row
        return cursor.execute(sql, params).fetchall()


class Transaction:
    """One transaction; made by `Sqlite.transaction`, used by one task.

    `execute` raises sqlite3's own errors about the statement, after which the transaction goes on; `StoreError` about
    the file; `Duplicate` as said there.
    """

    def __init__(self, line: Line, *, once: Once | None, make: Make, now: Clock, published: Callable[[], None]) -> None:
        self._line = line
        self._once = once
        self._make = make
        self._now = now
        self._tell = published
        self._published = False
        self._begun = False
        self._over = False
        self._error: Exception | None = None
        self._expiry: asyncio.Task[None] | None = None
        self._timer: asyncio.Handle | None = None

    async def execute(self, sql: str, params: Params = (), /) -> Sequence[sqlite3.Row]:
        """Run one statement and return its rows."""
        return await self.run(partial(rows, sql=sql, params=params))

    async def publish(
        self,
        topic: str,
        body: Body,
        /,
        *,
        key: str = "",
        headers: Mapping[str, str] = NOTHING,
        expires: float | None = None,
    ) -> None:
        """Write a message to the outbox; raises `Poison` for one that cannot be, `DeliveryError` when it is full."""
        message = self._make(topic, body, key=key, headers=headers, expires=expires)
        await self.run(partial(outbox.put, message=message, stamp=self._now()))
        self._published = True

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in the database's thread, in this transaction; it must not commit or roll back."""
        if self._over:
            raise RuntimeError("this transaction is over")
        if self._error is not None:
            raise self._error
        if not self._begun:
            await self._begin()
        try:
            return await self._line.run(partial(self._inside, work=work))
        except sqlite3.Error as error:
            if self._error is not None:  # interrupted
                raise self._error from error
            raise

    async def __aenter__(self) -> Self:
        """Return itself; nothing is locked yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit, or roll back."""
        if error is None and self._error is None and self._once is not None and not self._begun:
            await self._begin()
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._expiry is not None:
            await asyncio.gather(self._expiry, return_exceptions=True)
        elif self._begun:
            good = error is None and self._error is None
            await self._line.end(commit if good else rollback)
            if good and self._published:
                self._tell()
        if self._error is not None and error is not self._error and (error is None or isinstance(error, Exception)):
            raise self._error from error

    async def _begin(self) -> None:
        try:
            await self._line.begin(self._first)
        except Duplicate as error:
            self._error = error
            raise
        self._begun = True
        self._tick(TICKS)

    def _first(self, connection: sqlite3.Connection) -> None:
        if self._once is not None:
            inbox.enter(connection, self._once, self._now())
            failpoint("inbox.after_begin")

    def _inside(self, connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
        if not connection.in_transaction:
            raise self._error or sqlite3.ProgrammingError("the transaction is over: SQLite rolled it back")
        done = work(connection)
        if not connection.in_transaction:
            raise sqlite3.ProgrammingError("a statement ended the transaction, which its block does")
        return done

    def _tick(self, left: int) -> None:
        """Count the time down in parts: one who wakes from a long stop (of process or loop) may still finish."""
        loop, part = asyncio.get_running_loop(), self._line.hold / TICKS
        self._timer = loop.call_later(part, self._tick, left - 1) if left else loop.call_soon(self._expire)

    def _expire(self) -> None:
        """Let go of the lock: others have waited long enough."""
        seconds = self._line.hold
        self._error = DeadlineExceeded(
            f"{self._line.path.name}: a transaction was open for {seconds} s, and was rolled back", seconds=seconds
        )
        self._line.interrupt()
        self._expiry = asyncio.create_task(self._line.end(rollback))
