"""A small breaker, and what a test does with it."""

from __future__ import annotations

import pytest

from msgov.call import TRANSIENT, Call, Outcome, Verdict
from msgov.errors import BreakerOpen
from msgov.resilience import Breaker, BreakerRule, State
from msgov.testing import LoadedDice

CALL = Call("shop")
TOP = 1 - 2**-53  # the highest roll: an open time of (almost) its ceiling


def small(**changed: object) -> Breaker:
    """Make a breaker that opens at half of four calls, for two seconds and no more."""
    values: dict[str, object] = {"minimum_calls": 4, "open_cap": 2.0, "probes": 1, **changed}
    rule = BreakerRule(**values)  # type: ignore[arg-type]
    return Breaker(rule, name="pay", target="payment", dice=LoadedDice(TOP, cycle=True))


def call(gate: Breaker, verdict: Verdict, now: float, *, retry_after: float | None = None) -> None:
    """Make one call that takes no time."""
    gate.settle(gate.admit(CALL, now), Outcome(verdict, retry_after=retry_after), now)


def state(gate: Breaker) -> State:
    """Read the state: through a function, for a type checker takes an attribute to stay what it was."""
    return gate.state


def opened(now: float = 0.0, **changed: object) -> Breaker:
    """Make one that has just opened."""
    gate = small(**changed)
    for _ in range(gate.rule.minimum_calls):
        call(gate, TRANSIENT, now)
    assert state(gate) is State.OPEN
    return gate


def refused(gate: Breaker, now: float) -> BreakerOpen:
    """Return why a call does not get in."""
    with pytest.raises(BreakerOpen) as caught:
        gate.admit(CALL, now)
    return caught.value
