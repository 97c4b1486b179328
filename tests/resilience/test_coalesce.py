"""Equal calls at the same time are one, and whoever asks leaves alone."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import pytest

from msgov import aio, scope, sync
from msgov.call import Call
from msgov.errors import DeadlineExceeded, RuleError
from msgov.pipeline import Pipeline, Policy
from msgov.resilience import Coalesce, CoalesceRule, Deadline, policies
from msgov.testing import After, ScriptedHandler, run
from tests.drivers.stage import Door

Ask = Callable[[Call], Awaitable[object]]


def tea(deadline: float | None = None, *, idempotent: bool = True) -> Call:
    """Ask for tea."""
    return Call("shop", "price", "tea", deadline=deadline, idempotent=idempotent)


def governed(handler: ScriptedHandler, *chain: Policy) -> Ask:
    """Put policies round a handler, on the loop's own time."""
    return aio.govern(Pipeline(chain), handler.aio, clock=asyncio.get_running_loop().time)


def asking(ask: Ask, deadline: float | None = None) -> asyncio.Task[object]:
    """Begin a call."""

    async def call() -> object:
        return await ask(tea(deadline))

    return asyncio.create_task(call())


def test_equal_calls_share_one_execution() -> None:
    """The reply as it is, the very object; and nothing is remembered."""
    both = Coalesce()

    async def scene() -> None:
        reply = object()
        handler = ScriptedHandler(After(1.0, reply), "anew")
        ask = governed(handler, both)
        assert await asyncio.gather(*(ask(tea()) for _ in range(100))) == [reply] * 100
        assert await ask(tea()) == "anew"

    run(scene())
    assert (both.led, both.joined, both.alone, len(both)) == (2, 99, 0, 0)


def test_other_calls_go_their_own_way() -> None:
    """Another request, and calls that each must be made."""

    async def scene() -> None:
        handler = ScriptedHandler(After(1.0, 1), After(1.0, 2), After(1.0, 3), After(1.0, 4))
        ask = governed(handler, Coalesce())
        calls = [tea(), Call("shop", "price", "cup", idempotent=True), tea(idempotent=False), tea(idempotent=False)]
        assert sorted(map(str, await asyncio.gather(*map(ask, calls)))) == ["1", "2", "3", "4"]

    run(scene())


def test_error_is_shared_as_it_is() -> None:
    """The one exception, to all who wait."""

    async def scene() -> None:
        down = ConnectionError("down")
        ask = governed(ScriptedHandler(After(1.0, down)), Coalesce())
        assert await asyncio.gather(*(ask(tea()) for _ in range(3)), return_exceptions=True) == [down] * 3

    run(scene())


class Weak(Exception):
    """An error that can be watched."""


def test_error_leaves_no_knot_behind() -> None:
    """With the last who caught it, it is gone, and the frames that it held: nothing waits for the collector."""

    async def scene() -> list[weakref.ref[BaseException]]:
        async def fails(call: Call) -> object:
            await asyncio.sleep(1.0)
            raise Weak

        ask = aio.govern(Pipeline([Coalesce()]), fails, clock=asyncio.get_running_loop().time)
        seen: list[weakref.ref[BaseException]] = []

        async def one() -> None:
            try:
                await ask(tea())
            except Weak as error:
                seen.append(weakref.ref(error))

        await asyncio.gather(*(one() for _ in range(3)))
        await asyncio.sleep(0)
        return [ref for ref in seen if ref() is not None]

    gc.collect()
    gc.disable()
    try:
        assert run(scene()) == []
    finally:
        gc.enable()


@pytest.mark.parametrize("leaver", [0, 1, 2])
def test_cancelled_caller_leaves_alone(leaver: int) -> None:
    """Whoever it is, the first too: the others have the reply of the one execution."""

    async def scene() -> None:
        handler = ScriptedHandler(After(2.0, "reply"))
        ask = governed(handler, Coalesce())
        tasks = [asking(ask) for _ in range(3)]
        await asyncio.sleep(1.0)
        gone = tasks.pop(leaver)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert asyncio.get_running_loop().time() == 1.0
        assert await asyncio.gather(*tasks) == ["reply"] * 2
        assert len(handler.calls) == 1

    run(scene())


