"""Timers ring in time, one faulty act costs no other, and their thread goes when it has nothing to do."""

from __future__ import annotations

import gc
import sys
import threading

import pytest

from msgov.transport.grpc import timers as timers_module
from msgov.transport.grpc.timers import Timers
from tests.transport.grpc.worlds import wait


def test_they_ring_in_the_order_of_their_times() -> None:
    """Whatever order they were set in."""
    timers, rung = Timers(), []
    for seconds in (0.03, 0.01, 0.02, 0.0):
        timers.later(seconds, lambda seconds=seconds: rung.append(seconds))
    wait(lambda: len(rung) == 4)
    assert rung == [0.0, 0.01, 0.02, 0.03]


def test_one_that_was_called_off_does_not_ring() -> None:
    """Nor does it keep what it would have done."""
    timers, rung = Timers(), []

    class Kept:
        def act(self) -> None:
            rung.append("off")

    alarm = timers.later(0.02, Kept().act)
    alarm.cancel()
    assert not [each for each in gc.get_objects() if type(each) is Kept]
    timers.later(0.04, lambda: rung.append("on"))
    wait(lambda: rung == ["on"])


def test_a_faulty_act_is_reported_and_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead thread would stop every retry of the process."""
    reports: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", reports.append)
    timers, rung = Timers(), []
    timers.later(0.0, lambda: 1 / 0)
    timers.later(0.01, lambda: rung.append(1))
    wait(lambda: rung == [1])
    assert len(reports) == 1


def test_the_thread_goes_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that calls nobody keeps no thread for it."""
    monkeypatch.setattr(timers_module, "IDLE", 0.01)
    timers, rung = Timers(), []
    for turn in range(20):
        timers.later(0.0, lambda turn=turn: rung.append(turn))
        wait(lambda turn=turn: turn in rung)
        thread = timers._thread
        if thread is not None and turn % 2:
            thread.join(5)
    wait(lambda: timers._thread is None)
    assert rung == list(range(20))


def test_none_is_lost_as_the_thread_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is set at the very moment at which it ends."""
    monkeypatch.setattr(timers_module, "IDLE", 0.0005)
    timers, rung, pause = Timers(), [], threading.Event()
    for turn in range(300):
        timers.later(0.0, lambda turn=turn: rung.append(turn))
        pause.wait(0.0005)
    wait(lambda: len(rung) == 300)


def test_a_finaliser_may_set_one_while_one_is_set() -> None:
    """The collector runs wherever it likes: in a lock of ours it would wait for ever."""
    timers, rung = Timers(), threading.Semaphore(0)

    class Dropped:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            timers.later(0.0, rung.release)

    gc.collect()
    before = gc.get_threshold()
    gc.set_threshold(1, 1, 1)  # collect at every chance
    try:
        for _ in range(200):
            Dropped()
            timers.later(0.0, rung.release)
    finally:
        gc.set_threshold(*before)
    gc.collect()
    for _ in range(400):
        assert rung.acquire(timeout=5)
