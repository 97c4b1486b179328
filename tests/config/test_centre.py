"""The configuration in force is live, typed, and never worse than the last good one."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from msgov.config import Config, Fixed, Handle
from msgov.config.env import Env
from msgov.config.file import File
from msgov.config.layers import Tree, at
from msgov.config.source import ConfigSource, Reading
from msgov.errors import RuleError, SourceError
from msgov.event import Event
from msgov.latest import DiskCopy
from msgov.testing.leaks import no_leaks
from msgov.testing.loop import run
from tests.config.feed import Feed, settled, tree
from tests.contract.config import run as run_really


def poison(text: str = "bad") -> RuleError:
    """Make a reading that could not be read."""
    return RuleError.at("line 1", text, "TOML", where="feed")


def started(work: Callable[[Config, Feed], Awaitable[None]], *first: Tree, **values: object) -> None:
    """Run a test with a configuration whose one source is fed, on virtual time."""

    async def main() -> None:
        feed = Feed(*first or (tree(**values),))
        async with Config({"file": feed}, clock=asyncio.get_running_loop().time) as config:
            await work(config, feed)

    run(main())


def test_handle_is_current() -> None:
    """Read where it is used, it is never a copy of yesterday."""

    async def work(config: Config, feed: Feed) -> None:
        timeout = config.handle("pay.timeout", float, gt=0)
        assert timeout.value == 1.0
        feed.feed(tree(pay={"timeout": 2}))
        await asyncio.sleep(1)
        assert timeout.value == 2.0

    started(work, pay={"timeout": 1})


def test_reading_a_handle_is_a_plain_attribute() -> None:
    """A slot, not a property: the hot path pays for nothing else."""
    assert "value" in Handle.__slots__
    assert not isinstance(vars(Handle)["value"], property)


def test_layers_win_in_the_order_given() -> None:
    """Defaults < file < centre < environment < command line, whoever spoke last."""

    async def main() -> None:
        file, centre = Feed(tree(a=1, b=1, c=1)), Feed(tree(a=2, b=2), name="centre")
        sources: Mapping[str, ConfigSource] = {
            "defaults": Fixed({"a": 0, "d": 0}, name="defaults"),
            "file": file,
            "centre": centre,
            "env": Env(environ={"MSGOV_A": "3"}),
        }
        async with Config(sources) as config:
            assert config.snapshot().tree == {"a": 3, "b": 2, "c": 1, "d": 0}
            file.feed(tree(a=7, b=7, c=7))
            centre.feed(tree(c=8))
            await asyncio.sleep(1)
            assert config.snapshot().tree == {"a": 3, "b": 7, "c": 8, "d": 0}
            assert [str(leaf) for leaf in config.explain("c")] == ["c = 8  (centre)  shadows 7 (file)"]

    run(main())


def test_bad_change_is_refused_and_the_last_good_stays() -> None:
    """And its writer is told what, where, and what may stand there."""

    async def work(config: Config, feed: Feed) -> None:
        events: list[Event] = []
        config.observers.add(events.append)
        timeout = config.handle("pay.timeout", float, gt=0)
        version = config.version
        feed.feed(tree(pay={"timeout": -1}, other=5))
        await asyncio.sleep(1)
        assert (timeout.value, config.version) == (1.0, version)
        assert [(event.kind, event.name) for event in events] == [("config.rejected", "file")]
        assert events[0].facts["where"] == "feed:pay/timeout"
        assert events[0].facts["path"] == "pay.timeout"
        assert "> 0" in str(events[0].facts["allowed"])
        assert set(config.refused) == {"file"}
        feed.feed(tree(pay={"timeout": 3}))
        await asyncio.sleep(1)
        assert (timeout.value, dict(config.refused)) == (3.0, {})

    started(work, pay={"timeout": 1})


def test_unreadable_change_is_refused_and_the_watch_goes_on() -> None:
    """A syntax error is not an outage."""

    async def work(config: Config, feed: Feed) -> None:
        events: list[Event] = []
        config.observers.add(events.append)
        feed.feed(poison())
        await asyncio.sleep(1)
        assert [event.kind for event in events] == ["config.rejected"]
        assert not config.knowledge["file"].stale
        feed.feed(tree(a=2))
        await asyncio.sleep(1)
        assert (config.value("a", int), dict(config.refused), feed.watched) == (2, {}, 1)

    started(work, a=1)


def test_source_that_raises_its_refusal_is_told_once() -> None:
    """A stranger's source may raise where ours yield, and is asked again and again."""

    class Raising(Feed):
        async def watch(self) -> AsyncIterator[Reading]:
            self.watched += 1
            if self.watched == 1:
                yield tree(a=1)
                await asyncio.sleep(0.1)
            raise poison()

    async def main() -> None:
        events: list[Event] = []
        source = Raising()
        async with Config({"file": source}, observers=[events.append]) as config:
            await asyncio.sleep(10)
            assert source.watched > 3
            assert config.value("a", int) == 1
        assert [event.kind for event in events] == ["config.changed", "config.rejected"]

    run(main())


