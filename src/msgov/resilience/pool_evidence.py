"""What several processes saw, and whether it is enough to open a breaker of one of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from msgov.errors import Fact
from msgov.resilience.breaker_evidence import EXACT, reached, wilson
from msgov.resilience.breaker_rule import BreakerRule
from msgov.resilience.pool_rule import PoolRule

__all__ = ["Report", "Seen", "Weighed", "weigh"]


class Seen(NamedTuple):
    """The calls of one process to one callee, over the window: how many went well, how many badly."""

    well: int
    badly: int

    @property
    def calls(self) -> int:
        """All of them."""
        return self.well + self.badly


class Report(NamedTuple):
    """What one process saw, by the breakers' names; `serial` moves with each report, which shows that it lives."""

    serial: int
    seen: Mapping[str, Seen]


class Weighed(NamedTuple):
    """Whether to open, whether only the own calls speak against it, and the numbers."""

    opens: bool
    vetoed: bool
    facts: Mapping[str, Fact]


def weigh(own: Seen, others: Iterable[Seen], *, rule: PoolRule, breaker: BreakerRule) -> Weighed:
    """Open when all calls together meet the breaker's rate, enough members see it, and the own calls do not deny it.

    The counts say how bad it is, the quorum that it is not one member's own trouble: one that fails a thousand times a
    second outweighs all others in the counts, and is one voice in the quorum.
    """
    rate = breaker.failure_rate
    members = (own, *others)
    calls, failures = sum(each.calls for each in members), sum(each.badly for each in members)
    voices = [each for each in members if each.calls >= rule.member_calls]
    witnesses = sum(each.badly >= rate * each.calls - EXACT for each in voices)
    agreed = (
        rate > 0
        and witnesses >= rule.witnesses
        and witnesses >= rule.quorum * len(voices) - EXACT
        and bool(reached(breaker, failures, calls, rate))
    )
    denied = own.calls >= rule.veto_calls and 1 - wilson(own.well, own.calls) < rate
    facts: dict[str, Fact] = {"calls": calls, "failures": failures, "members": len(voices), "witnesses": witnesses}
    return Weighed(agreed and not denied, agreed and denied, facts)