def test_last_to_leave_cancels_the_work_and_waits_for_its_end() -> None:
    """As if there were no sharing: who awaits a cancelled call finds it cleaned up."""
    ended: list[str] = []

    async def scene() -> None:
        async def slow(call: Call) -> object:
            try:
                await asyncio.sleep(60.0)
            finally:
                await asyncio.sleep(0.5)
                ended.append("cleaned up")
            return None

        ask = aio.govern(Pipeline([Coalesce()]), slow, clock=asyncio.get_running_loop().time)
        tasks = [asking(ask) for _ in range(2)]
        await asyncio.sleep(1.0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert ended == ["cleaned up"]
        assert all(task.cancelled() for task in tasks)

    run(scene())


def test_nobody_joins_work_that_is_being_cancelled() -> None:
    """Who comes while it dies begins anew."""

    async def scene() -> None:
        handler = ScriptedHandler(After(60.0), "anew")
        ask = governed(handler, Coalesce())
        first = asking(ask)
        await asyncio.sleep(1.0)
        first.cancel()
        second = asking(ask)
        await asyncio.wait([first])
        assert await second == "anew"

    run(scene())


def test_cancellation_as_soon_as_the_work_has_begun_leaves_nothing() -> None:
    """Its task was made in the same turn of the loop."""
    both = Coalesce()

    async def scene() -> None:
        handler = ScriptedHandler(After(60.0), "anew")
        ask = governed(handler, both)
        first = asking(ask)
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        assert await ask(tea()) == "anew"

    run(scene())
    assert len(both) == 0


def test_work_that_is_cancelled_from_within_is_begun_again_by_those_who_joined() -> None:
    """The first caller gets what it would get alone; for the others it says nothing."""

    async def scene() -> None:
        handler = ScriptedHandler(After(1.0, asyncio.CancelledError), After(1.0, "anew"))
        ask = governed(handler, Coalesce())
        first, second, third = (asking(ask) for _ in range(3))
        assert list(await asyncio.gather(second, third)) == ["anew", "anew"]
        assert first.cancelled()
        assert len(handler.calls) == 2

    run(scene())


def test_own_deadline_bounds_the_wait_of_one_who_joined() -> None:
    """Whatever time the first has."""

    async def scene() -> None:
        ask = governed(ScriptedHandler(After(5.0, "reply")), Coalesce())
        first = asking(ask)
        await asyncio.sleep(1.0)
        with pytest.raises(DeadlineExceeded, match="that it joined gave no answer in"):
            await ask(tea(3.0))
        assert asyncio.get_running_loop().time() == 3.0
        assert await first == "reply"

    run(scene())


def test_deadline_of_the_first_does_not_end_the_others() -> None:
    """It leaves; the work goes on for those with more time, and its scope's deadline binds only what it calls."""

    async def scene() -> None:
        handler = ScriptedHandler(After(5.0, "reply"))
        both = Coalesce()
        first, second = asking(governed(handler, Deadline(2.0), both)), asking(governed(handler, both))
        with pytest.raises(DeadlineExceeded):
            await first
        assert asyncio.get_running_loop().time() == pytest.approx(2.0, abs=0.011)
        assert await second == "reply"
        assert len(handler.calls) == 1

    run(scene())


def test_work_that_fails_by_the_deadline_of_the_first_is_begun_again() -> None:
    """Inside, it is a deadline like any other: the callee was not given the others' time."""

    async def scene() -> None:
        handler = ScriptedHandler(After(2.0, DeadlineExceeded("late")), After(1.0, "anew"))
        ask = governed(handler, Coalesce())
        first, second, third = asking(ask, 2.0), asking(ask), asking(ask, 9.0)
        assert list(await asyncio.gather(second, third)) == ["anew", "anew"]
        with pytest.raises(DeadlineExceeded):
            await first
        assert [call.deadline for call in handler.calls] == [2.0, None]

    run(scene())


def test_work_has_a_call_and_a_context_of_its_own() -> None:
    """What is set inside reaches neither the first nor the others; the status of the reply reaches all."""
    mark: ContextVar[str] = ContextVar("mark", default="outside")

    async def scene() -> None:
        async def handler(call: Call) -> object:
            assert mark.get() == "caller"
            mark.set("inside")
            call.status, call.attempt, call.deadline = "201", 3, 9.0
            await asyncio.sleep(1.0)
            return "reply"

        ask = aio.govern(Pipeline([Coalesce()]), handler, clock=asyncio.get_running_loop().time)
        mark.set("caller")
        calls = [tea(), tea()]
        await asyncio.gather(*map(ask, calls))
        assert mark.get() == "caller"
        assert [(call.status, call.attempt, call.deadline) for call in calls] == [("201", 3, None), ("201", 1, None)]

    run(scene())
    assert scope.current.get() is scope.EMPTY


def test_gates_outside_count_callers_and_gates_inside_count_executions() -> None:
    """The limit of a callee is spent once."""
    outer, inner = Door([], "outer"), Door([], "inner")

    async def scene() -> None:
        ask = governed(ScriptedHandler(After(1.0, "reply")), outer, Coalesce(), inner)
        await asyncio.gather(*(ask(tea()) for _ in range(5)))

    run(scene())
    assert (outer.tickets, inner.tickets, len(outer.outcomes), len(inner.outcomes)) == (5, 1, 5, 1)


def test_call_from_within_itself_goes_alone() -> None:
    """It would wait for its own end."""

    async def scene() -> None:
        depth = 0

        async def handler(call: Call) -> object:
            nonlocal depth
            depth += 1
            return "bottom" if depth == 2 else await ask(tea())

        ask = aio.govern(Pipeline([both]), handler, clock=asyncio.get_running_loop().time)
        assert await ask(tea()) == "bottom"

    both = Coalesce()
    run(scene())
    assert both.alone == 1


def test_without_room_a_call_goes_alone() -> None:
    """The bound costs sharing, never a call."""
    both = Coalesce(CoalesceRule(keys_max=1))
    assert both.rule.keys_max == 1

    async def scene() -> None:
        ask = governed(ScriptedHandler(After(1.0, 1), After(1.0, 2)), both)
        assert set(await asyncio.gather(ask(tea()), ask(Call("shop", "price", "cup", idempotent=True)))) == {1, 2}

    run(scene())
    both.rule = CoalesceRule(keys_max=2)
    assert (both.rule.keys_max, both.alone) == (2, 1)


def test_cancellation_storm_leaves_nothing_behind() -> None:
    """Callers that leave at any moment, alone or together: no flight, no task, and every reply is right."""
    both = Coalesce()

    async def scene() -> None:
        handler = ScriptedHandler(After(3.0, "reply"), cycle=True)
        ask = governed(handler, both)
        tasks = []
        for at in range(200):
            tasks.append(asking(ask))
            if at % 3:
                asyncio.get_running_loop().call_later(at % 7 * 0.5, tasks[-1].cancel)
            await asyncio.sleep(at % 5 * 0.25)
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert {reply if isinstance(reply, str) else type(reply) for reply in done} == {"reply", asyncio.CancelledError}
        assert handler.running == 0

    run(scene())
    assert len(both) == 0


def test_two_loops_never_wait_for_each_other() -> None:
    """A future of one cannot be awaited in the other: each has its own execution."""
    both, gate = Coalesce(), threading.Barrier(2)

    async def handler(call: Call) -> object:
        gate.wait(5.0)
        return threading.get_ident()

    def one() -> object:
        async def scene() -> object:
            return await aio.govern(Pipeline([both]), handler)(tea())

        return asyncio.run(scene())

    with ThreadPoolExecutor(2) as pool:
        replies = [future.result() for future in [pool.submit(one), pool.submit(one)]]
    assert len(set(replies)) == 2


def fail(call: Call) -> object:
    """Raise an error that nobody else holds."""
    raise Weak


class Threads:
    """Callers in threads round one function that is let go by hand."""

    def __init__(self, *script: object) -> None:
        self.both = Coalesce()
        self.entered, self.go = threading.Semaphore(0), threading.Event()
        self.handler = ScriptedHandler(*script)
        self.ask = sync.govern(Pipeline([self.both]), self.held)

    def held(self, call: Call) -> object:
        """Wait to be let go."""
        self.entered.release()
        assert self.go.wait(10.0)
        return self.handler.sync(call)

    def joined(self, count: int) -> None:
        """Wait until so many have joined."""
        deadline = time.monotonic() + 10.0
        while self.both.joined < count:
            assert time.monotonic() < deadline
            time.sleep(0.001)


def test_threads_share_one_execution() -> None:
    """The first does the work, the others wait for it."""
    on = Threads("reply")
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(on.ask, tea()) for _ in range(8)]
        on.joined(7)
        on.go.set()
        assert [future.result(10.0) for future in futures] == ["reply"] * 8
    assert (on.both.led, len(on.both)) == (1, 0)