def test_return_from_poison_to_the_same_tree_clears_the_refusal() -> None:
    """Nothing has changed but that it is well again."""

    async def work(config: Config, feed: Feed) -> None:
        feed.feed(poison())
        feed.feed(tree(a=1))
        await asyncio.sleep(1)
        assert dict(config.refused) == {}

    started(work, a=1)


def test_events_never_hold_values() -> None:
    """They go to logs, and a value may be a password."""

    async def work(config: Config, feed: Feed) -> None:
        events: list[Event] = []
        config.observers.add(events.append)
        config.handle("limit", int)
        feed.feed(tree(password="hunter2", limit=1))
        await asyncio.sleep(1)
        feed.feed(tree(password="hunter3", limit="hunter4"))
        await asyncio.sleep(1)
        assert [event.kind for event in events] == ["config.changed", "config.rejected"]
        assert events[0].facts["keys"] == "limit, password"
        assert "hunter" not in repr(events)

    started(work, limit=0, password="")


def test_first_of_a_flood_is_taken_at_once_then_five_a_second_the_last_one_wins() -> None:
    """A config centre that flaps a hundred times a second costs five decisions (F19)."""

    async def work(config: Config, feed: Feed) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(10)
        taken: list[tuple[float, object]] = []
        config.listen("n", lambda old, new: taken.append((round(loop.time() - 10, 3), new)))
        for number in range(1, 101):
            feed.feed(tree(n=number))
            await asyncio.sleep(0.01)
        await asyncio.sleep(1)
        times = [time for time, _ in taken]
        assert taken[0] == (0.0, 1)
        assert [round(late - early, 3) for early, late in itertools.pairwise(times)] == [0.2] * 5
        assert taken[-1] == (1.0, 100)

    started(work, n=0)


def test_unrelated_handle_is_left_alone_by_a_flood() -> None:
    """A limiter is not rebuilt because somebody edits a colour."""

    async def work(config: Config, feed: Feed) -> None:
        made: list[Tree] = []

        def read(whole: Tree) -> Tree:
            made.append(whole)
            return {}

        config.derive("rules", read, keys=["call", "server"])
        for number in range(20):
            feed.feed(tree(n=number, call={"a": 1}))
            await asyncio.sleep(0.05)
        assert len(made) == 1
        feed.feed(tree(call={"a": 2}))
        await asyncio.sleep(1)
        assert len(made) == 2

    started(work, n=0, call={"a": 1})


def test_derived_handle_may_veto() -> None:
    """What no single key can see is checked by who makes something of them."""

    async def work(config: Config, feed: Feed) -> None:
        def pool(whole: Tree) -> tuple[object, object]:
            low, high = at(whole, ("pool", "min")), at(whole, ("pool", "max"))
            if isinstance(low, int) and isinstance(high, int) and low > high:
                raise RuleError.at("pool.min", low, f"at most pool.max ({high})")
            return low, high

        live = config.derive("pool", pool, keys=["pool"])
        heard: list[object] = []
        live.listen(lambda old, new: heard.append((old, new)))
        feed.feed(tree(pool={"min": 9, "max": 2}))
        await asyncio.sleep(1)
        assert (live.value, "feed:pool/min" in str(config.refused["file"])) == ((1, 2), True)
        feed.feed(tree(pool={"min": 2, "max": 3}))
        await asyncio.sleep(1)
        assert heard == [((1, 2), (2, 3))]

    started(work, pool={"min": 1, "max": 2})


def test_snapshot_stays_what_it_was() -> None:
    """A request that reads twice reads one version."""

    async def work(config: Config, feed: Feed) -> None:
        before = config.snapshot()
        feed.feed(tree(a=2))
        await asyncio.sleep(1)
        assert (before.value("a", int), config.snapshot().value("a", int)) == (1, 2)
        assert before.version != config.version

    started(work, a=1)


