"""One process is told from another that reused its number, so that what a dead one left behind is cleared at once.

Leases in a file are written with the monotonic clock, which all processes of one boot share and the next boot starts
anew; and a process number means something in its own namespace (container) only. An `Origin` says all of it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@cache
def boot_id() -> str:
    """Name the boot that this machine is in; "" where the kernel does not tell.

    Monotonic times of two processes compare when their boot ids are equal.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Origin:
    """Which process wrote something: the boot, the namespace its number is of, the number, and when it started.

    `started` is in clock ticks since the boot. What the kernel does not tell is "".
    """

    boot: str
    space: str
    pid: int
    started: str

    def dead(self) -> bool:
        """Whether the process has surely ended; never guessed about another namespace or system."""
        here = boot_id()
        if self.boot != here:
            return bool(self.boot and here)
        if self.space != _space() or not self.started:
            return False
        return _started(self.pid) != self.started

    def __str__(self) -> str:
        """Write it as one line, which `parse` reads."""
        return f"{self.boot}/{self.space}/{self.pid}/{self.started}"

    @classmethod
    def parse(cls, text: str) -> Origin:
        """Read what `str` wrote; raises ValueError for anything else."""
        boot, space, pid, started = text.split("/")
        return cls(boot, space, int(pid), started)


def origin() -> Origin:
    """Name this process."""
    pid = os.getpid()
    return Origin(boot_id(), _space(), pid, _started(pid))


@cache
def _space() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Return when a process started; "" when there is none, or only a rest that waits for its parent to notice."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    state, *rest = stat.rpartition(")")[2].split()  # the name before it may hold blanks and brackets
    return "" if state in ("Z", "X") else rest[18]
