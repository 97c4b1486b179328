"""Let retries be a share of the traffic, so that they cannot become the traffic.

The token form after Finagle's RetryBudget and tower's TpsBudget: every first call deposits `ratio` of a retry, every
retry withdraws a whole one, and deposits are forgotten after `ttl`. A reserve lets quiet callers retry too.
"""

from __future__ import annotations

import threading

from msgov._rolling import Rolling
from msgov.rule import field, rule

_SLICES = 10  # of the ttl: a deposit lives between 9/10 of it and all of it, as in Finagle and tower
_EXACT = 1e-9  # ten deposits of 0.1 are one retry, whatever floats say


@rule
class BudgetRule:
    """How many retries the traffic pays for."""

    ratio: float = field(
        default=0.1,
        ge=0,
        le=1000,
        why="a failing callee sees 1.1x its traffic, not 3x (SRE book, ch. 22)",
        unit="retries a call",
    )
    minimum: float = field(
        default=0.2,
        ge=0,
        le=1000,
        unit="retries/s a process",
        why="one retry a ttl for the quiet; it multiplies by the number of processes, so Finagle's 10 is too much",
    )
    ttl: float = field(
        default=5.0,
        ge=0.1,
        le=600,
        unit="s",
        why="smooths a burst and hoards none: Finagle's 10 s, spent in five bad ones, are 1.2x the traffic and more",
    )


_DEFAULT = BudgetRule()


class Budget:
    """One purse per callee, shared by everything that adds attempts to it; charged when an attempt is scheduled.

    Counters: `spent` and `refused`, in retries since the start.
    """

    def __init__(self, rule: BudgetRule = _DEFAULT, *, name: str = "", target: str = "") -> None:
        self.name = name
        self.target = target
        self.spent = 0
        self.refused = 0
        self._lock = threading.Lock()
        self._rule = rule
        self._window = Rolling(2, seconds=rule.ttl, buckets=_SLICES)

    @property
    def rule(self) -> BudgetRule:
        """The rule in force; storing another keeps what was deposited and spent."""
        return self._rule

    @rule.setter
    def rule(self, rule: BudgetRule) -> None:
        with self._lock:
            self._rule = rule
            self._window.reshape(seconds=rule.ttl, buckets=_SLICES)

    def deposit(self, now: float) -> None:
        """Pay in for one first call."""
        if now < self._window.edge:
            self._window.tick()
        else:
            with self._lock:
                self._window.add(0, now)

    def withdraw(self, now: float) -> bool:
        """Pay for one attempt more; False when the purse is empty."""
        with self._lock:
            paid = self._balance(now) >= 1 - _EXACT
            if paid:
                self._window.add(1, now)
                self.spent += 1
            else:
                self.refused += 1
        return paid

    def balance(self, now: float) -> float:
        """Return how many retries can be paid for now."""
        with self._lock:
            return max(0.0, self._balance(now))

    def remaining(self, now: float) -> float:
        """Return the share of the purse that is left, 0 to 1."""
        with self._lock:
            left = self._balance(now)
            full = left + self._window.totals[1]
        return 0.0 if full <= 0 else max(0.0, left / full)

    def _balance(self, now: float) -> float:
        self._window.roll(now)
        deposits, spent = self._window.totals
        return deposits * self._rule.ratio + self._rule.minimum * self._rule.ttl - spent
