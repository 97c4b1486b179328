"""Gates are told how loaded the process is while somebody looks, and told that nothing is known when nobody does."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest

from msgov.resilience import Adaptive, Load, Shedder
from msgov.testing import run


class Told:
    """A gate that notes what it is told."""

    def __init__(self) -> None:
        self.readings: list[tuple[float, float, float]] = []

    def sense(self, *, cpu: float, lag: float, delay: float) -> None:
        """Note it."""
        self.readings.append((cpu, lag, delay))


class Desk(Executor):
    """Threads that the test is: work lies on the desk until it is done."""

    def __init__(self) -> None:
        self.work: list[tuple[Future[Any], Callable[[], Any]]] = []
        self.closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Take work in."""
        if self.closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        done: Future[Any] = Future()
        self.work.append((done, fn))
        return done

    def finish(self) -> None:
        """Do the oldest."""
        done, fn = self.work.pop(0)
        done.set_result(fn())


class Shares:
    """A CPU that is as busy as it is told."""

    def __init__(self, *shares: float) -> None:
        self.shares = list(shares)

    def __call__(self, now: float) -> float:
        """Return the next share, the last one for ever."""
        return self.shares.pop(0) if len(self.shares) > 1 else self.shares[0]


def looked(seconds: float, cpu: Callable[[float], float], executor: Executor | None = None) -> tuple[Load, Told]:
    """Look for so long on a loop without work; return both while it still looked."""
    told = Told()

    async def scene() -> Load:
        clock = asyncio.get_running_loop().time
        async with Load([told], cpu=cpu, executor=executor, clock=clock) as load:
            await asyncio.sleep(seconds)
            return load

    return run(scene()), told


def test_gates_are_told_ten_times_a_second() -> None:
    """And nothing before the first look."""
    _, told = looked(1.05, Shares(0.0))
    assert told.readings == [(0.0, 0.0, 0.0)] * 11  # the last one is the end


def test_cpu_is_smoothed_over_seconds() -> None:
    """aegis: 0.95 of the old reading every 500 ms, from the first real one on; one burst sheds nothing."""
    _, told = looked(2.55, Shares(0.0, 0.2, 1.0))
    assert [round(cpu, 4) for cpu, _, _ in told.readings[:25:5]] == [0.0, 0.2, 0.24, 0.278, 0.3141]


def test_blocked_loop_is_late() -> None:
    """What was ready waited for whoever blocked; it fades within a second."""
    told, now = Told(), [0.0]

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        async with Load([told], cpu=Shares(0.0), clock=lambda: loop.time() + now[0]):
            await asyncio.sleep(0.15)
            now[0] = 1.0  # as if somebody had held the loop for a second
            await asyncio.sleep(1.0)

    run(scene())
    lags = [lag for _, lag, _ in told.readings]
    assert lags[:3] == pytest.approx([0.0, 0.3, 0.21])
    assert lags[-2] < 0.02


def test_work_that_waits_for_a_thread_is_delayed() -> None:
    """One probe at a time lies on the desk; as long as it does, the delay grows with it."""
    told, desk = Told(), Desk()

    async def scene() -> None:
        clock = asyncio.get_running_loop().time
        async with Load([told], cpu=Shares(0.0), executor=desk, clock=clock):
            await asyncio.sleep(0.55)
            assert len(desk.work) == 1
            desk.finish()
            await asyncio.sleep(0.1)
            desk.finish()
            await asyncio.sleep(0.1)

    run(scene())
    delays = [round(delay, 2) for _, _, delay in told.readings]
    assert delays == [0.0, 0.1, 0.2, 0.3, 0.4, 0.45, 0.05, 0.0]
    assert desk.work[0][0].cancelled()


def test_closed_executor_delays_nobody() -> None:
    """Nobody waits for it any more, and the pump goes on."""
    desk = Desk()
    desk.closed = True
    load, told = looked(0.35, Shares(0.0), desk)
    assert (load.delay, len(told.readings)) == (0.0, 4)


def test_real_threads_are_measured() -> None:
    """A pool whose one thread is held is late by as long as it is held."""
    told, held = Told(), threading.Event()

    async def scene(pool: ThreadPoolExecutor) -> None:
        pool.submit(held.wait, 10.0)
        async with Load([told], cpu=Shares(0.0), executor=pool):
            end = time.monotonic() + 10.0
            while not (told.readings and told.readings[-1][2] >= 0.2) and time.monotonic() < end:
                await asyncio.sleep(0.02)
            held.set()

    with ThreadPoolExecutor(1) as pool:
        asyncio.run(scene(pool))
    assert max(delay for _, _, delay in told.readings) >= 0.2


def test_end_takes_the_readings_back() -> None:
    """An old reading must not go on shedding when nobody looks any more."""
    shedder, adaptive = Shedder(), Adaptive()

    async def scene() -> tuple[str, float]:
        clock = asyncio.get_running_loop().time
        async with Load([shedder, adaptive], cpu=Shares(1.0), clock=clock) as load:
            await asyncio.sleep(1.0)
            load.lag = 9.0
            await asyncio.sleep(0.1)
            return shedder.strained, adaptive.lag

    strained, lag = run(scene())
    assert strained == "cpu"
    assert lag == pytest.approx(6.3)
    assert (shedder.strained, shedder.cpu, adaptive.lag) == ("", 0.0, 0.0)


def test_gates_may_come_and_go() -> None:
    """What is given is gone through anew each time."""
    first, second = Told(), Told()
    gates = [first]

    async def scene() -> None:
        async with Load(gates, cpu=Shares(0.0), clock=asyncio.get_running_loop().time):
            await asyncio.sleep(0.15)
            gates.append(second)
            gates.remove(first)
            await asyncio.sleep(0.2)

    run(scene())
    assert (len(first.readings), len(second.readings)) == (1, 3)


def test_faulty_gate_is_reported_and_the_pump_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one bad gate would leave the others with old readings for ever."""
    reported: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", lambda report: reported.append(report.exc_value))

    class Faulty(Told):
        def sense(self, *, cpu: float, lag: float, delay: float) -> None:
            super().sense(cpu=cpu, lag=lag, delay=delay)
            raise ValueError("broken")

    faulty = Faulty()

    async def scene() -> None:
        async with Load([faulty], cpu=Shares(0.0), clock=asyncio.get_running_loop().time):
            await asyncio.sleep(0.25)

    run(scene())
    assert (len(faulty.readings), [str(error) for error in reported]) == (3, ["broken"] * 3)


def test_load_is_entered_once() -> None:
    """Two pumps would tell the same gates two stories; after its end it may begin again."""
    load = Load([], cpu=Shares(0.0))

    async def scene() -> None:
        async with load:
            with pytest.raises(RuntimeError, match="runs already"):
                await load.__aenter__()
        async with load:
            pass

    run(scene())
