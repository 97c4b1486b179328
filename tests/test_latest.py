"""A dead backend makes knowledge old, never absent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from msgov import aio
from msgov.backoff import Backoff
from msgov.errors import SourceError
from msgov.latest import DiskCopy, Latest
from msgov.testing import LoadedDice, armed, raises, run


def test_nothing_known_is_said_so() -> None:
    """Reading what was never told must not look like an empty list."""
    latest: Latest[int] = Latest("instances of payment")
    assert not latest.known
    with pytest.raises(SourceError, match="instances of payment"):
        _ = latest.value


def test_a_failure_keeps_the_value_and_ages_it() -> None:
    """What was true a minute ago is the best there is."""
    latest: Latest[tuple[int, ...]] = Latest("x")
    assert latest.put((1,), 10.0)
    latest.fail(OSError("down"))
    assert (latest.value, latest.stale, latest.age(70.0)) == ((1,), True, 60.0)
    assert not latest.put((1,), 80.0)
    assert not latest.stale


def test_listeners_hear_changes_only_and_never_break_the_source(capsys: pytest.CaptureFixture[str]) -> None:
    """A listener's fault is not the source's."""
    import sys

    heard: list[tuple[int | None, int]] = []
    latest: Latest[int] = Latest("x")

    def fault(old: int | None, new: int) -> None:
        raise ZeroDivisionError

    latest.listen(fault)
    end = latest.listen(lambda old, new: heard.append((old, new)))
    before, sys.unraisablehook = sys.unraisablehook, lambda args: None
    try:
        for value in (1, 1, 2):
            latest.put(value, 0.0)
    finally:
        sys.unraisablehook = before
    end()
    assert heard == [(None, 1), (1, 2)]
    assert latest.changes == 2


class Flaky:
    """Speaks, fails, speaks again."""

    def __init__(self) -> None:
        self.watches = 0

    async def watch(self) -> AsyncIterator[int]:
        self.watches += 1
        yield self.watches
        raise ConnectionError("gone")


def test_follow_watches_again_with_backoff_for_ever() -> None:
    """No number of failures ends it."""
    import asyncio

    source, latest = Flaky(), Latest[int]("x")

    async def scene() -> float:
        loop = asyncio.get_running_loop()
        pause = Backoff(LoadedDice(0.5, cycle=True), base=1.0, cap=4.0)
        task = asyncio.create_task(aio.follow(source, latest, clock=loop.time, backoff=pause))
        while source.watches < 5:
            await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.wait([task])
        return loop.time()

    assert run(scene()) >= 3.0
    assert latest.value == 5
    assert isinstance(latest.error, ConnectionError)


def test_a_copy_survives_and_a_damaged_one_is_ignored(tmp_path: Path) -> None:
    """A process can start while its backend is down, but never from half a file."""
    copy = DiskCopy(tmp_path / "deep" / "instances")
    assert copy.load() is None
    copy.save(b"one")
    assert copy.load() == b"one"
    with armed("latest.mid_copy_write", raises(OSError("disk full"))), pytest.raises(OSError, match="disk full"):
        copy.save(b"two")
    assert copy.load() == b"one"
    assert [path.name for path in copy.path.parent.iterdir()] == ["instances"]
    copy.path.write_bytes(copy.path.read_bytes()[:-1])
    assert copy.load() is None
    assert copy.path.stat().st_mode & 0o077 == 0
