"""Stop calling what is down.

            failure rate over the window            the open time has passed
    CLOSED ------------------------------> OPEN ------------------------------> HALF_OPEN
       ^                                    ^                                       |
       |                                    +-- too many probes failed, or hung ----+
       +------------------------------------------- enough probes went well --------+

By hand, from anywhere and back: FORCED_OPEN refuses all, FORCED_CLOSED counts but never opens, DISABLED does neither.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from enum import Enum
from types import MappingProxyType

from msgov import clock
from msgov._rolling import Rolling
from msgov.backoff import ceiling
from msgov.call import IGNORED, OK, TRANSIENT, Call, Outcome
from msgov.clock import Dice
from msgov.errors import BreakerOpen, Fact, Problem, RuleError
from msgov.event import Observers
from msgov.policy import Gate
from msgov.rule import field, rule


class State(Enum):
    """What a breaker does with a call."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"
    FORCED_CLOSED = "forced_closed"
    DISABLED = "disabled"


CLOSED, OPEN, HALF_OPEN = State.CLOSED, State.OPEN, State.HALF_OPEN
FORCED_OPEN, FORCED_CLOSED, DISABLED = State.FORCED_OPEN, State.FORCED_CLOSED, State.DISABLED

_ADMITS = frozenset({CLOSED, FORCED_CLOSED, DISABLED})
_COUNTS = frozenset({CLOSED, FORCED_CLOSED})
_BY_HAND = frozenset({FORCED_OPEN, FORCED_CLOSED, DISABLED, CLOSED})

_WELL, _BADLY = 0, 1  # the kinds that the window counts
_EXACT = 1e-9  # 3 of 10 is a rate of 0.3, whatever floats say


@rule
class BreakerRule:
    """When to stop calling, for how long, and how to find out that it is over."""

    failure_rate: float = field(
        default=0.5,
        gt=0,
        le=1,
        why="open at this share of failures or more; half is Hystrix' and Resilience4j's default",
    )
    minimum_calls: int = field(
        default=20,
        ge=1,
        le=1_000_000,
        unit="calls",
        why="with fewer in the window a rate is noise (Hystrix' requestVolumeThreshold)",
    )
    window: float = field(
        default=10.0, ge=0.1, le=3600, unit="s", why="long enough for a rate, short enough to react (Hystrix)"
    )
    buckets: int = field(
        default=10, ge=2, le=120, unit="buckets", why="the window moves by a tenth of itself (Hystrix)"
    )
    open_seconds: float = field(
        default=2.0,
        gt=0,
        le=300,
        unit="s",
        why="ceiling of the first open time; half of it and a drawn half are waited (Finagle)",
    )
    open_growth: float = field(
        default=1.5, ge=1, le=10, why="each further opening lasts longer, until a whole window went well"
    )
    open_cap: float = field(
        default=5.0, gt=0, le=300, unit="s", why="so that a callee that came back is found within seconds"
    )
    retry_after_cap: float = field(
        default=60.0, ge=0, le=3600, unit="s", why="the callee's Retry-After lengthens the open time, up to here"
    )
    probes: int = field(
        default=5,
        ge=1,
        le=1000,
        unit="calls",
        why="let in to find out; one alone is a coin toss (Polly 2381, cockatiel 73)",
    )
    probe_lease: float = field(
        default=10.0,
        gt=0,
        le=3600,
        unit="s",
        why="a probe that hangs longer, or past its call's deadline, has failed: it cannot wedge the breaker",
    )

    def lint(self) -> Iterable[Problem]:
        """Check what no single field can see."""
        if self.open_cap < self.open_seconds:
            yield Problem("open_cap", self.open_cap, f"at least open_seconds ({self.open_seconds:g} s)")


_DEFAULT = BreakerRule()


