"""Attempts of one call run beside each other, and the first good reply is the call's.

What runs attempts by callbacks, a gRPC flight of either colour say, gives a `Race` three things:

    begin(fork, ended) -> cancel    Start an attempt on its own copy of the call: walk its gates, send it. It does not
                                    wait and does not raise. It calls `ended(reply, outcome, now)` exactly once, from
                                    any thread, maybe before it returns, also after `cancel()`; a reply's outcome has no
                                    error. What was cancelled settles its own tickets as IGNORED, once it has ended.
    later(seconds, act) -> timer    Act once, on any thread; `timer.cancel()` calls it off, takes no lock of a caller's.
    over(reply, outcome, now)       Told once, when the call is decided and the losers are told to cancel; by then
                                    `call` has the winner's attempt, instance, status and trace. Not after `cancel()`.

Then `race.start(now)` begins the first attempt, all else follows. `_hedging` does the same with tasks, `_hedging_sync`
with futures and a thread that waits for them. A race takes a lock for its arithmetic; begin, over, act and the cancels
of attempts are called without it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeAlias

from msgov.call import TRANSIENT, Call, Outcome
from msgov.clock import Clock
from msgov.errors import Rejected, RuleError
from msgov.event import unraisable
from msgov.policy import Hedging, Plan

Ended: TypeAlias = Callable[[object, Outcome, float], None]
Cancel: TypeAlias = Callable[[], object]
Begin: TypeAlias = Callable[[Call, Ended], Cancel]


class Off(Protocol):
    """What can be called off."""

    def cancel(self) -> object:
        """Call it off."""
        ...


Later: TypeAlias = Callable[[float, Callable[[], None]], Off]


class Race:
    """One call whose attempts run beside each other, as a `Hedging` plan says.

    A reply ends it, and so does a PERMANENT failure, or whatever is no `Exception`: these are answers. Another failure
    asks the plan; when it allows no more attempts and none is under way, the call ends with the last failure that was
    no rejection of ours. `tries` counts the attempts begun, `over` says that all is decided.
    """

    __slots__ = ("_begin", "_clock", "_hedges", "_last", "_later", "_lock", "_more", "_over", "_paid", "_pending",
                 "_running", "_timer", "_turn", "call", "over", "plan", "tries")  # fmt: skip

    def __init__(self, plan: Hedging, call: Call, *, begin: Begin, later: Later, over: Ended, clock: Clock) -> None:
        self.plan = plan
        self.call = call
        self.tries = 0
        self.over = False
        self._begin = begin
        self._later = later
        self._over = over
        self._clock = clock
        self._lock = threading.Lock()
        self._running: dict[int, Cancel | None] = {}  # None: it has not said yet how it is cancelled
        self._hedges: tuple[int, ...] = ()  # the attempts that began beside another
        self._more = True  # more attempts may start
        self._pending = False  # a time is set at which one may
        self._paid = False  # and it is charged already
        self._timer: Off | None = None
        self._turn = 0  # of the timer: an earlier one that rings late is not heard
        self._last: tuple[Call, Outcome] | None = None  # what the call would end with

    def start(self, now: float) -> None:
        """Begin the first attempt; what the plan raises passes, with nothing begun."""
        if self.call.tried is None:
            self.call.tried = []  # one list, or each copy would have its own and all would meet at one instance
        delay = self.plan.next(self.call, 1, None, now)
        self.tries = 1
        self._running[1] = None
        self._launch(1, delay, now)

    def cancel(self) -> bool:
        """End it for the caller's own reason: all attempts are told, none begins any more; False when it was over."""
        with self._lock:
            if self.over:
                return False
            losers = self._close()
        for cancel in losers:
            cancel()
        return True

    def _launch(self, number: int, delay: float | None, now: float) -> None:
        """Begin an attempt that is counted already, then set the time at which one more may start."""
        if self.over:  # decided since it was counted: it need not begin
            self._running.pop(number, None)
            return
        fork = self.call.fork()
        fork.attempt = number
        cancel = self._begin(fork, partial(self._ended, number, fork))
        turn = 0
        with self._lock:
            under_way = number in self._running
            late = under_way and self.over  # all was decided while it began
            if under_way and not late:
                self._running[number] = cancel
            if delay is not None and self._more and not self.over and not self._pending:
                turn = self._set(paid=False)
        if late:
            cancel()
        if turn and delay is not None:
            self._arm(delay - (self._clock() - now), turn)

    def _set(self, *, paid: bool) -> int:
        """Say that a timer will be set, in place of any other; with the lock held, as all that do not take it."""
        self._unset()
        self._pending, self._paid = True, paid
        return self._turn

    def _unset(self) -> None:
        timer, self._timer = self._timer, None
        self._pending = self._paid = False
        self._turn += 1
        if timer is not None:
            timer.cancel()

    def _arm(self, seconds: float, turn: int) -> None:
        timer = self._later(max(0.0, seconds), partial(self._rung, turn))
        with self._lock:
            if self._pending and turn == self._turn:
                self._timer = timer
                return
        timer.cancel()

    def _rung(self, turn: int) -> None:
        """Begin the attempt whose time has come, if it still may."""
        now = self._clock()
        with self._lock:
            if not self._pending or turn != self._turn:
                return
            paid = self._paid
            self._unset()
            if not paid and not self._granted(now):
                return
            number, delay = self._next(now)
            if not paid:
                self._hedges = (*self._hedges, number)
        self._launch(number, delay, now)

    def _granted(self, now: float) -> bool:
        try:
            return self.plan.begins(self.call, self.tries, now)
        except Exception as fault:  # noqa: BLE001  a plan's fault must not cost the call that is under way
            unraisable(fault, self.plan)
            return False

    def _next(self, now: float) -> tuple[int, float | None]:
        """Count one attempt more, and ask when the one after it may start."""
        self._unset()
        self.tries += 1
        self._running[self.tries] = None
        try:
            return self.tries, self.plan.next(self.call, self.tries, None, now)
        except Exception as fault:  # noqa: BLE001  as in _granted
            unraisable(fault, self.plan)
            return self.tries, None

    def _ended(self, number: int, fork: Call, reply: object, outcome: Outcome, now: float) -> None:
        """Take what came of an attempt: decide the call, or begin another attempt, or wait for those under way."""
        self.plan.learn(outcome, now)
        losers: list[Cancel] = []
        start: tuple[int, float | None] | None = None
        delay, turn = None, 0
        with self._lock:
            self._running.pop(number, None)
            if self.over:
                return
            if outcome.error is not None and (outcome.verdict is TRANSIENT or isinstance(outcome.error, Rejected)):
                if self._last is None or not isinstance(outcome.error, Rejected):
                    self._last = fork, outcome  # a rejection of a later attempt must not hide the failure before it
                if self._more:
                    delay = self._again(outcome, now)
                if delay is not None and delay <= 0:
                    start = self._next(now)
                elif delay is not None:
                    turn = self._set(paid=True)
                elif not self._running and not self._pending:
                    fork, outcome = self._last
                    self._close()
            else:
                losers = self._close()
            over = self.over
        if start is not None:
            self._launch(*start, now)
        elif turn and delay is not None:
            self._arm(delay, turn)
        elif over:
            for cancel in losers:
                cancel()
            if self._hedges and outcome.error is None:
                self.plan.decided(len(self._hedges), won=number in self._hedges)
            call = self.call
            call.attempt, call.instance, call.status, call.trace = fork.attempt, fork.instance, fork.status, fork.trace
            self._over(reply, outcome, now)

    def _again(self, outcome: Outcome, now: float) -> float | None:
        """Ask for another attempt after a failure; one that is scheduled and paid for already is that other attempt."""
        if self._paid and (outcome.retry_after is None or outcome.retry_after >= 0):
            return None
        try:
            delay = self.plan.next(self.call, self.tries, outcome, now)
        except Exception as fault:  # noqa: BLE001  as in _granted
            unraisable(fault, self.plan)
            delay = None
        if delay is None:
            self._more = False
            self._unset()
        return delay

    def _close(self) -> list[Cancel]:
        """Decide: nothing begins from now on; return how those under way are told."""
        self.over = True
        self._more = False
        self._unset()
        losers = [cancel for cancel in self._running.values() if cancel is not None]
        self._running = dict.fromkeys(self._running)
        return losers


def refuse(plan: Plan | None, what: str) -> None:
    """Raise `RuleError` where a plan hedges what cannot be called off: say it now, not with the first slow call."""
    if plan is not None and plan.hedges:
        raise RuleError.at("policies", plan, f"a retry, or no plan: {what}")
