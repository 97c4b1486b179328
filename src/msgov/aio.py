"""The asyncio driver: walks a pipeline round a coroutine function, and is the only core module that awaits.

It waits where a machine says to wait, wakes across loops and threads, enforces deadlines by one shared timer wheel, and
settles every admitted call on every way out. Its blocking twin is `msgov.sync`; one suite runs both.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeVar, cast

from msgov._hedging import hedged
from msgov._loop import Alarm, bounded, deadlines, disarm, exceeded, queue, stopped, under
from msgov._race import refuse
from msgov._straight import Entry, Faults, line, straight
from msgov.backoff import Backoff
from msgov.call import IGNORED, OK, Call, Outcome
from msgov.clock import Clock, dice, monotonic
from msgov.errors import Rejected
from msgov.latest import Latest, Source
from msgov.pipeline import Frame, Pipeline, Segment, Tickets, answered, last_error
from msgov.policy import Answer, Around, AsyncHandler, Hedging, Plan

AsyncFunction = Callable[..., Awaitable[object]]

__all__ = ["Stream", "bounded", "follow", "govern", "stream"]

T = TypeVar("T")


def entered(pipeline: Pipeline, handler: AsyncHandler, entry: Entry, *, clock: Clock = monotonic) -> AsyncFunction:
    """Wrap a function in a pipeline under its own signature; `handler` makes a call's next attempts."""
    segment = pipeline.segments[0]
    if len(pipeline.segments) == 1 and not segment.layers and not isinstance(segment.plan, Hedging):
        return _walked(pipeline, segment, handler, clock, False, entry)
    run = govern(pipeline, handler, clock=clock)

    async def governed(*args: object, **kwargs: object) -> object:
        return await run(entry.call(args, kwargs))

    return governed


def govern(
    pipeline: Pipeline, handler: AsyncHandler, *, clock: Clock = monotonic, native: bool = False
) -> AsyncHandler:
    """Wrap a handler in a pipeline.

    `native` says that the handler enforces `call.deadline` itself (gRPC does), so that no timer is armed for it.
    """
    for segment in reversed(pipeline.segments):
        for layer in reversed(segment.layers):
            if isinstance(layer, Around):
                handler = layer.aio(handler, pipeline.judge, clock)
            else:
                handler = cast("AsyncHandler", layer(handler))
        if isinstance(segment.plan, Hedging):
            handler = hedged(pipeline, segment.plan, segment.inner, handler, clock=clock, native=native, failed=_failed)
            segment = segment.outside
        handler = _walked(pipeline, segment, handler, clock, native)
        native = False  # what now stands inside may wait in line or back off: only a timer bounds that
    return handler


_RESOLUTION = 1e-6  # seconds: a loop may ring its timers early by its clock's resolution
_Reply = tuple[object, Outcome, float]