def test_threads_share_the_error_and_leave_no_knot_behind() -> None:
    """The very exception, whose frames hold nothing that holds it."""
    on = Threads()
    on.handler.sync = fail  # type: ignore[method-assign]  # a script would hold the error
    seen: list[weakref.ref[BaseException]] = []

    def one() -> None:
        try:
            on.ask(tea())
        except Weak as error:
            seen.append(weakref.ref(error))

    gc.collect()
    gc.disable()
    try:
        with ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(one) for _ in range(4)]
            on.joined(3)
            on.go.set()
            for future in futures:
                future.result(10.0)
        del futures
        assert [ref() for ref in seen] == [None] * 4
    finally:
        gc.enable()


def test_thread_waits_no_longer_than_its_own_deadline() -> None:
    """The first goes on."""
    on = Threads("reply")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(on.ask, tea())
        assert on.entered.acquire(timeout=10.0)
        with pytest.raises(DeadlineExceeded, match="that it joined"):
            on.ask(tea(time.monotonic() + 0.02))
        on.go.set()
        assert first.result(10.0) == "reply"


def test_interrupt_of_the_first_thread_lets_the_others_begin_again() -> None:
    """A KeyboardInterrupt is for one thread."""
    on = Threads(KeyboardInterrupt(), "anew")

    def first() -> object:
        try:
            return on.ask(tea())
        except KeyboardInterrupt:
            return "interrupted"

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(first)
        assert on.entered.acquire(timeout=10.0)
        other = pool.submit(on.ask, tea())
        on.joined(1)
        on.go.set()
        assert (one.result(10.0), other.result(10.0)) == ("interrupted", "anew")


