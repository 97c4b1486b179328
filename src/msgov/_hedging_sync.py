"""Hedge in threads what can be called off: a call that gives a future. Its caller's own thread runs the race.

The handler is `begin(call) -> Pending`: it sends the attempt without waiting and returns its future, one of
`concurrent.futures`, of grpc, or anything with the same four methods. Callbacks of futures, from whatever thread, only
put down what is to be done; the thread that waits for the reply does it, and keeps the time as well, so that no timer
has a thread of its own. What ends after the reply (a loser that could not be stopped) settles on the thread that ended
it. A gRPC channel, whose flights are callbacks already, drives `msgov._race.Race` itself.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from functools import partial
from typing import Any, Protocol, TypeVar

from msgov._desk import Alarm, Desk
from msgov._race import Cancel, Ended, Race
from msgov.call import IGNORED, PERMANENT, Call, Outcome
from msgov.clock import Clock, monotonic
from msgov.errors import DeadlineExceeded, RuleError
from msgov.pipeline import Frame, Pipeline, Tickets, answered, forsake, last_error
from msgov.policy import Hedging, SyncHandler, Waiting
from msgov.sync import _failed, bounded

R_co = TypeVar("R_co", covariant=True)


class Pending(Protocol[R_co]):
    """An attempt under way: a `concurrent.futures.Future` is one, and so is a `grpc.Future`."""

    def add_done_callback(self, callback: Callable[[Any], Any], /) -> Any:
        """Call back when it is over, on any thread; at once if it is."""
        ...

    def cancel(self) -> bool:
        """Ask it to end; the callback tells when it has. False when it will run on."""
        ...

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        ...

    def result(self, timeout: float | None = None, /) -> R_co:
        """Return the reply of one that is over, or raise its error."""
        ...


def hedged(
    pipeline: Pipeline,
    plan: Hedging,
    frame: Frame,
    begin: Callable[[Call], Pending[object]],
    *,
    clock: Clock = monotonic,
    desk: Callable[[Clock], Desk] = Desk,
) -> SyncHandler:
    """Make a handler that begins as many attempts as the plan says, each walking the frame on its own copy, and waits.

    Returns the first good reply, raises what the last attempt raised, and `DeadlineExceeded` when `call.deadline` comes
    before either. A future that cannot be cancelled any more runs on, and holds its tickets until it has ended.
    """

    def handle(call: Call) -> object:
        at = desk(clock)
        found: list[tuple[object, Outcome]] = []

        def started(fork: Call, ended: Ended) -> Cancel:
            attempt = _Attempt(pipeline, frame, begin, fork, ended, at)
            attempt.enter(clock())
            return attempt.cancel

        race = Race(
            plan,
            call,
            begin=started,
            later=at.later,
            over=lambda reply, outcome, now: found.append((reply, outcome)),
            clock=clock,
        )
        try:
            race.start(clock())
            while not found:
                at.work()
        except BaseException:  # an interrupt: nobody waits for a reply any more
            race.cancel()
            raise
        finally:
            at.close()
        reply, outcome = found.pop()
        if outcome.error is None:
            return reply
        try:
            raise last_error(outcome.error, None, race.tries)
        finally:
            del outcome  # its error's traceback holds this frame

    return handle


class _Attempt:
    """One attempt: in the frame, in a line, or under way; whatever ends it is settled once and told once."""

    __slots__ = (
        "_alarm", "_begin", "_call", "_desk", "_ended", "_frame", "_future", "_late", "_line", "_lost", "_pipeline",
        "_since", "_tickets",
    )  # fmt: skip

    def __init__(
        self,
        pipeline: Pipeline,
        frame: Frame,
        begin: Callable[[Call], Pending[object]],
        call: Call,
        ended: Ended,
        desk: Desk,
    ) -> None:
        self._pipeline = pipeline
        self._frame = frame
        self._begin = begin
        self._call = call
        self._ended: Ended | None = ended  # None once it was told
        self._desk = desk
        self._tickets: Tickets = []
        self._since = 0.0
        self._line: Waiting[object] | None = None
        self._future: Pending[object] | None = None
        self._alarm: Alarm | None = None
        self._late = False
        self._lost = False

    def enter(self, now: float) -> None:
        """Walk in, from the door or from where a line ended."""
        self._since = now
        try:
            line = self._frame.enter(self._call, self._tickets, now)
        except BaseException as error:  # noqa: BLE001  the race decides
            self._failed(error, now)
            return
        if line is None:
            self._send(now)
            return
        self._line = line
        granted = partial(self._granted, line)
        self._alarm = self._desk.later(max(0.0, line.until - now), granted)
        line.wake = partial(self._desk.put, granted)
        if line.over:
            granted()

    def cancel(self) -> None:
        """End it: it lost, or nobody waits."""
        self._lost = True
        if self._line is not None:
            self._leave_line()
            self._tell(None, self._settle(CancelledError()), self._desk.clock())
        elif self._future is not None:
            self._future.cancel()

    def _granted(self, line: Waiting[object]) -> None:
        if self._line is not line:
            return  # left already: the word of it came twice
        self._line = None
        self._disarm()
        gate, now = self._frame.gate(self._tickets), self._desk.clock()
        try:
            ticket = gate.withdraw(line, now)
            if ticket is None:
                raise gate.late(line, now)
        except BaseException as error:  # noqa: BLE001  as in enter
            self._failed(error, now)
            return
        self._tickets.append(ticket)
        self.enter(now)

    def _leave_line(self) -> None:
        line, self._line = self._line, None
        self._disarm()
        assert line is not None  # noqa: S101  asked before
        forsake(self._frame.gate(self._tickets), line, self._desk.clock(), status="lost")

    def _send(self, now: float) -> None:
        call = self._call
        try:
            future = bounded(self._begin, call)
        except BaseException as error:  # noqa: BLE001  as in enter
            self._failed(error, now)
            return
        if not callable(getattr(future, "add_done_callback", None)):
            self._failed(
                RuleError.at("begin", future, "a future: what is hedged must be one that can be cancelled"), now
            )
            return
        self._future = future
        if call.deadline is not None:
            self._alarm = self._desk.later(max(0.0, call.deadline - now), self._expired)
        future.add_done_callback(lambda done: self._desk.put(partial(self._landed, done)))

    def _expired(self) -> None:
        """Call off what has no time left; where it runs on, the caller does not wait for it."""
        self._late = True
        assert self._future is not None  # noqa: S101  sent with the alarm
        if not self._future.cancel() and not self._lost:
            now = self._desk.clock()
            spent = self._spent(now)
            self._tell(None, self._pipeline.judge(self._call, spent, now - self._since), now)

    def _landed(self, future: Pending[object]) -> None:
        """Take what a future has come to."""
        self._disarm()
        now = self._desk.clock()
        if self._late and not self._lost:  # whatever it is, it came too late
            self._failed(self._spent(now), now)
            return
        try:
            if future.cancelled():
                raise CancelledError
            reply = future.result()
        except BaseException as error:  # noqa: BLE001  as in enter
            self._failed(error, now)
            return
        well = answered(self._call.status, now - self._since)
        self._frame.settle(self._tickets, well, now)
        self._tell(reply, well, now)

    def _failed(self, error: BaseException, now: float) -> None:
        if self._lost or self._ended is None:
            self._tell(None, self._settle(error), now)
            return
        if isinstance(error, RuleError):  # a mistake in the program: another attempt would meet it again
            outcome = Outcome(PERMANENT, error=error, status=error.reason, seconds=now - self._since)
            self._frame.settle(self._tickets, outcome, now)
            reply = None
        else:
            frame, call = self._frame, self._call
            reply, outcome = _failed(self._pipeline, frame, call, self._tickets, error, self._since, self._desk.clock)
        self._tell(reply, outcome, self._desk.clock())

    def _settle(self, error: BaseException) -> Outcome:
        """Settle what nobody waits for: a loser says nothing about the callee, one whose time ran out does."""
        now = self._desk.clock()
        if self._lost or not self._late:
            outcome = Outcome(IGNORED, error=error, status="lost", seconds=now - self._since)
        else:
            outcome = self._pipeline.judge(self._call, self._spent(now), now - self._since)
        self._frame.settle(self._tickets, outcome, now)
        return outcome

    def _tell(self, reply: object, outcome: Outcome, now: float) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(reply, outcome, now)

    def _spent(self, now: float) -> DeadlineExceeded:
        what, seconds = f"{self._call.target} {self._call.method}".rstrip(), now - self._since
        return DeadlineExceeded(f"{what}: no answer in {seconds:.3f} s", seconds=seconds)

    def _disarm(self) -> None:
        alarm, self._alarm = self._alarm, None
        if alarm is not None:
            alarm.cancel()
