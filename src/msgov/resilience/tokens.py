"""Failures take tokens and successes give back a part of one: below half of them nobody retries.

The retry throttle of gRFC A6, a budget in another form, for those whose service config says `retryThrottling`. It
follows failures, not traffic: one bad minute silences retries until `maximum / 2 / ratio` calls went well.
"""

from __future__ import annotations

import threading

from msgov.call import OK, TRANSIENT, Call, Outcome
from msgov.policy import Gate
from msgov.rule import field, rule


@rule
class TokensRule:
    """How many failures it takes to stop retries, and how many successes to allow them again."""

    maximum: int = field(
        default=10, ge=1, le=1000, unit="tokens", why="gRPC's example; half of them may be lost before retries stop"
    )
    ratio: float = field(
        default=0.1, ge=0.001, le=1000, unit="tokens a success", why="ten successes undo one failure (gRFC A6)"
    )


_DEFAULT = TokensRule()
_IN = 1


class Tokens:
    """The purse that a `Retry` or `Hedge` asks, filled and emptied by how attempts end.

    Its `gate` lets everything in and counts; it stands inside the seam: `policies(Retry(budget=tokens), tokens.gate)`.
    A TRANSIENT failure takes one token, a success gives `ratio` back; other outcomes say nothing. With more than half
    of `maximum` an attempt may follow; none is charged for it, for its failure will be.

    Counters: `spent` (attempts allowed) and `refused`.
    """

    def __init__(self, rule: TokensRule = _DEFAULT, *, name: str = "", target: str = "") -> None:
        self.name = name
        self.target = target
        self.spent = 0
        self.refused = 0
        self.gate: Gate[int] = _Counting(self)
        self._rule = rule
        self._lock = threading.Lock()
        self._left = rule.maximum * 1000  # thousandths, as in gRPC's core: sums stay exact

    @property
    def rule(self) -> TokensRule:
        """The rule in force; storing another keeps the share of the tokens that is left."""
        return self._rule

    @rule.setter
    def rule(self, rule: TokensRule) -> None:
        with self._lock:
            self._left = self._left * rule.maximum // self._rule.maximum
            self._rule = rule

    @property
    def left(self) -> float:
        """How many tokens there are, 0 to `maximum`."""
        return self._left / 1000

    def succeed(self) -> None:
        """Give a part of a token back."""
        if self._left < self._rule.maximum * 1000:  # full, as on any good day: no lock
            with self._lock:
                self._left = min(self._left + round(self._rule.ratio * 1000), self._rule.maximum * 1000)

    def fail(self) -> None:
        """Take a token."""
        with self._lock:
            self._left = max(0, self._left - 1000)

    def deposit(self, now: float) -> None:
        """Take nothing in: only what ends well counts."""

    def withdraw(self, now: float) -> bool:
        """Say whether an attempt may follow."""
        with self._lock:
            allowed = self._left > self._rule.maximum * 500
            if allowed:
                self.spent += 1
            else:
                self.refused += 1
        return allowed


class _Counting(Gate[int]):
    """Counts how attempts end."""

    waits = False

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def admit(self, call: Call, now: float) -> int:
        return _IN

    def settle(self, ticket: int, outcome: Outcome, now: float) -> None:
        if outcome.verdict is OK:
            self._tokens.succeed()
        elif outcome.verdict is TRANSIENT:
            self._tokens.fail()
