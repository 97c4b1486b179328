"""One logical RPC under way, driven by callbacks: no task, no thread of its own, whatever the colour.

It starts at call time, as a bare call does. Each attempt walks the per-attempt frame, the transport's own done callback
settles it, and the plan says when the next one starts. A `Port` lends it the colour: timers, wake-ups, native calls.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

import grpc

from msgov.call import IGNORED, Outcome
from msgov.errors import DeadlineSpent, explain
from msgov.pipeline import Frame, Tickets
from msgov.policy import Waiting

from .landing import Landing
from .port import N


class Flight(Landing[N]):
    """The life of one logical call, from its first gate on. For one thread; `SharedFlight` is for several."""

    __slots__ = ()

    # What its owner may do.

    def begin(self) -> None:
        """Start the first attempt, or its place in a line. Never raises: a refusal is kept for whoever asks."""
        now = self._started = self.since = self.port.clock()
        self._enter(self._segment.outer, self._tickets, now, self._opened)

    def refuse(self, error: Exception) -> None:
        """Fail before anything begins, for a reason that lies in what the call was given."""
        now = self._started = self.since = self.port.clock()
        self._grounded(error, now)

    def cancel(self) -> bool:
        """End the call for the caller's own reason; return False when it was over or cancelled already."""
        if self.over or self.cancelled:
            return False
        self.cancelled = True
        if self._aloft:
            self.native.cancel()  # type: ignore[union-attr]  # aloft: there is one
        else:
            now = self.port.clock()
            self._call_off(now)
            self.native = None
            error = self.port.cancelled()
            self._conclude(Outcome(IGNORED, error=error, status="CANCELLED", seconds=now - self._started), now)
        return True

    def commit(self, native: N) -> bool:
        """Note that something of this attempt is handed out, so that none follows; False when one has followed."""
        if self.native is native:
            if not self.committed:
                self.committed = True
                if self.port.streams:
                    self.first = self.port.clock()
            return True
        return False

    def fail(self, native: N, error: BaseException) -> None:
        """Take an error of a native call that will never be over: grpc could not even begin it."""
        if self._aloft and self.native is native:
            self._aloft = False
            self._leave()
            self._grounded(error, self.port.clock())

    def hear(self, change: Callable[[], None]) -> None:
        """Call `change` once, when another attempt has begun or all is over; several may wait."""
        self._heard.append(change)

    def unhear(self, change: Callable[[], None]) -> None:
        """Call it no more."""
        with suppress(ValueError):
            self._heard.remove(change)

    def done(self, callback: Callable[[], None]) -> None:
        """Call back when all is over; at once if it is."""
        self._callbacks.append(callback)
        if self.over:
            self._tell()

    def drop(self) -> None:
        """Cancel, for a finaliser: no lock is taken; where nobody is left for it, the frames' queues get it."""
        if not self.over and not self.port.soon(self.cancel):
            self.abandon()

    # The walk in.

    def _enter(self, frame: Frame, tickets: Tickets, now: float, then: Callable[[float], None]) -> None:
        try:
            line = frame.enter(self.call, tickets, now)
        except BaseException as error:  # noqa: BLE001  kept, and raised to whoever awaits
            explain(frame.steps[len(tickets)], error)
            self._failed(self._judged(error, now), now)
            return
        if line is None:
            then(now)
            return
        self._line = (frame, line, tickets, then)
        granted = partial(self._granted, line)
        armed = self._arm(line.until - now, granted)
        line.wake = partial(self._woken, granted)
        if line.over or not armed:
            granted()

    def _woken(self, granted: Callable[[], None]) -> None:
        self.port.soon(granted)

    def _granted(self, waiting: Waiting[object]) -> None:
        """Leave the line: granted, refused or late."""
        line = self._line
        if line is None or line[1] is not waiting:
            return  # left already: the word of it came twice
        self._line = None
        self._disarm()
        frame, _, tickets, then = line
        gate, now = frame.gate(tickets), self.port.clock()
        try:
            ticket = gate.withdraw(waiting, now)
            if ticket is None:
                raise gate.late(waiting, now)
        except BaseException as error:  # noqa: BLE001  as in _enter
            explain(gate, error)
            self._failed(self._judged(error, now), now)
            return
        tickets.append(ticket)
        self.since = now  # the time in line is not the callee's
        if not self._inside:
            self._started = now
        self._enter(frame, tickets, now, then)

    def _opened(self, now: float) -> None:
        self._inside = True
        plan = self._segment.plan
        if plan is not None:
            try:
                plan.next(self.call, 1, None, now)
            except Exception as fault:  # noqa: BLE001  a plan's fault ends the call, and settles it
                self._conclude(self._judged(fault, now), now)
                return
        inner = self._segment.inner
        if len(inner):
            self._enter(inner, self._attempt, now, self._depart)
        else:
            self._depart(now)

    def _start(self) -> None:
        """Begin another attempt, its time come."""
        now = self.since = self.port.clock()
        self._enter(self._segment.inner, self._attempt, now, self._depart)

    def _depart(self, now: float) -> None:
        """Take the connection to where the attempt goes; launch at once, or when the connection is up."""
        call, port = self.call, self.port
        if call.deadline is not None and call.deadline <= now:
            spent = DeadlineSpent("no time is left for the call", seconds=call.deadline - now)
            self._failed(self._judged(spent, now), now)
            return
        up: bool | None = True
        try:
            connection = self._connection = port.enter(call, self)
            # What may not run twice begins only where it is up.
            if self._segment.plan is not None and not call.idempotent and not port.up(connection, call):
                self._turn += 1
                up = port.reach(connection, partial(self._reached, self._turn))
        except BaseException as error:  # noqa: BLE001  as in _launch
            self._leave()
            self._grounded(error, now)
            return
        if up:
            self._launch(now)
        elif up is False:
            self._unreached(grpc.StatusCode.UNAVAILABLE, now)
        elif call.deadline is not None:
            self._arm(call.deadline - now, self._not_reached)

    def _reached(self, turn: int, up: bool) -> None:
        if turn != self._turn or self.over:
            return
        self._turn += 1
        self._disarm()
        now = self.port.clock()
        if up:
            self._launch(now)
        else:
            self._unreached(grpc.StatusCode.UNAVAILABLE, now)

    def _not_reached(self) -> None:
        self._turn += 1
        self._unreached(grpc.StatusCode.DEADLINE_EXCEEDED, self.port.clock())

    def _unreached(self, code: grpc.StatusCode, now: float) -> None:
        connection = self._connection
        self._leave()
        self._failed(self._judged(self.port.unreached(connection, code), now), now)

    def _launch(self, now: float) -> None:
        port, deadline = self.port, self.call.deadline
        try:
            native = port.launch(self._connection, self.call, None if deadline is None else deadline - now)
        except BaseException as error:  # noqa: BLE001  a message that cannot be serialised, say
            self._leave()
            self._grounded(error, now)
            return
        self.native = native
        self._aloft = True
        if self._heard:
            self._changed()
        native.add_done_callback(self._landed)
