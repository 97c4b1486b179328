"""A SQLite file is opened in a way that works for many processes at once, or refused with the reason."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import zlib
from pathlib import Path
from urllib.parse import quote

from msgov.call import PERMANENT
from msgov.errors import SourceError

# WAL keeps its index in shared memory, which two hosts do not share: SQLite cannot notice, and the file breaks.
NETWORKS = frozenset(
    ("afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3")
)


class StoreError(SourceError):
    """A SQLite file cannot be used, now or at all; nothing was written.

    `reason` is "store_locked" (another process held the write lock for all of the wait), "store_full" (no space left),
    "store_busy" (too many calls wait), "store_closed", or "store_unusable" (no working WAL here, no such folder, not a
    database, no permission). The last two are PERMANENT, the others may pass.
    """

    def __init__(self, reason: str, path: Path, message: str) -> None:
        super().__init__(f"{path}: {message}", path=str(path))
        self.reason = reason
        if reason in ("store_closed", "store_unusable"):
            self.verdict = PERMANENT


class WalFile:
    """One file and the one connection to it; used from one thread only.

    The connection follows the path: when the file there is another one than it was (deleted, replaced), it is opened
    anew, since what is written to a file without a name is read by nobody.
    """

    __slots__ = ("_connection", "_identity", "path", "schema", "synchronous")

    def __init__(self, path: Path, *, schema: tuple[str, ...], synchronous: str) -> None:
        self.path = path
        self.schema = schema
        self.synchronous = synchronous
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None

    def connection(self) -> sqlite3.Connection:
        """Return the connection to the file that stands at the path now; raises what `explained` explains."""
        try:
            if self._connection is None or identity(self.path) != self._identity:
                self.close()
                self._connection = self._open()
        except OSError as error:
            raise StoreError("store_unusable", self.path, _why(self.path, error.strerror or str(error))) from error
        return self._connection

    def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _open(self) -> sqlite3.Connection:
        network = filesystem(self.path.parent, _mounts())
        if network in NETWORKS:
            raise StoreError(
                "store_unusable",
                self.path,
                f"lies on a network file system ({network}), where SQLite's WAL cannot work; choose a local disk",
            )
        while True:
            before = identity(self.path)
            if before is None:
                self._create()
                continue
            connection = connect(self.path)
            try:
                use_wal(connection, self.path)
                if identity(self.path) == before:  # else it was replaced meanwhile, and which one did we open?
                    self._identity = before
                    connection.execute(f"PRAGMA synchronous={self.synchronous}")
                    self._lay_out(connection)
                    return connection
            except BaseException:
                connection.close()
                raise
            connection.close()

    def _create(self) -> None:
        """Make the file, by one process at a time, and never beside the log or the index of a deleted one.

        SQLite would read a stale log into the new file, and share a stale index with whoever still has the old one.
        """
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            if not self.path.exists():
                for suffix in ("-wal", "-shm"):
                    self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
                connect(self.path, make=True).close()
        finally:
            os.close(folder)

    def _lay_out(self, connection: sqlite3.Connection) -> None:
        """Run the schema on a file that has not had it; a mark in the file spares the lock on all others."""
        if not self.schema:
            return
        mark = zlib.crc32("\n".join(self.schema).encode()) & 0x7FFFFFFF
        if connection.execute("PRAGMA user_version").fetchone() == (mark,):
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in self.schema:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={mark}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def connect(path: Path, *, make: bool = False, vfs: str = "") -> sqlite3.Connection:
    """Open without SQLite's own waiting and without Python's own transactions; `vfs` names another SQLite VFS."""
    uri = f"file:{quote(os.fspath(path.absolute()))}?mode={'rwc' if make else 'rw'}" + (f"&vfs={vfs}" if vfs else "")
    return sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)


def use_wal(connection: sqlite3.Connection, path: Path) -> None:
    """Switch to WAL; raises `StoreError` where the file system cannot share memory between processes."""
    (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
    if mode != "wal":
        kind = filesystem(path.parent, _mounts()) or "unknown"
        raise StoreError(
            "store_unusable",
            path,
            f"its file system ({kind}) cannot share memory between processes, so SQLite's WAL does not work there "
            f"(the journal mode stays {mode!r}); choose a local disk",
        )


def identity(path: Path) -> tuple[int, int] | None:
    """Tell one file from another that took its name later; None when there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def busy(error: BaseException) -> bool:
    """Whether another process was in the way, so that trying again may do."""
    return _code(error) in _PASSING


def explained(error: BaseException, path: Path) -> BaseException:
    """Return a `StoreError` when the error is about the file, and the error itself when it is about the statement."""
    reason = _REASONS.get(_code(error), "")
    if not reason:
        return error
    full = "no space left on its disk (or its page limit is reached); nothing was written"
    made = StoreError(reason, path, full if reason == "store_full" else _why(path, str(error)))
    made.__cause__ = error
    return made


def _why(path: Path, text: str) -> str:
    """Say what is wrong with a path, where that is plainer than what the system says."""
    if not path.parent.exists():
        return f"there is no folder {path.parent}"
    return "is a folder, not a file" if path.is_dir() else text


_PASSING = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PROTOCOL)  # "locking protocol": a race while a WAL is being opened
_REASONS = {
    sqlite3.SQLITE_FULL: "store_full",
    sqlite3.SQLITE_BUSY: "store_locked",
    sqlite3.SQLITE_IOERR: "store_unusable",
    sqlite3.SQLITE_CANTOPEN: "store_unusable",
    sqlite3.SQLITE_READONLY: "store_unusable",
    sqlite3.SQLITE_PERM: "store_unusable",
    sqlite3.SQLITE_NOTADB: "store_unusable",
    sqlite3.SQLITE_CORRUPT: "store_unusable",
    sqlite3.SQLITE_PROTOCOL: "store_unusable",
}


def _code(error: BaseException) -> int:
    """Return the primary result code; the extended ones add bits above."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def filesystem(folder: Path, mounts: str) -> str:
    """Return the type of the file system that a folder lies on, from the text of /proc/self/mountinfo; "" unknown."""
    where = os.path.realpath(folder)
    best, kind = -1, ""
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        if len(fields) < 5 or not right:
            continue
        point = fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        inside = where == point or where.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:  # a later mount on the same point hides the earlier one
            best, kind = len(point), right.split()[0]
    return kind


def _mounts() -> str:
    try:
        return Path("/proc/self/mountinfo").read_text(errors="replace")
    except OSError:  # not Linux: the journal mode's answer is the only test
        return ""
