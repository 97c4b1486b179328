"""One logical RPC under way, driven by callbacks: no task, no thread of its own, whatever the colour.

It starts at call time, as a bare call does. Each attempt walks the per-attempt frame, the transport's own done callback
settles it, and the plan says when the next one starts. A `Port` lends it the colour: timers, wake-ups, native calls.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Generic, Protocol, TypeVar

import grpc

from msgov.call import IGNORED, OK, Call, Outcome
from msgov.clock import Clock
from msgov.errors import DeadlineSpent, MsgovError, Rejected
from msgov.event import unraisable
from msgov.pipeline import Frame, Pipeline, Tickets
from msgov.policy import Answer, Waiting

from . import status

N = TypeVar("N")


class Timer(Protocol):
    """What can be called off."""

    def cancel(self) -> object:
        """Call it off."""
        ...


class Port(Protocol[N]):
    """What a colour lends a flight. `N` is its native call."""

    def later(self, seconds: float, act: Callable[[], None]) -> Timer:
        """Act after so many seconds."""
        ...

    def soon(self, act: Callable[[], None]) -> None:
        """Act where this flight lives, from whatever thread."""
        ...

    def lock(self) -> AbstractContextManager[object]:
        """Make what guards one flight's turns."""
        ...

    def watch(self, native: N, landed: Callable[[N], None]) -> None:
        """Tell when the native call is over; at once if it is."""
        ...

    def ended(self, native: N) -> tuple[grpc.StatusCode, status.Pairs, BaseException | None]:
        """Read the status, the trailing metadata and the error of a native call that is over."""
        ...

    def ready(self, call: Call) -> bool:
        """Whether the connection of the attempt has ever been up."""
        ...

    def stop(self, native: N) -> None:
        """Cancel the native call."""
        ...

    def answer(self, reply: object, done: Callable[[object, BaseException | None], None]) -> None:
        """Hand on a substitute's reply, waiting for it where it is awaitable and this colour can."""
        ...

    def cancelled(self) -> BaseException:
        """Make the error that a cancelled call raises in this colour."""
        ...