def test_thread_that_calls_itself_goes_alone() -> None:
    """It would wait for its own end."""
    both, replies = Coalesce(), iter(["", "bottom"])

    @policies(both)
    def price(name: str) -> str:
        return next(replies) or price(name)

    assert price("tea") == "bottom"
    assert both.alone == 1


def test_threads_without_room_or_name_go_alone() -> None:
    """The bound costs sharing, never a call."""
    both = Coalesce(CoalesceRule(keys_max=1))
    handler = ScriptedHandler(1, 2)
    inner = sync.govern(Pipeline([both]), handler.sync)
    outer = sync.govern(Pipeline([both]), lambda call: inner(Call("shop", "price", "cup", idempotent=True)))
    assert outer(tea()) == 1
    assert inner(tea(idempotent=False)) == 2
    assert both.alone == 1


def generator() -> Iterator[int]:
    """Yield a price."""
    yield 1


async def async_generator() -> AsyncIterator[int]:
    """Yield a price."""
    yield 1


@pytest.mark.parametrize("function", [generator, async_generator])
def test_generator_is_refused_at_decoration(function: Callable[[], object]) -> None:
    """Two callers cannot take the same items."""
    with pytest.raises(RuleError, match="its items come once"):
        policies(Coalesce())(function)


def test_function_that_is_not_idempotent_is_refused_at_decoration() -> None:
    """Two orders are two orders."""
    with pytest.raises(RuleError, match="each must be made"):
        policies(Coalesce(), idempotent=False)(lambda: 1)
