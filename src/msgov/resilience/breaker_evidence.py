"""What the calls say, and whether it is enough to stop calling: several criteria on one window."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from msgov._rolling import LastCalls, Rolling
from msgov.errors import Fact
from msgov.resilience.breaker_rule import BreakerRule

WELL, BADLY, SLOW = 0, 1, 2  # what a window counts: calls by how they ended, and those of both that were slow

EXACT: Final = 1e-9  # 3 of 10 is a rate of 0.3, whatever floats say
_Z: Final = 1.959964  # standard deviations of 95 %, two-sided


def wilson(hits: int, calls: int) -> float:
    """Return the lower bound of a share of which `hits` of `calls` were seen, at 95 % confidence; 0 of none.

    The score interval of E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference" (JASA
    22, 1927): right for few calls and for shares near 0 and 1, where the textbook's normal interval is not.
    """
    if not hits:
        return 0.0
    share, z2 = hits / calls, _Z * _Z
    spread = _Z * math.sqrt((share * (1 - share) + z2 / (4 * calls)) / calls)
    return max(0.0, (share + z2 / (2 * calls) - spread) / (1 + z2 / calls))


def reached(rule: BreakerRule, hits: int, calls: int, rate: float) -> str:
    """Say how a rate is reached: by "rate" with enough calls, by "bound" with few; "" when it is not."""
    if calls >= rule.minimum_calls:
        return "rate" if hits >= rate * calls - EXACT else ""
    return "bound" if 0 < rule.wilson_calls <= calls and wilson(hits, calls) >= rate else ""


class Evidence:
    """The calls in the window, and how many failed in a row, weighed by a rule.

    Its owner holds a lock round every method. Without it a quick success may count itself by `window.tick()` while
    `now < window.edge`: it ends a run of failures, and while `calm` it meets no criterion.
    """

    __slots__ = ("_rule", "_ticked_before", "run", "ticked", "window")

    def __init__(self, rule: BreakerRule) -> None:
        self.window = _window(rule)
        self.run = 0
        self.ticked = 0  # by windows that were replaced
        self._ticked_before = 0  # by this window, when the last call that took the lock was learnt
        self._rule = rule

    def govern(self, rule: BreakerRule) -> None:
        """Weigh by another rule; what was counted stays, by its age, or in proportion where only the sums are known."""
        before, self._rule = self._rule, rule
        if isinstance(self.window, Rolling) and not rule.last_calls:
            if (rule.window, rule.buckets) != (before.window, before.buckets):
                self.window.reshape(seconds=rule.window, buckets=rule.buckets)
        elif isinstance(self.window, LastCalls) and rule.last_calls:
            self.window.reshape(calls=rule.last_calls)
        else:
            self.ticked += self.window.ticked()
            old, self.window = self.window, _window(rule)
            self.window.take(old.totals)
            self._ticked_before = 0

    def learn(self, failed: bool, slow: bool, now: float) -> str | None:
        """Count a call; return the criterion that is met now, None for none."""
        window = self.window
        ticked = window.ticked()
        if ticked != self._ticked_before:  # a success came by without the lock
            self._ticked_before = ticked
            self.run = 0
        self.run = self.run + 1 if failed else 0
        window.add(BADLY if failed else WELL, now)
        if slow:
            window.add(SLOW, now)
        return self._met()

    def _met(self) -> str | None:
        rule = self._rule
        well, badly, slow = self.window.totals
        calls = well + badly
        if 0 < rule.consecutive_failures <= self.run:
            return "consecutive_failures"
        if rule.failure_rate and (how := reached(rule, badly, calls, rule.failure_rate)):
            return f"failure_{how}"
        if rule.slow_seconds and (how := reached(rule, slow, calls, rule.slow_rate)):
            return f"slow_{how}"
        return None

    def view(self, now: float) -> Mapping[str, Fact]:
        """Say what is in the window at `now`."""
        self.window.roll(now)
        well, badly, slow = self.window.totals
        in_a_row = self.run if self.window.ticked() == self._ticked_before else 0
        calls = {"window_calls": well + badly, "window_failures": badly, "window_slow": slow}
        return {**calls, "failures_in_a_row": in_a_row}

    @property
    def calm(self) -> bool:
        """Whether one quick success more cannot meet a criterion: it could only by filling a minimum of calls."""
        well, badly, slow = self.window.totals
        return not (badly or slow) or well + badly >= self._rule.minimum_calls

    def clear(self) -> None:
        """Forget every call."""
        self.window.clear()
        self.run = 0


def _window(rule: BreakerRule) -> Rolling | LastCalls:
    if rule.last_calls:
        return LastCalls(3, calls=rule.last_calls)
    return Rolling(3, seconds=rule.window, buckets=rule.buckets)
