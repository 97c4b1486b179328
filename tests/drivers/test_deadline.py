"""Time runs out to the tick under asyncio, and is never pretended to in blocking code."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref

import pytest

from msgov import _loop, aio, scope, sync
from msgov.call import IGNORED, TRANSIENT, Call
from msgov.errors import DeadlineExceeded, DeadlineSpent
from msgov.pipeline import Pipeline
from msgov.policy import AsyncHandler
from msgov.resilience import Deadline, Fallback, Retry, RetryRule
from msgov.testing import After, LoadedDice, run
from tests.drivers.stage import Again, Aio, Colour, Door, Stand, Sync

AIO, SYNC = Aio(), Sync()


@pytest.mark.parametrize("seconds", [0.005, 0.05, 0.0999, 0.1, 0.25, 1.234, 10.0])
def test_wheel_rings_never_early_and_at_most_a_tick_late(seconds: float) -> None:
    """One timer per slot of 10 ms serves every call of the loop; below 100 ms a deadline has a timer of its own."""
    played = AIO.play([Deadline(seconds)], After(60.0))
    assert isinstance(played.error, DeadlineExceeded)
    assert seconds - 1e-9 <= played.seconds <= seconds + (0.010001 if seconds >= 0.1 else 1e-9)


def test_wheel_is_as_exact_for_many_calls_at_many_times() -> None:
    """A slot shared by calls that began at different times still ends each of them within the tick."""
    late: list[float] = []

    async def handler(call: Call) -> object:
        return await asyncio.get_running_loop().create_future()

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        governed = aio.govern(Pipeline([Deadline(0.3)]), handler, clock=loop.time)

        async def one(number: int) -> None:
            await asyncio.sleep(number * 0.0017)
            began = loop.time()
            with pytest.raises(DeadlineExceeded):
                await governed(Call("shop"))
            late.append(loop.time() - began - 0.3)

        await asyncio.gather(*(one(number) for number in range(200)))

    run(scene())
    assert len(late) == 200
    assert min(late) >= -1e-9
    assert max(late) <= 0.010001


@pytest.mark.parametrize("seconds", [0.05, 0.25])
def test_loop_ahead_of_the_clock_rings_no_earlier(seconds: float) -> None:
    """A loop that reads its clock once a turn (uvloop does) rings its timers early: then it has to wait on."""

    async def handler(call: Call) -> object:
        await asyncio.sleep(10)
        return "late"

    async def scene() -> float:
        loop = asyncio.get_running_loop()

        def slower() -> float:
            return loop.time() * 0.75

        with pytest.raises(DeadlineExceeded):
            await aio.govern(Pipeline([Deadline(seconds)]), handler, clock=slower)(Call("shop"))
        return slower()

    assert seconds - 1e-5 <= run(scene()) <= seconds + 0.010001


def test_wheel_goes_with_its_loop() -> None:
    """A process that makes many loops (a test run does) must not keep them all."""

    async def handler(call: Call) -> object:
        return "done"

    loop = asyncio.new_event_loop()
    governed = aio.govern(Pipeline([Deadline(5)]), handler)
    loop.run_until_complete(governed(Call("shop")))
    loop.close()
    alive, name = weakref.ref(loop), id(loop)
    assert name in _loop.deadlines(time.monotonic).wheels
    del loop
    gc.collect()
    assert alive() is None
    assert (
        name not in _loop.deadlines(time.monotonic).wheels
    )  # or another loop at the same place in memory would find slots without timers


def test_handler_in_time_is_not_disturbed() -> None:
    """The alarm is disarmed, and no cancellation is left on the task."""

    async def handler(call: Call) -> object:
        await asyncio.sleep(0.2)
        return "done"

    async def scene() -> object:
        loop = asyncio.get_running_loop()
        kept = _loop.Deadlines(loop.time)
        call = Call("x")
        call.deadline = loop.time() + 0.5
        reply = await _loop.under(kept.arm(call, loop.time()), handler, call)
        assert scope.current.get().deadline is None
        assert kept.wheels[id(loop)]
        await asyncio.sleep(5)
        assert not kept.wheels[id(loop)]
        task = asyncio.current_task()
        assert task is not None
        return reply, task.cancelling()

    assert run(scene()) == ("done", 0)


def test_time_that_ran_out_is_a_transient_failure() -> None:
    """It is the callee's slowness: the breaker must see it, and it may have been done."""
    outer, inner = Door([], "outer"), Door([], "inner")
    played = AIO.play([outer, Deadline(1), inner], After(9))
    assert isinstance(played.error, DeadlineExceeded)
    assert played.handler.running == 0
    assert outer.verdicts == [TRANSIENT]
    assert outer.outcomes[0].status == "deadline_exceeded"


