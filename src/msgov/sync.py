"""The blocking driver: walks a pipeline round a plain function, and is the only core module that sleeps.

The twin of `msgov.aio`, line for line where the colours agree. Where blocking code cannot be honest it says less: a
deadline bounds waits, attempts and what is sent on, and never pretends to interrupt a running function.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from contextvars import Token
from functools import partial
from typing import Protocol, TypeVar, cast

from msgov import scope
from msgov._race import refuse
from msgov._straight import Entry, Faults, line, straight
from msgov.call import IGNORED, OK, Call, Outcome
from msgov.clock import Clock, monotonic
from msgov.clock import sleep as real_sleep
from msgov.errors import DeadlineExceeded, MsgovError, Rejected
from msgov.pipeline import Frame, Pipeline, Segment, Tickets, answered, last_error
from msgov.policy import Around, Plan, SyncHandler, Waiting

T = TypeVar("T")
Sleep = Callable[[float], None]
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
_Within = Token[scope.Scope]


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
        within: _Within | None,
        attempt_within: _Within | None,
        delay: float | None,
    ) -> object:
        """Go on from where the written walk stopped: at a gate, or in its attempt."""
        tickets, attempt = segment.held(held)
        for token in (attempt_within, within):
            if token is not None:
                scope.current.reset(token)
        try:
            if not inside:
                met = line(faults)
                started = _queue(outer, met, call, tickets, clock)
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
        arm=_arm,
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
                        started = _queue(frame, met, call, tickets, clock)
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


def _queue(frame: Frame, waiting: Waiting[object], call: Call, tickets: Tickets, clock: Clock) -> float:
    """Wait in every line of the frame; return the time at which the last one let the call in."""
    line: Waiting[object] | None = waiting
    now = clock()
    while line is not None:
        gate = frame.gate(tickets)
        woken = threading.Event()
        line.wake = woken.set
        try:
            if not line.over:
                woken.wait(max(0.0, line.until - now))
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


def _arm(call: Call, now: float) -> _Within | None:
    """Hand the call's deadline down to what it calls, until the token is given back."""
    return None if call.deadline is None else scope.current.set(scope.current.get().by(call.deadline))


def bounded(handler: Callable[[Call], T], call: Call) -> T:
    """Hand `call.deadline` down to whatever the handler calls; nothing here interrupts it."""
    if call.deadline is None:
        return handler(call)
    token = scope.current.set(scope.current.get().by(call.deadline))
    try:
        return handler(call)
    finally:
        scope.current.reset(token)


def stream(
    pipeline: Pipeline,
    opener: Callable[[Call], Iterator[T]],
    *,
    clock: Clock = monotonic,
    sleep: Sleep = real_sleep,
) -> Callable[[Call], Stream[T]]:
    """Wrap a function that opens a stream: its tickets are held until the stream ends, breaks or is closed.

    A retry may open it again as long as no item was given out. Raises `RuleError` for a hedge.
    """
    segment = pipeline.flat
    refuse(segment.plan, "of two streams neither is the answer before it has ended")
    return lambda call: Stream(pipeline, segment, opener, call, clock, sleep)


class Stream(Iterator[T]):
    """A governed stream; an iterator with `close`, also a context manager.

    One dropped without `close` is settled late but surely: its finaliser takes no lock and hands the tickets to the
    frame's queue.
    """

    __slots__ = (
        "_attempt", "_call", "_clock", "_inner", "_opener", "_over", "_pipeline", "_segment", "_sleep", "_started",
        "_tickets",
    )  # fmt: skip

    def __init__(
        self,
        pipeline: Pipeline,
        segment: Segment,
        opener: Callable[[Call], Iterator[T]],
        call: Call,
        clock: Clock,
        sleep: Sleep,
    ) -> None:
        self._over = False
        self._tickets: Tickets = []
        self._attempt: Tickets = []
        self._inner: Iterator[T] | None = None
        self._pipeline = pipeline
        self._segment = segment
        self._opener = opener
        self._call = call
        self._clock = clock
        self._sleep = sleep
        self._started: float | None = None

    def __iter__(self) -> Stream[T]:
        """Return itself."""
        return self

    def __next__(self) -> T:
        """Return the next item; raises what ends the stream, once it is settled."""
        if self._over:
            raise StopIteration
        if self._started is None:
            return self._first()
        try:
            return self._pull()
        except StopIteration:
            self._leave(Outcome(OK, status=self._call.status, seconds=self._seconds()))
            raise
        except BaseException as error:
            self._leave(self._judged(error))
            raise

    def _first(self) -> T:
        """Enter, open, and try again while the plan allows: nothing was given out yet."""
        call, clock, segment = self._call, self._clock, self._segment
        self._started = clock()
        tries, real = 1, None
        try:
            _enter(segment.outer, call, self._tickets, clock)
            if segment.plan is not None:
                segment.plan.next(call, 1, None, clock())
            while True:
                try:
                    _enter(segment.inner, call, self._attempt, clock)
                    self._inner = self._opener(call)
                    return self._pull()
                except StopIteration:
                    self._leave(Outcome(OK, status=self._call.status, seconds=self._seconds()))
                    raise
                except BaseException as error:  # noqa: BLE001  the plan decides on every error
                    delay = self._again(error, tries)
                    if delay is None:
                        raise last_error(error, real, tries)  # noqa: B904  a cause of its own must stay
                    if not isinstance(error, Rejected):
                        real = error
                _close(self._inner)
                self._inner = None
                self._sleep(delay)
                tries += 1
                call.attempt = tries
        except StopIteration:
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

    def _pull(self) -> T:
        """Take one item from beneath; between two items, where it is honest, the deadline ends the stream."""
        inner, call = self._inner, self._call
        assert inner is not None  # noqa: S101  opened by _first
        if call.deadline is not None and self._clock() >= call.deadline:
            raise DeadlineExceeded(
                f"{call.target} {call.method}".rstrip() + ": the stream's time ran out", seconds=self._seconds()
            )
        return bounded(lambda _: next(inner), call)

    def _seconds(self) -> float:
        return 0.0 if self._started is None else self._clock() - self._started

    def _judged(self, error: BaseException) -> Outcome:
        return self._pipeline.judge(self._call, error, self._seconds())

    def _leave(self, outcome: Outcome) -> None:
        self._over = True
        now = self._clock()
        self._segment.inner.settle(self._attempt, outcome, now)
        self._segment.outer.settle(self._tickets, outcome, now)  # no substitute can answer for a stream

    def close(self) -> None:
        """Close the stream early: settled as IGNORED, since it says nothing about the callee. Closing twice is fine."""
        if not self._over:
            self._leave(Outcome(IGNORED, status="closed", seconds=self._seconds()))
        inner, self._inner = self._inner, None
        _close(inner)

    def __enter__(self) -> Stream[T]:
        """Return itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close it."""
        self.close()

    def __del__(self) -> None:
        """Hand what was dropped to the frame's queue: no lock is taken here."""
        if not self._over:
            self._segment.inner.abandon(self._attempt)
            self._segment.outer.abandon(self._tickets)


def _close(inner: Iterator[object] | None) -> None:
    close = getattr(inner, "close", None)
    if close is not None:
        close()


def _enter(frame: Frame, call: Call, tickets: Tickets, clock: Clock) -> None:
    waiting = frame.enter(call, tickets, clock())
    if waiting is not None:
        _queue(frame, waiting, call, tickets, clock)
