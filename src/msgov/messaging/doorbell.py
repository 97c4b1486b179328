"""A doorbell wakes the readers of a file in other processes; it is a hint, and polling stays the truth.

A Unix datagram socket per process: woken 0.6 ms after the commit, where a poll of 50 ms takes 30, for the same CPU.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

PATH_LIMIT = 100  # bytes: a socket's address holds 108 on Linux, 104 elsewhere


class Doorbell:
    """One socket that others ring; bound to the running loop.

    It lies in the first of the folders where its path is short enough, so that it is found and removed with the file it
    belongs to: beside it, else in the user's own folder under the system's temporary one. `path` is "" where no
    folder will do, or the system has no such sockets: then only the poll wakes.
    """

    def __init__(self, beside: Path, rung: Callable[[], None]) -> None:
        self.path = ""
        self._beside = beside
        self._socket: socket.socket | None = None
        self._rung = rung
        self._loop = asyncio.get_running_loop()
        if not hasattr(socket, "AF_UNIX"):
            return
        for folder in _folders(beside):
            path = os.fspath(folder / f"{secrets.token_hex(5)}.bell")
            if len(os.fsencode(path)) > PATH_LIMIT:
                continue
            bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                if folder != beside:
                    _own(folder)
                bell.setblocking(False)
                bell.bind(path)
                self._loop.add_reader(bell, self._heard)
            except (OSError, NotImplementedError):
                bell.close()
                continue
            self._socket, self.path = bell, path
            return

    def close(self) -> None:
        """Stop listening and remove the socket; closing twice is fine."""
        bell, self._socket = self._socket, None
        if bell is not None:
            if not self._loop.is_closed():
                self._loop.remove_reader(bell)
            bell.close()
            remove(self.path)
            if Path(self.path).parent != self._beside:
                with contextlib.suppress(OSError):  # others have a bell there
                    Path(self.path).parent.rmdir()

    def _heard(self) -> None:
        assert self._socket is not None  # noqa: S101  the reader goes with it
        with contextlib.suppress(BlockingIOError):
            while True:  # one look for however many rang
                self._socket.recv(16)
        self._rung()


def ring(paths: Iterable[str]) -> None:
    """Ring these bells without waiting; one whose process has died is removed."""
    found = list(paths)
    if not found:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        for path in found:
            try:
                sender.sendto(b"!", path)
            except ConnectionRefusedError:
                remove(path)
            except OSError:  # full: it is awake already; gone: nobody is there
                pass


def remove(path: str) -> None:
    """Remove a socket's file, if it is there."""
    with contextlib.suppress(OSError):
        os.unlink(path)


def _folders(beside: Path) -> list[Path]:
    mine = f"msgov-{os.getuid()}"
    return [beside, Path(tempfile.gettempdir()) / mine, Path("/tmp") / mine]  # noqa: S108  a folder of the user's own


def _own(folder: Path) -> None:
    """Make the folder, and refuse one that is another user's: whoever owns it could listen in our place."""
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077 or not folder.is_dir() or folder.is_symlink():
        raise PermissionError(f"{folder} is not this user's own")