def test_gate_inside_the_deadline_learns_of_it_too() -> None:
    """A breaker stands inside the deadline: a callee that never answers in time must open it."""
    inner = Door([], "inner")
    AIO.play([Deadline(1), inner], After(9))
    assert inner.verdicts == [TRANSIENT]


def test_breaker_inside_the_seam_learns_that_the_time_of_the_call_ran_out() -> None:
    """The deadline of the whole call cuts the attempt off: for what stands inside that is a failure as well."""
    inner = Door([], "inner")
    played = AIO.play([Deadline(1), Again(3), inner], After(9))
    assert isinstance(played.error, DeadlineExceeded)
    assert inner.verdicts == [TRANSIENT]


def test_deadline_of_the_call_is_not_answered_inside_the_seam() -> None:
    """What cuts the attempt off is a cancellation: swallowing it would let the call run on without a bound."""
    stand = Stand(lambda call, error: "instead")
    played = AIO.play([Deadline(1), Again(3), stand], After(9))
    assert isinstance(played.error, DeadlineExceeded)
    assert stand.asked == []


def test_cancellation_from_outside_passes_as_it_is() -> None:
    """The caller left: that says nothing about the callee, deadline or not."""
    door = Door([], "door")

    async def handler(call: Call) -> object:
        return await asyncio.get_running_loop().create_future()

    async def scene() -> int:
        governed = aio.govern(Pipeline([Deadline(5), door]), handler, clock=asyncio.get_running_loop().time)
        task = asyncio.ensure_future(governed(Call("shop")))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return task.cancelling()

    assert run(scene()) == 1
    assert door.verdicts == [IGNORED]


