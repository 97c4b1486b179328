"""The interleaver finds a race that brute force does not, shows it again, and finds none where there is none."""

from __future__ import annotations

import functools
import queue
import threading
import time
from collections.abc import Callable, Hashable, Sequence

import pytest

from msgov.errors import RuleError
from msgov.testing import Deadlock, interleave, no_leaks, outcomes


class Counter:
    """A counter that is wrong, and one that is right."""

    def __init__(self) -> None:
        self.value = 0
        self.lock = threading.Lock()

    def lossy(self) -> None:
        """Read, then write: an update between them is lost."""
        value = self.value
        self.value = value + 1

    def safe(self) -> None:
        """The same under a lock."""
        with self.lock:
            value = self.value
            self.value = value + 1


Scene = tuple[Sequence[Callable[[], object]], Callable[[], Hashable]]


def lossy() -> Scene:
    """Two that lose."""
    counter = Counter()
    return [counter.lossy, counter.lossy], lambda: counter.value


def test_lost_update_is_found_in_some_of_fifty_seeds() -> None:
    """Fifty thousand tries with threads let loose find it never."""
    found = outcomes(lossy)
    assert found.total() == 50
    assert found[1] >= 5
    assert found[2] >= 5


def test_locked_update_is_never_lost() -> None:
    """A thread that waits for a lock is passed over, and no order of turns breaks what the lock keeps."""

    def locked() -> Scene:
        counter = Counter()
        return [counter.safe] * 3, lambda: counter.value

    with no_leaks():
        assert outcomes(locked) == {3: 50}


def test_seed_replays_exactly() -> None:
    """A race that is found must come again for whoever mends it, contended locks included."""

    def history(seed: int) -> list[str]:
        log: list[str] = []
        lock, ready = threading.RLock(), threading.Condition()

        def act(name: str) -> None:
            for _ in range(2):
                log.append(f"{name} asks")
                with lock:
                    log.append(f"{name} in")
                    log.append(f"{name} out")
            with ready:
                log.append(f"{name} ready")
                while sum(entry.endswith("ready") for entry in log) < 3:
                    ready.wait()
                ready.notify_all()
                log.append(f"{name} done")

        interleave(*(functools.partial(act, name) for name in "abc"), seed=seed)
        return log

    histories = [history(seed) for seed in range(4)]
    assert [history(seed) for seed in range(4)] == histories
    assert len({tuple(log) for log in histories}) > 1, "seeds that all give one order explore nothing"


def test_only_one_thread_runs_at_a_time() -> None:
    """Else outcomes would be the machine's, not the seed's."""
    inside: list[int] = []
    most: list[int] = []

    def step() -> None:
        inside.append(1)
        time.sleep(0)  # offers the interpreter to whoever wants it
        most.append(len(inside))
        inside.pop()

    def act() -> None:
        for _ in range(20):
            step()

    interleave(act, act, act, seed=7, watch=[act])
    assert max(most) == 1


def test_results_come_in_the_order_of_the_functions() -> None:
    """Who was let in is often the outcome."""
    assert interleave(lambda: "a", lambda: "b", lambda: "c", seed=3) == ["a", "b", "c"]


def test_error_carries_seed_and_function() -> None:
    """Without the seed a failure could not be shown again."""

    def fail() -> None:
        raise KeyError("lost")

    with pytest.raises(KeyError) as caught:
        interleave(lambda: None, fail, seed=11)
    assert caught.value.__notes__ == ["interleaver: seed 11, function 1"]


def test_assertion_in_the_outcome_carries_the_seed() -> None:
    """An invariant may be asserted where the outcome is told."""

    def scene() -> Scene:
        counter = Counter()

        def outcome() -> int:
            assert counter.value == 2
            return counter.value

        return [counter.lossy, counter.lossy], outcome

    with pytest.raises(AssertionError) as caught:
        outcomes(scene)
    assert "interleaver: seed" in caught.value.__notes__[0]


def test_switches_fall_only_in_what_is_watched() -> None:
    """Steps in code that is not under test would drown those that are."""

    def scene() -> Scene:
        counter = Counter()

        def act() -> None:
            counter.lossy()

        return [act, act], lambda: counter.value

    assert outcomes(scene, watch=[Counter.safe]) == {2: 50}
    assert outcomes(scene, watch=[Counter.lossy])[1] > 0


def test_module_of_the_standard_library_can_be_watched() -> None:
    """The code under test is seldom the test's own file; and a queue's locks must not stop the show."""
    items: queue.Queue[int] = queue.Queue(maxsize=1)

    def put() -> None:
        for number in range(3):
            items.put(number)

    assert interleave(put, lambda: [items.get() for _ in range(3)], seed=5, watch=[queue]) == [None, [0, 1, 2]]


def test_deadlock_is_raised_with_where_each_thread_stands() -> None:
    """Two locks taken in two orders: the other bug that brute force seldom meets."""
    one, two = threading.Lock(), threading.Lock()

    def take(first: threading.Lock, second: threading.Lock) -> None:
        first.acquire()
        second.acquire()  # not `with`: the test must be able to free it
        second.release()
        first.release()

    def scene() -> Scene:
        return [functools.partial(take, one, two), functools.partial(take, two, one)], lambda: None

    with pytest.raises(Deadlock, match=r"seed \d+: .*interleaver-0 at test_interleaver\.py:\d+; interleaver-1 at"):
        outcomes(scene, patience=0.3)
    stuck = [thread for thread in threading.enumerate() if thread.name.startswith("interleaver-")]
    one.release()  # as no real program can
    for thread in stuck:
        thread.join(10)


def test_thread_that_never_comes_back_is_named() -> None:
    """A busy loop, or a wait for what nobody will bring, must not hang the run."""
    never = threading.Event()
    with pytest.raises(Deadlock, match=r"interleaver-0 at threading\.py"):
        interleave(never.wait, lambda: None, seed=0, patience=0.3)
    stuck = [thread for thread in threading.enumerate() if thread.name == "interleaver-0"]
    never.set()
    for thread in stuck:
        thread.join(10)


def test_function_that_is_not_python_is_refused_unless_told_what_to_watch() -> None:
    """It has no lines, so it would run unwatched without a word."""
    items: list[int] = []
    with pytest.raises(RuleError, match="written in Python"):
        interleave(functools.partial(items.append, 1), seed=0)
    interleave(functools.partial(items.append, 1), seed=0, watch=[Counter.safe])
    assert items == [1]


def test_race_of_nobody_is_refused() -> None:
    """An empty race proves nothing, and would pass."""
    with pytest.raises(RuleError, match="at least one function"):
        interleave(seed=0)
