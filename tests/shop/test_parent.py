"""A service ends with its parent, gracefully where it can, and in any case."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shop import parent

pytestmark = pytest.mark.process

EXAMPLES = Path(parent.__file__).parents[1]
PROGRAM = """
import asyncio, sys
from shop import parent
parent.HARD = 0.3
async def main():
    print("up", flush=True)
    try:
        await asyncio.sleep({sleep})
    except asyncio.CancelledError:
        print("drained", flush=True)
        {then}
        raise
parent.run(main())
print("over", flush=True)
"""


@contextmanager
def started(*, sleep: float = 60, then: str = "pass", stdin: int = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
    """Start such a program and wait until it is up."""
    program = PROGRAM.format(sleep=sleep, then=then)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=stdin, stdout=subprocess.PIPE, text=True, cwd=EXAMPLES
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> tuple[list[str], int]:
    """Wait for its end; return what it said after "up", and its exit code."""
    told, _ = process.communicate(timeout=20)
    return told.split(), process.returncode


def test_it_drains_when_the_parent_is_gone() -> None:
    """The pipe closes by itself when the parent dies, however it dies."""
    with started() as process:
        assert said(process) == (["drained", "over"], 0)


def test_it_ends_even_when_it_is_stuck() -> None:
    """A loop that no longer turns must not outlive its parent for long."""
    with started(then="import time; time.sleep(60)") as process:
        assert said(process) == (["drained"], 70)


def test_it_does_not_end_without_a_parent() -> None:
    """Under a supervisor that gives it no pipe, the end of standard input says nothing."""
    with started(sleep=0.2, stdin=subprocess.DEVNULL) as process:
        assert said(process) == (["over"], 0)


def test_it_drains_when_it_is_told_to_end_while_it_starts() -> None:
    """What it has opened by then is closed, not left."""
    with started() as process:
        process.terminate()
        assert said(process) == (["drained", "over"], 0)


def test_a_second_word_does_not_break_off_the_drain() -> None:
    """The pipe closes and the signal comes, in whichever order."""
    with started(then="await asyncio.sleep(0.2); print('whole', flush=True)") as process:
        process.terminate()
        assert process.stdout is not None
        assert process.stdout.readline() == "drained\n"
        assert said(process) == (["whole", "over"], 0)  # this closes the pipe