def test_cancellation_at_the_very_tick_of_the_deadline_wins() -> None:
    """A task that was told to end must end, whatever else ran out at that moment."""

    async def handler(call: Call) -> object:
        return await asyncio.get_running_loop().create_future()

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(aio.govern(Pipeline([Deadline(0.05)]), handler, clock=loop.time)(Call("shop")))
        loop.call_at(0.05, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelling() == 1  # ours is taken back, the caller's stands

    run(scene())


def test_timeout_around_a_call_is_the_callers_own() -> None:
    """`asyncio.timeout` round a governed call raises TimeoutError as ever, and the deadline inside keeps still."""

    async def handler(call: Call) -> object:
        return await asyncio.get_running_loop().create_future()

    async def scene() -> object:
        governed = aio.govern(Pipeline([Deadline(5)]), handler, clock=asyncio.get_running_loop().time)
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(1):
                await governed(Call("shop"))
        return type(caught.value)

    assert run(scene()) is TimeoutError


def test_handler_that_swallows_the_cancellation_leaves_none_behind() -> None:
    """Its reply counts, late as it is; the next await of the caller must not be cancelled for it."""

    async def handler(call: Call) -> object:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "late"
        raise AssertionError("it was to be cancelled")

    async def scene() -> object:
        reply = await aio.govern(Pipeline([Deadline(1)]), handler, clock=asyncio.get_running_loop().time)(Call("x"))
        await asyncio.sleep(1)
        task = asyncio.current_task()
        assert task is not None
        return reply, task.cancelling()

    assert run(scene()) == ("late", 0)


def test_nested_deadlines_that_ring_together_end_as_one() -> None:
    """Two cancellations, one CancelledError: the outer one takes both back."""

    async def handler(call: Call) -> object:
        return await asyncio.get_running_loop().create_future()

    async def scene() -> object:
        loop = asyncio.get_running_loop()
        governed = aio.govern(Pipeline([Deadline(0.05), Retry(), Deadline(0.05)]), handler, clock=loop.time)
        with pytest.raises(DeadlineExceeded):
            await governed(Call("shop", idempotent=True))
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    assert run(scene()) == 0


def test_retries_and_waits_stay_inside_the_deadline(colour: Colour) -> None:
    """Neither an attempt nor a wait is begun that the deadline has no room for."""
    retry = Retry(RetryRule(attempts=5, base=1.0), dice=LoadedDice(0.5, cycle=True))
    played = colour.play([Deadline(2.0), retry], *[ConnectionError()] * 5)
    assert isinstance(played.error, ConnectionError)
    assert (played.attempts, played.seconds) == (3, 1.5)
    assert retry.suppressed["deadline"] == 1


def test_spent_deadline_refuses_before_the_handler(colour: Colour) -> None:
    """A call that comes too late is not sent: it would only be work for nobody."""
    deadline = Deadline(5)
    played = colour.play([deadline], call=Call("shop", deadline=-1.0))
    assert isinstance(played.error, DeadlineSpent)
    assert (played.attempts, deadline.refused) == (0, 1)


def test_per_try_deadline_is_the_retrys_business() -> None:
    """Inside the seam a deadline cuts one attempt off, and the next one starts."""
    per_try = Deadline(1.0)
    played = AIO.play([Again(2, apart=0.5), per_try], After(9), After(0.5, "done"))
    assert (played.reply, played.attempts, per_try.exceeded) == ("done", 2, 1)
    assert played.seconds == pytest.approx(2.0, abs=0.011)


def test_deadline_outside_a_fallback_bounds_its_answer_too() -> None:
    """The outermost promise holds, whoever answers."""

    async def answer(call: Call, error: BaseException) -> object:
        await asyncio.sleep(60)
        return "too late"

    played = AIO.play([Deadline(2), Fallback(answer)], After(1, ConnectionError()))
    assert isinstance(played.error, DeadlineExceeded)
    assert played.seconds == pytest.approx(2.0, abs=0.011)


def test_deadline_inside_a_fallback_does_not_bound_its_answer() -> None:
    """The callee's time is up, the answer's has not begun."""

    async def answer(call: Call, error: BaseException) -> object:
        await asyncio.sleep(5)
        return "instead"

    assert AIO.play([Fallback(answer), Deadline(2)], After(9)).reply == "instead"


def test_native_handler_gets_no_timer() -> None:
    """The transport enforces its own deadline: a second timer for it would only cost."""

    async def handler(call: Call) -> object:
        await asyncio.sleep(9)
        return call.deadline

    async def scene() -> object:
        clock = asyncio.get_running_loop().time
        return await aio.govern(Pipeline([Deadline(2)]), handler, clock=clock, native=True)(Call("shop"))

    assert run(scene()) == 2.0


def test_layer_round_a_native_handler_is_bounded_all_the_same() -> None:
    """The transport knows nothing of what a user's layer does before and after it."""

    async def handler(call: Call) -> object:
        return "done"

    def layer(inner: AsyncHandler) -> AsyncHandler:
        async def slow(call: Call) -> object:
            await asyncio.sleep(9)
            return await inner(call)

        return slow

    async def scene() -> float:
        clock = asyncio.get_running_loop().time
        with pytest.raises(DeadlineExceeded):
            await aio.govern(Pipeline([Deadline(2), layer, Door([], "x")]), handler, clock=clock, native=True)(
                Call("x")
            )
        return clock()

    assert run(scene()) == pytest.approx(2.0, abs=0.011)


def test_work_inside_inherits_the_deadline(colour: Colour) -> None:
    """What the handler calls in its turn is bounded by what is left of this call."""
    seen: list[float | None] = []

    class Look(Door):
        def admit(self, call: Call, now: float) -> int:
            seen.append(scope.current.get().deadline)
            return self.ticket()

    colour.play([Deadline(3), Again(1), Look([], "look")], "done")
    assert seen == [3.0]
    assert scope.current.get().deadline is None


def test_outer_scope_that_ends_sooner_stays(colour: Colour) -> None:
    """A deadline only ever shrinks."""
    played = colour.play([Deadline(60), Stand(None)], "done", call=Call("shop", deadline=2.0))
    assert played.handler.calls[0].deadline == 2.0


def test_blocking_code_is_not_interrupted() -> None:
    """The function runs to its end: a thread cannot be stopped, and pretending would leave it running."""
    played = SYNC.play([Deadline(1)], After(5, "done"))
    assert (played.reply, played.seconds) == ("done", 5.0)


def test_bounded_without_a_deadline_is_the_bare_call() -> None:
    """No task, no timer, no scope for what has no limit."""

    async def handler(call: Call) -> float:
        return time.monotonic()

    async def scene() -> float:
        return await aio.bounded(handler, Call("shop"))

    assert run(scene()) > 0
    assert sync.bounded(lambda call: "done", Call("shop")) == "done"
