"""Wait on the event loop: in a gate's line until its turn, in a call until its deadline.

Both leave on cancellation as if they had never come. A part of `msgov.aio`, in a file of its own for its length.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from msgov import scope
from msgov.call import IGNORED, Call, Outcome
from msgov.clock import Clock, monotonic
from msgov.errors import DeadlineExceeded, MsgovError
from msgov.pipeline import Frame, Tickets
from msgov.policy import Waiting

T = TypeVar("T")


async def queue(frame: Frame, waiting: Waiting[object], call: Call, tickets: Tickets, clock: Clock) -> float:
    """Wait in every line of the frame; return the time at which the last one let the call in."""
    loop = asyncio.get_running_loop()
    line: Waiting[object] | None = waiting
    now = clock()
    while line is not None:
        gate = frame.gate(tickets)
        woken: asyncio.Future[None] = loop.create_future()
        line.wake = partial(_rouse, loop, woken)
        try:
            if not line.over:
                timer = loop.call_later(max(0.0, line.until - now), _resolve, woken)
                try:
                    await woken
                finally:
                    timer.cancel()
        except BaseException:
            with suppress(MsgovError):  # the line's own refusal, met while leaving for another reason
                got = gate.withdraw(line, clock())
                if got is not None:
                    gate.settle(got, Outcome(IGNORED), clock())
            raise
        now = clock()
        ticket = gate.withdraw(line, now)
        if ticket is None:
            raise gate.late(line, now)
        tickets.append(ticket)
        line = frame.enter(call, tickets, now)
    return now


def _resolve(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


def _rouse(loop: asyncio.AbstractEventLoop, woken: asyncio.Future[None]) -> None:
    with suppress(RuntimeError):  # the loop was closed: nobody waits there any more
        loop.call_soon_threadsafe(_resolve, woken)


async def bounded(handler: Callable[[Call], Awaitable[T]], call: Call, clock: Clock = monotonic) -> T:
    """Run a handler until `call.deadline` and not a tick longer; what it calls inherits the deadline.

    Raises `DeadlineExceeded` when time ran out, the handler cancelled; a cancellation from outside passes as it is.
    """
    deadline = call.deadline
    if deadline is None:
        return await handler(call)
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  a coroutine is awaited in a task
    loop = task.get_loop()  # to ask for the running loop costs a system call on 3.11
    left = deadline - clock()
    alarm = (_wheels.get(id(loop)) or _new_wheel(loop)).arm(loop, task, left)
    around = scope.current.get()
    outer = around.deadline
    token = None if outer is not None and outer <= deadline else scope.current.set(around.by(deadline))
    try:
        return await handler(call)
    except asyncio.CancelledError as cancelled:
        if alarm.rang:
            alarm.rang = False
            if task.uncancel() <= alarm.cancelling:
                raise exceeded(call, left) from cancelled
        raise
    finally:
        alarm.bucket.discard(alarm)
        if alarm.rang:  # the handler swallowed the cancellation, or finished in the same tick
            task.uncancel()
        if token is not None:
            scope.current.reset(token)


def exceeded(call: Call, seconds: float) -> DeadlineExceeded:
    """Say that a call was under way for so long and has not answered."""
    return DeadlineExceeded(
        f"{call.target} {call.method}".rstrip() + f": no answer in {max(seconds, 0.0):.3f} s", seconds=seconds
    )


class _Alarm:
    """One armed deadline: rings by cancelling its task, and takes the cancellation back when it is not needed."""

    __slots__ = ("bucket", "cancelling", "rang", "task")

    def __init__(self, task: asyncio.Task[object], bucket: set[_Alarm]) -> None:
        self.task = task
        self.bucket = bucket
        self.cancelling = task.cancelling()
        self.rang = False
        bucket.add(self)


class _Wheel:
    """All deadlines of a loop in slots of 10 ms: a timer per slot, not per call (asyncio.timeout costs five times it).

    A deadline rings at the end of its slot, so at most 10 ms late; one nearer than 100 ms gets a timer of its own.
    """

    __slots__ = ("_slots",)

    TICK = 0.01
    NEAR = 0.1

    def __init__(self) -> None:
        self._slots: dict[int, set[_Alarm]] = {}

    def arm(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[object], seconds: float) -> _Alarm:
        at = loop.time() + seconds
        if seconds < self.NEAR:
            alarm = _Alarm(task, set())
            loop.call_at(at, _ring, alarm.bucket)
            return alarm
        slot = int(at / self.TICK) + 1
        bucket = self._slots.get(slot)
        if bucket is None:
            bucket = self._slots[slot] = set()
            loop.call_at(slot * self.TICK, self._turn, slot)
        return _Alarm(task, bucket)

    def _turn(self, slot: int) -> None:
        _ring(self._slots.pop(slot))


def _ring(alarms: set[_Alarm]) -> None:
    for alarm in tuple(alarms):
        alarm.rang = True
        alarm.task.cancel()


# By id, since a weak dictionary costs a microsecond to ask; an entry goes when its loop does, before the id can return.
_wheels: dict[int, _Wheel] = {}


def _new_wheel(loop: asyncio.AbstractEventLoop) -> _Wheel:
    wheel = _wheels[id(loop)] = _Wheel()
    weakref.finalize(loop, _wheels.pop, id(loop), None)
    return wheel
