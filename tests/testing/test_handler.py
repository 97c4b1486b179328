"""`ScriptedHandler` plays the same script under both drivers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import pytest

from msgov.call import Call
from msgov.errors import RuleError
from msgov.testing import After, Deadlock, ManualClock, ScriptedHandler, run

Play = Callable[[ScriptedHandler, Call], object]
CALL = Call("inventory", "reserve")


def blocking(handler: ScriptedHandler, call: Call) -> object:
    """Call it as the blocking driver does."""
    return handler.sync(call)


def awaiting(handler: ScriptedHandler, call: Call) -> object:
    """Call it as the asyncio driver does."""
    return run(handler.aio(call))


colours = pytest.mark.parametrize("play", [blocking, awaiting])


@colours
def test_replies_come_in_the_order_of_the_script(play: Play) -> None:
    """A reply may be any value, also a tuple or None."""
    handler = ScriptedHandler("one", None, (3, "three"))
    assert [play(handler, CALL) for _ in range(3)] == ["one", None, (3, "three")]


@colours
def test_exception_of_the_script_is_raised_as_it_is(play: Play) -> None:
    """What a policy gets to judge must be the very error, or a fresh one of the class."""
    error = ConnectionResetError("gone")
    handler = ScriptedHandler(error, KeyError)
    with pytest.raises(ConnectionResetError) as caught:
        play(handler, CALL)
    assert caught.value is error
    with pytest.raises(KeyError):
        play(handler, CALL)


@colours
def test_calls_are_remembered_before_they_fail(play: Play) -> None:
    """Attempts are counted by what reached the callee, answered or not."""
    handler = ScriptedHandler(ConnectionResetError, cycle=True)
    for _ in range(3):
        with pytest.raises(ConnectionResetError):
            play(handler, CALL)
    assert handler.calls == [CALL] * 3
    assert handler.running == 0


@colours
def test_call_after_the_script_fails_the_test(play: Play) -> None:
    """One attempt too many must be seen, not served."""
    handler = ScriptedHandler("only")
    play(handler, CALL)
    with pytest.raises(AssertionError, match="after all 1 steps"):
        play(handler, CALL)


def test_delay_passes_on_the_virtual_loop() -> None:
    """A slow callee must cost a test no time, and the loop's clock all of it."""

    async def scene() -> tuple[object, float]:
        return await handler.aio(CALL), asyncio.get_running_loop().time()

    handler = ScriptedHandler(After(3600, "late"))
    assert run(scene()) == ("late", 3600.0)


def test_delay_passes_on_the_clock_that_the_blocking_handler_sleeps_by() -> None:
    """The same for threads, an error after the delay included."""
    clock = ManualClock()
    handler = ScriptedHandler(After(60, TimeoutError), sleep=clock.sleep)
    with pytest.raises(TimeoutError):
        handler.sync(CALL)
    assert clock() == 60


def test_blocking_delay_without_a_clock_is_refused() -> None:
    """Sleeping by the wall would be a test that waits for luck."""
    with pytest.raises(RuntimeError, match=r"sleep=clock\.sleep"):
        ScriptedHandler(After(1, "x")).sync(CALL)


def test_delay_without_end_is_a_deadlock_and_leaves_nothing_running() -> None:
    """A callee that never answers must not spin virtual time on for ever."""
    handler = ScriptedHandler(After(math.inf))
    with pytest.raises(Deadlock):
        run(handler.aio(CALL))
    assert handler.running == 0


@pytest.mark.parametrize("seconds", [-1.0, math.nan])
def test_delay_that_cannot_pass_is_refused(seconds: float) -> None:
    """It is refused where it is written, not where it is played."""
    with pytest.raises(RuleError, match="After: seconds"):
        After(seconds, "x")


def test_cycle_of_nothing_is_refused() -> None:
    """It could never answer."""
    with pytest.raises(RuleError, match="at least one step"):
        ScriptedHandler(cycle=True)
