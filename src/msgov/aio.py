"""The asyncio driver: walks a pipeline round a coroutine function, and is the only core module that awaits.

It waits where a machine says to wait, wakes across loops and threads, enforces deadlines by one shared timer wheel, and
settles every admitted call on every way out. Its blocking twin is `msgov.sync`; one suite runs both.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar, cast
from weakref import WeakKeyDictionary

from msgov import scope
from msgov.backoff import Backoff
from msgov.call import IGNORED, OK, Call, Outcome
from msgov.clock import Clock, dice, monotonic
from msgov.errors import DeadlineExceeded, MsgovError, Rejected
from msgov.latest import Latest, Source
from msgov.pipeline import Frame, Pipeline, Segment, Tickets, raise_last
from msgov.policy import Answer, AsyncHandler, Plan, Waiting

T = TypeVar("T")


def govern(
    pipeline: Pipeline, handler: AsyncHandler, *, clock: Clock = monotonic, native: bool = False
) -> AsyncHandler:
    """Wrap a handler in a pipeline.

    `native` says that the handler enforces `call.deadline` itself (gRPC does), so that no timer is armed for it.
    """
    for segment in reversed(pipeline.segments):
        for layer in reversed(segment.layers):
            handler = cast("AsyncHandler", layer(handler))
        handler = _framed(pipeline, segment.inner, handler, clock, native)
        if segment.plan is not None:
            handler = _planned(pipeline, segment.plan, handler, clock)
        handler = _framed(pipeline, segment.outer, handler, clock, native)
        native = False  # what now stands inside may wait in line or back off: only a timer bounds that
    return handler


def _framed(pipeline: Pipeline, frame: Frame, handler: AsyncHandler, clock: Clock, native: bool) -> AsyncHandler:
    if not len(frame):
        return handler
    enter, leave = frame.enter, frame.leave
    timed = frame.narrows and not native

    async def framed(call: Call) -> object:
        tickets: Tickets = []
        started = clock()
        try:
            waiting = enter(call, tickets, started)
            if waiting is not None:
                started = await _queue(frame, waiting, call, tickets, clock)
            reply = await (bounded(handler, call, clock) if timed else handler(call))
        except BaseException as error:  # noqa: BLE001  every way out settles
            return await _failed(pipeline, frame, call, tickets, error, started, clock)
        now = clock()
        leave(call, tickets, Outcome(OK, seconds=now - started), now)
        return reply

    return framed


async def _failed(
    pipeline: Pipeline, frame: Frame, call: Call, tickets: Tickets, error: BaseException, started: float, clock: Clock
) -> object:
    """Settle a failed call, let a substitute answer, or raise what it failed with."""
    now = clock()
    answer = frame.leave(call, tickets, pipeline.judge(call, error, now - started), now)
    try:
        while answer is not None:
            try:
                reply = await _answered(answer, call, error)
            except BaseException as worse:  # noqa: BLE001  the answer failed too: the steps outside still settle
                error, now = worse, clock()
                answer = frame.leave(call, tickets, pipeline.judge(call, error, now - started), now)
            else:
                now = clock()
                frame.leave(call, tickets, Outcome(OK, seconds=now - started), now)
                return reply
        raise error
    finally:
        del error  # its traceback holds this frame


async def _answered(answer: Answer, call: Call, error: BaseException) -> object:
    reply = answer(call, error)
    return await reply if inspect.isawaitable(reply) else reply


def _planned(pipeline: Pipeline, plan: Plan, handler: AsyncHandler, clock: Clock) -> AsyncHandler:
    async def planned(call: Call) -> object:
        plan.next(call, 1, None, clock())
        real: BaseException | None = None
        tries = 1
        try:
            while True:
                started = clock()
                try:
                    return await handler(call)
                except BaseException as error:  # noqa: BLE001  the plan decides on every error
                    now = clock()
                    delay = plan.next(call, tries, pipeline.judge(call, error, now - started), now)
                    if delay is None:
                        raise_last(error, real, tries)
                    if not isinstance(error, Rejected):
                        real = error
                await asyncio.sleep(delay)
                tries += 1
                call.attempt = tries
        finally:
            del real

    return planned


async def _queue(frame: Frame, waiting: Waiting[object], call: Call, tickets: Tickets, clock: Clock) -> float:
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


async def bounded(handler: AsyncHandler, call: Call, clock: Clock = monotonic) -> object:
    """Run a handler until `call.deadline` and not a tick longer; what it calls inherits the deadline.

    Raises `DeadlineExceeded` when time ran out, with the handler cancelled; a cancellation from outside passes as it is.
    """
    deadline = call.deadline
    if deadline is None:
        return await handler(call)
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  a coroutine is awaited in a task
    around = scope.current.get()
    token = scope.current.set(around.by(deadline))
    left = deadline - clock()
    alarm = _wheel(task.get_loop()).arm(task, left)
    try:
        return await handler(call)
    except asyncio.CancelledError as cancelled:
        if alarm.rang:
            alarm.rang = False
            if task.uncancel() <= alarm.cancelling:
                raise DeadlineExceeded(
                    f"{call.target} {call.method}: no answer in {max(left, 0.0):.3f} s", seconds=left
                ) from cancelled
        raise
    finally:
        alarm.disarm()
        if alarm.rang:  # the handler swallowed the cancellation, or finished in the same tick
            task.uncancel()
        scope.current.reset(token)


class _Alarm:
    """One armed deadline: rings by cancelling its task, and takes the cancellation back when it is not needed."""

    __slots__ = ("bucket", "cancelling", "rang", "task")

    def __init__(self, task: asyncio.Task[object], bucket: set[_Alarm]) -> None:
        self.task = task
        self.bucket = bucket
        self.cancelling = task.cancelling()
        self.rang = False

    def ring(self) -> None:
        if not self.task.done():
            self.rang = True
            self.task.cancel()

    def disarm(self) -> None:
        self.bucket.discard(self)


class _Wheel:
    """All deadlines of a loop in slots of 10 ms: a timer per slot, not per call (asyncio.timeout costs five times it).

    A deadline rings at the end of its slot, so at most 10 ms late; one nearer than 100 ms gets a timer of its own.
    """

    __slots__ = ("_loop", "_slots")

    TICK = 0.01
    NEAR = 0.1

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, set[_Alarm]] = {}

    def arm(self, task: asyncio.Task[object], seconds: float) -> _Alarm:
        at = self._loop.time() + seconds
        if seconds < self.NEAR:
            alone: set[_Alarm] = set()
            alarm = _Alarm(task, alone)
            alone.add(alarm)
            self._loop.call_at(at, _ring, alone)
            return alarm
        slot = int(at / self.TICK) + 1
        bucket = self._slots.get(slot)
        if bucket is None:
            bucket = self._slots[slot] = set()
            self._loop.call_at(slot * self.TICK, self._turn, slot)
        alarm = _Alarm(task, bucket)
        bucket.add(alarm)
        return alarm

    def _turn(self, slot: int) -> None:
        _ring(self._slots.pop(slot))


def _ring(alarms: set[_Alarm]) -> None:
    for alarm in tuple(alarms):
        alarm.ring()


_wheels: WeakKeyDictionary[asyncio.AbstractEventLoop, _Wheel] = WeakKeyDictionary()


def _wheel(loop: asyncio.AbstractEventLoop) -> _Wheel:
    wheel = _wheels.get(loop)
    if wheel is None:
        wheel = _wheels[loop] = _Wheel(loop)
    return wheel


def stream(
    pipeline: Pipeline, opener: Callable[[Call], AsyncIterator[T]], *, clock: Clock = monotonic
) -> Callable[[Call], Stream[T]]:
    """Wrap a function that opens a stream: its tickets are held until the stream ends, breaks or is closed.

    A retry may open it again as long as no item was given out.
    """
    segment = pipeline.flat
    return lambda call: Stream(pipeline, segment, opener, call, clock)


class Stream(AsyncIterator[T]):
    """A governed stream; an async iterator with `aclose`, also an async context manager.

    One dropped without `aclose` is settled late but surely: its finaliser takes no lock, hands the tickets to the
    frame's queue and asks the loop to close what is beneath.
    """

    __slots__ = (
        "_attempt", "_call", "_clock", "_inner", "_loop", "_opener", "_over", "_pipeline", "_segment", "_started",
        "_tickets",
    )  # fmt: skip

    def __init__(
        self,
        pipeline: Pipeline,
        segment: Segment,
        opener: Callable[[Call], AsyncIterator[T]],
        call: Call,
        clock: Clock,
    ) -> None:
        self._over = False
        self._tickets: Tickets = []
        self._attempt: Tickets = []
        self._inner: AsyncIterator[T] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pipeline = pipeline
        self._segment = segment
        self._opener = opener
        self._call = call
        self._clock = clock
        self._started = 0.0

    def __aiter__(self) -> Stream[T]:
        """Return itself."""
        return self

    async def __anext__(self) -> T:
        """Return the next item; raises what ends the stream, once it is settled."""
        if self._over:
            raise StopAsyncIteration
        if self._loop is None:
            return await self._first()
        try:
            return await self._pull()
        except StopAsyncIteration:
            self._leave(Outcome(OK, seconds=self._clock() - self._started))
            raise
        except BaseException as error:  # noqa: BLE001  every way out settles
            self._leave(self._judged(error))
            raise

    async def _first(self) -> T:
        """Enter, open, and try again while the plan allows: nothing was given out yet."""
        call, clock, segment = self._call, self._clock, self._segment
        self._loop = asyncio.get_running_loop()
        self._started = clock()
        tries, real = 1, None
        try:
            await _enter(segment.outer, call, self._tickets, clock)
            if segment.plan is not None:
                segment.plan.next(call, 1, None, clock())
            while True:
                try:
                    await _enter(segment.inner, call, self._attempt, clock)
                    self._inner = self._opener(call)
                    return await self._pull()
                except StopAsyncIteration:
                    self._leave(Outcome(OK, seconds=clock() - self._started))
                    raise
                except BaseException as error:  # noqa: BLE001  the plan decides on every error
                    outcome = self._judged(error)
                    segment.inner.leave(call, self._attempt, outcome, clock())
                    plan = segment.plan
                    delay = None if plan is None else plan.next(call, tries, outcome, clock())
                    if delay is None:
                        raise_last(error, real, tries)
                    if not isinstance(error, Rejected):
                        real = error
                await _close(self._inner)
                self._inner = None
                await asyncio.sleep(delay)
                tries += 1
                call.attempt = tries
        except StopAsyncIteration:
            raise
        except BaseException as error:  # noqa: BLE001  every way out settles
            self._leave(self._judged(error))
            raise
        finally:
            del real

    async def _pull(self) -> T:
        """Take one item from beneath, within the call's deadline."""
        inner = self._inner
        assert inner is not None  # noqa: S101  opened by _first
        if self._call.deadline is None:
            return await inner.__anext__()
        return cast("T", await bounded(lambda _: inner.__anext__(), self._call, self._clock))

    def _judged(self, error: BaseException) -> Outcome:
        return self._pipeline.judge(self._call, error, self._clock() - self._started)

    def _leave(self, outcome: Outcome) -> None:
        self._over = True
        now = self._clock()
        self._segment.inner.leave(self._call, self._attempt, outcome, now)
        while self._segment.outer.leave(self._call, self._tickets, outcome, now) is not None:
            pass  # a substitute cannot answer for a stream: what stands outside it is settled all the same

    async def aclose(self) -> None:
        """Close the stream early: settled as IGNORED, since it says nothing about the callee. Closing twice is fine."""
        if not self._over:
            self._leave(Outcome(IGNORED, status="closed", seconds=self._clock() - self._started))
        inner, self._inner = self._inner, None
        await _close(inner)

    async def __aenter__(self) -> Stream[T]:
        """Return itself."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close it."""
        await self.aclose()

    def __del__(self) -> None:
        """Hand what was dropped to the frame's queue and the loop: no lock is taken here."""
        if self._over:
            return
        self._segment.inner.abandon(self._attempt)
        self._segment.outer.abandon(self._tickets)
        inner, loop = self._inner, self._loop
        if inner is not None and loop is not None and not loop.is_closed():
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_reap, loop, inner)


def _reap(loop: asyncio.AbstractEventLoop, inner: AsyncIterator[object]) -> None:
    task = loop.create_task(_close(inner))
    _reaping.add(task)
    task.add_done_callback(_reaping.discard)


_reaping: set[asyncio.Task[None]] = set()


async def _close(inner: AsyncIterator[object] | None) -> None:
    close = getattr(inner, "aclose", None)
    if close is not None:
        await close()


async def _enter(frame: Frame, call: Call, tickets: Tickets, clock: Clock) -> None:
    waiting = frame.enter(call, tickets, clock())
    if waiting is not None:
        await _queue(frame, waiting, call, tickets, clock)


async def follow(
    source: Source[T], latest: Latest[T], *, clock: Clock = monotonic, backoff: Backoff | None = None
) -> None:
    """Keep `latest` as `source` says, for ever: when the source fails, back off with jitter and watch again."""
    pause = backoff or Backoff(dice())
    while True:
        try:
            async for value in source.watch():
                latest.put(value, clock())
                pause.reset()
            latest.fail(EOFError(f"{latest.name}: the watch ended"))
        except Exception as error:  # noqa: BLE001  whatever a backend raises makes knowledge old, not absent
            latest.fail(error)
        await asyncio.sleep(pause.next())