class Breaker(Gate[int]):
    """A gate whose ticket is the era in which a call was let in, or the number of its probe.

    Each turn of the state begins a new era, and a call from an older one says nothing about today: a slow success
    cannot close a breaker that it never probed. OK and PERMANENT are answers and count as success, TRANSIENT counts as
    failure; IGNORED says nothing, and gives a probe its place back. Raises `BreakerOpen` with the seconds to wait.

    A healthy call takes no lock: it reads two attributes on its way in, and counts by one step on its way out.
    Observers are told "breaker.opened", "breaker.half_open", "breaker.closed", "breaker.forced_open",
    "breaker.forced_closed" and "breaker.disabled", with the states before and after, the reason, the era, the numbers.
    """

    def __init__(
        self,
        rule: BreakerRule = _DEFAULT,
        *,
        name: str = "",
        target: str = "",
        dice: Dice | None = None,
        observers: Observers | None = None,
    ) -> None:
        self.name = name
        self.target = target
        self.state: State = CLOSED
        self.since = 0.0  # when the state began; 0 as long as it never turned
        self.observers = observers or Observers()
        self._dice = dice or clock.dice()
        self._lock = threading.Lock()
        self._rule = rule
        self._window = Rolling(2, seconds=rule.window, buckets=rule.buckets)
        self._serial = 1  # numbers eras and probes alike, so that no ticket is ever used twice
        self._era = 1
        self._admits = True
        self._calm = 1  # the era whose successes need no lock: they cannot open the breaker
        self._succeeded = 0
        self._failed = 0
        self._ignored = 0
        self._rejected = 0
        self._probing: dict[int, float] = {}  # probe -> when its lease ends
        self._well = 0
        self._badly = 0
        self._until = 0.0  # while open: when the first probe may go
        self._asked = 0.0  # the latest time that the callee's Retry-After named
        self._trips = 0
        self._closed_at = -math.inf
        self._said: Mapping[str, Fact] = {}  # what every refusal repeats of how its state began
        self._news: deque[tuple[State, float, Mapping[str, Fact]]] = deque()

    @property
    def rule(self) -> BreakerRule:
        """The rule in force; storing another keeps the window, the state and the probes under way."""
        return self._rule

    @rule.setter
    def rule(self, rule: BreakerRule) -> None:
        with self._lock:
            if (rule.window, rule.buckets) != (self._rule.window, self._rule.buckets):
                self._window.reshape(seconds=rule.window, buckets=rule.buckets)
            self._rule = rule
            self._calm = 0  # the next one to settle looks at the window with the new rule

    @property
    def counts(self) -> Mapping[str, int]:
        """Calls by outcome since the start: success, failure, ignored, rejected."""
        with self._lock:
            return MappingProxyType(
                {
                    "success": self._succeeded + self._window.ticked(),
                    "failure": self._failed,
                    "ignored": self._ignored,
                    "rejected": self._rejected,
                }
            )

    def failure_rate(self, now: float) -> float:
        """Return the share of failures in the window, 0 to 1; 0 when it is empty."""
        with self._lock:
            self._window.roll(now)
            well, badly = self._window.totals
        return badly / (well + badly) if well + badly else 0.0

    def force(self, state: State, *, now: float) -> None:
        """Take the breaker in hand: FORCED_OPEN, FORCED_CLOSED, DISABLED; CLOSED lets it decide again.

        Raises `RuleError` for the states that it reaches only by itself.
        """
        if state not in _BY_HAND:
            raise RuleError.at("state", state, "FORCED_OPEN, FORCED_CLOSED, DISABLED, or CLOSED to let it decide again")
        with self._lock:
            self._turn(state, now, "by_hand")
        self._report()

    def admit(self, call: Call, now: float) -> int:
        """Let the call in, at once while closed; as a probe when the time has come."""
        era = self._era  # read before the door, so that it is never too young
        if self._admits:
            return era
        with self._lock:
            ticket = self._knock(call, now)
            if ticket is None:
                self._rejected += 1
                refusal = self._refusal(call, now)
        if self._news:
            self._report()
        if ticket is None:
            raise refusal
        return ticket

    def settle(self, ticket: int, outcome: Outcome, now: float) -> None:
        """Learn from a call of this era, or from a probe; pass over all others."""
        if ticket == self._calm and outcome.verdict is OK and now < self._window.edge:
            self._window.tick()
            return
        with self._lock:
            if outcome.verdict is IGNORED:
                self._probing.pop(ticket, None)
                self._ignored += 1
            elif ticket == self._era and self.state in _COUNTS:
                self._learn(outcome, now)
            elif self._probing.pop(ticket, None) is not None:
                self._learn_probe(outcome, now)
            else:
                self._ignored += 1
        if self._news:
            self._report()

    def _knock(self, call: Call, now: float) -> int | None:
        """Let in what may go in when the door was not simply open; with the lock held, as all below."""
        if self.state is OPEN and now >= self._until:
            self._turn(HALF_OPEN, now, "waited")
        if self.state is HALF_OPEN:
            for probe in [probe for probe, end in self._probing.items() if end <= now]:
                del self._probing[probe]
                self._badly += 1
                self._failed += 1
            self._decide(now, "probe_hung")
        if self.state is HALF_OPEN:
            if self._well + self._badly + len(self._probing) >= self._rule.probes:
                return None
            end = now + self._rule.probe_lease
            self._probing[self._next()] = end if call.deadline is None else min(end, call.deadline)
            return self._serial
        return self._era if self._admits else None

    def _learn(self, outcome: Outcome, now: float) -> None:
        self._count(outcome, now)
        if outcome.verdict is TRANSIENT:
            self._window.add(_BADLY, now)
        else:
            self._window.add(_WELL, now)
        rule = self._rule
        well, badly = self._window.totals
        calls = well + badly
        if self.state is CLOSED and calls >= rule.minimum_calls and badly >= rule.failure_rate * calls - _EXACT:
            self._turn(OPEN, now, "failure_rate", calls=calls, failures=badly)
        # One success more can open it only by filling the window up to the minimum of calls.
        self._calm = self._era if self._admits and (not badly or calls >= rule.minimum_calls) else 0

    def _learn_probe(self, outcome: Outcome, now: float) -> None:
        self._count(outcome, now)
        if outcome.verdict is TRANSIENT:
            self._badly += 1
        else:
            self._well += 1
        self._decide(now, "probes_failed")

    def _count(self, outcome: Outcome, now: float) -> None:
        if outcome.verdict is TRANSIENT:
            self._failed += 1
            if outcome.retry_after is not None:
                self._asked = max(self._asked, now + min(outcome.retry_after, self._rule.retry_after_cap))
        else:
            self._succeeded += 1

    def _decide(self, now: float, reason: str) -> None:
        """Close or open as soon as the probes still to come could not change it: the rate decides, as when closed."""
        rule = self._rule
        enough = max(1, math.ceil(rule.failure_rate * rule.probes - _EXACT))
        if self._badly >= enough:
            self._turn(OPEN, now, reason, calls=self._well + self._badly, failures=self._badly)
        elif self._well > rule.probes - enough:
            self._turn(CLOSED, now, "probes_passed", calls=self._well + self._badly, failures=self._badly)

    def _turn(self, state: State, now: float, reason: str, **facts: Fact) -> None:
        before, rule = self.state, self._rule
        self._admits = False  # the door shuts first and opens last, so that nobody gets in on the wrong era
        self._era = self._next()
        self._calm = 0
        self.state, self.since = state, now
        self._probing.clear()
        self._well = self._badly = 0
        if state is OPEN:
            if before is CLOSED and now - self._closed_at >= rule.window:
                self._trips = 0
            top = ceiling(rule.open_seconds, rule.open_growth, rule.open_cap, self._trips)
            self._until = max(now + top * (0.5 + 0.5 * self._dice.random()), self._asked)
            self._trips += 1
            facts["seconds"] = self._until - now
        elif state in _ADMITS:
            self._window.clear()
            self._closed_at = now
            self._calm = self._era if state in _COUNTS else 0
            self._admits = True
        told = {"reason": reason, "era": self._era, **facts}
        self._said = {"state": state.value, **told}
        self._news.append((state, now, {"before": before.value, "after": state.value, **told}))

    def _next(self) -> int:
        self._serial += 1
        return self._serial

    def _refusal(self, call: Call, now: float) -> BreakerOpen:
        left: float | None = None
        if self.state is OPEN:
            left = self._until - now
        elif self._probing:
            left = max(0.0, min(min(self._probing.values()) - now, self._rule.open_seconds))
        again = "" if left is None else f", try again in {left:.3f} s"
        return BreakerOpen(
            f"{self.name or self.target or call.target}: breaker {self._said['state']}{again}",
            retry_after=left,
            **self._said,
        )

    def _report(self) -> None:
        """Tell what turned, with no lock held; whoever comes first tells it."""
        while self._news:
            try:
                state, at, facts = self._news.popleft()
            except IndexError:  # another thread told it
                return
            kind = "breaker.opened" if state is OPEN else f"breaker.{state.value}"
            self.observers.tell(kind, self.name, self.target, at, **facts)
