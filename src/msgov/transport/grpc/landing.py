"""How an attempt ends: settled, then tried again, answered for by a substitute, or concluded for good."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Generic

import grpc

from msgov.call import NO, PERMANENT, Call, Outcome
from msgov.errors import DeadlineExceeded, MsgovError, Rejected
from msgov.event import unraisable
from msgov.pipeline import Frame, Pipeline, Segment, Tickets, answered, forsake, last_error
from msgov.policy import Answer, Waiting

from . import status
from .port import N, Off, Port

Then = Callable[[Outcome, float], None]
OK = grpc.StatusCode.OK


class Landing(Generic[N]):
    """The state of one logical call, and the ways it may take from an attempt that is over.

    `native` is the attempt under way or the last, `over` says that all is final, with what `outcome`. `since`
    is when the attempt began, `first` when the first message of its stream was given out.
    """

    __slots__ = (
        "_alarm", "_aloft", "_attempt", "_callbacks", "_connection", "_errand", "_heard", "_inside", "_line",
        "_pipeline", "_real", "_segment", "_started", "_then", "_tickets", "_timer", "_tries", "_turn", "answered",
        "call", "cancelled", "committed", "error", "first", "native", "outcome", "over", "port", "reply", "since",
    )  # fmt: skip

    def __init__(self, port: Port[N], pipeline: Pipeline, segment: Segment, call: Call) -> None:
        self.port = port
        self.call = call
        self.native: N | None = None
        self.over = False
        self.cancelled = False
        self.committed = False
        self.answered = False
        self.reply: object = None
        self.error: BaseException | None = None
        self.outcome: Outcome | None = None
        self._pipeline = pipeline
        self._segment = segment
        self._tickets: Tickets = []
        self._attempt: Tickets = []
        self._started = self.since = 0.0
        self.first: float | None = None
        self._tries = 1
        self._inside = False  # past the frame outside the seam
        self._aloft = False  # a native call is under way
        self._connection: Any = None
        self._real: Outcome | None = None  # the last failure that was no rejection of ours
        self._timer: Off | None = None
        self._alarm = 0  # the number of the timer that may ring
        self._line: tuple[Frame, Waiting[object], Tickets, Callable[[float], None]] | None = None
        self._errand: Off | None = None  # an answer under way
        self._then: Then | None = None  # where the flight goes on when the errand fails
        self._turn = 0  # of the errand: what an earlier one says is not heard any more
        self._heard: list[Callable[[], None]] = []
        self._callbacks: list[Callable[[], None]] = []

    def _start(self) -> None:
        """Begin another attempt: a flight does."""
        raise NotImplementedError

    def _landed(self, native: N) -> None:
        """Settle an attempt that is over; the transport calls this, maybe more than once, and it never raises."""
        if not self._aloft or native is not self.native:
            return
        self._aloft = False
        try:
            now = self.port.clock()
            self._leave()
            try:
                code, trailing, error = self.port.ended(native)
            except Exception as stray:  # noqa: BLE001  an interceptor of the user's raised it
                self._failed(self._judged(stray, now), now)
                return
            if code is OK:
                self._settled(now)
                self._finish(None)
                return
            raised = getattr(self.call.context, "fault", None)
            if raised is not None:  # by the caller's own request iterator
                self._failed(self._judged(raised, now), now)
                return
            if error is not None and not isinstance(error, grpc.RpcError):
                self.cancelled = True  # whoever awaits was cancelled, and grpc cancelled the call before us
            found = status.outcome(code, trailing, error, ours=self.cancelled)
            found.seconds = now - self.since
            if self.first is not None:
                found = Streamed(found, found.seconds, self.first - self.since)
            self._failed(found, now)
        except BaseException as fault:  # noqa: BLE001  a raising callback would break the caller's await
            unraisable(fault, self)
            self.abandon()
            if not self.over:
                self._finish(fault)

    def _settled(self, now: float) -> None:
        """Settle what went well."""
        segment, since = self._segment, self.since
        well: Outcome = answered("", now - since)
        if self.first is not None:
            well = Streamed(well, now - since, self.first - since)
        if self._attempt:
            segment.inner.settle(self._attempt, well, now)
        if since != self._started:
            well = whole(well, now - self._started)
        self.outcome = well
        segment.outer.settle(self._tickets, well, now)

    def _grounded(self, error: BaseException, now: float) -> None:
        """Fail for a reason that lies here: it was never sent, and another attempt would meet it again."""
        outcome = self._judged(error, now)
        if isinstance(error, Exception) and not isinstance(error, MsgovError):
            outcome = Outcome(PERMANENT, error=error, status=type(error).__name__, sent=NO, seconds=now - self.since)
        self._failed(outcome, now)

    def _judged(self, error: BaseException, now: float) -> Outcome:
        return self._pipeline.judge(self.call, error, now - self.since)

    def _failed(self, outcome: Outcome, now: float) -> None:
        """Settle the attempt, then try again or conclude."""
        inner, plan, delay = self._segment.inner, self._segment.plan, None
        if self.cancelled or self.port.streams:
            inner.settle(self._attempt, outcome, now)
        else:
            answer = inner.leave(self.call, self._attempt, outcome, now)
            if answer is not None:
                self._answer(answer, outcome, now, self._failed)
                return
        if plan is not None and self._inside and not self.committed and not self.cancelled:
            try:
                delay = plan.next(self.call, self._tries, outcome, now)
            except Exception as fault:  # noqa: BLE001  as in _opened
                outcome = self._judged(fault, now)
        if delay is None or not self._arm(delay, self._start):
            self._conclude(outcome, now)
            return
        if not isinstance(outcome.error, Rejected):
            self._real = outcome
        self.native = None
        self._tries += 1
        self.call.attempt = self._tries

    def _conclude(self, outcome: Outcome, now: float) -> None:
        """Settle the call, unless a substitute answers for it."""
        real = self._real
        if real is not None and isinstance(outcome.error, Rejected):
            outcome = real  # the rejection of a later attempt must not hide the failure before it
        if self.since != self._started:
            outcome = whole(outcome, now - self._started)
        outer = self._segment.outer
        if self.cancelled or self.port.streams:
            self._segment.inner.settle(self._attempt, outcome, now)
            outer.settle(self._tickets, outcome, now)
        else:
            answer = outer.leave(self.call, self._tickets, outcome, now)
            if answer is not None:
                self._answer(answer, outcome, now, self._conclude)
                return
        self.outcome = outcome
        error = outcome.error
        self._finish(error if error is None else last_error(error, None, self._tries))

    def _answer(self, answer: Answer, outcome: Outcome, now: float, then: Then) -> None:
        """Let a substitute answer in the callee's place, within what deadline still stands; `then` if it fails too."""
        self._turn += 1
        self._then, turn = then, self._turn
        make = partial(answer, self.call, outcome.error)  # type: ignore[arg-type]  # only a failed call is answered for
        errand = self.port.answer(self.call, make, partial(self._replied, turn))
        if turn == self._turn:
            self._errand = errand
            if self.call.deadline is not None:
                self._arm(self.call.deadline - now, self._late)

    def _replied(self, turn: int, reply: object, error: BaseException | None) -> None:
        if turn != self._turn or self.over:
            return
        self._turn += 1
        then, self._then = self._then, None
        self._errand = None
        self._disarm()
        now = self.port.clock()
        if error is not None:
            assert then is not None  # noqa: S101  set with the errand
            then(self._judged(error, now), now)
            return
        self.answered, self.reply = True, reply
        self._settled(now)
        self._finish(None)

    def _late(self) -> None:
        """End an answer whose time ran out."""
        errand, call = self._errand, self.call
        seconds = self.port.clock() - self._started
        what = f"{call.target} {call.method}".rstrip()
        self._replied(self._turn, None, DeadlineExceeded(f"{what}: no answer in {seconds:.3f} s", seconds=seconds))
        if errand is not None:
            errand.cancel()

    def _call_off(self, now: float) -> None:
        """Give up waiting, for whatever it is, settling what was granted at that very moment."""
        self._turn += 1
        self._disarm()
        self._leave()
        errand, self._errand = self._errand, None
        if errand is not None:
            errand.cancel()
        line, self._line = self._line, None
        if line is not None:
            frame, waiting, tickets, _ = line
            forsake(frame.gate(tickets), waiting, now)

    def _arm(self, seconds: float, act: Callable[[], None]) -> bool:
        """Set the timer; False when there is nobody left to ring it."""
        self._alarm += 1
        try:
            self._timer = self.port.later(max(0.0, seconds), partial(self._ring, self._alarm, act))
        except RuntimeError:  # the loop is closed, or the interpreter is ending
            return False
        return True

    def _ring(self, alarm: int, act: Callable[[], None]) -> None:
        if alarm == self._alarm:  # not called off while it was ringing
            self._timer = None
            act()

    def _disarm(self) -> None:
        self._alarm += 1
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _finish(self, error: BaseException | None) -> None:
        self.error = error
        self._real = None
        self.over = True
        if self._heard:
            self._changed()
        if self._callbacks:
            self._tell()

    def _changed(self) -> None:
        heard, self._heard = self._heard, []
        for change in heard:
            change()

    def _tell(self) -> None:
        callbacks, self._callbacks = self._callbacks, []
        tell(callbacks)

    def _leave(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self.port.leave(connection, self)

    def abandon(self) -> None:
        """Leave the tickets to the frames, which settle them with the next call; no lock is taken."""
        self._segment.inner.abandon(self._attempt)
        self._segment.outer.abandon(self._tickets)


def tell(callbacks: list[Callable[[], None]]) -> None:
    """Call the user's callbacks: one that raises breaks neither the call nor the others."""
    for callback in callbacks:
        try:
            callback()
        except Exception as fault:  # noqa: BLE001
            unraisable(fault, callback)


class Streamed(Outcome):
    """What became of a stream: `first` is the seconds until its first message, which tell how quick the callee is."""

    __slots__ = ("first",)

    def __init__(self, outcome: Outcome, seconds: float, first: float | None) -> None:
        super().__init__(
            outcome.verdict,
            error=outcome.error,
            status=outcome.status,
            retry_after=outcome.retry_after,
            sent=outcome.sent,
            overloaded=outcome.overloaded,
            seconds=seconds,
        )
        self.first = first


def whole(outcome: Outcome, seconds: float) -> Outcome:
    """Make the outcome of a call out of its last attempt's."""
    return Streamed(outcome, seconds, outcome.first)