def test_asking_twice_gives_one_handle() -> None:
    """A handle made in a request is not one more each time."""

    async def work(config: Config, feed: Feed) -> None:
        first = config.handle("a.b", float, gt=0)
        assert config.handle('a."b"', float, gt=0) is first
        assert config.handle("a.b", float, ge=0) is not first
        assert config.handle("a.b", int) is not first

    started(work, a={"b": 1})


def test_value_is_read_with_its_source_in_the_error() -> None:
    """For code that needs it once."""

    async def work(config: Config, feed: Feed) -> None:
        assert config.value("a", int, le=1) == 1
        assert config.value("b", str, default="x") == "x"
        with pytest.raises(RuleError, match=r"feed:a: a = 1: .*\(> 5\)"):
            config.value("a", int, gt=5)

    started(work, a=1)


def test_start_with_a_poisoned_file_fails_with_its_refusal() -> None:
    """Whoever started it is there to mend it."""

    async def main() -> None:
        feed = Feed(poison())
        with pytest.raises(RuleError, match="feed: line 1 = 'bad': TOML"):
            await Config({"file": feed}).start()
        assert feed.closed == 1

    run(main())


def test_start_with_a_missing_file_fails_with_its_name() -> None:
    """At once, not after a timeout."""

    async def main() -> None:
        with pytest.raises(SourceError, match="no such file"):
            await Config({"file": Feed(SourceError("no such file"))}).start()

    run(main())


def test_start_with_a_value_that_no_handle_takes_fails() -> None:
    """Handles of modules, made before anything was known, are asked too."""

    async def main(first: Tree, says: str) -> None:
        config = Config({"file": Feed(first)})
        config.handle("pay.timeout", float, gt=0)
        with pytest.raises(RuleError, match=says):
            await config.start()

    run(main(tree(pay={"timeout": 0}), "feed:pay/timeout: pay.timeout = 0"))
    run(main(tree(other=1), r"pay\.timeout = .*required"))


