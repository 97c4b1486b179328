"""A small breaker, and what a test does with it."""

from __future__ import annotations

import pytest

from msgov.call import OK, TRANSIENT, Call, Outcome, Verdict
from msgov.errors import BreakerOpen
from msgov.resilience import Breaker, BreakerRule, State
from msgov.testing import LoadedDice

CALL = Call("shop")
TOP = 1 - 2**-53  # the highest roll: an open time of (almost) its ceiling


OFF: dict[str, object] = {"wilson_calls": 0, "consecutive_failures": 0, "ramp_seconds": 0}


def small(**changed: object) -> Breaker:
    """Make a breaker that opens at half of four calls and on nothing else, for two seconds and no more."""
    values: dict[str, object] = {"minimum_calls": 4, "open_cap": 2.0, "probes": 1, **OFF, **changed}
    rule = BreakerRule(**values)  # type: ignore[arg-type]
    return Breaker(rule, name="pay", target="payment", dice=LoadedDice(TOP, cycle=True))


def call(
    gate: Breaker, verdict: Verdict, now: float, *, retry_after: float | None = None, seconds: float = 0.0
) -> None:
    """Make one call that is over at once, whatever time it says it took."""
    gate.settle(gate.admit(CALL, now), Outcome(verdict, retry_after=retry_after, seconds=seconds), now)


def calls(gate: Breaker, script: str, now: float = 0.0) -> None:
    """Make calls that go well (S, or s when slow) or badly (F, or f), until one is refused or all are done."""
    for letter in script:
        call(gate, OK if letter in "Ss" else TRANSIENT, now, seconds=9.0 if letter in "sf" else 0.0)


def state(gate: Breaker) -> State:
    """Read the state: through a function, for a type checker takes an attribute to stay what it was."""
    return gate.state


def counts(gate: Breaker) -> dict[str, int]:
    """Read the counts that are not nought."""
    return {name: n for name, n in gate.counts.items() if n}


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
