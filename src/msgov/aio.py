"""The asyncio driver: walks a pipeline round a coroutine function, and is the only core module that awaits.

It waits where a machine says to wait, wakes across loops and threads, enforces deadlines by one shared timer wheel, and
settles every admitted call on every way out. Its blocking twin is `msgov.sync`; one suite runs both.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar, cast

from msgov._hedging import hedged
from msgov._loop import Alarm, bounded, deadlines, disarm, exceeded, queue, stopped, under
from msgov._straight import Entry, Faults, line, straight
from msgov._streams import Stream, stream
from msgov.backoff import Backoff
from msgov.call import Call, Outcome
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
        if delay is not None:
            attempt = []  # that one is settled; the next one walks in anew
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
