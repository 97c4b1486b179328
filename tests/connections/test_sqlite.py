"""One thread serves one file: what is committed stays, what fails undoes only itself, nothing outlives close."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from msgov.call import PERMANENT, TRANSIENT
from msgov.connections.sqlite import Database, StoreError

SCHEMA = ("CREATE TABLE IF NOT EXISTS item (name TEXT PRIMARY KEY)",)


def add(name: str) -> Callable[[sqlite3.Connection], str]:
    """Make a write that adds a row and returns its name."""

    def work(connection: sqlite3.Connection) -> str:
        connection.execute("INSERT INTO item VALUES (?)", (name,))
        return name

    return work


def names(connection: sqlite3.Connection) -> list[str]:
    """Read all rows."""
    return [name for (name,) in connection.execute("SELECT name FROM item ORDER BY name")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a file with a blank and a query's signs in its path."""
    folder = tmp_path / "a folder?x=%20#1"
    folder.mkdir()
    return folder / "items.db"


@pytest.fixture
def db(path: Path) -> Iterator[Database]:
    """Give a database, and see that its thread is gone afterwards."""
    before = set(threading.enumerate())
    with Database(path, schema=SCHEMA, wait=0.2) as made:
        yield made
    assert set(threading.enumerate()) <= before


@pytest.fixture
def other(db: Database, path: Path) -> Iterator[sqlite3.Connection]:
    """Give another connection to the same file: another process, as far as SQLite is concerned."""
    db.write_sync(lambda connection: None)
    connection = sqlite3.connect(path, isolation_level=None, timeout=0)
    yield connection
    connection.close()


def script(text: str, *args: object) -> subprocess.Popen[str]:
    """Start a program of its own, which finds what this one finds."""
    seen = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", text, *map(str, args)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=seen)


def test_write_is_seen_by_others_once_it_returns(db: Database, other: sqlite3.Connection) -> None:
    """Returning means committed: whoever acknowledges after it has not lied."""
    assert asyncio.run(db.write(add("a"))) == "a"
    assert names(other) == ["a"]


def test_threads_and_loops_share_one_database(db: Database) -> None:
    """Both colours reach the same file by the same thread."""
    db.write_sync(add("from a thread"))
    assert asyncio.run(db.read(names)) == ["from a thread"]


def gathered(db: Database, works: list[Callable[[sqlite3.Connection], object]]) -> tuple[list[object], list[str]]:
    """Hold the thread until all works are in line; return their answers, and the statements that ran."""
    statements: list[str] = []
    held, go = threading.Event(), threading.Event()

    def hold(connection: sqlite3.Connection) -> None:
        connection.set_trace_callback(statements.append)
        held.set()
        go.wait(10)

    async def main() -> list[object]:
        first = asyncio.create_task(db.write(hold))
        await asyncio.to_thread(held.wait, 10)
        rest = [asyncio.create_task(db.write(work)) for work in works]
        await asyncio.sleep(0)
        go.set()
        await first
        return list(await asyncio.gather(*rest, return_exceptions=True))

    return asyncio.run(main()), statements


def test_writes_that_gather_share_one_commit(db: Database) -> None:
    """A commit waits for the disk: a hundred that share one cost one flush."""
    answers, statements = gathered(db, [add(str(n)) for n in range(100)])
    assert answers == [str(n) for n in range(100)]
    assert statements.count("COMMIT") == 2  # the one that held the thread, and the hundred


def test_failed_write_undoes_only_itself(db: Database) -> None:
    """Callers who share a commit do not know each other, so one's error is not the others'."""

    def half(connection: sqlite3.Connection) -> None:
        add("half")(connection)
        raise KeyError("half way")

    answers, _ = gathered(db, [add("a"), half, add("a"), add("b")])
    assert answers[0] == "a"
    assert isinstance(answers[1], KeyError)
    assert isinstance(answers[2], sqlite3.IntegrityError)
    assert db.read_sync(names) == ["a", "b"]


def test_full_disk_fails_the_one_that_needs_space(db: Database) -> None:
    """SQLite may undo the whole group when space ends; the others are run again, and nothing is half written."""

    def big(connection: sqlite3.Connection) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count={pages + 5}")
        add("part of it")(connection)
        add("x" * 1_000_000)(connection)

    answers, _ = gathered(db, [add("a"), big, add("b")])
    assert isinstance(answers[1], StoreError)
    assert answers[1].reason == "store_full"
    assert answers[1].verdict is TRANSIENT
    assert str(db.path) in str(answers[1])
    assert [answers[0], answers[2]] == ["a", "b"]
    assert db.read_sync(names) == ["a", "b"]


