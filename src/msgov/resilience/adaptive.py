"""Find out how many calls at once the callee bears, and let in no more."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from msgov.call import IGNORED, TRANSIENT, Call, Outcome
from msgov.errors import BulkheadFull, Rejected
from msgov.event import Observers
from msgov.policy import Gate, Waiting
from msgov.resilience._line import Line
from msgov.resilience.adaptive_limits import Aimd, Algorithm, Gradient2, Vegas, Window
from msgov.resilience.adaptive_rule import AdaptiveRule
from msgov.scope import Criticality

__all__ = ["Adaptive", "AdaptiveRule"]

_DEFAULT = AdaptiveRule()
_ALGORITHMS: Final[Mapping[str, Callable[[], Algorithm]]] = {"vegas": Vegas, "gradient2": Gradient2, "aimd": Aimd}

_KEPT = 512  # round trips of a window, the latest: enough for a percentile, whatever the rate
_LONGEST = 30.0  # seconds that a window goes on for want of samples
_DROPS = 10  # are enough to end one
_CUT = 0.9  # what a window with drops leaves of the limit (AIMDLimit.java)
_BAD = 0.1  # the share of drops that cuts; below it they only keep the limit from growing
_AHEAD = 5  # the limit is at most so many times what was in flight (failsafe-go)
_LATE = frozenset({"DEADLINE_EXCEEDED", "408", "504"})
_SHORTEST = 1e-6  # seconds: a round trip less the lag may leave nothing
_EXACT = 1e-9  # 0.7 of 10 is 7, whatever floats say
_QUIET = 1.0  # seconds between two events of one gate in shadow


class _Ticket(float):
    """When a call was let in, and whose share it uses."""

    __slots__ = ("share",)
    share: str


class Adaptive(Gate[float]):
    """A bulkhead whose limit follows what the callee bears, found by how its round trips answer to it.

    The ticket is the time at which the call was let in. Round trips of calls that were answered (of a stream until its
    first message) are looked at window by window. A timeout, or a refusal for overload, is a drop: any in a window keep
    the limit from growing, one in ten cut it by a tenth. Other failures, cancellations and our own rejections say
    nothing. The limit grows only while at least half of it is in use, and comes down to five times what is in flight,
    though not below `initial`.

    `sense(lag=...)` tells how late the event loop is, which is taken off each round trip: our own stall says nothing
    about the callee. With `shares` in the rule, `share` names whose share a call uses, by default its criticality
    ("critical"): who is below his share is let in though the limit is reached, and what is idle is lent to all. Line,
    placing and errors are those of a `Bulkhead`: `BulkheadFull`, at the door or when the wait was in vain.

    Read at any time: `limit`, `inflight`, `depth` of the line; counters `queued`, `rejected`, `would_reject` (in
    shadow) and `dropped`. Events: "shadow.adaptive", at most one a second.
    """

    def __init__(
        self,
        rule: AdaptiveRule = _DEFAULT,
        *,
        share: Callable[[Call], str] | None = None,
        name: str = "",
        target: str = "",
        observers: Observers | None = None,
    ) -> None:
        self.name = name
        self.target = target
        self.observers = observers or Observers()
        self.inflight = 0
        self.limit = rule.initial
        self.lag = 0.0
        self.queued = 0
        self.rejected = 0
        self.would_reject = 0
        self.dropped = 0
        self._lock = threading.Lock()
        self._rule = rule
        self._share = share or _criticality
        self._shares = rule.shares
        self._sharing: dict[str, int] = {}  # whose share is used by how many: only names in the rule
        self._line: Line[float] = Line(rule)
        self._algorithm = _ALGORITHMS[rule.algorithm]()
        self._exact = float(rule.initial)
        self._rtts: deque[float] = deque(maxlen=_KEPT)
        self._begun = 0.0  # when the window began
        self._due = -math.inf  # when it may end; it has not begun yet
        self._answered = 0
        self._drops = 0
        self._peak = 0
        self._told = -math.inf

    @property
    def rule(self) -> AdaptiveRule:
        """The rule in force; storing another keeps the limit, within its bounds, and every permit."""
        return self._rule

    @rule.setter
    def rule(self, rule: AdaptiveRule) -> None:
        with self._lock:
            if rule.algorithm != self._rule.algorithm:
                self._algorithm = _ALGORITHMS[rule.algorithm]()
            self._rule = rule
            self._shares = rule.shares
            self._line.set(rule)
            self._move(self._exact)
            woken = self._grant(None)
        for waiting in woken:
            waiting.rouse()

    @property
    def depth(self) -> int:
        """How many are in line."""
        return len(self._line)

    @property
    def inflight_by_share(self) -> Mapping[str, int]:
        """How many are in flight of each name that the rule gives a share."""
        with self._lock:
            return {name: self._sharing.get(name, 0) for name in self._shares or ()}

    def sense(self, *, cpu: float = 0.0, lag: float = 0.0, delay: float = 0.0) -> None:
        """Take the latest readings: of the loop's lag, in seconds; the others are for other gates."""
        self.lag = lag

    def admit(self, call: Call, now: float) -> float | Waiting[float]:
        """Let the call in, give it a place in the line, or raise `BulkheadFull`."""
        with self._lock:
            if self.inflight < self.limit:
                self.inflight += 1
                return now if self._shares is None else self._take(call, now)
            if self._shares is not None:
                name = self._share(call)
                if self._sharing.get(name, 0) < self._guaranteed(name):
                    self.inflight += 1
                    return self._take(call, now)
            shadow = self._rule.shadow
            if not shadow:
                place = self._line.join(call, now)
                if place is not None:
                    self.queued += 1
                    return place
                self.rejected += 1
            facts, quiet = self._facts(), now < self._told + _QUIET
            if shadow:
                self.would_reject += 1
                self.inflight += 1
                if not quiet:
                    self._told = now
        if not shadow:
            raise BulkheadFull(
                f"{self.name or call.target}: {facts['inflight']} in flight of {facts['limit']}, "
                f"{facts['depth']} in line",
                **facts,
            )
        if not quiet:
            self.observers.tell("shadow.adaptive", self.name, self.target, now, reason="bulkhead_full", **facts)
        return now

    def settle(self, ticket: float, outcome: Outcome, now: float) -> None:
        """Take the permit back, hand it to whose turn it is, and learn from the round trip."""
        with self._lock:
            if self.inflight > self._peak:
                self._peak = self.inflight
            self.inflight -= 1
            if ticket.__class__ is _Ticket:
                self._sharing[ticket.share] -= 1
            verdict = outcome.verdict
            if verdict is TRANSIENT:
                if outcome.overloaded or isinstance(outcome.error, TimeoutError) or outcome.status in _LATE:
                    self._drops += 1
                    self.dropped += 1
            elif verdict is not IGNORED:
                self._answered += 1
                first = outcome.first  # of a stream: how long it goes on says nothing
                self._rtts.append((now - ticket if first is None else first) - self.lag)
            if now >= self._due:
                self._look(now)
            if not self._line.places:
                return
            woken = self._grant(now)
        for waiting in woken:
            waiting.rouse()

    def withdraw(self, waiting: Waiting[float], now: float) -> float | None:
        """Leave the line: None, or the permit that was granted at that very moment."""
        with self._lock:
            if waiting.ticket is None:
                self._line.leave(waiting)
            return waiting.ticket

    def late(self, waiting: Waiting[float], now: float) -> Rejected:
        """Say that the wait was in vain."""
        with self._lock:
            self.rejected += 1
            facts = self._facts()
        waited = now - waiting.since
        return BulkheadFull(
            f"{self.name or 'adaptive'}: waited {waited:.3f} s behind {facts['inflight']} in flight", **facts
        )

    def _facts(self) -> dict[str, int]:
        return {
            "inflight": self.inflight,
            "limit": self.limit,
            "depth": len(self._line),
            "queue": self._rule.queue,
        }

    def _take(self, call: Call, now: float) -> float:
        """Note whose share is used; with the lock held, as all below."""
        name = self._share(call)
        if name not in (self._shares or ()):
            return now
        self._sharing[name] = self._sharing.get(name, 0) + 1
        ticket = _Ticket(now)
        ticket.share = name
        return ticket

    def _guaranteed(self, name: str) -> int:
        share = (self._shares or {}).get(name)
        return 0 if share is None else max(1, math.ceil(self.limit * share - _EXACT))

    def _grant(self, now: float | None) -> list[Waiting[float]]:
        """Hand free permits down the line."""
        woken: list[Waiting[float]] = []
        while self.inflight < self.limit:
            waiting = self._line.next(now)
            if waiting is None:
                break
            self.inflight += 1
            # A new rule knows no time: then the wait counts as a part of the round trip, once.
            waiting.resolve(ticket=waiting.since if now is None else now)
            woken.append(waiting)
        return woken

    def _look(self, now: float) -> None:
        """End the window if enough was seen, and move the limit."""
        if self._due == -math.inf:
            self._begun, self._due = now, now + self._rule.window
            return
        rule, answered, drops = self._rule, self._answered, self._drops
        seconds = now - self._begun
        if len(self._rtts) < rule.samples and drops < _DROPS and (seconds < _LONGEST or not answered + drops):
            return
        limit = self._exact
        if drops >= _BAD * (answered + drops):
            limit *= _CUT
        else:
            rtts = sorted(self._rtts)
            rtt = max(rtts[(len(rtts) * 9) // 10], _SHORTEST)
            full = self._peak >= self.limit
            limit = self._algorithm.next(limit, Window(rtt, self._peak, answered / seconds, full))
            if drops:
                limit = min(limit, self._exact)
            if rule.rtt_max is not None and rtt > rule.rtt_max:
                limit = min(limit, self._exact * _CUT)
        # What was never tried is not known to be borne; but a night of little traffic must not cost the morning.
        self._move(min(limit, max(rule.initial, _AHEAD * self._peak, self._exact * _CUT)))
        self._rtts.clear()
        self._answered = self._drops = 0
        self._peak = self.inflight
        self._begun, self._due = now, now + rule.window

    def _move(self, limit: float) -> None:
        rule = self._rule
        self._exact = min(max(limit, rule.min_limit), rule.max_limit)
        self.limit = int(self._exact + _EXACT)


_NAMES = {each: each.name.lower() for each in Criticality}


def _criticality(call: Call) -> str:
    return _NAMES[call.criticality]
