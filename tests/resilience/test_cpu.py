"""The CPU that counts is the one that may be used: the container's, whatever the version, else the machine's."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from msgov.resilience.cpu import Cpu


def write(root: Path, files: dict[str, str]) -> None:
    """Make a tree of small files."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def v2(used: int, quota: str = "200000 100000", *, where: str = "") -> dict[str, str]:
    """Return the files of a group of cgroup v2 that has used so many microseconds."""
    return {
        f"sys/fs/cgroup{where}/cpu.stat": f"usage_usec {used}\nuser_usec 1\nsystem_usec 2\n",
        f"sys/fs/cgroup{where}/cpu.max": f"{quota}\n",
    }


def v1(used: int, quota: int, *, mount: str = "cpu,cpuacct", where: str = "") -> dict[str, str]:
    """Return the files of a group of cgroup v1 that has used so many nanoseconds."""
    place = f"sys/fs/cgroup/{mount}{where}"
    return {
        f"{place}/cpuacct.usage": f"{used}\n",
        f"{place}/cpu.cfs_quota_us": f"{quota}\n",
        f"{place}/cpu.cfs_period_us": "100000\n",
    }


def ticks(busy: int, idle: int) -> dict[str, str]:
    """Return a /proc/stat in which each CPU of ours was so long busy, and one that is not ours all the time."""
    mine = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    lines = [f"cpu{each} {busy} 0 0 {idle} 0 0 0 0 0 0" for each in mine]
    return {"proc/stat": "\n".join(["cpu 1 2 3 4", *lines, "cpu99999 1000000 0 0 0 0 0 0 0 0 0", "intr 5"])}


def test_quota_of_cgroup_v2(tmp_path: Path) -> None:
    """Two CPUs for a second are two seconds: of them one and a half are used."""
    write(tmp_path, {"proc/self/cgroup": "0::/\n", **v2(1_000_000)})
    cpu = Cpu(root=tmp_path)
    assert cpu.read(10.0) == 0.0
    write(tmp_path, v2(2_500_000))
    assert (cpu.read(11.0), cpu.source) == (0.75, "cgroup")


def test_tightest_quota_round_the_process_counts(tmp_path: Path) -> None:
    """A pod may be tighter than its container: then what all of the pod used counts."""
    write(
        tmp_path,
        {"proc/self/cgroup": "0::/pod/main\n", **v2(0, "max 100000", where="/pod/main"), **v2(0, where="/pod")},
    )
    cpu = Cpu(root=tmp_path)
    cpu.read(0.0)
    write(tmp_path, {**v2(100, "max 100000", where="/pod/main"), **v2(1_000_000, where="/pod")})
    assert cpu.read(1.0) == 0.5


@pytest.mark.parametrize("mount", ["cpu,cpuacct", "cpuacct,cpu"])
def test_quota_of_cgroup_v1(tmp_path: Path, mount: str) -> None:
    """As older hosts have it; the path of the host is not seen in the container, its own root is."""
    write(tmp_path, {"proc/self/cgroup": "4:cpu,cpuacct:/docker/abc\n2:memory:/x\n", **v1(0, 50_000, mount=mount)})
    cpu = Cpu(root=tmp_path)
    cpu.read(0.0)
    write(tmp_path, v1(250_000_000, 50_000, mount=mount))
    assert (cpu.read(1.0), cpu.source) == (0.5, "cgroup")


def test_controllers_of_cgroup_v1_in_two_places(tmp_path: Path) -> None:
    """Some mount them apart."""
    write(tmp_path, {"proc/self/cgroup": "4:cpu:/a\n5:cpuacct:/a\n", **v1(0, 100_000, mount="cpu", where="/a")})
    write(tmp_path, {"sys/fs/cgroup/cpuacct/a/cpuacct.usage": "0\n"})
    cpu = Cpu(root=tmp_path)
    cpu.read(0.0)
    write(tmp_path, {"sys/fs/cgroup/cpuacct/a/cpuacct.usage": "900000000\n"})
    assert cpu.read(1.0) == 0.9


def test_quota_that_is_changed_in_place_is_seen(tmp_path: Path) -> None:
    """A container may be resized while it runs."""
    write(tmp_path, {"proc/self/cgroup": "0::/\n", **v2(0)})
    cpu = Cpu(root=tmp_path)
    cpu.read(0.0)
    write(tmp_path, v2(1_000_000, "400000 100000"))
    assert cpu.read(1.0) == 0.25


@pytest.mark.parametrize("group", [{}, {"proc/self/cgroup": "0::/\n", **v2(0, "max 100000")}])
def test_machine_counts_where_there_is_no_quota(tmp_path: Path, group: dict[str, str]) -> None:
    """The neighbours compete then; CPUs that the process may not run on do not count."""
    write(tmp_path, {**group, **ticks(100, 100)})
    cpu = Cpu(root=tmp_path)
    cpu.read(0.0)
    write(tmp_path, ticks(130, 110))
    assert (cpu.read(1.0), cpu.source) == (0.75, "machine")


def test_own_time_counts_where_nothing_can_be_read(tmp_path: Path) -> None:
    """As on a Mac."""
    cpu, now = Cpu(root=tmp_path), time.monotonic()
    cpu.read(now)
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    assert 0.0 < cpu.read(time.monotonic()) <= 1.0
    assert cpu.source == "process"


@pytest.mark.parametrize("broken", ["", "nonsense", "usage_usec x\n", "nr_periods 0\n"])
def test_broken_file_sheds_nothing(tmp_path: Path, broken: str) -> None:
    """What cannot be read is no load: the machine is read instead, and a change of source compares nothing."""
    write(tmp_path, {"proc/self/cgroup": "0::/\n", **v2(0), **ticks(1, 1)})
    cpu = Cpu(root=tmp_path)
    cpu.read(0.0)
    write(tmp_path, {"sys/fs/cgroup/cpu.stat": broken})
    assert (cpu.read(1.0), cpu.source) == (0.0, "machine")


def test_share_is_never_outside_of_nought_and_one(tmp_path: Path) -> None:
    """Bursts above the quota, counters that begin anew, two looks at one moment."""
    write(tmp_path, {"proc/self/cgroup": "0::/\n", **v2(1_000_000)})
    cpu = Cpu(root=tmp_path)
    cpu.read(0.0)
    write(tmp_path, v2(9_000_000))
    assert (cpu.read(1.0), cpu.read(1.0)) == (1.0, 0.0)
    write(tmp_path, v2(0))
    assert cpu.read(2.0) == 0.0


def test_path_out_of_the_tree_is_not_followed(tmp_path: Path) -> None:
    """A process moved out of its namespace sees "/../..": that is the root, as far as it can tell."""
    write(tmp_path, {"proc/self/cgroup": "0::/../../other\n", **v2(0)})
    cpu = Cpu(root=tmp_path)
    cpu.read(0.0)
    write(tmp_path, v2(2_000_000))
    assert cpu.read(1.0) == 1.0


def test_this_machine_can_be_read() -> None:
    """Whatever it is."""
    cpu = Cpu()
    assert cpu.read(time.monotonic()) == 0.0
    assert 0.0 <= cpu.read(time.monotonic() + 1.0) <= 1.0
    assert cpu.source in ("cgroup", "machine", "process")
