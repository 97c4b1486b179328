"""The virtual loop jumps where a real one waits, and says when nobody can wake it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator

import pytest

from msgov.errors import RuleError
from msgov.testing import Deadlock, Leaked, VirtualLoop, no_leaks, run


@pytest.mark.slow
def test_day_of_one_second_timers_takes_seconds_and_does_not_drift() -> None:
    """Soaks of a day must fit in a test run, to the tick."""

    async def day() -> float:
        for _ in range(86_400):
            await asyncio.sleep(1)
        return asyncio.get_running_loop().time()

    began = time.process_time()
    assert run(day()) == 86_400.0
    assert time.process_time() - began < 30, "five seconds are the aim; thirty, that this machine was busy"


def test_time_starts_at_zero_and_stands_still_while_something_is_ready() -> None:
    """Work takes no virtual time: only waits do."""

    async def scene() -> float:
        for _ in range(100):
            await asyncio.sleep(0)
        return asyncio.get_running_loop().time()

    assert run(scene()) == 0.0


def test_timers_ring_in_the_order_of_their_times() -> None:
    """Whatever the order in which they were set."""

    async def scene() -> list[tuple[float, float]]:
        loop = asyncio.get_running_loop()

        async def one(seconds: float) -> None:
            await asyncio.sleep(seconds)
            rang.append((seconds, loop.time()))

        rang: list[tuple[float, float]] = []
        await asyncio.gather(one(3), one(1), one(100_000), one(2))
        return rang

    assert run(scene()) == [(1, 1), (2, 2), (3, 3), (100_000, 100_000)]


def test_timeout_of_asyncio_counts_virtual_seconds() -> None:
    """Deadlines are asyncio's own, so they must follow the loop's clock."""

    async def scene() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run(scene()) == 30.0


def test_deadlock_names_who_waits_and_where() -> None:
    """A hang costs an afternoon; its place costs a line."""

    async def waits_for_nobody() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match=r"at 0 s\n.*waits_for_nobody at locks\.py:\d+"):
        run(waits_for_nobody())


def test_wait_beside_a_periodic_timer_ends_at_the_limit() -> None:
    """A heartbeat keeps the loop busy for ever: without a limit such a hang would be one."""

    async def scene() -> None:
        async def heartbeat() -> None:
            try:
                while True:
                    await asyncio.sleep(10)
            finally:
                await asyncio.sleep(5)
                ended.append(asyncio.get_running_loop().time())

        beat = asyncio.create_task(heartbeat())
        await asyncio.Event().wait()
        beat.cancel()

    ended: list[float] = []
    with pytest.raises(Deadlock, match="limit of 3600 s"):
        run(scene(), limit=3600)
    assert ended == [3615], "what cleans up after it may take time"


def test_limit_must_be_time() -> None:
    """Refused where it is given."""
    with pytest.raises(RuleError, match="limit"):
        VirtualLoop(limit=0)


def test_thread_may_wake_a_loop_that_waits_for_nothing_else() -> None:
    """A wake-up from another thread comes in real time, and must not be taken for a deadlock before it does."""

    async def scene() -> str:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str] = loop.create_future()

        def wake() -> None:
            time.sleep(0.05)  # so that the loop has come to rest first
            loop.call_soon_threadsafe(answer.set_result, "woken")

        thread = threading.Thread(target=wake)
        thread.start()
        try:
            return await answer
        finally:
            thread.join()

    assert run(scene()) == "woken"


def test_executor_is_refused_by_name() -> None:
    """A thread takes real time, in which virtual time would run away from it."""
    with pytest.raises(RuntimeError, match="threads do not advance virtual time"):
        run(asyncio.to_thread(time.monotonic))


def test_sockets_whose_ends_live_on_the_loop_work() -> None:
    """Edges are tested on virtual time with real sockets."""

    async def scene() -> bytes:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(5)
            writer.write(await reader.readline())
            writer.close()

        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello\n")
            reply = await reader.read()
            writer.close()
            await writer.wait_closed()
        return reply

    with no_leaks():
        assert run(scene()) == b"hello\n"


def test_ready_sockets_are_served_in_the_order_of_their_descriptors() -> None:
    """The kernel reports them in the order of their events, which would make a run depend on who was quicker."""
    import socket

    pairs = sorted((socket.socketpair() for _ in range(8)), key=lambda pair: pair[0].fileno())
    order: list[int] = []

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        for here, _ in pairs:
            loop.add_reader(here, order.append, here.fileno())
        for _, there in reversed(pairs):
            there.send(b"x")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for here, _ in pairs:
            loop.remove_reader(here)

    try:
        run(scene())
        assert order[:8] == [here.fileno() for here, _ in pairs]
    finally:
        for pair in pairs:
            for end in pair:
                end.close()


def test_run_returns_the_result_and_raises_the_error() -> None:
    """It stands where `asyncio.run` stands."""

    async def answer() -> int:
        return 42

    async def fail() -> None:
        raise KeyError("lost")

    assert run(answer()) == 42
    with pytest.raises(KeyError, match="lost"):
        run(fail())


def test_task_left_running_is_cancelled_and_named() -> None:
    """Left tasks are the leak that asyncio hides: `asyncio.run` cancels them without a word."""
    ended: list[bool] = []

    async def forgotten() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.append(True)

    async def scene() -> None:
        scene.task = asyncio.create_task(forgotten())  # type: ignore[attr-defined]
        await asyncio.sleep(0)

    with pytest.raises(Leaked, match=r"1 left behind:\n  task .*forgotten at tasks\.py:\d+"):
        run(scene())
    assert ended == [True]


def test_task_that_ignores_its_cancellation_does_not_hang_the_run() -> None:
    """A bug that asyncio cannot end must still end the test, with its name."""

    async def stubborn() -> None:
        while not done:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                await asyncio.sleep(1000)

    async def scene() -> None:
        tasks.append(asyncio.create_task(stubborn()))
        await asyncio.sleep(0)

    tasks: list[asyncio.Task[None]] = []
    done: list[bool] = []
    with pytest.raises(Leaked, match="stubborn"):
        run(scene())
    tasks[0].get_coro().close()
    tasks[0]._log_destroy_pending = False  # type: ignore[attr-defined]


def test_task_that_is_ending_is_no_leak() -> None:
    """One that was cancelled, or woken, before the end only needs its turn."""

    async def scene() -> None:
        async def ends_in_turns() -> None:
            try:
                await asyncio.sleep(1000)
            finally:
                for _ in range(10):
                    await asyncio.sleep(0)

        task = asyncio.create_task(ends_in_turns())
        await asyncio.sleep(0)
        task.cancel()

    run(scene())


def test_failure_is_not_hidden_by_the_tasks_it_left() -> None:
    """They are its consequence."""

    async def scene() -> None:
        scene.task = asyncio.create_task(asyncio.sleep(1000))  # type: ignore[attr-defined]
        raise ValueError("the cause")

    with pytest.raises(ValueError, match="the cause"):
        run(scene())


def test_run_closes_generators_and_leaves_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A stream broken off early is closed with the loop, in its own time."""
    closed: list[float] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
                await asyncio.sleep(1)
        finally:
            closed.append(asyncio.get_running_loop().time())

    async def scene() -> None:
        scene.stream = numbers()  # type: ignore[attr-defined]
        async for _ in scene.stream:  # type: ignore[attr-defined]
            break

    with caplog.at_level(logging.WARNING), no_leaks():
        run(scene())
    assert closed == [0.0]
    assert not caplog.records


def test_run_inside_a_loop_is_refused() -> None:
    """Two loops in one thread would mean two times."""

    async def inner() -> None:
        return None

    async def outer() -> None:
        run(inner())

    with pytest.raises(RuntimeError, match="a loop is running"):
        run(outer())
