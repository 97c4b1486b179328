"""The registry in a file keeps the contract, and what a file adds to it: deletion, locks, killed processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from msgov.clock import monotonic
from msgov.connections.process import boot_id
from msgov.discovery.embedded import Embedded
from msgov.discovery.instance import record
from msgov.discovery.leases import Override
from tests.contract.discovery import (
    ORDER,
    SECOND,
    Acknowledges,
    Both,
    Forgets,
    Outlasts,
    eventually,
    run,
    watching,
)


class Client(Embedded, Both):
    """One process's view of the file."""


class TestEmbedded(Acknowledges, Forgets, Outlasts):
    """Hold it to the contract."""

    visible = 0.2
    ttl = 0.6

    @pytest.fixture(autouse=True)
    def _registry(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "registry"
        self.folder.mkdir()
        self.path = self.folder / "registry.db"

    def client(self) -> Both:
        return Client(self.path, ttl=self.ttl)

    async def forget(self) -> None:
        self.path.unlink()

    async def stop(self) -> None:
        self.folder.rename(self.folder.with_name("away"))

    async def start(self) -> None:
        self.folder.with_name("away").rename(self.folder)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a registry."""
    return tmp_path / "registry.db"


INSTANCE = """
import asyncio, sys
from msgov.discovery import Instance
from msgov.discovery.embedded import Embedded
async def main():
    async with Embedded(sys.argv[1], ttl=float(sys.argv[3])) as registry:
        async with registry.register(Instance("order", "127.0.0.1", int(sys.argv[2]))) as registration:
            print(registration.registered, flush=True)
            await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""

WATCHER = """
import asyncio, sys
from msgov.discovery.embedded import Embedded
async def main():
    async with Embedded(sys.argv[1]) as registry:
        async for found in registry.watch("order"):
            print(*(f"{one.id}{'-' if one.draining else '+'}" for one in found.instances), flush=True)
asyncio.run(main())
"""


@contextmanager
def program(text: str, *args: object) -> Iterator[subprocess.Popen[str]]:
    """Run a program for a block; it is killed at the end if need be."""
    seen = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", text, *map(str, args)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=seen) as made:
        try:
            yield made
        finally:
            made.kill()


async def line(made: subprocess.Popen[str]) -> str:
    """Read a program's next line."""
    assert made.stdout is not None
    return (await asyncio.to_thread(made.stdout.readline)).strip()


@pytest.mark.process
def test_killed_process_is_gone_at_once(path: Path) -> None:
    """`kill -9` deregisters nothing; the kernel tells, so nobody waits for a lease of minutes."""

    async def main() -> None:
        with program(INSTANCE, path, 1, 300) as first, program(INSTANCE, path, 2, 300) as second:
            assert (await line(first), await line(second)) == ("True", "True")
            async with Embedded(path) as registry, watching(registry) as watched:
                await watched.until(lambda found: len(found) == 2)
                first.send_signal(signal.SIGKILL)
                await watched.until(lambda found: [one.port for one in found] == [2], within=1)
                assert watched.latest.changes == 2

    run(main())


@pytest.mark.process
def test_stopped_process_is_gone_after_its_lease_and_comes_back(path: Path) -> None:
    """SIGSTOP looks like a hang; when it goes on it finds that it was forgotten, and registers again."""

    async def main() -> None:
        with program(INSTANCE, path, 1, 0.6) as stopped:
            assert await line(stopped) == "True"
            async with Embedded(path, ttl=0.6) as registry, watching(registry) as watched:
                await watched.until(lambda found: len(found) == 1)
                stopped.send_signal(signal.SIGSTOP)
                assert await watched.until(lambda found: found == ()) > 0.3
                stopped.send_signal(signal.SIGCONT)
                await watched.until(lambda found: len(found) == 1, within=2)

    run(main())


@pytest.mark.process
def test_drain_is_acknowledged_by_other_processes(path: Path) -> None:
    """When it returns, a watcher in another process has said what it saw; a killed one holds nothing up."""

    async def main() -> None:
        async with Embedded(path) as registry, registry.register(ORDER) as registration:
            with program(WATCHER, path) as killed:
                assert await line(killed) == f"{ORDER.id}+"
                killed.send_signal(signal.SIGKILL)
            with program(WATCHER, path) as watcher:
                assert await line(watcher) == f"{ORDER.id}+"
                began = monotonic()
                assert await registration.drain(within=10)
                assert monotonic() - began < 2
                assert await line(watcher) == f"{ORDER.id}-"

    run(main())


@pytest.mark.process
def test_changes_reach_other_processes_within_a_tenth_of_a_second(path: Path) -> None:
    """The poll is 50 ms; the median of several changes stays below 100 ms, even on a busy machine."""

    async def main() -> None:
        with program(WATCHER, path) as watcher:
            assert await line(watcher) == ""
            async with Embedded(path) as registry:
                took = []
                for turn in range(9):
                    await asyncio.sleep(0.12 + turn * 0.006)  # so that it is at rest, and each time at another moment
                    began = monotonic()
                    async with registry.register(ORDER):
                        assert await line(watcher) == f"{ORDER.id}+"
                        took.append(monotonic() - began)
                    assert await line(watcher) == ""
        assert sorted(took)[4] < 0.1

    run(main())


def test_locked_file_makes_knowledge_old_and_nobody_dead(path: Path) -> None:
    """A stopped process may hold the write lock: no renewal goes through for anybody, and everybody stays."""

    async def main() -> None:
        async with (
            Embedded(path, ttl=0.6) as ours,
            ours.register(ORDER) as registration,
            ours.register(SECOND),
            Embedded(path, ttl=0.6) as theirs,
            watching(theirs) as watched,
        ):
            await watched.until(lambda found: len(found) == 2)
            changes = watched.latest.changes
            lock = sqlite3.connect(path, isolation_level=None)
            lock.execute("BEGIN IMMEDIATE")
            await eventually(lambda: not registration.registered, within=5)
            await asyncio.sleep(1)
            assert watched.latest.changes == changes
            lock.execute("ROLLBACK")
            lock.close()
            await eventually(lambda: registration.registered, within=2)
            await asyncio.sleep(1)
            assert watched.latest.changes == changes

    run(main())


def test_deleted_file_takes_nobody_out(path: Path) -> None:
    """The registry restarts empty, and no watcher ever sees fewer instances than there are."""

    async def main() -> None:
        async with Embedded(path, ttl=1) as ours, Embedded(path, ttl=1) as theirs, watching(theirs) as watched:
            async with ours.register(ORDER), ours.register(SECOND):
                await watched.until(lambda found: len(found) == 2)
                seen = len(watched.history)
                for _ in range(3):
                    path.unlink()
                    await eventually(path.exists, within=2)
                    await asyncio.sleep(0.5)
                assert all(len(ids) == 2 for ids in watched.history[seen - 1 :])
            await watched.until(lambda found: found == ())

    run(main())


def test_lease_of_a_stranger_ends_by_its_counter(path: Path) -> None:
    """From another container no process can be asked after: what stands still for its lease is gone, row and all."""

    async def main() -> None:
        async with Embedded(path) as registry, watching(registry) as watched:
            await watched.until(lambda found: found == ())
            other = sqlite3.connect(path, isolation_level=None, timeout=5)
            text = json.dumps(record(ORDER))
            rows = "SELECT count(*) FROM discovery_lease"
            for beat, origin in enumerate((f"{boot_id()}/pid:[1]/77/1", "nonsense")):
                row = (ORDER.id, text, beat, origin)
                other.execute("INSERT INTO discovery_lease VALUES ('order', ?, 'h', ?, ?, 0.5, ?)", row)
                other.execute("UPDATE discovery_service SET revision = revision + 1")
                other.execute("INSERT OR IGNORE INTO discovery_service VALUES ('order', 1)")
                await watched.until(lambda found: found == (ORDER,), within=2)
                await watched.until(lambda found: found == (), within=2)
                await eventually(lambda: other.execute(rows).fetchone() == (0,), within=2)
            other.close()

    run(main())


def test_address_is_held_by_all_its_workers(path: Path) -> None:
    """Workers that share a port share the instance; it goes with the last of them."""

    async def main() -> None:
        async with Embedded(path) as one, Embedded(path) as two, Embedded(path) as theirs, watching(theirs) as watched:
            async with one.register(ORDER):
                async with two.register(ORDER):
                    await watched.until(lambda found: found == (ORDER,))
                    await two.remove(ORDER)
                    await asyncio.sleep(0.2)
                assert watched.latest.value.instances == (ORDER,)
            await watched.until(lambda found: found == ())
            assert watched.history[-2:] == [(ORDER.id,), ()]

    run(main())


def test_operator_has_the_last_word(path: Path) -> None:
    """Offline survives that the instance registers anew (Nacos forgets it), until it is taken back."""

    async def main() -> None:
        async with Embedded(path) as ours, Embedded(path) as theirs, watching(theirs) as watched:
            for _ in range(2):
                async with ours.register(ORDER):
                    await ours.override("order", ORDER.id, Override(offline=True, weight=7.0))
                    await watched.until(lambda found: [(one.draining, one.weight) for one in found] == [(True, 7.0)])
                await watched.until(lambda found: found == ())
            async with ours.register(ORDER):
                await watched.until(lambda found: [one.draining for one in found] == [True])
                await ours.override("order", ORDER.id, None)
                await watched.until(lambda found: found == (ORDER,))

    run(main())


def test_hostile_rows_are_dropped(path: Path) -> None:
    """Whoever can write to the file can write anything; the others serve, and the bad ones are counted."""

    async def main() -> None:
        async with Embedded(path) as ours, Embedded(path) as theirs, ours.register(ORDER):
            rows = [
                ("order", str(n), "h", text, 1, 60.0, "")
                for n, text in enumerate(["", "{}", '{"service":"order","host":"file:///x","port":1}', "[" * 10_000])
            ]
            other = sqlite3.connect(path, isolation_level=None, timeout=5)
            other.executemany("INSERT INTO discovery_lease VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            other.execute("INSERT INTO discovery_override VALUES ('order', ?, 1, 'heavy')", (ORDER.id,))
            other.close()
            async with watching(theirs) as watched:
                await watched.until(lambda found: found == (ORDER,))
                assert watched.latest.value.dropped == 4

    run(main())


def test_watch_of_an_unusable_file_says_so(tmp_path: Path) -> None:
    """The follower backs off and asks again; whoever reads the error knows which file, and what to do."""

    async def main() -> None:
        async with Embedded(tmp_path / "none" / "r.db") as registry, watching(registry) as watched:
            await eventually(lambda: watched.latest.error is not None, within=5)
            assert "there is no folder" in str(watched.latest.error)

    run(main())