class Flight(Generic[N]):
    """The life of one logical call: `native` is the attempt under way, `over` says that the outcome is final.

    `committed` is set by whoever has handed out something of the current attempt: no retry after that.
    """

    __slots__ = (
        "_attempt", "_clock", "_heard", "_inside", "_launch", "_line", "_lock", "_real", "_segment", "_started",
        "_tickets", "_timer", "_tries", "answered", "call", "callbacks", "cancelled", "committed", "error", "native",
        "over", "pipeline", "port", "reply",
    )  # fmt: skip

    def __init__(
        self,
        pipeline: Pipeline,
        call: Call,
        launch: Callable[[Call, float | None], N],
        port: Port[N],
        clock: Clock,
    ) -> None:
        self.pipeline = pipeline
        self.call = call
        self.port = port
        self.native: N | None = None
        self.over = False
        self.committed = False
        self.cancelled = False
        self.answered = False
        self.reply: object = None
        self.error: BaseException | None = None
        self.callbacks: list[Callable[[], None]] = []
        self._heard: list[Callable[[], None]] = []
        self._segment = pipeline.flat
        self._launch = launch
        self._clock = clock
        self._lock = port.lock()
        self._tickets: Tickets = []
        self._attempt: Tickets = []
        self._inside = False
        self._tries = 1
        self._real: BaseException | None = None
        self._timer: Timer | None = None
        self._line: tuple[Frame, Waiting[object], Tickets, Callable[[], None]] | None = None
        self._started = 0.0

    def begin(self) -> None:
        """Start the first attempt, or its place in a line. Never raises: a refusal is kept for whoever asks."""
        self._started = self._clock()
        with self._lock:
            self._enter(self._segment.outer, self._tickets, self._opened)

    def hear(self, change: Callable[[], None]) -> None:
        """Call `change` once, when another attempt has begun or all is over; several may wait."""
        with self._lock:
            self._heard.append(change)

    def cancel(self) -> bool:
        """End the call for the caller's own reason; return False when it was over or cancelled already."""
        with self._lock:
            if self.over or self.cancelled:
                return False
            self.cancelled = True
            native = self.native
            if native is None:
                self._leave_line()
                error = self.port.cancelled()
                self._failed(Outcome(IGNORED, error=error, status="CANCELLED"))
        if native is not None:
            self.port.stop(native)
        return True

    def abandon(self) -> None:
        """Hand the tickets to the frames' queues without a lock, for a finaliser; it then asks for `cancel`."""
        attempt, self._attempt = self._attempt, []
        tickets, self._tickets = self._tickets, []
        self._segment.inner.abandon(attempt)
        self._segment.outer.abandon(tickets)

    # The walk in.

    def _enter(self, frame: Frame, tickets: Tickets, then: Callable[[], None]) -> None:
        try:
            waiting = frame.enter(self.call, tickets, self._clock())
        except BaseException as error:  # noqa: BLE001  kept, and raised to whoever awaits
            self._failed(self._judged(error))
            return
        if waiting is None:
            then()
            return
        self._line = (frame, waiting, tickets, then)
        self._timer = self.port.later(max(0.0, waiting.until - self._clock()), self._granted)
        waiting.wake = self._woken
        if waiting.over:
            self._granted()

    def _woken(self) -> None:
        self.port.soon(self._granted)

    def _granted(self) -> None:
        """Leave the line: granted, refused or late."""
        with self._lock:
            line, self._line = self._line, None
            if line is None:
                return
            self._disarm()
            frame, waiting, tickets, then = line
            gate, now = frame.gate(tickets), self._clock()
            try:
                ticket = gate.withdraw(waiting, now)
                if ticket is None:
                    raise gate.late(waiting, now)
            except MsgovError as error:
                self._failed(self._judged(error))
                return
            tickets.append(ticket)
            self._enter(frame, tickets, then)

    def _leave_line(self) -> None:
        """Give up waiting, for a retry's time or in a line, settling what was granted at that very moment."""
        self._disarm()
        line, self._line = self._line, None
        if line is None:
            return
        frame, waiting, tickets, _ = line
        gate, now = frame.gate(tickets), self._clock()
        try:
            ticket = gate.withdraw(waiting, now)
        except MsgovError:
            return
        if ticket is not None:
            gate.settle(ticket, Outcome(IGNORED), now)

    def _disarm(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _opened(self) -> None:
        self._inside = True
        plan = self._segment.plan
        if plan is not None:
            plan.next(self.call, 1, None, self._clock())
        self._start()

    def _start(self) -> None:
        """Begin an attempt."""
        with self._lock:
            if self.over or self.cancelled:
                return
            self._timer = None
            self._enter(self._segment.inner, self._attempt, self._go)

    def _go(self) -> None:
        deadline = self.call.deadline
        left = None if deadline is None else deadline - self._clock()
        try:
            if left is not None and left <= 0:
                raise DeadlineSpent("no time is left for the call", seconds=left)
            native = self._launch(self.call, left)
        except BaseException as error:  # noqa: BLE001  a message that cannot be serialised, say
            self._failed(self._judged(error))
            return
        self.native = native
        self._changed()
        self.port.watch(native, self._landed)

    # The walk out.

    def _landed(self, native: N) -> None:
        """Settle an attempt that is over; the transport calls this, and it never raises."""
        try:
            with self._lock:
                if self.over or native is not self.native:
                    return
                code, trailing, error = self.port.ended(native)
                if error is not None and not isinstance(error, grpc.RpcError):
                    self.cancelled = True  # whoever awaits was cancelled, and grpc cancelled the call before us
                seconds = self._clock() - self._started
                if code is grpc.StatusCode.OK:
                    self._conclude(Outcome(OK, seconds=seconds))
                    return
                ready = code is not grpc.StatusCode.UNAVAILABLE or self.port.ready(self.call)
                found = status.outcome(code, trailing, error, ours=self.cancelled, ready=ready)
                found.seconds = seconds
                self._failed(found)
        except BaseException as fault:  # noqa: BLE001  a raising callback would break the caller's await
            unraisable(fault, self)

    def _judged(self, error: BaseException) -> Outcome:
        return self.pipeline.judge(self.call, error, self._clock() - self._started)

    def _failed(self, outcome: Outcome) -> None:
        """Settle the attempt, then try again or conclude."""
        now = self._clock()
        error = outcome.error
        answer = self._segment.inner.leave(self.call, self._attempt, outcome, now)
        if answer is not None:
            self._answer(answer, outcome)
            return
        plan = self._segment.plan
        if plan is not None and self._inside and not self.committed and not self.cancelled:
            delay = plan.next(self.call, self._tries, outcome, now)
            if delay is not None:
                if not isinstance(error, Rejected):
                    self._real = error
                self.native = None
                self._tries += 1
                self.call.attempt = self._tries
                self._timer = self.port.later(delay, self._start)
                return
        if isinstance(error, Rejected) and self._real is not None:
            outcome.error = self._real  # the rejection of a later attempt must not hide the failure before it
        self._conclude(outcome)

    def _conclude(self, outcome: Outcome) -> None:
        now = self._clock()
        outcome.seconds = now - self._started
        self._segment.inner.leave(self.call, self._attempt, outcome, now)
        answer = self._segment.outer.leave(self.call, self._tickets, outcome, now)
        if answer is not None:
            self._answer(answer, outcome)
            return
        self._finish(outcome.error)

    def _answer(self, answer: Answer, outcome: Outcome) -> None:
        """Let a substitute answer in the callee's place."""
        error = outcome.error
        assert error is not None  # noqa: S101  only a failed call is answered for
        try:
            reply = answer(self.call, error)
        except BaseException as worse:  # noqa: BLE001  the answer failed too
            self._conclude(self._judged(worse))
            return
        self.port.answer(reply, self._replied)

    def _replied(self, reply: object, error: BaseException | None) -> None:
        with self._lock:
            if self.over:
                return
            if error is not None:
                self._conclude(self._judged(error))
                return
            self.answered, self.reply = True, reply
            self._conclude(Outcome(OK))

    def _finish(self, error: BaseException | None) -> None:
        if error is not None and self._tries > 1 and isinstance(error, Exception):
            error.add_note(f"after {self._tries} attempts")
        self.error = error
        self._real = None
        self.over = True
        self._changed()
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            _guarded(callback)

    def done(self, callback: Callable[[], None]) -> None:
        """Call back when all is over; at once if it is."""
        with self._lock:
            if not self.over:
                self.callbacks.append(callback)
                return
        _guarded(callback)

    def _changed(self) -> None:
        if self._heard:
            heard, self._heard = self._heard, []
            for change in heard:
                change()


def _guarded(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception as fault:  # noqa: BLE001  the user's callback must not break the call
        unraisable(fault, callback)


def thread_lock() -> AbstractContextManager[object]:
    """Make the lock of a flight that threads share: reentrant, for a call that is over calls back at once."""
    return threading.RLock()