def _walked(
    pipeline: Pipeline,
    segment: Segment,
    handler: AsyncHandler,
    clock: Clock,
    native: bool,
    entry: Entry | None = None,
) -> AsyncFunction:
    """Walk a segment's two frames round a handler: written out as long as all goes well, from there in `framed`."""
    outer, plan = segment.outer, segment.plan
    if plan is None and not len(outer):
        return handler
    attempts = (
        _once(handler, clock) if plan is None else _planned(pipeline, plan, segment.inner, handler, clock, native)
    )
    timed, arm = outer.narrows and not native, deadlines(clock).arm

    async def framed(
        call: Call,
        tickets: Tickets,
        started: float,
        attempt: Tickets | None,
        faults: Faults,
        alarm: Alarm | None = None,
        delay: float | None = None,
    ) -> object:
        """Walk from the door, or go on where the written walk stopped: at a gate, or in its `attempt`."""
        try:
            if attempt is None:
                if alarm is not None:
                    disarm(alarm)
                    alarm = None
                met = line(faults) if faults else outer.enter(call, tickets, started)
                if met is not None:
                    started = await queue(outer, met, call, tickets, clock)
            run = partial(attempts, started, attempt, faults, delay)
            if timed:
                reply, outcome, now = await under(alarm or arm(call, clock()), run, call)
            else:
                reply, outcome, now = await run(call)
            if outcome.seconds != now - started:  # more than one attempt, or one that waited in line
                outcome = answered(call.status, now - started)
        except BaseException as error:  # noqa: BLE001  every way out settles
            reply, outcome = await _failed(pipeline, outer, call, tickets, error, started, clock, timed)
            try:
                if outcome.error is None:
                    return reply
                if outcome.error is error:
                    raise
                raise outcome.error
            finally:
                del outcome  # its error's traceback holds this frame
        outer.settle(tickets, outcome, now)
        return reply

    async def resume(
        call: Call,
        held: Sequence[object],
        inside: bool,
        faults: Faults,
        started: float,
        alarm: Alarm | None,
        attempt_alarm: Alarm | None,
        delay: float | None,
    ) -> object:
        tickets, attempt = segment.held(held)
        if attempt_alarm is not None:
            faults.append(stopped(attempt_alarm, call, faults.pop()))
        return await framed(call, tickets, started, attempt if inside else None, faults, alarm, delay)

    timer = None if native else arm
    return straight(
        segment,
        handler,
        awaits=True,
        clock=clock,
        judge=pipeline.judge,
        resume=resume,
        arm=timer,
        disarm=disarm,
        entry=entry,
    )


class _Attempts(Protocol):
    """Make the attempts of a call, or go on from the one that the written walk left with what stopped it.

    A `delay` says that this attempt is over, and when the next one starts.
    """

    async def __call__(
        self, started: float, attempt: Tickets | None, faults: Faults, delay: float | None, call: Call, /
    ) -> _Reply: ...


def _once(handler: AsyncHandler, clock: Clock) -> _Attempts:
    async def once(
        started: float, attempt: Tickets | None, faults: Faults, delay: float | None, call: Call, /
    ) -> _Reply:
        if faults:
            line(faults)
        reply = await handler(call)
        now = clock()
        return reply, answered(call.status, now - started), now

    return once


def _planned(
    pipeline: Pipeline, plan: Plan, frame: Frame, handler: AsyncHandler, clock: Clock, native: bool
) -> _Attempts:
    """Walk the frame inside the seam once per attempt.

    The last attempt's reply comes with its outcome and its end, for the frame outside: a call that goes well at once
    makes one outcome and reads the clock twice, not two and four times.
    """
    enter, settle = frame.enter, frame.settle
    timed = frame.narrows and not native

    async def planned(
        started: float, attempt: Tickets | None, faults: Faults, delay: float | None, call: Call, /
    ) -> _Reply:
        tries, real = 1, None
        if delay is not None:
            await asyncio.sleep(delay)
            tries = call.attempt = 2
            started = clock()
        elif not faults:
            plan.next(call, 1, None, started)
        try:
            while True:
                tickets: Tickets = attempt or []
                attempt = None
                try:
                    met = line(faults) if faults else enter(call, tickets, started)
                    if met is not None:
                        started = await queue(frame, met, call, tickets, clock)
                    reply = await (bounded(handler, call, clock) if timed else handler(call))
                except BaseException as error:  # noqa: BLE001  every way out settles, and the plan decides
                    reply, outcome = await _failed(pipeline, frame, call, tickets, error, started, clock, timed)
                    try:
                        now = clock()
                        if outcome.error is None:
                            return reply, outcome, now
                        delay = plan.next(call, tries, outcome, now)
                        if delay is None:
                            raise last_error(outcome.error, real, tries)
                        if not isinstance(outcome.error, Rejected):
                            real = outcome.error
                    finally:
                        del outcome  # its error's traceback holds this frame
                else:
                    now = clock()
                    well = answered(call.status, now - started)
                    settle(tickets, well, now)
                    return reply, well, now
                await asyncio.sleep(delay)
                tries += 1
                call.attempt = tries
                started = clock()
        finally:
            del real

    return planned


