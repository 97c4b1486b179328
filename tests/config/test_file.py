"""A file keeps the contract of config sources in each of its forms, however it is written."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from msgov.config.file import File
from msgov.config.layers import Tree, Value
from msgov.config.watching import TOLD
from msgov.errors import RuleError, SourceError
from tests.contract.config import FIRST, SECOND, Outlasts, Refuses, run, watching


def toml(tree: Tree, prefix: str = "") -> str:
    """Write a small tree as TOML."""
    lines, tables = "", ""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            tables += f"[{prefix}{key}]\n" + toml(value, f"{prefix}{key}.")
        else:
            lines += f"{key} = {json.dumps(value)}\n"
    return lines + tables


class Written(Refuses, Outlasts):
    """A file of some form, in a folder of its own."""

    form = "toml"
    visible = 0.2
    told = False
    every = 0.05

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "a folder"
        self.folder.mkdir()
        self.path = self.folder / f"msgov.{self.form}"

    def source(self) -> File:
        return File(self.path, every=self.every, told=self.told)

    async def write(self, tree: Tree) -> None:
        beside = self.path.with_suffix(".new")
        beside.write_text(self.text(tree))
        beside.replace(self.path)

    def text(self, tree: Mapping[str, Value]) -> str:
        return toml(tree)

    async def poison(self) -> None:
        self.path.write_text("[pay\n")

    async def stop(self) -> None:
        self.path.rename(self.path.with_suffix(".away"))

    async def start(self) -> None:
        self.path.with_suffix(".away").rename(self.path)


class TestToml(Written):
    """Looked at again and again, and renamed over, as editors do."""


@pytest.mark.skipif(not TOLD, reason="watchfiles is not installed")
class TestTold(Written):
    """Told by the kernel: what is looked at each five seconds only is seen in a fraction of one."""

    visible = 0.4
    told = True
    every = 5.0


class TestYamlInPlace(Written):
    """Written in place, which truncates it first."""

    form = "yaml"

    async def write(self, tree: Tree) -> None:
        self.path.write_text(self.text(tree))

    def text(self, tree: Mapping[str, Value]) -> str:
        return yaml.safe_dump(tree)


class TestJsonBehindALink(Written):
    """Swapped behind a symlink, as Kubernetes does with a mounted ConfigMap."""

    form = "json"

    async def write(self, tree: Tree) -> None:
        self._point(json.dumps(tree))

    async def poison(self) -> None:
        self._point("{")

    def _point(self, text: str) -> None:
        number = len(list(self.folder.iterdir()))
        version = self.folder / f"version{number}"
        version.mkdir()
        (version / "msgov.json").write_text(text)
        link = self.folder / f"link{number}"
        link.symlink_to(version)
        link.replace(self.folder / "current")
        if not self.path.is_symlink():
            self.path.symlink_to(Path("current") / "msgov.json")


def test_missing_file_is_a_failure_with_its_name(tmp_path: Path) -> None:
    """Whoever gave the name wants to know."""
    with pytest.raises(SourceError, match=r"none\.toml: No such file"):
        File(tmp_path / "none.toml").now()


@pytest.mark.parametrize("name", ["msgov", "msgov.ini", "msgov.toml.bak"])
def test_unknown_ending_is_refused(name: str) -> None:
    """Guessing the form would read a file as what it is not."""
    with pytest.raises(RuleError, match=r"ends in \.toml, \.yaml, \.yml, \.json"):
        File(name)


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    """A pipe would hold the reader for ever."""
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "folder.toml").mkdir()
    for name in ("pipe.toml", "folder.toml"):
        with pytest.raises(SourceError, match="not a file"):
            File(tmp_path / name).now()


def test_large_file_is_refused_without_being_read(tmp_path: Path) -> None:
    """A log that took the name must not fill memory."""
    path = tmp_path / "big.toml"
    with path.open("wb") as file:
        file.truncate(2**41)  # with a hole: more than memory, and no room on the disk
    with pytest.raises(RuleError, match="at most 65536 bytes"):
        File(path).now()


def test_refusal_names_file_line_and_column(tmp_path: Path) -> None:
    """As given, so that it can be clicked on."""
    path = tmp_path / "msgov.toml"
    path.write_text("a = 1\nb = \n")
    with pytest.raises(RuleError, match=rf"{path}: line 2, column 5"):
        File.from_url(f"file:{path}").now()


def test_parsing_does_not_hold_the_loop(tmp_path: Path) -> None:
    """The slowest file that is allowed costs other work nothing."""
    path = tmp_path / "slow.yaml"
    path.write_text("a: [" + "1," * 30_000 + "1]")
    began = time.thread_time()
    File(path).now()
    cost = time.thread_time() - began

    async def main() -> None:
        worst, last = 0.0, time.thread_time()
        async with watching(File(path)) as watched:
            while not watched.readings:
                await asyncio.sleep(0)
                now = time.thread_time()
                worst, last = max(worst, now - last), now
        assert isinstance(watched.readings[0], dict)
        assert worst < cost / 3

    run(main())


def test_a_write_in_two_steps_is_read_once_whole(tmp_path: Path) -> None:
    """A file is empty for a moment when it is written in place: that moment is nobody's wish."""
    path = tmp_path / "msgov.toml"
    path.write_text(toml(FIRST))

    async def main() -> None:
        async with watching(File(path, every=0.01, told=False)) as watched:
            await watched.sees(FIRST)
            path.write_text("")
            await asyncio.sleep(0.02)
            path.write_text(toml(SECOND))
            await watched.sees(SECOND)
            assert watched.readings == [FIRST, SECOND]

    run(main())
