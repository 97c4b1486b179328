"""`no_leaks` sees each kind of thing that a test can leave, and lets what is ending end."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from msgov.errors import RuleError
from msgov.testing import Leaked, no_leaks, run


@contextmanager
def left(what: str) -> Iterator[None]:
    """Expect that the block leaves one thing, named so."""
    with pytest.raises(Leaked, match=what) as caught, no_leaks(grace=0):
        yield
    assert len(caught.value.left) == 1


def test_clean_block_passes() -> None:
    """All kinds at once, each put away."""
    with no_leaks(grace=0):
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
        with socket.socket(), tempfile.TemporaryDirectory(), tempfile.TemporaryFile():
            pass
        subprocess.run([sys.executable, "-c", ""], check=True)


def test_thread_left_is_named() -> None:
    """It may write to the next test's files."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="forgotten", daemon=True)
    try:
        with left("thread forgotten"):
            thread.start()
    finally:
        end.set()
        thread.join()


def test_thread_that_is_ending_gets_its_grace() -> None:
    """One that was told to end needs a moment, and must not make a good test fail."""
    go = threading.Event()
    with no_leaks(grace=30):
        threading.Thread(target=go.wait, args=(0.05,)).start()


def test_known_thread_may_stay() -> None:
    """Libraries keep a thread for the life of the process."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="Thread-7 (_poll_wrapper)", daemon=True)
    other = threading.Thread(target=end.wait, name="exporter-1", daemon=True)
    try:
        with no_leaks(grace=0, known=["exporter"]):
            thread.start()
            other.start()
    finally:
        end.set()
        thread.join()
        other.join()


def test_sockets_left_are_named_with_their_addresses() -> None:
    """The address tells whose it is."""
    sockets: list[socket.socket] = []
    try:
        with left(r"socket SOCK_STREAM \('127.0.0.1', \d+\)"):
            sockets.append(socket.create_server(("127.0.0.1", 0)))
        with left("socket SOCK_DGRAM"):
            sockets.append(socket.socket(type=socket.SOCK_DGRAM))
    finally:
        for each in sockets:
            each.close()


def test_loop_left_open_is_seen_by_its_sockets() -> None:
    """An event loop holds a pair to wake itself by."""
    loops: list[asyncio.AbstractEventLoop] = []
    try:
        with pytest.raises(Leaked, match="socket pair"), no_leaks(grace=0):
            loops.append(asyncio.new_event_loop())
    finally:
        loops[0].close()


def test_open_file_left_is_named(tmp_path: Path) -> None:
    """A database that nobody closed is one."""
    opened = []
    try:
        with left(r"file .*shop\.db"):
            opened.append((tmp_path / "shop.db").open("w"))
    finally:
        opened[0].close()


def test_temporary_files_left_are_named_and_kept_ones_are_not(tmp_path: Path) -> None:
    """What `tempfile` makes is meant to go; what a test writes to a folder of its own is its own."""
    with left("temporary .*forgotten"):
        folder = Path(tempfile.mkdtemp(suffix="forgotten"))
        (tmp_path / "kept").touch()
    folder.rmdir()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="children are seen through /proc")
@pytest.mark.process
def test_child_left_is_named_and_so_is_a_dead_one_that_nobody_waited_for() -> None:
    """Both are the parent's to end."""
    children: list[subprocess.Popen[bytes]] = []
    try:
        with left(r"process \d+ python"):
            children.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))
        with left("dead but not waited for"):
            children.append(subprocess.Popen([sys.executable, "-c", "print()"], stdout=subprocess.PIPE))
            assert children[1].stdout is not None
            while children[1].stdout.read():  # its end comes when it is dead
                pass
            children[1].stdout.close()
            _dead(children[1].pid)
    finally:
        for child in children:
            if child.stdin is not None:
                child.stdin.close()
            child.wait()


def _dead(pid: int) -> None:
    """Wait until the kernel has ended it."""
    while ") Z " not in Path(f"/proc/{pid}/stat").read_text():
        pass


def test_task_left_is_named_with_its_place() -> None:
    """Inside a loop tasks are counted too."""

    async def forgotten() -> None:
        await asyncio.sleep(1000)

    async def scene() -> None:
        with pytest.raises(Leaked, match=r"task .*forgotten at tasks\.py"):
            async with no_leaks(grace=0):
                task = asyncio.create_task(forgotten())
        task.cancel()

    run(scene())


def test_task_that_is_ending_gets_its_turns() -> None:
    """One that was cancelled needs the loop to turn."""

    async def scene() -> None:
        async with no_leaks(grace=0):
            task = asyncio.create_task(asyncio.sleep(1000))
            await asyncio.sleep(0)
            task.cancel()

    run(scene())


def test_error_of_the_block_passes_as_it_is() -> None:
    """What it left is the consequence."""
    opened: list[socket.socket] = []

    def fail(make: Callable[[], socket.socket]) -> None:
        with no_leaks(grace=0):
            opened.append(make())
            raise KeyError("the cause")

    with pytest.raises(KeyError, match="the cause"):
        fail(socket.socket)
    opened[0].close()


def test_grace_must_be_time() -> None:
    """Refused where it is given."""
    with pytest.raises(RuleError, match="grace"):
        no_leaks(grace=-1)
