"""The config centre in a file keeps the contract, and says who changed what, when and why."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msgov.clock import monotonic
from msgov.config import embedded_tables as tables
from msgov.config.embedded import Conflict, Embedded
from msgov.config.layers import Tree, leaves, shown
from msgov.errors import RuleError, SourceError
from tests.contract.config import Outlasts, Refuses, Remembers, run, watching


class TestEmbedded(Refuses, Outlasts, Remembers):
    """Hold it to the contract."""

    visible = 0.2

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "centre"
        self.folder.mkdir()
        self.path = self.folder / "config.db"

    def source(self) -> Embedded:
        return Embedded(self.path)

    async def write(self, tree: Tree) -> None:
        wanted = {shown(path): leaf for path, leaf in leaves(tree) if path}
        source = self.source()
        try:
            held = {version.key for version in await source.history() if version.value is not None}
            await source.change(dict.fromkeys(held - set(wanted)) | wanted, who="test")
        finally:
            await source.aclose()

    async def poison(self) -> None:
        await self.write({"poison": 1})
        with sqlite3.connect(self.path) as connection:
            connection.execute("UPDATE config_values SET value = 'not JSON'")
            connection.execute("INSERT INTO config_versions (key, who, why, at) VALUES ('poison', 'x', '', 1.5)")
        connection.close()

    async def stop(self) -> None:
        self.folder.rename(self.folder.with_name("away"))

    async def start(self) -> None:
        self.folder.with_name("away").rename(self.folder)

    async def forget(self) -> None:
        for file in self.folder.iterdir():
            file.unlink()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a file."""
    return tmp_path / "config.db"


def test_history_says_who_what_when_and_why(path: Path) -> None:
    """The newest first, deletions too, of a key and all beneath it."""

    async def main() -> None:
        centre = Embedded(path, clock=lambda: 1000.5)
        await centre.set("pay.timeout", 2, who="ann", why="bank is slow")
        await centre.set("other", True, who="bob")
        await centre.delete("pay.timeout", who="cy", why="bank is fast")
        found = await centre.history("pay")
        assert [(v.version, v.key, v.value, v.who, v.why, v.at) for v in found] == [
            (3, "pay.timeout", None, "cy", "bank is fast", 1000.5),
            (1, "pay.timeout", 2, "ann", "bank is slow", 1000.5),
        ]
        assert [version.version for version in await centre.history(most=2)] == [3, 2]
        assert await centre.get("pay.timeout") is None
        got = await centre.get("other")
        assert got is not None
        assert (got.value, got.version, got.who) == (True, 2, "bob")
        await centre.aclose()

    run(main())


def test_history_of_a_key_is_not_that_of_its_namesakes(path: Path) -> None:
    """`pay` is not `payment`, and a star in a key is a star."""

    async def main() -> None:
        centre = Embedded(path)
        await centre.change({"pay.a": 1, "payment.a": 1, 'call."*".x': 1, "call.y.x": 1}, who="x")
        assert {version.key for version in await centre.history("pay")} == {"pay.a"}
        assert {version.key for version in await centre.history("call.*")} == {"call.*.x"}
        await centre.aclose()

    run(main())


def test_change_over_a_newer_one_is_refused(path: Path) -> None:
    """Two people who look at the same screen do not undo each other unseen."""

    async def main() -> None:
        centre = Embedded(path)
        assert await centre.set("a", 1, who="ann", expect=0) == 1
        assert await centre.set("a", 2, who="bob", expect=1) == 2
        with pytest.raises(Conflict, match="a is at version 2, not at 1"):
            await centre.set("a", 3, who="ann", expect=1)
        with pytest.raises(Conflict):
            await centre.delete("a", who="ann", expect=1)
        with pytest.raises(Conflict):
            await centre.set("b", 3, who="ann", expect=7)
        assert centre.now() == {"a": 2}
        assert len(await centre.history()) == 2
        await centre.aclose()

    run(main())


