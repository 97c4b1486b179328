"""One thread serves one SQLite file: it groups writes, and reads on while another process holds the lock.

SQLite's own busy handler sleeps up to 100 ms between tries, which starves writers (of eight, one wrote 10 rows and
another 161 440 in the same time); it is off, and the thread tries by itself.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress

from msgov.backoff import ceiling
from msgov.clock import dice, monotonic
from msgov.connections.sqlite_file import StoreError, WalFile, busy, explained
from msgov.failpoint import failpoint

QUEUE = 10_000  # calls that may wait for one file; more are refused: they would hardly be served in time
GROUP = 200  # writes that share one commit, so that the first of them waits a few milliseconds at most
FIRST_TRY, LAST_TRY = 0.0005, 0.005  # seconds between tries for the write lock
IDLE = 1.0  # seconds after which an idle thread looks whether the program is over


class Job:
    """One function that waits for its turn, and where its answer goes."""

    __slots__ = ("deadline", "done", "error", "fn", "loop", "over", "value")

    def __init__(
        self,
        fn: Callable[[sqlite3.Connection], object],
        deadline: float,
        done: asyncio.Future[object] | Future[object],
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        self.fn = fn
        self.deadline = deadline
        self.done = done
        self.loop = loop
        self.value: object = None
        self.error: BaseException | None = None
        self.over = False


class Worker:
    """The thread, its two lines, and its connection: everything but the asking."""

    def __init__(self, file: WalFile) -> None:
        self._file = file
        self._ready = threading.Condition(threading.Lock())
        self._reads: deque[Job] = deque()
        self._writes: deque[Job] = deque()
        self._leavers: list[Job] = []
        self._thread: threading.Thread | None = None
        self._last: threading.Thread | None = None  # what `close` waits for: a thread outlives its last word a little
        self._closed = False
        self._dice = dice()

    def submit(self, job: Job, *, writes: bool) -> None:
        """Put a job in line, and start the thread for the first; raises `StoreError` when closed or full."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("a function in the file's own thread would wait for itself: use its connection")
        with self._ready:
            if self._closed:
                raise StoreError("store_closed", self._file.path, "closed")
            if len(self._reads) + len(self._writes) >= QUEUE:
                raise StoreError("store_busy", self._file.path, f"{QUEUE} calls are waiting for it")
            (self._writes if writes else self._reads).append(job)
            if self._thread is None:
                # No daemon: a commit under way is finished when the program ends, and `_work` sees that end.
                self._thread = threading.Thread(target=self._run, name=f"sqlite {self._file.path.name}", daemon=False)
                self._last = self._thread
                self._thread.start()
            else:
                self._ready.notify()

    def leave(self, job: Job) -> bool:
        """Ask the thread to end and to answer `job` then; return whether it will."""
        with self._ready:
            self._closed = True
            if self._thread is None:
                return False
            self._leavers.append(job)
            self._ready.notify()
            return True

    def close(self) -> None:
        """Serve what is in line, then end the thread and wait for it."""
        with self._ready:
            self._closed = True
            thread = self._last
            self._ready.notify()
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            self._work()
            self._file.close()
            with self._ready:
                if self._reads or self._writes:
                    continue  # asked for in this very moment
                self._thread = None
                leavers, self._leavers = self._leavers, []
                break
        _deliver(leavers)

    def _work(self) -> None:
        reads: list[Job] = []
        writes: list[Job] = []
        tries = 0
        while True:
            with self._ready:
                if reads or writes:  # locked by another process: try again soon, and serve new reads in between
                    self._ready.wait(ceiling(FIRST_TRY, 1.3, LAST_TRY, tries) * (0.5 + 0.5 * self._dice.random()))
                    tries += 1
                else:
                    tries = 0
                    while not (self._reads or self._writes):
                        if self._closed or not (self._ready.wait(IDLE) or threading.main_thread().is_alive()):
                            return
                reads += self._reads
                self._reads.clear()
                while self._writes and len(writes) < GROUP:
                    writes.append(self._writes.popleft())
            reads = self._attempt(_read, reads)
            writes = self._attempt(_write, writes)

    def _attempt(self, run: Callable[[sqlite3.Connection, list[Job]], None], jobs: list[Job]) -> list[Job]:
        """Run the jobs once, answer those that are over, return those to run again."""
        jobs = [job for job in jobs if not job.done.cancelled()]
        if not jobs:
            return jobs
        path, failed = self._file.path, None
        try:
            run(self._file.connection(), jobs)
        except Exception as error:  # noqa: BLE001  nothing may end the thread while jobs wait for it
            failed = None if busy(error) else error
        now = monotonic()
        for job in jobs:
            if failed is not None and not job.over:
                job.error, job.over = failed, True
            elif not job.over and now >= job.deadline:
                job.error = StoreError("store_locked", path, "locked by another process for as long as allowed")
                job.over = True
            if job.error is not None and job.over:
                job.error = explained(job.error, path)
                if isinstance(job.error, StoreError) and job.error.reason == "store_unusable":
                    self._file.close()
        _deliver([job for job in jobs if job.over])
        return [job for job in jobs if not job.over]


def _read(connection: sqlite3.Connection, jobs: list[Job]) -> None:
    for job in jobs:
        try:
            connection.execute("BEGIN")
            try:
                job.value = job.fn(connection)
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except BaseException as error:  # noqa: BLE001  whatever it is, it is the asker's
            if busy(error):
                continue
            job.error = error
        job.over = True


def _write(connection: sqlite3.Connection, jobs: list[Job]) -> None:
    """Run the jobs in one transaction, each in a savepoint; those left not over were undone and run again."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for job in jobs:
            connection.execute("SAVEPOINT job")
            try:
                job.value, job.error = job.fn(connection), None
            except BaseException as error:  # noqa: BLE001  as above
                job.error = error
                if not connection.in_transaction:  # SQLite itself undid it all (a full disk): only this one is to blame
                    job.over = True
                    return
                connection.execute("ROLLBACK TO job")
            if not connection.in_transaction:
                raise sqlite3.ProgrammingError("a function given to write ended the transaction, which is write's own")
            connection.execute("RELEASE job")
        failpoint("sqlite.before_commit")
        connection.execute("COMMIT")
        failpoint("sqlite.after_commit")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    for job in jobs:
        job.over = True


def nothing(connection: sqlite3.Connection) -> None:
    """Ask for nothing but an answer."""


def _deliver(jobs: Iterable[Job]) -> None:
    """Answer the jobs, waking each loop once."""
    loops: dict[asyncio.AbstractEventLoop | None, list[Job]] = {}
    for job in jobs:
        loops.setdefault(job.loop, []).append(job)
    for loop, mine in loops.items():
        if loop is None:
            _resolve(mine)
        else:
            with suppress(RuntimeError):  # the loop is closed: nobody waits there any more
                loop.call_soon_threadsafe(_resolve, mine)


def _resolve(jobs: list[Job]) -> None:
    for job in jobs:
        if job.done.done():  # cancelled meanwhile
            continue
        if job.error is None:
            job.done.set_result(job.value)
        elif isinstance(job.error, StopIteration):
            job.done.set_exception(RuntimeError("the function raised StopIteration"))
        else:
            job.done.set_exception(job.error)
