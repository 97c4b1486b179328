"""Ask another instance when the first is slower than nineteen in twenty, and take what comes first.

After "The Tail at Scale" (Dean and Barroso, 2013), Finagle's BackupRequestFilter, and the hedging of gRFC A6.
"""

from __future__ import annotations

import threading
from typing import Final

from msgov.call import IGNORED, OK, TRANSIENT, Call, Outcome
from msgov.errors import Rejected
from msgov.policy import Hedging
from msgov.resilience.again import Purse, limit, obstacle
from msgov.resilience.budget import Budget, BudgetRule
from msgov.resilience.quantile import Recent
from msgov.rule import field, rule

REFRESH: Final = 3.0  # seconds between two looks at the percentile (Finagle)
PERIOD: Final = 10.0  # seconds over which `load` is a share: one hedge in it needs five calls a second
SHORTEST: Final = 0.001  # seconds: below it a timer, and the callee's own noise, are as large as what is to be gained
PATIENCE: Final = 5.0  # seconds: a longer pushback is cut to it, a hostile one must not hang us (botocore)


@rule
class HedgeRule:
    """When another attempt joins the one under way, and how many may."""

    attempts: int = field(
        default=2,
        ge=2,
        le=5,
        unit="attempts",
        why="the first included; one more takes most of the tail away, a third hardly any (gRFC A6 allows five)",
    )
    percentile: float = field(
        default=0.95,
        ge=0.5,
        le=0.999,
        why="wait for as long as this share of recent calls took; earlier, most hedges would be for nothing",
    )
    initial: float | None = field(
        default=None,
        ge=SHORTEST,
        le=60,
        unit="s",
        why="how long to wait while fewer than `samples` are known; None hedges nothing until then",
    )
    samples: int = field(
        default=100, ge=1, le=1000, unit="calls", why="a p95 of fewer than a hundred is one or two calls' opinion"
    )
    load: float = field(
        default=0.02,
        ge=0,
        le=4,
        unit="hedges a call",
        why="hedges stay within this share of the calls of the last 10 s: 2 % more load buys the tail (Tail at Scale)",
    )


_DEFAULT = HedgeRule()
SUPPRESSED: Final = (
    "allowance", "attempts", "breaker", "budget", "deadline", "load", "not_idempotent", "overloaded", "pushback",
    "rejected",
)  # fmt: skip


class Hedge(Hedging):
    """The seam of a pipeline, as `Retry` is, whose next attempt does not wait for the last one to fail.

    A call that may run twice (`call.idempotent`) and has no answer after the live percentile, at least 1 ms, is sent to
    another instance too; the first good reply is taken, and the loser is cancelled. An attempt that fails in a way that
    may pass is followed by the next at once, under the conditions of a retry; a pushback makes that wait, at most 5 s,
    or ends it, and so does a callee that is overloaded without saying for how long. What is PERMANENT is an answer.

    A hedge is charged when it starts: to `load`, its own share of the traffic with no reserve, and to the `budget` of
    the callee, if one is shared. An attempt after a failure is charged to the `budget`, and only where there is none to
    `load`. What cannot be paid for is not sent; the attempts under way go on.

    The percentile is of successes, looked at every 3 s. A loser counts as having taken at least as long as it had when
    it was cancelled: to leave it out would make the delay shorter with each hedge.

    Counters: `hedged` (begun beside another), of these `won` (its reply was taken) and `lost` (another's was);
    `retried` (after a failure), and `suppressed` by reason.
    """

    def __init__(
        self, rule: HedgeRule = _DEFAULT, *, budget: Purse | None = None, name: str = "", target: str = ""
    ) -> None:
        self.budget = budget
        self.name = name
        self.target = target
        self.hedged = 0
        self.won = 0
        self.lost = 0
        self.retried = 0
        self.suppressed = dict.fromkeys(SUPPRESSED, 0)
        self.load = Budget(_spent_by(rule), name=name, target=target)
        self._lock = threading.Lock()
        self._recent = Recent()
        self._seen = self._recent.add
        self._rule = rule
        self._delay = rule.initial
        self._typical = SHORTEST  # the median: with less time left an attempt would not finish
        self._due = float("-inf")  # when the percentile is looked at again

    @property
    def rule(self) -> HedgeRule:
        """The rule in force; storing another keeps what was learnt and spent."""
        return self._rule

    @rule.setter
    def rule(self, rule: HedgeRule) -> None:
        with self._lock:
            self._rule = rule
            self.load.rule = _spent_by(rule)
            self._due = float("-inf")

    @property
    def delay(self) -> float | None:
        """How long the first attempt has for itself at present, in seconds; None as long as too little is known."""
        return self._delay

    def next(self, call: Call, tries: int, outcome: Outcome | None, now: float) -> float | None:
        """Return the seconds until the next attempt may start, None for no other."""
        rule, budget = self._rule, self.budget
        if outcome is None:
            if tries == 1:
                self.load.deposit(now)
                if budget is not None:
                    budget.deposit(now)
            if not call.idempotent or tries >= rule.attempts:
                return None
            if now >= self._due:
                self._look(now)
            return self._delay
        rejected = isinstance(outcome.error, Rejected)
        if outcome.verdict is not TRANSIENT and not rejected:
            return None
        asked = outcome.retry_after
        delay = 0.0 if rejected or asked is None else min(asked, PATIENCE)
        why = obstacle(call, tries, outcome, attempts=rule.attempts, starts=now + delay, minimum=self._typical)
        if why is None and outcome.overloaded and asked is None and not rejected:
            why = "overloaded"
        if why is None and not (self.load if budget is None else budget).withdraw(now):
            why = "budget"
        with self._lock:
            if why is not None:
                self.suppressed[why] += 1
                return None
            self.retried += 1
        _spend(call)
        return delay

    def begins(self, call: Call, tries: int, now: float) -> bool:
        """Say whether the hedge whose time has come starts, and charge it."""
        budget = self.budget
        why = limit(call, starts=now, minimum=self._typical)
        if why is None and not self.load.withdraw(now):
            why = "load"
        if why is None and budget is not None and not budget.withdraw(now):
            why = "budget"
        with self._lock:
            if why is not None:
                self.suppressed[why] += 1
                return False
            self.hedged += 1
        _spend(call)
        return True

    def learn(self, outcome: Outcome, now: float) -> None:
        """Remember how long a success took; a lost one took longer than we waited."""
        verdict, delay = outcome.verdict, self._delay
        if verdict is OK or (verdict is IGNORED and delay is not None and outcome.seconds >= delay):
            self._seen((now, outcome.seconds))

    def decided(self, hedges: int, *, won: bool) -> None:
        """Count which of them gave the reply."""
        with self._lock:
            self.won += won
            self.lost += hedges - won

    def _look(self, now: float) -> None:
        with self._lock:
            if now < self._due:
                return
            self._due = now + REFRESH
            rule = self._rule
            found = self._recent.quantiles((rule.percentile, 0.5), now, least=rule.samples)
            if found is None:
                self._delay, self._typical = rule.initial, SHORTEST
            else:
                self._delay, self._typical = max(SHORTEST, found[0]), max(SHORTEST, found[1])


def _spent_by(rule: HedgeRule) -> BudgetRule:
    return BudgetRule(ratio=rule.load, minimum=0.0, ttl=PERIOD)


def _spend(call: Call) -> None:
    if call.attempts_left is not None:
        call.attempts_left -= 1
