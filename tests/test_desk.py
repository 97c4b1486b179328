"""What is left for a waiting thread is done once, by it or, when it has gone, by whoever leaves it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable

from msgov import _desk
from msgov._desk import Desk
from msgov.clock import monotonic
from msgov.testing import ManualClock, outcomes

Scene = tuple[list[Callable[[], object]], Callable[[], Hashable]]


def test_things_are_done_in_their_time() -> None:
    """By time, then in the order in which they were set; what was called off is not."""
    done: list[str] = []
    clock = ManualClock()
    desk = Desk(clock)
    for seconds, what in ((2.0, "c"), (1.0, "a"), (1.0, "b"), (0.5, "off")):
        alarm = desk.later(seconds, lambda what=what: done.append(what))  # type: ignore[misc]
    alarm.cancel()
    clock.advance(3.0)
    for _ in range(3):
        desk.work()
    assert done == ["a", "b", "c"]


def test_what_was_put_down_comes_before_what_is_not_due() -> None:
    """A reply does not wait for a timer."""
    done: list[str] = []
    desk = Desk(monotonic)
    desk.later(60.0, lambda: done.append("later"))
    desk.put(lambda: done.append("now"))
    desk.work()
    assert done == ["now"]


def test_wait_ends_when_something_is_put_down() -> None:
    """From another thread."""
    done: list[str] = []
    desk = Desk(monotonic)
    thread = threading.Thread(target=desk.put, args=(lambda: done.append("here"),))
    thread.start()
    desk.work()
    thread.join()
    assert done == ["here"]


def test_closed_desk_does_what_is_left_and_then_lets_others() -> None:
    """Nothing is lost when the caller has its reply."""
    done: list[str] = []
    desk = Desk(ManualClock())
    desk.put(lambda: done.append("left"))
    desk.close()
    assert done == ["left"]
    desk.put(lambda: done.append("own"))
    assert done == ["left", "own"]


def test_nothing_is_lost_between_open_and_closed() -> None:
    """Whichever comes first, it is done, and done once."""

    def scene() -> Scene:
        done: list[int] = []
        desk = Desk(ManualClock())
        return [lambda: desk.put(lambda: done.append(1)), desk.close], lambda: tuple(done)

    assert set(outcomes(scene, watch=[_desk], seeds=range(30))) == {(1,)}