def test_start_waits_for_a_config_centre_and_then_goes_on_without() -> None:
    """It is down, and nobody has a copy: what has a default runs, and `silent` says so to readiness."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        centre = Feed(name="centre", kept=True)
        config = Config({"file": Feed(tree(a=1)), "centre": centre}, patience=3)
        limit = config.handle("limit", int, default=9)
        async with config:
            assert (loop.time(), config.silent, limit.value) == (3, ("centre",), 9)
            centre.feed(tree(limit=5))
            await asyncio.sleep(1)
            assert (config.silent, limit.value) == ((), 5)

    run(main())


def test_start_does_not_wait_for_a_centre_that_failed() -> None:
    """It has answered: with a failure."""

    async def main() -> None:
        centre = Feed(SourceError("refused"), name="centre", kept=True)
        async with Config({"centre": centre}, patience=30) as config:
            assert asyncio.get_running_loop().time() == 0
            assert config.knowledge["centre"].stale
            centre.feed(tree(a=1))
            await asyncio.sleep(10)
            assert config.value("a", int) == 1
            assert not config.knowledge["centre"].stale

    run(main())


def test_failure_makes_knowledge_old_and_not_absent() -> None:
    """A dead backend changes nothing but the age."""

    async def main() -> None:
        centre = Feed(tree(a=1), name="centre", kept=True)
        clock = asyncio.get_running_loop().time
        async with Config({"centre": centre}, clock=clock) as config:
            centre.feed(OSError("connection reset"))
            await asyncio.sleep(100)
            assert config.value("a", int) == 1
            assert config.knowledge["centre"].age(clock()) == 100

    run(main())


def test_start_names_the_poison_that_leaves_a_handle_without_a_value() -> None:
    """That it is required alone would send people looking for a key that is there."""

    async def main() -> None:
        config = Config({"centre": Feed(poison(), name="centre", kept=True)})
        config.handle("a", int)
        with pytest.raises(RuleError, match="line 1 = 'bad'"):
            await config.start()

    run(main())


def test_file_that_was_poisoned_after_its_load_does_not_stop_the_start() -> None:
    """Its last good is known by then."""

    class Loaded(Feed):
        def now(self) -> Tree:
            return tree(a=1)

    async def main() -> None:
        config = Config({"file": Loaded(poison())})
        config.load()
        async with config:
            assert (config.value("a", int), set(config.refused)) == (1, {"file"})

    run(main())


def test_close_ends_tasks_and_closes_sources() -> None:
    """And may be called again; what was known can still be read."""

    async def main() -> None:
        feed = Feed(tree(a=1))
        config = Config({"file": feed})
        await config.start()
        with pytest.raises(RuntimeError, match="started already"):
            await config.start()
        await config.close()
        await config.close()
        feed.feed(tree(a=2))
        await settled()
        assert (config.value("a", int), feed.closed) == (1, 2)

    run(main())


def test_change_that_waits_for_its_turn_is_dropped_by_close() -> None:
    """No timer fires into what is closed."""

    async def main() -> None:
        feed = Feed(tree(a=1))
        async with Config({"file": feed}) as config:
            feed.feed(tree(a=2))
            await settled()
        await asyncio.sleep(1)
        assert config.value("a", int) == 1

    run(main())


def test_listener_of_everything_and_its_end() -> None:
    """For who keeps a copy elsewhere, such as a console."""

    async def work(config: Config, feed: Feed) -> None:
        heard: list[object] = []
        end = config.listen("", lambda old, new: heard.append(new))
        feed.feed(tree(a=2))
        await asyncio.sleep(1)
        end()
        feed.feed(tree(a=3))
        await asyncio.sleep(1)
        assert heard == [{"a": 2}]

    started(work, a=1)


def test_load_reads_files_and_environment_without_a_loop(tmp_path: Path) -> None:
    """A service of threads has values before it has a loop, and starts no thread for it."""
    path = tmp_path / "msgov.toml"
    path.write_text("[pay]\ntimeout = 1.5\ntries = 3\n")
    with no_leaks():
        config = Config({"file": File(path), "env": Env(environ={"MSGOV_PAY__TRIES": "5"})})
        before = config.handle("pay.tries", int)
        assert not before.known
        config.load()
        assert (before.value, config.handle("pay.timeout", float).value, config.silent) == (5, 1.5, ())
        with pytest.raises(RuleError, match=r"MSGOV_PAY__TRIES: pay\.tries = 5"):
            config.handle("pay.tries", int, lt=5)
        with pytest.raises(RuleError, match=r"pay\.other = .*required"):
            config.handle("pay.other", float)


def test_load_refuses_what_start_would_refuse(tmp_path: Path) -> None:
    """The same words, from a thread."""
    path = tmp_path / "msgov.toml"
    with pytest.raises(SourceError, match="No such file"):
        Config({"file": File(path)}).load()
    path.write_text("a = [\n")
    with pytest.raises(RuleError, match=re.escape(str(path))):
        Config({"file": File(path)}).load()
    path.write_text("a = -1\n")
    config = Config({"file": File(path)})
    config.handle("a", int, gt=0)
    with pytest.raises(RuleError, match="a = -1"):
        config.load()


def test_load_then_start_goes_on_where_it_was(tmp_path: Path) -> None:
    """The handle made in between follows; the file is read twice and changes nothing."""
    path = tmp_path / "msgov.toml"
    path.write_text("a = 1\n")

    async def main() -> None:
        config = Config({"file": File(path, every=0.02)})
        config.load()
        live = config.handle("a", int)
        heard: list[tuple[int, int]] = []
        live.listen(lambda old, new: heard.append((old, new)))
        changed = asyncio.Event()
        live.listen(lambda old, new: changed.set())
        async with config:
            path.write_text("a = 2\n")
            await asyncio.wait_for(changed.wait(), 10)
        assert (live.value, heard) == (2, [(1, 2)])

    run_really(main())


def test_last_good_of_the_centre_stands_in_when_it_is_down(tmp_path: Path) -> None:
    """Over a restart: only what may be away is kept, and the file is read anew."""

    async def main() -> None:
        copy = DiskCopy(tmp_path / "copies" / "config")
        sources = {"file": Feed(tree(a=1)), "centre": Feed(tree(b=1), tree(b=2), name="centre", kept=True)}
        changed = asyncio.Event()
        async with Config(sources, copy=copy) as config:
            config.listen("b", lambda old, new: changed.set())
            if config.value("b", int) != 2:
                await changed.wait()
        assert json.loads(copy.load() or b"") == {"centre": {"b": 2}}
        assert copy.path.stat().st_mode & 0o077 == 0

        away = {"file": Feed(tree(a=5)), "centre": Feed(SourceError("down"), name="centre", kept=True)}
        config = Config(away, copy=copy)
        live = config.handle("b", int)
        async with config:
            assert (config.snapshot().tree, live.value, config.silent) == ({"a": 5, "b": 2}, 2, ())

    run_really(main())


def test_last_good_stays_over_a_restart_while_the_poison_persists(tmp_path: Path) -> None:
    """F18: refused by its value, or not readable at all."""

    async def main() -> None:
        copy = DiskCopy(tmp_path / "config")
        copy.save(json.dumps({"centre": {"limit": 5}}).encode())
        for bad in (tree(limit=-1), poison()):
            events: list[Event] = []
            centre = Feed(bad, name="centre", kept=True)
            config = Config({"centre": centre}, copy=copy, observers=[events.append])
            limit = config.handle("limit", int, gt=0)
            async with config:
                assert (limit.value, set(config.refused)) == (5, {"centre"})
            assert [event.kind for event in events if event.name] == ["config.rejected"]
            assert json.loads(copy.load() or b"") == {"centre": {"limit": 5}}

    run_really(main())


def test_damaged_copy_is_ignored_and_told(tmp_path: Path) -> None:
    """S23: a start without, rather than from half of it."""

    async def main() -> None:
        copy = DiskCopy(tmp_path / "config")
        copy.save(b"{}")
        copy.path.write_bytes(copy.path.read_bytes()[:-1])
        events: list[Event] = []
        down = Feed(SourceError("down"), name="centre", kept=True)
        async with Config({"centre": down}, copy=copy, observers=[events.append]) as config:
            assert config.silent == ("centre",)
        assert [event.kind for event in events] == ["config.copy_ignored"]

    run_really(main())


def test_copy_of_layers_that_are_no_more_is_passed_over(tmp_path: Path) -> None:
    """The code has moved on since it was written; and a file's layer is never taken from a copy."""

    async def main() -> None:
        copy = DiskCopy(tmp_path / "config")
        copy.save(json.dumps({"older": {"a": 1}, "file": {"a": 2}, "centre": {"b": 3}}).encode())
        sources = {"file": Feed(tree(c=4)), "centre": Feed(SourceError("down"), name="centre", kept=True)}
        async with Config(sources, copy=copy) as config:
            assert config.snapshot().tree == {"b": 3, "c": 4}

    run_really(main())