def test_several_keys_change_at_once_or_not_at_all(path: Path) -> None:
    """A switch that is two settings is never half thrown."""

    async def main() -> None:
        centre = Embedded(path)
        await centre.change({"faults.rate": 0.5, "faults.sleep": 2}, who="x")
        assert centre.now() == {"faults": {"rate": 0.5, "sleep": 2}}
        with pytest.raises(Conflict):
            await centre.change({"faults.rate": 0.9, "faults.sleep": None}, who="x", expect={"faults.sleep": 1})
        assert centre.now() == {"faults": {"rate": 0.5, "sleep": 2}}
        await centre.change({"faults": True, "faults.rate": None, "faults.sleep": None}, who="x")
        assert centre.now() == {"faults": True}
        await centre.aclose()

    run(main())


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("a", float("nan"), "a = nan: a finite number"),
        ("a", {"b": None}, "a.b = None: a value"),
        ("a", {1, 2}, "text, a number"),
        ("a", "x" * 70_000, "at most 65536 bytes"),
        ("a", [["x" * 1000] * 1100], "at most 65536 bytes"),
        ("../../etc/passwd", 1, "parts joined by dots"),
        ('"../../etc/passwd"', 1, "a key without '..'"),
        ("", 1, "parts joined by dots"),
        ('"a\\nb"', 1, "a key of 1 to 200 printable"),
        ("pay", 1, "no other overlaps: pay.timeout is set"),
        ("pay.timeout.max", 1, "no other overlaps: pay.timeout is set"),
    ],
)
def test_what_cannot_be_set_is_refused_and_nothing_is_written(path: Path, key: str, value: object, says: str) -> None:
    """It would be every reader's trouble, and is one writer's."""

    async def main() -> None:
        centre = Embedded(path)
        await centre.set("pay.timeout", 1, who="x")
        with pytest.raises(RuleError, match=says):
            await centre.change({"first": 1, key: value}, who="x")
        assert centre.now() == {"pay": {"timeout": 1}}
        await centre.aclose()

    run(main())


def test_a_change_by_nobody_is_refused(path: Path) -> None:
    """The question at three in the morning is who."""

    async def main() -> None:
        centre = Embedded(path)
        for who in ("", "  ", "x" * 1001):
            with pytest.raises(RuleError, match="who"):
                await centre.set("a", 1, who=who)
        await centre.aclose()

    run(main())


def test_deleting_what_is_not_set_changes_nothing(path: Path) -> None:
    """And wakes nobody."""

    async def main() -> None:
        centre = Embedded(path)
        assert await centre.delete("a", who="x") == 0
        assert await centre.history() == []
        await centre.aclose()

    run(main())


