"""How to come back: after a time, by a few probes, then by a growing share of the calls."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from msgov.backoff import ceiling
from msgov.clock import Dice
from msgov.errors import Fact
from msgov.resilience.breaker_evidence import EXACT
from msgov.resilience.breaker_rule import BreakerRule

RAMP_FLOOR: Final = 0.1  # the share let in when the ramp begins (Envoy's min_weight_percent)
_HALF: Final = 0.5  # of the probes, where no failure rate is ruled


def share_at(rule: BreakerRule, seconds: float) -> float:
    """Return the share of calls let in so long after closing, `RAMP_FLOOR` to 1: Envoy's slow start, linear."""
    return min(1.0, max(RAMP_FLOOR, seconds / rule.ramp_seconds)) if rule.ramp_seconds else 1.0


class Absence:
    """Until when to stay away: longer on each trip soon after the last, and as long as the callee asks for."""

    __slots__ = ("_asked", "_came_back", "_dice", "_trips", "until")

    def __init__(self, dice: Dice) -> None:
        self.until = 0.0
        self._dice = dice
        self._trips = 0  # since it last held for a whole window
        self._asked = 0.0  # the latest time that a Retry-After named
        self._came_back = -math.inf

    def asked(self, rule: BreakerRule, now: float, retry_after: float | None) -> None:
        """Take note of a Retry-After; one of the past, or "never again", changes nothing."""
        if retry_after is not None:
            self._asked = max(self._asked, now + min(retry_after, rule.retry_after_cap))

    def began(self, rule: BreakerRule, now: float, *, again: bool) -> None:
        """Draw how long: a certain part, and a drawn one; `again` when it was never over."""
        if not again and now - self._came_back >= rule.window:
            self._trips = 0
        top = ceiling(rule.open_seconds, rule.open_growth, rule.open_cap, self._trips)
        seconds = top * (1 - rule.open_jitter) + top * rule.open_jitter * self._dice.random()
        self.until = max(now + seconds, self._asked)
        self._trips += 1

    def over(self, now: float) -> None:
        """Take note that calls go through again."""
        self._came_back = now


class Probes:
    """The calls let in to find out: leases out, answers in, and what they add up to.

    Its owner holds a lock round every method. A place is taken by `lease`, and is free again by `give_back` when
    nothing was learnt; `answer` and `expire` count it.
    """

    __slots__ = ("answered", "badly", "out", "slowly")

    def __init__(self) -> None:
        self.out: dict[int, float] = {}  # ticket -> when its lease ends
        self.answered = 0  # those whose lease ended among them
        self.badly = 0
        self.slowly = 0

    def clear(self) -> None:
        """Begin anew: whoever is out says nothing any more."""
        self.out.clear()
        self.answered = self.badly = self.slowly = 0

    def room(self, rule: BreakerRule) -> bool:
        """Whether one more may go."""
        return self.answered + len(self.out) < rule.probes

    def lease(self, ticket: int, until: float) -> None:
        """Let one go, until then at most."""
        self.out[ticket] = until

    def give_back(self, ticket: int) -> bool:
        """Free the place of one that is out; say whether it was."""
        return self.out.pop(ticket, None) is not None

    def expire(self, now: float) -> int:
        """Count those whose lease has ended as failed; return how many."""
        hung = [ticket for ticket, end in self.out.items() if end <= now]
        for ticket in hung:
            del self.out[ticket]
            self.answer(failed=True, slow=False)
        return len(hung)

    def answer(self, *, failed: bool, slow: bool) -> None:
        """Count what one found out."""
        self.answered += 1
        self.badly += failed
        self.slowly += slow

    def decide(self, rule: BreakerRule) -> str | None:
        """Say what they add up to as soon as those still to come could not change it; None until then.

        The rates are those of the closed state, of `rule.probes` calls; where no failure rate is ruled, half.
        """
        badly = _enough(rule.failure_rate or _HALF, rule.probes)
        slowly = _enough(rule.slow_rate, rule.probes) if rule.slow_seconds else math.inf
        if self.badly >= badly:
            return "probes_failed"
        if self.slowly >= slowly:
            return "probes_slow"
        left = rule.probes - self.answered
        return "probes_passed" if self.badly + left < badly and self.slowly + left < slowly else None

    def next_end(self) -> float | None:
        """Return when the first lease ends, None with nobody out."""
        return min(self.out.values(), default=None)

    def facts(self) -> Mapping[str, Fact]:
        """Say what they have added up to so far."""
        return {"calls": self.answered, "failures": self.badly, "slow": self.slowly}


def _enough(rate: float, calls: int) -> int:
    return max(1, math.ceil(rate * calls - EXACT))