async def _failed(
    pipeline: Pipeline,
    frame: Frame,
    call: Call,
    tickets: Tickets,
    error: BaseException,
    started: float,
    clock: Clock,
    timed: bool,
) -> tuple[object, Outcome]:
    """Settle a failed call and let its substitutes answer; return the reply, or an outcome that holds the error."""
    now = clock()
    outcome = pipeline.judge(call, error, now - started)
    if isinstance(error, asyncio.CancelledError):  # it passes, whoever sent it, and nobody answers in its place
        learnt = outcome
        if call.deadline is not None and now >= call.deadline - _RESOLUTION:  # a deadline further out rang
            learnt = pipeline.judge(call, exceeded(call, now - started), now - started)
        frame.settle(tickets, learnt, now)
        return None, outcome
    answer = frame.leave(call, tickets, outcome, now)
    try:
        while answer is not None:
            try:  # within what deadline still stands: those inside the substitute are settled already
                run = partial(_answered, answer, error)
                reply = await (bounded(run, call, clock) if timed else run(call))
            except BaseException as worse:  # noqa: BLE001  the answer failed too: the steps outside still settle
                error, now = worse, clock()
                outcome = pipeline.judge(call, error, now - started)
                answer = frame.leave(call, tickets, outcome, now)
            else:
                now = clock()
                outcome = answered(call.status, now - started)
                frame.settle(tickets, outcome, now)
                return reply, outcome
        return None, outcome
    finally:
        del error, outcome  # the error's traceback holds this frame


async def _answered(answer: Answer, error: BaseException, call: Call) -> object:
    reply = answer(call, error)
    return await reply if inspect.isawaitable(reply) else reply


def stream(
    pipeline: Pipeline, opener: Callable[[Call], AsyncIterator[T]], *, clock: Clock = monotonic
) -> Callable[[Call], Stream[T]]:
    """Wrap a function that opens a stream: its tickets are held until the stream ends, breaks or is closed.

    A retry may open it again as long as no item was given out. Raises `RuleError` for a hedge.
    """
    segment = pipeline.flat
    refuse(segment.plan, "of two streams neither is the answer before it has ended")
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
            self._leave(Outcome(OK, status=self._call.status, seconds=self._clock() - self._started))
            raise
        except BaseException as error:
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
                    self._leave(Outcome(OK, status=call.status, seconds=clock() - self._started))
                    raise
                except BaseException as error:  # noqa: BLE001  the plan decides on every error
                    delay = self._again(error, tries)
                    if delay is None:
                        raise last_error(error, real, tries)  # noqa: B904  a cause of its own must stay
                    if not isinstance(error, Rejected):
                        real = error
                await _close(self._inner)
                self._inner = None
                await asyncio.sleep(delay)
                tries += 1
                call.attempt = tries
        except StopAsyncIteration:
            raise
        except BaseException as error:
            self._leave(self._judged(error))
            raise
        finally:
            del real

    def _again(self, error: BaseException, tries: int) -> float | None:
        """Settle the attempt that failed and ask for another; in a frame of its own, which the error does not hold."""
        outcome, segment = self._judged(error), self._segment
        segment.inner.settle(self._attempt, outcome, self._clock())
        return None if segment.plan is None else segment.plan.next(self._call, tries, outcome, self._clock())

    async def _pull(self) -> T:
        """Take one item from beneath, within the call's deadline."""
        inner = self._inner
        assert inner is not None  # noqa: S101  opened by _first
        if self._call.deadline is None:
            return await inner.__anext__()
        return await bounded(lambda _: inner.__anext__(), self._call, self._clock)

    def _judged(self, error: BaseException) -> Outcome:
        return self._pipeline.judge(self._call, error, self._clock() - self._started)

    def _leave(self, outcome: Outcome) -> None:
        self._over = True
        now = self._clock()
        self._segment.inner.settle(self._attempt, outcome, now)
        self._segment.outer.settle(self._tickets, outcome, now)  # no substitute can answer for a stream

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
        await queue(frame, waiting, call, tickets, clock)


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