def test_history_is_bounded_and_keeps_what_is_in_force(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag that flaps for a year does not fill the disk; a value set a year ago still says by whom."""
    monkeypatch.setattr(tables, "HISTORY", 5)

    async def main() -> None:
        centre = Embedded(path)
        await centre.set("old", 1, who="ann")
        for number in range(20):
            await centre.set("flag", number, who="bob")
        assert [version.version for version in await centre.history()] == [21, 20, 19, 18, 17, 1]
        old = await centre.get("old")
        assert old is not None
        assert old.who == "ann"
        await centre.aclose()

    run(main())


def test_keys_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What grows with the number of customers is data."""
    monkeypatch.setattr(tables, "KEYS", 3)

    async def main() -> None:
        centre = Embedded(path)
        await centre.change({"a": 1, "b": 1, "c": 1}, who="x")
        await centre.set("c", 2, who="x")
        with pytest.raises(RuleError, match="at most 3 keys"):
            await centre.set("d", 1, who="x")
        await centre.aclose()

    run(main())


SWITCH = """
import asyncio, sys
from msgov.config.embedded import Embedded

async def main():
    centre = Embedded(sys.argv[1])
    await centre.set("faults.payment.sleep", 2.0, who="another process")
    await centre.aclose()

asyncio.run(main())
"""


@pytest.mark.process
def test_another_process_is_heard(path: Path) -> None:
    """That is what it is for: a switch thrown there, felt here."""

    async def main() -> None:
        centre = Embedded(path)
        async with watching(centre) as watched:
            await watched.sees({})
            environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", SWITCH, str(path), env=environ)
            assert await process.wait() == 0
            assert await watched.sees({"faults": {"payment": {"sleep": 2.0}}}) < 0.7
        await centre.aclose()

    run(main())


def test_own_change_is_heard_within_the_promise(path: Path) -> None:
    """200 ms, of which a look takes 50 and a busy machine the rest."""

    async def main() -> None:
        centre = Embedded(path)
        async with watching(centre) as watched:
            await watched.sees({})
            taken = []
            for number in range(5):
                began = monotonic()
                await centre.set("a", number, who="x")
                await watched.sees({"a": number})
                taken.append(monotonic() - began)
            assert sorted(taken)[2] < 0.2
        await centre.aclose()

    run(main())


def test_url_without_a_path_is_refused() -> None:
    """A database called "" would be a new one each time."""
    with pytest.raises(RuleError, match=r"embedded:config\.db"):
        Embedded.from_url("embedded:")


def test_url_names_a_path_spaces_and_all(tmp_path: Path) -> None:
    """Relative, absolute, or with the slashes of a URL."""
    path = tmp_path / "my config.db"
    for url in (f"embedded:{path}", f"embedded://{path}"):
        assert Embedded.from_url(url).name == f"embedded {path}"


def test_lost_file_is_a_failure_from_a_thread_too(path: Path) -> None:
    """A static load must not start a service with everything reset."""

    async def main() -> None:
        centre = Embedded(path)
        await centre.set("a", 1, who="x")
        assert centre.now() == {"a": 1}
        for file in path.parent.iterdir():
            file.unlink()
        with pytest.raises(SourceError, match="lost or replaced"):
            centre.now()
        await centre.aclose()

    run(main())


@pytest.mark.parametrize("text", ["null", "NaN", "[" * 100_000, '{"a": {"a": null}}', ""])
def test_value_written_past_the_api_is_refused_with_its_key(path: Path, text: str) -> None:
    """Somebody has a SQLite shell, and means well."""

    async def main() -> None:
        centre = Embedded(path)
        await centre.change({"pay.timeout": 1, "other": 2}, who="x")
        connection = sqlite3.connect(path)
        with connection:
            connection.execute("UPDATE config_values SET value = ? WHERE key = 'pay.timeout'", (text,))
        connection.close()
        with pytest.raises(RuleError, match=rf"embedded {path}: pay\.timeout"):
            centre.now()
        await centre.aclose()

    run(main())


KEYS = st.sampled_from(["a", "a.b", "a.b.c", "b", 'c."d.e"'])
STEPS = st.lists(st.tuples(KEYS, st.one_of(st.none(), st.integers(0, 3))), max_size=12)


@settings(max_examples=25, deadline=None)
@given(STEPS)
def test_what_is_set_is_what_a_plain_dictionary_would_hold(steps: list[tuple[str, int | None]]) -> None:
    """Against a model: overlaps refused, the rest set, and history telling how it came about."""
    connection = sqlite3.connect(":memory:")
    for statement in tables.SCHEMA:
        connection.execute(statement)
    model: dict[str, int] = {}
    for key, value in steps:
        overlaps = [other for other in model if other.startswith(f"{key}.") or key.startswith(f"{other}.")]
        text = None if value is None else str(value)
        if value is not None and overlaps:
            with pytest.raises(RuleError):
                tables.change({key: text}, {}, "x", "", 0.0, connection)
            connection.rollback()
            continue
        tables.change({key: text}, {}, "x", "", 0.0, connection)
        connection.commit()
        if value is None:
            model.pop(key, None)
        else:
            model[key] = value
    _, tree = tables.reading("test", connection)
    assert not isinstance(tree, RuleError)
    assert {shown(path): leaf for path, leaf in leaves(tree) if path} == model
    replayed: dict[str, object] = {}
    for version in reversed(tables.history("", 1000, connection)):
        replayed[version.key] = version.value
    assert {key: value for key, value in replayed.items() if value is not None} == model
    connection.close()
