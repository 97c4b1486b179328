"""What this process holds at the moment: threads, tasks, descriptors, children, temporary files."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import sys
import threading
from contextlib import suppress
from pathlib import Path

# Of each thing its identity, for a number (a descriptor, a pid) is soon used again, and the words that name it.
Holdings = dict[tuple[object, ...], str]

PAIR = "socket pair"


def threads() -> Holdings:
    """Threads of Python, but not those of C libraries that only visited it."""
    found = (thread for thread in threading.enumerate() if not thread.name.startswith("Dummy-"))
    return {(thread,): f"thread {thread.name}" for thread in found}


def tasks() -> Holdings:
    """Tasks of the running loop that are not over, but for the one that asks; nothing outside a loop."""
    with suppress(RuntimeError):
        here = asyncio.current_task()
        return {(task,): f"task {standing(task)}" for task in asyncio.all_tasks() if task is not here}
    return {}


def standing(task: asyncio.Task[object]) -> str:
    """Name a task, and the line at which it waits."""
    inner: object = task.get_coro()
    name, place = getattr(inner, "__qualname__", repr(inner)), ""
    while inner is not None:  # down the awaits to the innermost
        frame = getattr(inner, "cr_frame", None) or getattr(inner, "gi_frame", None)
        if frame is not None:
            place = f" at {Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        inner = getattr(inner, "cr_await", None) or getattr(inner, "gi_yieldfrom", None)
    return f"{task.get_name()} {name}{place}"


def descriptors() -> Holdings:
    """Open sockets and regular files; pipes and the kernel's event queues come and go with what owns them."""
    found: Holdings = {}
    for fd in sorted(int(entry.name) for entry in Path("/dev/fd").iterdir()):
        with suppress(OSError):  # closed meanwhile, as the listing's own is
            status = os.fstat(fd)
            if stat.S_ISSOCK(status.st_mode):
                found[fd, status.st_dev, status.st_ino] = _socket(fd)
            elif stat.S_ISREG(status.st_mode):
                found[fd, status.st_dev, status.st_ino] = f"file {_path(fd)}"
    return found


def _socket(fd: int) -> str:
    with socket.socket(fileno=os.dup(fd)) as found:
        here, there = found.getsockname(), ""
        with suppress(OSError):
            there = found.getpeername()
        if found.family == socket.AF_UNIX and not here and not there:
            return PAIR
        return f"socket {found.type.name} {here}" + (f" to {there}" if there else "")


def _path(fd: int) -> str:
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink())
    except OSError:
        return f"descriptor {fd}"


def children() -> Holdings:
    """Child processes, the dead that nobody waited for included; nothing where there is no /proc."""
    found: Holdings = {}
    own = str(os.getpid()).encode()
    if not _parent():
        return found
    for pid in filter(str.isdecimal, os.listdir("/proc")):  # noqa: PTH208  a path object for each costs more than all else
        with suppress(OSError), open(f"/proc/{pid}/stat", "rb", buffering=0) as status:  # noqa: PTH123  as above
            name, _, rest = status.read(1024).rpartition(b")")
            fields = rest.split()
            if fields[1] == own:
                dead = ", dead but not waited for" if fields[0] == b"Z" else ""
                found[pid, fields[19]] = f"process {pid} {name.partition(b'(')[2].decode(errors='replace')}{dead}"
    return found


def _parent() -> bool:
    """Whether there is any child, which costs a thousandth of looking for it."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return Path("/proc/self/stat").exists()


class TemporaryFiles:
    """What `tempfile` makes, in any thread, between `begin` and `end`."""

    def __init__(self) -> None:
        self._made: set[str] = set()

    def begin(self) -> None:
        """Start to take notes."""
        _listen()
        _recorders.append(self._made)

    def end(self) -> None:
        """Stop taking notes."""
        _recorders[:] = [made for made in _recorders if made is not self._made]

    def left(self) -> Holdings:
        """Files and folders that still exist."""
        return {(path,): f"temporary {path}" for path in tuple(self._made) if os.path.lexists(path)}


_recorders: list[set[str]] = []
_listening = threading.Event()


def _listen() -> None:
    if not _listening.is_set():  # an audit hook can never be taken back: one for the process, idle between notes
        _listening.set()
        sys.addaudithook(_note)


def _note(event: str, args: tuple[object, ...]) -> None:
    if _recorders and event in ("tempfile.mkstemp", "tempfile.mkdtemp"):
        for made in tuple(_recorders):
            made.add(str(args[0]))
