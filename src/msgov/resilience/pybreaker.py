"""Keep the pybreaker that you have: its state, listeners, exclusions and storage decide, and no call holds its lock.

pybreaker holds its lock while the guarded function runs, so calls through `CircuitBreaker.call` go one after the other.
Here the lock is held to decide and to learn.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeAlias

from msgov import clock
from msgov.call import IGNORED, OK, TRANSIENT, Call, Outcome
from msgov.clock import Clock
from msgov.errors import BreakerOpen, CallFailed, MissingExtra, RuleError
from msgov.event import unraisable
from msgov.policy import Gate

try:
    import pybreaker
except ImportError:
    raise MissingExtra("pybreaker", extra="pybreaker") from None

if TYPE_CHECKING:
    from pybreaker import CBStateType

_LEASE: Final = 10.0


class CircuitOpen(BreakerOpen, pybreaker.CircuitBreakerError):
    """Refused by a pybreaker; whoever catches `pybreaker.CircuitBreakerError` catches it too."""


class _Trial:
    """The one call that a half-open breaker is tried with, until its lease ends."""

    __slots__ = ("state", "until")

    def __init__(self, state: CBStateType, until: float) -> None:
        self.state = state
        self.until = until


_Ticket: TypeAlias = "CBStateType | _Trial | str"
_UNKNOWN: Final = "unknown"  # the ticket of a call let in because the storage could not be asked


class PyBreaker(Gate[_Ticket]):
    """Guard a pipeline with a `pybreaker.CircuitBreaker`, which others may use beside it.

    What counts: a TRANSIENT failure is one unless the breaker excludes it, an excluded or PERMANENT one counts as its
    success, and an IGNORED outcome (a caller's cancellation, our own rejection) as nothing. The ticket is the state
    that a call was let in by, so one that comes back after a change says nothing. Half-open lets one trial in at a
    time; one that has not come back after `lease` seconds (10 by default, the call's deadline where that is sooner)
    makes room for the next. Several processes over one storage try it with one call each, as pybreaker has it.

    Raises `CircuitOpen` while it is open or a trial is under way; its `retry_after` is what is left of
    `reset_timeout`. With `throw_new_error_on_trip`, as by default, the failure that opens the breaker ends as a
    `pybreaker.CircuitBreakerError` with the failure as its cause, save in streams, which end with their own.

    With a `CircuitRedisStorage` each look is a round trip that blocks the thread, under asyncio the loop with all that
    runs on it: one read at the door and one at the exit of a call that goes well, a handful at each failure. A storage
    that raises is reported, and the call let in. Listeners run under the breaker's lock, as pybreaker's own do; one
    that raises is reported. Their `before_call` is given a function that has the call's name, and the call.

    Counter: `rejected`. Raises `RuleError` for what is no breaker of pybreaker.
    """

    waits = False

    def __init__(
        self,
        breaker: pybreaker.CircuitBreaker,
        *,
        lease: float = _LEASE,
        name: str = "",
        target: str = "",
        wall: Clock = clock.wall,
    ) -> None:
        if not isinstance(breaker, pybreaker.CircuitBreaker):
            raise RuleError.at("breaker", breaker, "a pybreaker.CircuitBreaker")
        if not 0 < lease <= 3600:
            raise RuleError.at("lease", lease, "more than 0, at most 3600 s")
        self.breaker = breaker
        self.lease = lease
        self.name = name or breaker.name or ""
        self.target = target
        self.rejected = 0
        self._wall = wall
        self._trial: _Trial | None = None
        self._lock: threading.RLock = breaker._lock  # noqa: SLF001  the one that its own methods take
        self._storage = breaker._state_storage  # noqa: SLF001  pybreaker shows its time of opening nowhere else

    def admit(self, call: Call, now: float) -> _Ticket:
        """Let the call in while closed, and as the one trial when the time has come."""
        breaker = self.breaker
        try:
            state = breaker._state  # noqa: SLF001  read before the storage, so that it is never too young
            if state.name == pybreaker.STATE_CLOSED == breaker.current_state and not breaker.listeners:
                return state
            with self._lock:
                return self._knock(call, now)
        except CircuitOpen:
            raise
        except Exception as fault:  # noqa: BLE001  a storage that is down must not take the callee with it
            unraisable(fault, breaker)
            return _UNKNOWN

    def settle(self, ticket: _Ticket, outcome: Outcome, now: float) -> None:
        """Learn what became of the call, and tell the listeners."""
        if isinstance(ticket, str):
            return
        breaker, verdict = self.breaker, outcome.verdict
        try:
            if verdict is OK and not isinstance(ticket, _Trial) and not breaker.listeners and not breaker.fail_counter:
                return  # a success would set to nought what is nought
            with self._lock:
                if isinstance(ticket, _Trial):
                    if self._trial is not ticket:
                        return  # its lease ended, and another went
                    self._trial, ticket = None, ticket.state
                if verdict is IGNORED or ticket is not breaker._state:  # noqa: SLF001  of this state, or too late
                    return
                if verdict is TRANSIENT:
                    self._failed(ticket, outcome)
                else:
                    ticket._handle_success()  # noqa: SLF001  what its own `call` does
        except Exception as fault:  # noqa: BLE001  neither a storage nor a listener breaks the call
            unraisable(fault, breaker)

    def _knock(self, call: Call, now: float) -> _Ticket:
        """Decide as pybreaker does, with its lock held."""
        breaker = self.breaker
        state = breaker.state
        if state.name == pybreaker.STATE_OPEN:
            opened = self._storage.opened_at
            left = 0.0 if opened is None else _stamp(opened) + breaker.reset_timeout - self._wall()
            if left > 0:
                raise self._refusal(call, state, left)
            breaker.half_open()
            state = breaker._state  # noqa: SLF001  without another look at the storage
        ticket: _Ticket = state
        if state.name == pybreaker.STATE_HALF_OPEN:
            trial = self._trial
            if trial is not None and trial.state is state and now < trial.until:
                raise self._refusal(call, state, trial.until - now)
            until = now + self.lease
            if call.deadline is not None and call.deadline < until:
                until = call.deadline
            ticket = self._trial = _Trial(state, until)
        if breaker.listeners:
            self._announce(call)
        return ticket

    def _announce(self, call: Call) -> None:
        def asked(call: Call) -> None:
            """Stand for the call: it is made elsewhere."""

        asked.__name__ = asked.__qualname__ = f"{call.target} {call.method}".rstrip()
        for listener in self.breaker.listeners:
            try:
                listener.before_call(self.breaker, asked, call)
            except Exception as fault:  # noqa: BLE001  a listener never breaks a call
                unraisable(fault, listener)

    def _failed(self, state: CBStateType, outcome: Outcome) -> None:
        error = outcome.error
        if not isinstance(error, Exception):
            error = CallFailed(f"failed with {outcome.status}", status=outcome.status)
        trace = error.__traceback__
        try:
            state._handle_error(error, reraise=False)  # noqa: SLF001  what its own `call` does
        except pybreaker.CircuitBreakerError as trip:
            if trip is not error:  # it opened, and says so in the error's place
                trip.__cause__ = error
                outcome.error = trip.with_traceback(None)
        except Exception as fault:
            if fault is not error:
                raise
        finally:
            error.__traceback__ = trace  # raised once more on the way, which is nobody's business
            del error, trace

    def _refusal(self, call: Call, state: CBStateType, left: float) -> CircuitOpen:
        self.rejected += 1
        return CircuitOpen(
            f"{self.name or self.target or call.target}: pybreaker {state.name}, try again in {left:.3f} s",
            retry_after=left,
            state=state.name,
            fail_max=self.breaker.fail_max,
            reset_timeout=self.breaker.reset_timeout,
        )


def _stamp(opened: datetime) -> float:
    """Return the seconds of a time of day; older storages keep UTC without saying so."""
    return (opened if opened.tzinfo is not None else opened.replace(tzinfo=UTC)).timestamp()
