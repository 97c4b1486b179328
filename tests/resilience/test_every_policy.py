"""What every policy owes its owner: its name, its rule as it is now, and counters that begin at nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from msgov.call import Call
from msgov.policy import Gate
from msgov.resilience import (
    Adaptive,
    AdaptiveRule,
    Breaker,
    BreakerRule,
    Budget,
    BudgetRule,
    Bulkhead,
    BulkheadRule,
    Cache,
    CacheRule,
    Coalesce,
    CoalesceRule,
    Deadline,
    DeadlineRule,
    Fault,
    FaultRule,
    Hedge,
    HedgeRule,
    Limiter,
    LimiterRule,
    Pace,
    PaceRule,
    Retry,
    RetryRule,
    Shedder,
    ShedRule,
    Throttle,
    ThrottleRule,
    Tokens,
    TokensRule,
)


@dataclass(frozen=True)
class Kind:
    """A policy, and two rules of it."""

    make: Callable[..., Any]
    one: Any
    other: Any


KINDS = [
    Kind(Adaptive, AdaptiveRule(initial=7), AdaptiveRule(initial=9)),
    Kind(Breaker, BreakerRule(window=7), BreakerRule(window=9)),
    Kind(Budget, BudgetRule(ttl=7), BudgetRule(ttl=9)),
    Kind(Bulkhead, BulkheadRule(limit=7), BulkheadRule(limit=9)),
    Kind(Cache, CacheRule(ttl=7), CacheRule(ttl=9)),
    Kind(Coalesce, CoalesceRule(), CoalesceRule()),
    Kind(Deadline, DeadlineRule(seconds=7), DeadlineRule(seconds=9)),
    Kind(Fault, FaultRule(share=0.5, latency=7), FaultRule(share=0.5, latency=9)),
    Kind(Hedge, HedgeRule(samples=7), HedgeRule(samples=9)),
    Kind(Limiter, LimiterRule(rate=7), LimiterRule(rate=9)),
    Kind(Pace, PaceRule(max_wait=7), PaceRule(max_wait=9)),
    Kind(Retry, RetryRule(attempts=4), RetryRule(attempts=5)),
    Kind(Shedder, ShedRule(window=7), ShedRule(window=9)),
    Kind(Throttle, ThrottleRule(multiplier=1.5), ThrottleRule(multiplier=3)),
    Kind(Tokens, TokensRule(maximum=7), TokensRule(maximum=9)),
]
each = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.make.__name__)


@each
def test_it_keeps_its_name_and_its_target(kind: Kind) -> None:
    """Metrics, events and refusals are told apart by them."""
    made = kind.make(kind.one, name="pay", target="payment")
    assert (made.name, made.target) == ("pay", "payment")


@each
def test_its_ticket_is_something(kind: Kind) -> None:
    """None would be no ticket: a gate's word for who is in, and never for nobody."""
    made = kind.make(kind.one)
    if isinstance(made, Gate) and not isinstance(made, Fault):
        for _ in range(2):  # the second may go a shorter way
            assert made.admit(Call("shop", deadline=50.0), 0.0) is not None


@each
def test_its_rule_is_the_one_in_force(kind: Kind) -> None:
    """What was given first, then what was stored since: the very value, for a reload compares it."""
    made = kind.make(kind.one)
    assert made.rule is kind.one
    made.rule = kind.other
    assert made.rule is kind.other


@each
def test_its_counters_begin_at_nothing(kind: Kind) -> None:
    """A counter that begins at one tells of a failure that never was."""
    made = kind.make(kind.one)
    counters = {name: value for name, value in vars(made).items() if type(value) is int and name[0] != "_"}
    counters.pop("limit", None)
    assert set(counters.values()) <= {0}, counters
