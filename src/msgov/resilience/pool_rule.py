"""When the word of a service's other processes may open a breaker of this one: one rule."""

from __future__ import annotations

from collections.abc import Iterable

from msgov.errors import Problem
from msgov.rule import field, rule


@rule
class PoolRule:
    """How often processes tell each other what they see, how many must agree, and what outweighs them.

    What is too much, and with how many calls, is said by each breaker's own rule: `failure_rate`, `minimum_calls`,
    `wilson_calls`, `window`. The pool adds up failures only, for slow is what each caller finds so.
    """

    period: float = field(
        default=1.0,
        gt=0,
        le=60,
        unit="s",
        why="between two exchanges with the store: a tenth of a breaker's window, one round trip each",
    )
    stale: float = field(
        default=3.0,
        gt=0,
        le=600,
        unit="s",
        why="what a member said counts for so long after it was news: two exchanges may be missed, and a dead member "
        "is not heard for long",
    )
    member_calls: int = field(
        default=3,
        ge=1,
        le=1_000_000,
        unit="calls",
        why="with fewer in the window a member has no say, though its calls are added up: one failure is no opinion",
    )
    quorum: float = field(
        default=0.5,
        gt=0,
        le=1,
        why="this share of those who have a say must see failures at the breaker's failure_rate or above",
    )
    witnesses: int = field(
        default=2,
        ge=1,
        le=10_000,
        unit="processes",
        why="and so many of them at least: one alone may be the one whose own network is broken",
    )
    veto_calls: int = field(
        default=5,
        ge=1,
        le=1_000_000,
        unit="calls",
        why="from so many own calls in the window on, this process overrules the others where its own share of "
        "failures is surely (Wilson, 95 %) below failure_rate: at 0 of 5 or 1 of 8, for half",
    )

    def lint(self) -> Iterable[Problem]:
        """Check what no single field can see."""
        if self.stale < 2 * self.period:
            yield Problem(
                "stale", self.stale, f"at least two periods ({2 * self.period:g} s): a word lives to the next"
            )
