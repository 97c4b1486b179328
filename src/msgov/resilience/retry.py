"""Try again what may pass, never more than the callee, the budget and the deadline bear."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Final, Literal

from msgov import clock
from msgov.backoff import Jitter, decorrelated_jitter, equal_jitter, full_jitter
from msgov.call import TRANSIENT, Call, Outcome
from msgov.clock import Dice
from msgov.errors import Problem, Rejected
from msgov.policy import Plan
from msgov.resilience.again import Purse, obstacle
from msgov.rule import field, rule

JITTERS: Final[Mapping[str, Jitter]] = {
    "full": full_jitter,
    "equal": equal_jitter,
    "decorrelated": decorrelated_jitter,
}


@rule
class RetryRule:
    """When another attempt starts, and when none does."""

    attempts: int = field(
        default=3,
        ge=1,
        le=5,
        unit="attempts",
        why="the first included; past five a retry is a loop (gRFC A6 clamps there too)",
    )
    base: float = field(
        default=0.05, gt=0, le=60, unit="s", why="ceiling of the first wait: about one call's time (botocore)"
    )
    overloaded_base: float = field(
        default=1.0,
        gt=0,
        le=60,
        unit="s",
        why="ceiling of the first wait when the callee says that it is overloaded (botocore)",
    )
    factor: float = field(default=2.0, ge=1, le=10, why="each wait may be twice the last")
    jitter: Literal["full", "equal", "decorrelated"] = field(
        default="full",
        why="from zero to the ceiling (AWS, 2015); equal: from its upper half; decorrelated: Polly's smooth curve",
    )
    cap: float = field(
        default=20.0, gt=0, le=600, unit="s", why="no wait is longer, save what the callee asks for (botocore)"
    )
    patience: float = field(
        default=5.0,
        ge=0,
        le=600,
        unit="s",
        why="a Retry-After is honoured up to so much more than our own wait; a hostile one must not hang us (botocore)",
    )
    minimum: float = field(
        default=0.001,
        ge=0,
        le=60,
        unit="s",
        why="an attempt with less time than this before the deadline cannot finish",
    )

    def lint(self) -> Iterable[Problem]:
        """Check what no single field can see."""
        if self.jitter == "decorrelated" and self.factor < 1.5:
            yield Problem("factor", self.factor, "at least 1.5 with decorrelated jitter: its waits grow by it alone")


_DEFAULT = RetryRule()
SUPPRESSED = ("attempts", "allowance", "breaker", "budget", "deadline", "not_idempotent", "pushback", "rejected")


class Retry(Plan):
    """The seam of a pipeline: what stands before it acts once per call, what stands after it per attempt.

    Another attempt starts when the failure was TRANSIENT, and a second execution does no harm (`call.idempotent`) or
    the first never happened (`outcome.sent` is NO). The wait is drawn from zero to an exponential ceiling; a
    `retry_after` of the callee makes it longer, a negative one ends it, and so does one that the deadline has no room
    for. Our own rejections are not retried: the same gate would refuse again. The one exception is an open breaker of
    an instance: nothing was sent, so another instance is tried at once.

    The budget, if there is one, is charged last, when the attempt is scheduled, so that those who wait count too.
    Counters: `retries`, and `suppressed` by reason.
    """

    opening = ("purse = {p}.budget", "if purse is not None:", "    purse.deposit({now})")

    def __init__(
        self,
        rule: RetryRule = _DEFAULT,
        *,
        budget: Purse | None = None,
        name: str = "",
        target: str = "",
        dice: Dice | None = None,
    ) -> None:
        self.rule = rule
        self.budget = budget
        self.name = name
        self.target = target
        self.retries = 0
        self.suppressed = dict.fromkeys(SUPPRESSED, 0)
        self._dice = dice or clock.dice()
        self._lock = threading.Lock()

    def next(self, call: Call, tries: int, outcome: Outcome | None, now: float) -> float | None:
        """Return the seconds until the next attempt, None for no other."""
        budget = self.budget
        if outcome is None:
            if budget is not None:
                budget.deposit(now)
            return None
        rejected = isinstance(outcome.error, Rejected)
        if outcome.verdict is not TRANSIENT and not rejected:
            return None
        rule = self.rule
        delay = 0.0 if rejected else self._wait(rule, tries, outcome)
        why = obstacle(call, tries, outcome, attempts=rule.attempts, starts=now + delay, minimum=rule.minimum)
        if why is None and budget is not None and not budget.withdraw(now):
            why = "budget"
        with self._lock:
            if why is not None:
                self.suppressed[why] += 1
                return None
            self.retries += 1
        if call.attempts_left is not None:
            call.attempts_left -= 1
        return delay

    def _wait(self, rule: RetryRule, tries: int, outcome: Outcome) -> float:
        base = rule.overloaded_base if outcome.overloaded else rule.base
        own = JITTERS[rule.jitter](base, rule.factor, rule.cap, tries - 1, self._dice)
        asked = outcome.retry_after
        return own if asked is None else max(own, min(asked, own + rule.patience))
