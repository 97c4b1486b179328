"""How much of the CPU is in use that this process may use: by its container's quota, else by the machine's count.

A container with a quota has what cgroup v2 (`cpu.stat`, `cpu.max`) or v1 (`cpuacct.usage`, `cpu.cfs_quota_us`) says.
Without one the neighbours count too, so the machine is read: `/proc/stat`, of the CPUs that the process may run on.
Where there is no such file the process's own time is what is left.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

_TREE: Final = "sys/fs/cgroup"
_BROKEN = (OSError, ValueError, IndexError, KeyError)  # what reading a file that is gone, or is none of these, raises


class _Quota(Protocol):
    """One cgroup that has a limit."""

    def used(self) -> float:
        """Return the CPU seconds used so far, by all in it."""
        ...

    def cores(self) -> float | None:
        """Return how many CPUs it may use, None for no limit."""
        ...


@dataclass(frozen=True, slots=True)
class _V2:
    place: Path

    def used(self) -> float:
        pairs = (line.split() for line in (self.place / "cpu.stat").read_text().splitlines())
        return int(dict(pairs)["usage_usec"]) / 1e6

    def cores(self) -> float | None:
        quota, period = (self.place / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)


@dataclass(frozen=True, slots=True)
class _V1:
    cpu: Path
    usage: Path

    def used(self) -> float:
        return int((self.usage / "cpuacct.usage").read_text()) / 1e9

    def cores(self) -> float | None:
        quota = int((self.cpu / "cpu.cfs_quota_us").read_text())
        return None if quota <= 0 else quota / int((self.cpu / "cpu.cfs_period_us").read_text())


class Cpu:
    """Reads the share of the CPU in use, 0 to 1, since the last look.

    The cgroup is the process's own, or the one round it whose quota is the tightest; quotas are read anew each time, so
    that a container resized in place is seen. What cannot be read counts as idle: a broken reading sheds nothing. Not
    for threads to share. `root` is where `/proc` and `/sys` are.
    """

    def __init__(self, *, root: Path = Path("/")) -> None:
        self._root = root
        self._groups = tuple(_groups(root))
        self._before: tuple[float, float] | None = None
        self._by = ""

    @property
    def source(self) -> str:
        """What the last look read: "cgroup", "machine" or "process"; "" before the first."""
        return self._by

    def read(self, now: float) -> float:
        """Look; the first look has nothing to compare with and says 0."""
        before, by = self._before, self._by
        used, possible, cores = self._look(now)
        self._before = (used, possible)
        if before is None or by != self._by or possible <= before[1]:
            return 0.0
        return min(1.0, max(0.0, (used - before[0]) / ((possible - before[1]) * cores)))

    def _look(self, now: float) -> tuple[float, float, float]:
        """Return what was used, what there was of time, and by how many CPUs."""
        try:
            found = min(
                ((cores, each.used()) for each in self._groups if (cores := each.cores()) is not None), default=None
            )
            if found is not None:
                self._by = "cgroup"
                return found[1], now, found[0]
        except _BROKEN:
            pass
        try:
            busy, total = _machine(self._root)
        except _BROKEN:
            self._by = "process"
            return time.process_time(), now, float(os.cpu_count() or 1)
        self._by = "machine"
        return busy, total, 1.0


def _groups(root: Path) -> Iterator[_Quota]:
    """Find the cgroups of this process that can have a quota, from its own outwards."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    tree = root / _TREE
    cpu, usage = _mounted(tree, "cpu"), _mounted(tree, "cpuacct")
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for inner in _outwards(path):
            if not controllers and (tree / inner / "cpu.max").is_file():
                yield _V2(tree / inner)
            elif "cpu" in controllers.split(",") and (usage / inner / "cpuacct.usage").is_file():
                yield _V1(cpu / inner, usage / inner)


def _mounted(tree: Path, name: str) -> Path:
    """Return where a controller of v1 is mounted: alone, or both in one place."""
    return next((tree / each for each in (name, "cpu,cpuacct", "cpuacct,cpu") if (tree / each).is_dir()), tree / name)


def _outwards(path: str) -> Iterator[Path]:
    """Name a cgroup and those round it, the root last; in a container that does not see them they do not exist."""
    inner = Path(*(part for part in path.split("/") if part not in ("", ".", "..")))
    yield inner
    yield from inner.parents


def _machine(root: Path) -> tuple[float, float]:
    """Return the busy ticks and all ticks of the CPUs that this process may run on."""
    mine = {f"cpu{each}" for each in _allowed()}
    busy = total = 0.0
    for line in (root / "proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name in mine:
            times = [float(each) for each in ticks[:8]]  # user nice system idle iowait irq softirq steal
            total += sum(times)
            busy += sum(times) - times[3] - times[4]
    if not total:
        raise ValueError("no CPU of ours in /proc/stat")
    return busy, total


def _allowed() -> set[int]:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux has it, macOS does not
    return set(range(os.cpu_count() or 1)) if affinity is None else set(affinity(0))
