"""One SQLite file is touched by one thread of its own, so no loop ever waits for a disk.

The thread opens the file when first asked, groups the writes that gathered while the last ones were being committed,
and goes on reading while another process holds the write lock.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Literal, Self, TypeVar, cast

from msgov.clock import monotonic
from msgov.connections.sqlite_file import StoreError, WalFile
from msgov.connections.sqlite_thread import Job, Worker, nothing

__all__ = ["Database", "StoreError"]

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]


class Database:
    """One SQLite file in WAL mode, for both colours: `await read/write`, or `read_sync/write_sync` from a thread.

    Args:
        path: The file; made when it is not there. Its folder must exist, on a local file system.
        schema: Statements that make the tables, each harmless when repeated (`CREATE TABLE IF NOT EXISTS ...`). They
            run on every file that is opened without having had them: also on the new one, when somebody has deleted
            or replaced the file under our hands.
        synchronous: "FULL" (default) keeps each commit through a power cut. "NORMAL" may lose the last ones then,
            never breaks the file, and spares the flush: right for what is renewed anyway.
        wait: Seconds that a call tries while another process holds the lock; default 5, Python's own.

    The function given to `read` or `write` runs in the file's thread. It must not begin, commit or roll back (so no
    `executescript`, no `with connection`), and may run twice, so it must touch nothing but the connection.
    The thread ends with `close`, or by itself once the main thread has ended and nothing is asked any more.
    """

    __slots__ = ("_file", "_pid", "_worker", "path", "wait")

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        schema: Sequence[str] = (),
        synchronous: Literal["FULL", "NORMAL"] = "FULL",
        wait: float = 5.0,
    ) -> None:
        self.path = Path(path)
        self.wait = wait
        self._file = WalFile(self.path, schema=tuple(schema), synchronous=synchronous)
        self._worker = Worker(self._file)
        self._pid = os.getpid()

    async def read(self, fn: Work[T]) -> T:
        """Run `fn` on one snapshot of the file and return what it returns; whatever it writes is undone.

        Raises `StoreError`, or what `fn` raises.
        """
        return await self._ask(fn, writes=False)

    async def write(self, fn: Work[T]) -> T:
        """Run `fn` in a transaction and return what it returns, once that is committed.

        Writes that gather while others are being committed share the next commit; one that fails undoes only itself.
        Cancelled before it began, it never runs; cancelled later, it may still be committed.
        Raises `StoreError`, or what `fn` raises: nothing of it was written then.
        """
        return await self._ask(fn, writes=True)

    def read_sync(self, fn: Work[T]) -> T:
        """Do as `read` does, for threads."""
        return self._ask_sync(fn, writes=False)

    def write_sync(self, fn: Work[T]) -> T:
        """Do as `write` does, for threads."""
        return self._ask_sync(fn, writes=True)

    def close(self) -> None:
        """Finish what was asked before, close the file, end the thread; closing twice is fine."""
        self._mine().close()

    async def aclose(self) -> None:
        """Do as `close` does, without holding the loop."""
        loop = asyncio.get_running_loop()
        worker, done = self._mine(), loop.create_future()
        if worker.leave(Job(nothing, 0.0, done, loop)):
            await asyncio.shield(done)
        worker.close()

    def __enter__(self) -> Self:
        """Return itself; the file is opened when first asked."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close it."""
        self.close()

    async def __aenter__(self) -> Self:
        """Return itself; the file is opened when first asked."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close it."""
        await self.aclose()

    async def _ask(self, fn: Work[T], *, writes: bool) -> T:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[object] = loop.create_future()
        self._mine().submit(Job(fn, monotonic() + self.wait, done, loop), writes=writes)
        return cast("T", await done)

    def _ask_sync(self, fn: Work[T], *, writes: bool) -> T:
        done: Future[object] = Future()
        self._mine().submit(Job(fn, monotonic() + self.wait, done, None), writes=writes)
        return cast("T", done.result())

    def _mine(self) -> Worker:
        if self._pid != os.getpid():  # forked: the thread is not here, and its connection must not be touched here
            _inherited.append(self._worker)
            self._worker, self._pid = Worker(self._file), os.getpid()
        return self._worker


_inherited: list[Worker] = []  # kept for ever: collecting one would close the parent's connection from the child
