"""A process is told from another that reused its number, and never called dead on a guess."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys

import pytest

from msgov.connections.process import Origin, boot_id, origin

CHILD = """
import sys
from msgov.connections.process import origin
mine = origin()
print(mine, flush=True)
sys.stdin.read()
"""

linux = pytest.mark.skipif(not boot_id(), reason="the kernel does not name its boot")


def test_this_process_lives() -> None:
    """Whoever asks is alive."""
    assert not origin().dead()


@linux
@pytest.mark.process
def test_killed_process_is_dead_before_its_parent_notices() -> None:
    """A zombie serves nobody; its number stays taken until the parent reaps it."""
    seen = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=seen
    ) as child:
        assert child.stdout is not None
        found = Origin.parse(child.stdout.readline().strip())
        try:
            assert not found.dead()
        finally:
            child.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended; it is not reaped yet
        assert found.dead()
    assert found.dead()


@linux
def test_reused_number_is_another_process() -> None:
    """Numbers come back; the time of the start does not."""
    assert dataclasses.replace(origin(), started="1").dead()


@linux
def test_other_boot_is_over() -> None:
    """No process outlives its boot, and its monotonic times mean nothing in the next."""
    assert dataclasses.replace(origin(), boot="before").dead()
    assert not dataclasses.replace(origin(), boot="").dead()


def test_origin_reads_what_it_wrote() -> None:
    """It travels as text in a row; what else stands there is refused."""
    assert Origin.parse(str(origin())) == origin()
    for text in ("", "a/b/c/d", "a/b/1"):
        with pytest.raises(ValueError, match=r"unpack|literal"):
            Origin.parse(text)


def test_stranger_is_never_called_dead() -> None:
    """Another container or another system: its numbers mean nothing here."""
    mine = origin()
    assert not dataclasses.replace(mine, space="elsewhere", pid=2**22).dead()
    assert not dataclasses.replace(mine, started="").dead()
