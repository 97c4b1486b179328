"""A bell is heard in the process it belongs to, and its file goes with it."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from pathlib import Path

import pytest

from msgov.messaging import doorbell
from msgov.messaging.doorbell import PATH_LIMIT, Doorbell
from msgov.testing import no_leaks


@pytest.fixture
def short() -> Path:
    """Give a folder whose path is short enough for a socket, with a blank in it."""
    with tempfile.TemporaryDirectory(prefix="m ", dir="/tmp") as name:
        yield Path(name)  # type: ignore[misc]


def test_ring_is_heard(short: Path) -> None:
    """Without it every message waits for the poll."""

    async def main() -> None:
        async with no_leaks():
            heard = asyncio.Event()
            bell = Doorbell(short, heard.set)
            assert Path(bell.path).parent == short
            doorbell.ring([bell.path])
            await asyncio.wait_for(heard.wait(), 5)
            bell.close()
            bell.close()
        assert list(short.iterdir()) == []

    asyncio.run(main())


def test_many_rings_are_one_look(short: Path) -> None:
    """A thousand messages must not make a thousand looks; and a full socket must not stop who rings."""

    async def main() -> None:
        heard: list[int] = []
        bell = Doorbell(short, lambda: heard.append(1))
        for _ in range(1000):
            doorbell.ring([bell.path])
        await asyncio.sleep(0.01)
        assert len(heard) == 1
        bell.close()

    asyncio.run(main())


def test_bell_of_a_dead_process_is_removed(short: Path) -> None:
    """Files of the killed must not pile up, and who rings must not notice."""
    path = short / "dead.bell"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as gone:
        gone.bind(os.fspath(path))
    assert path.exists()
    doorbell.ring([os.fspath(path)])
    assert not path.exists()
    doorbell.ring([os.fspath(path), os.fspath(short / "never")])


def test_path_too_long_for_a_socket_finds_another_folder(tmp_path: Path) -> None:
    """Where a database lies deep, the bell must ring all the same."""
    deep = tmp_path / ("x" * PATH_LIMIT)
    deep.mkdir()

    async def main() -> None:
        heard = asyncio.Event()
        bell = Doorbell(deep, heard.set)
        try:
            assert bell.path
            assert len(os.fsencode(bell.path)) <= PATH_LIMIT
            doorbell.ring([bell.path])
            await asyncio.wait_for(heard.wait(), 5)
        finally:
            bell.close()
        assert not Path(bell.path).exists()

    asyncio.run(main())


def test_folder_made_for_the_bell_goes_with_the_last_one(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left behind; but not while others ring there."""
    monkeypatch.setattr(tempfile, "tempdir", os.fspath(short))
    deep = short / ("x" * PATH_LIMIT)
    deep.mkdir()

    async def main() -> None:
        one, two = Doorbell(deep, lambda: None), Doorbell(deep, lambda: None)
        folder = Path(one.path).parent
        assert folder.parent == short
        one.close()
        assert folder.exists()
        two.close()
        assert not folder.exists()

    asyncio.run(main())


def test_folder_that_others_may_write_to_is_not_used(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's socket in our place would hear when we speak."""
    monkeypatch.setattr(tempfile, "tempdir", os.fspath(short))
    open_to_all = short / f"msgov-{os.getuid()}"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    deep = short / ("x" * PATH_LIMIT)
    deep.mkdir()

    async def main() -> None:
        bell = Doorbell(deep, lambda: None)
        bell.close()
        assert not bell.path.startswith(os.fspath(open_to_all))

    asyncio.run(main())


def test_a_folder_of_its_own_is_removed_with_the_last_bell(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the path beside the file is too long, nothing of the other place stays either."""
    monkeypatch.setattr(tempfile, "tempdir", str(short))
    beside = short / ("long" * 30)
    beside.mkdir()

    async def story() -> list[Path]:
        one, two = Doorbell(beside, lambda: None), Doorbell(beside, lambda: None)
        folder = Path(one.path).parent
        one.close()
        assert folder.is_dir()
        two.close()
        return [path for path in (folder,) if path.exists()]

    assert asyncio.run(story()) == []