def test_function_that_ends_the_transaction_is_refused(db: Database) -> None:
    """A commit from inside would acknowledge the neighbours' writes behind their back."""
    with pytest.raises(sqlite3.ProgrammingError, match="write's own"):
        db.write_sync(lambda connection: connection.execute("COMMIT"))
    assert db.write_sync(add("a")) == "a"


def test_read_changes_nothing(db: Database) -> None:
    """A read that writes by mistake must not take the write lock from the others for good."""
    assert db.read_sync(add("a")) == "a"
    assert db.read_sync(names) == []


def test_read_sees_one_snapshot(db: Database) -> None:
    """Two statements of one read belong to one state of the file."""

    def twice(connection: sqlite3.Connection) -> tuple[list[str], list[str]]:
        first = names(connection)
        other = sqlite3.connect(db.path, isolation_level=None)
        add("between")(other)
        other.close()
        return first, names(connection)

    assert db.read_sync(twice) == ([], [])
    assert db.read_sync(names) == ["between"]


def test_locked_file_is_named_after_the_wait(db: Database, other: sqlite3.Connection) -> None:
    """A stopped process may hold the lock for hours: callers hear so, and which file it is."""
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked by another process") as caught:
        db.write_sync(add("a"))
    assert caught.value.reason == "store_locked"
    assert caught.value.verdict is TRANSIENT
    assert str(db.path) in str(caught.value)
    other.execute("ROLLBACK")
    assert db.read_sync(names) == []


