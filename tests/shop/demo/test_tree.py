"""All processes are ready or none stays; who dies is started again; at the end nobody is left."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from collections.abc import Callable, Coroutine, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from shop import stores
from shop.demo import tree as trees
from shop.demo.child import Died
from shop.demo.tree import Tree

pytestmark = pytest.mark.process

Story = Callable[[Tree, list[str]], Coroutine[object, None, None]]


def growing(folder: Path, plan: Mapping[str, int], story: Story) -> Tree:
    """Run a story in a tree of processes; everything but /proc knows of them only through it."""
    (folder / "logs").mkdir()
    told: list[str] = []
    tree = Tree(plan, folder=folder, tell=told.append)

    async def grow() -> None:
        async with tree:
            await story(tree, told)

    asyncio.run(asyncio.wait_for(grow(), 60))
    return tree


def alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def nothing(tree: Tree, told: list[str]) -> None:
    """Do nothing."""


def test_who_dies_is_started_again(tmp_path: Path) -> None:
    """Under the same name, at another place, and it is told."""

    async def story(tree: Tree, told: list[str]) -> None:
        (before,) = tree.of("user")
        os.kill(before.pid, signal.SIGKILL)
        while not told:
            await asyncio.sleep(0.01)
        while not tree.of("user"):
            await asyncio.sleep(0.01)
        (after,) = tree.of("user")
        assert after.pid != before.pid
        assert (after.name, tree.restarts) == (before.name, 1)
        assert f"user-1 (pid {before.pid}) ended with -9" in told[0]

    tree = growing(tmp_path, {"user": 1}, story)
    assert not any(alive(child.pid) for child in tree.children)


def test_a_locked_database_is_named_and_all_others_are_stopped(tmp_path: Path) -> None:
    """Whoever reads the message knows which service, which file, and why."""
    with closing(sqlite3.connect(stores.path(tmp_path, "product"), isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(Died) as caught:
            growing(tmp_path, {"user": 1, "product": 1}, nothing)
    assert "product-1 ended with code 1 while it was starting" in str(caught.value)
    assert "product.db: locked by another process" in str(caught.value)


def test_one_that_will_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its time, by its id."""
    monkeypatch.setattr(trees, "PATIENCE", 0.5)

    async def story(tree: Tree, told: list[str]) -> None:
        os.kill(tree.children[0].pid, signal.SIGSTOP)

    tree = growing(tmp_path, {"user": 1}, story)
    assert not alive(tree.children[0].pid)