def test_copy_that_cannot_be_written_is_told_and_harms_nothing(tmp_path: Path) -> None:
    """A full disk must not stop a change."""
    (tmp_path / "file").write_text("")

    async def main() -> None:
        copy = DiskCopy(tmp_path / "file" / "config")
        events: list[Event] = []
        centre = Feed(tree(a=1), name="centre", kept=True)
        async with Config({"centre": centre}, copy=copy, observers=[events.append]) as config:
            assert config.value("a", int) == 1
        assert "config.copy_failed" in [event.kind for event in events]

    run_really(main())


def test_load_takes_the_copy_of_what_cannot_be_read_at_once(tmp_path: Path) -> None:
    """A threaded service starts with its config centre down as well."""

    class Down(Feed):
        def now(self) -> Tree:
            raise SourceError("down")

    copy = DiskCopy(tmp_path / "config")
    copy.save(json.dumps({"centre": {"b": 2}}).encode())
    config = Config({"file": Fixed({"a": 1}, name="f"), "centre": Down(name="centre", kept=True)}, copy=copy)
    config.load()
    assert config.snapshot().tree == {"a": 1, "b": 2}
    assert config.knowledge["centre"].stale


def test_ten_thousand_handles_hear_of_a_change_soon() -> None:
    """In under 50 ms on a quiet machine; here the bound is for a busy one."""

    async def work(config: Config, feed: Feed) -> None:
        handles = [config.handle(f"group{n % 100}.key{n}", float, gt=0) for n in range(10_000)]
        loop = asyncio.get_running_loop()
        await asyncio.sleep(1)
        told: list[float] = []
        config.listen("group0", lambda old, new: told.append(loop.time()))
        feed.feed(tree(**{f"group{g}": {f"key{n}": 2 for n in range(g, 10_000, 100)} for g in range(100)}))
        await asyncio.sleep(1)
        assert all(handle.value == 2 for handle in handles)

    started(work, **{f"group{g}": {f"key{n}": 1 for n in range(g, 10_000, 100)} for g in range(100)})


def test_handles_may_be_read_by_any_thread() -> None:
    """They are attributes; a reader sees one good value or the next."""

    async def main() -> None:
        feed = Feed(tree(a=1))
        async with Config({"file": feed}) as config:
            live = config.handle("a", int)
            seen: set[int] = set()
            over = threading.Event()

            def read() -> None:
                while not over.is_set():
                    seen.add(live.value)

            thread = threading.Thread(target=read)
            thread.start()
            changed = asyncio.Event()
            live.listen(lambda old, new: changed.set())
            feed.feed(tree(a=2))
            await asyncio.wait_for(changed.wait(), 10)
            over.set()
            await asyncio.to_thread(thread.join)
            assert seen <= {1, 2}

    run_really(main())