def test_reads_go_on_while_the_file_is_locked(path: Path) -> None:
    """Locked means old knowledge, never none; and the write goes through once the lock is free."""

    async def main() -> None:
        async with Database(path, schema=SCHEMA, wait=30) as db:
            await db.write(add("a"))
            other = sqlite3.connect(path, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            writing = asyncio.create_task(db.write(add("b")))
            for _ in range(20):
                assert await db.read(names) == ["a"]
            assert not writing.done()
            other.execute("COMMIT")
            other.close()
            assert await writing == "b"

    asyncio.run(main())


def test_cancelled_before_it_began_never_runs(db: Database, other: sqlite3.Connection) -> None:
    """Who gave up while the file was locked must not find the row there later."""

    async def main() -> None:
        await db.read(names)
        other.execute("BEGIN IMMEDIATE")
        writing = asyncio.create_task(db.write(add("a")))
        await db.read(names)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        other.execute("ROLLBACK")
        await db.write(add("b"))

    asyncio.run(main())
    assert db.read_sync(names) == ["b"]


def test_close_finishes_what_was_asked(path: Path) -> None:
    """Closing loses no write that is in line, ends the thread, and may be repeated."""

    async def main() -> None:
        db = Database(path, schema=SCHEMA)
        writes = [asyncio.create_task(db.write(add(str(n)))) for n in range(10)]
        await asyncio.sleep(0)
        await db.aclose()
        await db.aclose()
        db.close()
        await asyncio.gather(*writes)
        with pytest.raises(StoreError, match="closed") as caught:
            await db.read(names)
        assert caught.value.verdict is PERMANENT

    before = set(threading.enumerate())
    asyncio.run(main())
    assert set(threading.enumerate()) <= before
    with sqlite3.connect(path) as other:
        assert len(names(other)) == 10
    other.close()


def test_database_that_was_never_used_closes(path: Path) -> None:
    """Nothing is opened or started by a constructor."""
    asyncio.run(Database(path).aclose())
    Database(path).close()
    assert not path.exists()


def test_own_thread_asking_itself_is_refused(db: Database) -> None:
    """It would wait for itself for ever."""
    with pytest.raises(RuntimeError, match="wait for itself"):
        db.write_sync(lambda connection: db.read_sync(names))


def test_odd_error_reaches_the_waiting_task(db: Database) -> None:
    """A future refuses StopIteration; the one who waits must not hang for that."""

    def odd(connection: sqlite3.Connection) -> None:
        raise StopIteration

    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(db.read(odd))


@pytest.mark.parametrize("replaced", [False, True])
def test_deleted_file_is_made_anew(db: Database, path: Path, replaced: bool) -> None:
    """What is written to a file without a name is read by nobody."""
    db.write_sync(add("old"))
    path.unlink()
    if replaced:
        with Database(path, schema=SCHEMA) as second:
            second.write_sync(add("new"))
    assert db.read_sync(names) == (["new"] if replaced else [])
    db.write_sync(add("own"))
    with sqlite3.connect(path) as other:
        assert "own" in names(other)
    other.close()


@pytest.mark.process
def test_file_deleted_under_many_processes_is_whole_again(path: Path) -> None:
    """The log and the index of the deleted file lie there still, and some processes have them open."""
    text = """
import sys
from msgov.connections.sqlite import Database, StoreError
with Database(sys.argv[1], schema=["CREATE TABLE IF NOT EXISTS item (name TEXT PRIMARY KEY)"]) as db:
    print("ready", flush=True)
    n = 0
    while sys.stdin.readline():
        for _ in range(50):
            n += 1
            db.write_sync(lambda c: c.execute("INSERT INTO item VALUES (?)", (f"{sys.argv[2]} {n}",)))
        print("more", flush=True)
"""
    programs = [script(text, path, name) for name in "abc"]
    try:
        for program in programs:
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"
        for _ in range(20):
            for program in programs:
                assert program.stdin is not None
                program.stdin.write("go\n")
                program.stdin.flush()
            path.unlink(missing_ok=True)
            for program in programs:
                assert program.stdout is not None
                assert program.stdout.readline() == "more\n"
        with Database(path, schema=SCHEMA) as db:
            assert db.read_sync(lambda c: c.execute("PRAGMA integrity_check").fetchone()) == ("ok",)
    finally:
        for program in programs:
            program.communicate(timeout=20)
    assert [program.returncode for program in programs] == [0, 0, 0]


def test_unusable_place_says_why(tmp_path: Path) -> None:
    """A wrong path is the commonest mistake; the answer names it and what is wrong with it."""
    (tmp_path / "text.db").write_text("no database " * 100)
    for path, text in (
        (tmp_path / "none" / "x.db", "no folder"),
        (tmp_path, "is a folder"),
        (tmp_path / "text.db", "not a database"),
        (tmp_path / "text.db" / "x.db", "Not a directory"),
    ):
        with Database(path) as db, pytest.raises(StoreError, match=text) as caught:
            db.write_sync(add("a"))
        assert caught.value.reason == "store_unusable"
        assert caught.value.verdict is PERMANENT


@pytest.mark.process
def test_program_that_forgets_to_close_ends(path: Path) -> None:
    """The thread is no daemon, so it must see by itself that the program is over."""
    text = "import sys; from msgov.connections.sqlite import Database; Database(sys.argv[1]).write_sync(lambda c: None)"
    with script(text, path) as program:
        try:
            assert program.wait(20) == 0
        finally:
            program.kill()


@pytest.mark.process
def test_forked_child_has_its_own_connection(path: Path) -> None:
    """A connection carried over a fork breaks the parent's locks; a thread is not carried over at all."""
    text = """
import os, sys
from msgov.connections.sqlite import Database
with Database(sys.argv[1], schema=["CREATE TABLE IF NOT EXISTS item (name TEXT PRIMARY KEY)"]) as db:
    db.write_sync(lambda c: c.execute("INSERT INTO item VALUES ('parent')"))
    child = os.fork()
    if child == 0:
        db.write_sync(lambda c: c.execute("INSERT INTO item VALUES ('child')"))
        db.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    db.write_sync(lambda c: c.execute("INSERT INTO item VALUES ('parent again')"))
"""
    with script(text, path) as program:
        try:
            assert program.wait(20) == 0
        finally:
            program.kill()
    with sqlite3.connect(path) as other:
        assert names(other) == ["child", "parent", "parent again"]
    other.close()


@pytest.mark.process
def test_processes_take_turns(path: Path) -> None:
    """Each increment of each process counts once, however they collide."""
    text = """
import sys
from msgov.connections.sqlite import Database
def step(c):
    (n,) = c.execute("SELECT n FROM counter").fetchone()
    c.execute("UPDATE counter SET n = ?", (n + 1,))
with Database(sys.argv[1], synchronous="NORMAL") as db:
    for _ in range(200):
        db.write_sync(step)
"""
    with Database(path, schema=("CREATE TABLE IF NOT EXISTS counter AS SELECT 0 AS n",)) as db:
        db.read_sync(lambda connection: None)
        programs = [script(text, path) for _ in range(3)]
        try:
            assert [program.wait(30) for program in programs] == [0, 0, 0]
        finally:
            for program in programs:
                program.kill()
                program.communicate()
        assert db.read_sync(lambda c: c.execute("SELECT n FROM counter").fetchone()) == (600,)


@pytest.mark.process
def test_killed_writer_leaves_nothing_half_written(db: Database, path: Path) -> None:
    """After `kill -9` in the middle of a transaction the next write goes through, and the file is whole."""
    text = """
import sys, time
from msgov.connections.sqlite import Database
def half(c):
    c.executemany("INSERT INTO item VALUES (?)", ((str(n),) for n in range(20_000)))
    print("half way", flush=True)
    time.sleep(60)
Database(sys.argv[1]).write_sync(half)
"""
    db.write_sync(add("before"))
    with script(text, path) as program:
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == "half way\n"
        finally:
            program.send_signal(signal.SIGKILL)
    db.write_sync(add("after"))
    assert db.read_sync(names) == ["after", "before"]
    assert db.read_sync(lambda c: c.execute("PRAGMA integrity_check").fetchone()) == ("ok",)
