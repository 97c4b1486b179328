"""The blocking driver: walks a pipeline round a plain function, and is the only core module that sleeps.

The twin of `msgov.aio`, line for line where the colours agree. Where blocking code cannot be honest it says less: a
deadline bounds waits, attempts and what is sent on, and never pretends to interrupt a running function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, cast

from msgov import scope
from msgov._race import refuse
from msgov._straight import Entry, Faults, line, straight
from msgov._streams_sync import Stream, stream
from msgov._threads import Within, arm, bounded, queue
from msgov.call import Call, Outcome
from msgov.clock import Clock, Sleep, monotonic
from msgov.clock import sleep as real_sleep
from msgov.errors import Rejected
from msgov.pipeline import Frame, Pipeline, Segment, Tickets, answered, last_error
from msgov.policy import Around, Plan, SyncHandler

__all__ = ["Stream", "bounded", "govern", "stream"]

SyncFunction = Callable[..., object]
_RUNNING = "a running function cannot be called off; msgov.resilience.futures hedges one that gives a future"


def entered(pipeline: Pipeline, handler: SyncHandler, entry: Entry, *, clock: Clock = monotonic) -> SyncFunction:
    """Wrap a function in a pipeline under its own signature; `handler` makes a call's next attempts."""
    segment = pipeline.segments[0]
    if len(pipeline.segments) == 1 and not segment.layers:
        refuse(segment.plan, _RUNNING)
        return _walked(pipeline, segment, handler, clock, real_sleep, entry)
    run = govern(pipeline, handler, clock=clock)
    return lambda *args, **kwargs: run(entry.call(args, kwargs))


def govern(
    pipeline: Pipeline, handler: SyncHandler, *, clock: Clock = monotonic, sleep: Sleep = real_sleep
) -> SyncHandler:
    """Wrap a handler in a pipeline; `sleep` waits between attempts. Raises `RuleError` for a hedge."""
    for segment in reversed(pipeline.segments):
        refuse(segment.plan, _RUNNING)
        for layer in reversed(segment.layers):
            if isinstance(layer, Around):
                handler = layer.sync(handler, pipeline.judge, clock)
            else:
                handler = cast("SyncHandler", layer(handler))
        handler = _walked(pipeline, segment, handler, clock, sleep)
    return handler


_Reply = tuple[object, Outcome, float]


def _walked(
    pipeline: Pipeline,
    segment: Segment,
    handler: SyncHandler,
    clock: Clock,
    sleep: Sleep,
    entry: Entry | None = None,
) -> SyncFunction:
    """Walk a segment's two frames round a handler: written out as long as all goes well, from there in `framed`."""
    outer, plan = segment.outer, segment.plan
    if plan is None and not len(outer):
        return handler
    attempts = _once(handler, clock)
    if plan is not None:
        attempts = _planned(pipeline, plan, segment.inner, handler, clock, sleep)
    timed = outer.narrows

    def resume(
        call: Call,
        held: Sequence[object],
        inside: bool,
        faults: Faults,
        started: float,
        within: Within | None,
        attempt_within: Within | None,
        delay: float | None,
    ) -> object:
        """Go on from where the written walk stopped: at a gate, or in its attempt."""
        tickets, attempt = segment.held(held)
        for token in (attempt_within, within):
            if token is not None:
                scope.current.reset(token)
        if delay is not None:
            attempt = []  # that one is settled; the next one walks in anew
        try:
            if not inside:
                met = line(faults)
                started = queue(outer, met, call, tickets, clock)
            run = partial(attempts, started, attempt if inside else None, faults, delay)
            reply, outcome, now = bounded(run, call) if timed else run(call)
            if outcome.seconds != now - started:  # more than one attempt, or one that waited in line
                outcome = answered(call.status, now - started)
        except BaseException as error:  # noqa: BLE001  every way out settles
            reply, outcome = _failed(pipeline, outer, call, tickets, error, started, clock)
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

    disarm = scope.current.reset
    return straight(
        segment,
        handler,
        awaits=False,
        clock=clock,
        judge=pipeline.judge,
        resume=resume,
        arm=arm,
        disarm=disarm,
        entry=entry,
    )


class _Attempts(Protocol):
    """Make the attempts of a call, or go on from the one that the written walk left with what stopped it.

    A `delay` says that this attempt is over, and when the next one starts.
    """

    def __call__(
        self, started: float, attempt: Tickets | None, faults: Faults, delay: float | None, call: Call, /
    ) -> _Reply: ...


def _once(handler: SyncHandler, clock: Clock) -> _Attempts:
    def once(started: float, attempt: Tickets | None, faults: Faults, delay: float | None, call: Call, /) -> _Reply:
        if faults:
            line(faults)
        reply = handler(call)
        now = clock()
        return reply, answered(call.status, now - started), now

    return once


def _planned(
    pipeline: Pipeline, plan: Plan, frame: Frame, handler: SyncHandler, clock: Clock, sleep: Sleep
) -> _Attempts:
    """Walk the frame inside the seam once per attempt, as the asyncio twin does."""
    enter, settle = frame.enter, frame.settle
    timed = frame.narrows

    def planned(started: float, attempt: Tickets | None, faults: Faults, delay: float | None, call: Call, /) -> _Reply:
        tries, real = 1, None
        if delay is not None:
            sleep(delay)
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
                        started = queue(frame, met, call, tickets, clock)
                    reply = bounded(handler, call) if timed else handler(call)
                except BaseException as error:  # noqa: BLE001  every way out settles, and the plan decides
                    reply, outcome = _failed(pipeline, frame, call, tickets, error, started, clock)
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
                sleep(delay)
                tries += 1
                call.attempt = tries
                started = clock()
        finally:
            del real

    return planned


def _failed(
    pipeline: Pipeline, frame: Frame, call: Call, tickets: Tickets, error: BaseException, started: float, clock: Clock
) -> tuple[object, Outcome]:
    """Settle a failed call and let its substitutes answer; return the reply, or an outcome that holds the error."""
    now = clock()
    outcome = pipeline.judge(call, error, now - started)
    answer = frame.leave(call, tickets, outcome, now)
    try:
        while answer is not None:
            try:
                reply = answer(call, error)
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
