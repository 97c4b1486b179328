"""What is known of each service is kept by one watch, and remembered on disk."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

import pytest

from msgov.discovery import Directory, Discovery, Snapshot
from msgov.discovery.instance import record
from msgov.discovery.memory import Memory
from msgov.errors import SourceError
from msgov.latest import DiskCopy
from tests.contract.discovery import ORDER, SECOND, eventually, run


class Down(Discovery):
    """A registry that answers nothing, and counts who asks."""

    def __init__(self) -> None:
        self.asked = 0

    @classmethod
    def from_url(cls, url: str) -> Self:
        return cls()

    async def watch(self, service: str) -> AsyncIterator[Snapshot]:
        self.asked += 1
        await asyncio.Event().wait()
        yield Snapshot(service)


def test_service_is_followed_once() -> None:
    """However many channels there are to it."""

    async def main() -> None:
        down = Down()
        async with Directory(down) as directory:
            assert directory.latest("order") is directory.latest("order")
            assert directory.latest("payment") is not directory.latest("order")
            await eventually(lambda: down.asked == 2, within=5)
            assert set(directory.services) == {"order", "payment"}

    run(main())


def test_first_word_is_waited_for() -> None:
    """A client that has just started need not fail its first call, and does not wait for ever."""

    async def main() -> None:
        registry = Memory()
        async with registry.register(ORDER), Directory(registry) as directory:
            assert (await directory.known("order")).instances == (ORDER,)
            assert (await directory.known("order", within=0)).instances == (ORDER,)
        async with Directory(Down()) as directory:
            with pytest.raises(SourceError, match="order: nothing is known yet"):
                await directory.known("order", within=0.05)

    run(main())


def test_threads_ask_too() -> None:
    """A blocking channel lives in another thread than the watches."""

    async def main() -> None:
        registry = Memory()
        async with registry.register(ORDER), Directory(registry) as directory:
            latest = await asyncio.to_thread(directory.latest, "order")
            await eventually(lambda: latest.known, within=5)
            found = await asyncio.to_thread(lambda: asyncio.run(directory.known("order")))
            assert found.instances == (ORDER,)

    run(main())


def test_closed_directory_follows_nothing_new() -> None:
    """What it knows stays readable; a new service would never become known, so it is refused."""

    async def main() -> None:
        registry = Memory()
        directory = Directory(registry)
        with pytest.raises(RuntimeError, match="inside its `async with` block"):
            directory.latest("order")
        async with registry.register(ORDER):
            async with directory:
                await directory.known("order")
            assert directory.latest("order").value.instances == (ORDER,)
            with pytest.raises(RuntimeError, match="inside its `async with` block"):
                directory.latest("payment")

    run(main())


def test_empty_list_is_not_copied(tmp_path: Path) -> None:
    """A copy of nothing helps nobody to start; the last one with instances does."""

    async def main() -> None:
        registry = Memory()
        async with Directory(registry, copies=tmp_path) as directory:
            assert not (await directory.known("order")).instances
            async with registry.register(ORDER):
                await eventually(lambda: (tmp_path / "order.json").exists(), within=5)
                assert b"50051" in (DiskCopy(tmp_path / "order.json").load() or b"")
        async with Directory(Down(), copies=tmp_path) as directory:
            assert directory.latest("order").value.instances == (ORDER,)
            assert directory.latest("order").stale

    run(main())


@pytest.mark.parametrize("text", ["{", "{}", "null", "[]", "[1, 2]", "[" * 100_000])
def test_broken_copy_is_no_copy(tmp_path: Path, text: str) -> None:
    """It is only a help: whatever stands in it, the service starts."""
    DiskCopy(tmp_path / "order.json").save(text.encode())

    async def main() -> None:
        async with Directory(Down(), copies=tmp_path) as directory:
            assert not directory.latest("order").known

    run(main())


def test_hostile_copy_is_checked_like_a_registry(tmp_path: Path) -> None:
    """Entry by entry; and a service's name cannot lead out of the folder."""
    entries = [record(SECOND), record(ORDER) | {"host": "169.254.169.254"}]
    DiskCopy(tmp_path / "order.json").save(json.dumps(entries).encode())

    async def main() -> None:
        async with Directory(Down(), copies=tmp_path / "in") as directory:
            assert not directory.latest("../order").known
        async with Directory(Down(), copies=tmp_path) as directory:
            assert directory.latest("order").value.instances == (SECOND,)
            assert directory.latest("order").value.dropped == 1

    run(main())


def test_unwritable_copy_is_told_and_harms_nothing(tmp_path: Path) -> None:
    """Calls do not depend on it; whoever looks can see why the next start may have nothing."""
    (tmp_path / "file").write_text("")

    async def main() -> None:
        registry = Memory()
        async with registry.register(ORDER), Directory(registry, copies=tmp_path / "file") as directory:
            assert (await directory.known("order")).instances == (ORDER,)
            await eventually(lambda: directory.error is not None, within=5)

    run(main())
