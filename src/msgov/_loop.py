"""Wait on the event loop: in a gate's line until its turn, in a call until its deadline.

Both leave on cancellation as if they had never come. A part of `msgov.aio`, in a file of its own for its length.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Token
from functools import partial
from typing import TypeVar

from msgov.call import Call
from msgov.clock import Clock, monotonic
from msgov.errors import DeadlineExceeded
from msgov.pipeline import Frame, Tickets, forsake
from msgov.policy import Waiting
from msgov.scope import Scope, current

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
            forsake(gate, line, clock())
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
    return await under(deadlines(clock).arm(call, clock()), handler, call)


async def under(alarm: Alarm | None, handler: Callable[[Call], Awaitable[T]], call: Call) -> T:
    """Run a handler under an alarm that is armed already, None for none."""
    if alarm is None:
        return await handler(call)
    try:
        reply = await handler(call)
    except BaseException as error:  # noqa: BLE001  whatever ends it, its time is over
        found = stopped(alarm, call, error)
        try:
            if found is error:
                raise
            raise found
        finally:
            del found
    disarm(alarm)
    return reply


class Alarm:
    """One armed deadline: rings by cancelling its task, and takes the cancellation back when it is not needed."""

    __slots__ = ("bucket", "cancelling", "rang", "seconds", "task", "token")

    bucket: set[Alarm]
    cancelling: int
    rang: bool
    seconds: float
    task: asyncio.Task[object]
    token: Token[Scope] | None


_TICK = 0.01  # seconds: a deadline rings at the end of its slot of the wheel, so at most so much late
_NEAR = 0.1  # seconds: one nearer than this has a timer of its own
_EARLY = 1e-6  # seconds: a loop may ring its timers early by its clock's resolution

_Wheel = dict[int, set[Alarm]]
_new = object.__new__  # a class called in Python costs twice as much, and each governed call makes one of these


class Deadlines:
    """All deadlines by one clock, in a wheel for each loop: a timer per slot of 10 ms, not one per call.

    `asyncio.timeout` costs several times as much. Every alarm is to be disarmed or stopped.
    """

    __slots__ = ("clock", "wheels")

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        # By id, since a weak dictionary costs a microsecond to ask; an entry goes when its loop does, before the id
        # can return.
        self.wheels: dict[int, _Wheel] = {}

    def arm(self, call: Call, now: float) -> Alarm | None:
        """Start the current task's time for a call, None where it has all the time; what it calls inherits it."""
        deadline = call.deadline
        if deadline is None:
            return None
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  a coroutine is awaited in a task
        loop = task.get_loop()  # to ask for the running loop costs a system call on 3.11
        alarm = _new(Alarm)
        alarm.task = task
        alarm.cancelling = task.cancelling()
        alarm.rang = False
        alarm.seconds = seconds = deadline - now
        slot = int(deadline / _TICK) + 1
        wheel = self.wheels.get(id(loop))
        bucket = None if wheel is None or seconds < _NEAR else wheel.get(slot)
        if bucket is None:
            bucket = self._start(loop, deadline if seconds < _NEAR else slot * _TICK, slot, seconds)
        bucket.add(alarm)
        alarm.bucket = bucket
        around = current.get()
        outer = around.deadline
        alarm.token = current.set(around.by(deadline)) if outer is None or outer > deadline else None
        return alarm

    def _start(self, loop: asyncio.AbstractEventLoop, at: float, slot: int, seconds: float) -> set[Alarm]:
        wheel = self.wheels.get(id(loop))
        if wheel is None:
            wheel = self.wheels[id(loop)] = {}
            weakref.finalize(loop, self.wheels.pop, id(loop), None)
        bucket: set[Alarm] = set()
        if seconds >= _NEAR:
            wheel[slot] = bucket
        loop.call_later(max(0.0, at - self.clock()), self._ring, loop, at, slot, bucket)
        return bucket

    def _ring(self, loop: asyncio.AbstractEventLoop, at: float, slot: int, bucket: set[Alarm]) -> None:
        left = at - self.clock()
        if left > _EARLY and bucket:  # a loop that reads its clock once a turn may be ahead of time
            loop.call_later(left, self._ring, loop, at, slot, bucket)
            return
        wheel = self.wheels[id(loop)]
        if wheel.get(slot) is bucket:
            del wheel[slot]
        for alarm in tuple(bucket):
            alarm.rang = True
            alarm.task.cancel()


_deadlines = Deadlines(monotonic)


def deadlines(clock: Clock) -> Deadlines:
    """Return what keeps the deadlines by a clock: one for all by the monotonic clock, one each for a test's own."""
    return _deadlines if clock is monotonic else Deadlines(clock)


def disarm(alarm: Alarm) -> None:
    """Stop the time of a call that has its answer."""
    alarm.bucket.discard(alarm)
    if alarm.token is not None:
        current.reset(alarm.token)
    if alarm.rang:  # the handler swallowed the cancellation, or finished in the same tick
        alarm.task.uncancel()


def stopped(alarm: Alarm, call: Call, error: BaseException) -> BaseException:
    """Stop the time of a call that failed; return its error: in place of this alarm's cancellation the deadline's."""
    alarm.bucket.discard(alarm)
    if alarm.token is not None:
        current.reset(alarm.token)
    if alarm.rang and alarm.task.uncancel() <= alarm.cancelling and isinstance(error, asyncio.CancelledError):
        spent = exceeded(call, alarm.seconds)
        spent.__cause__ = error
        return spent
    return error


def exceeded(call: Call, seconds: float) -> DeadlineExceeded:
    """Say that a call was under way for so long and has not answered."""
    return DeadlineExceeded(
        f"{call.target} {call.method}".rstrip() + f": no answer in {max(seconds, 0.0):.3f} s", seconds=seconds
    )
