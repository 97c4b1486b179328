"""What only a changed line of the throttle showed."""

from __future__ import annotations

import pytest

from msgov.call import OK, TRANSIENT, Call, Outcome
from msgov.resilience import Throttle, Throttled, ThrottleRule
from msgov.testing import LoadedDice

CALL = Call("stock")
TAKEN, REFUSED = Outcome(OK), Outcome(TRANSIENT, overloaded=True)


def throttle(*rolls: float, **changed: float) -> Throttle:
    """Make one that has seen nothing but refusals."""
    rule = ThrottleRule(**{"minimum_rate": 0.0, **changed})  # type: ignore[arg-type]
    return Throttle(rule, dice=LoadedDice(*rolls))


def test_roll_of_just_the_chance_goes_through() -> None:
    """A chance of nine in ten holds back nine rolls in ten, 0.9 not among them."""
    gate = throttle(0.9)
    for _ in range(9):
        gate.settle(1, REFUSED, 0.0)
    gate.admit(CALL, 0.0)  # the one of this second
    assert gate.chance(0.5) == 0.9
    gate.admit(CALL, 0.5)
    assert gate.held == 0


def test_refusal_counts_those_held_back_among_the_calls() -> None:
    """They asked too: the numbers in the refusal are those of the formula."""
    gate = throttle(0.0, 0.0)
    for _ in range(9):
        gate.settle(1, REFUSED, 0.0)
    gate.admit(CALL, 0.0)
    for calls in (9, 10):
        with pytest.raises(Throttled) as caught:
            gate.admit(CALL, 0.5)
        assert caught.value.facts["calls"] == calls


def test_success_on_the_edge_of_a_slice_counts_as_long_as_the_next_one() -> None:
    """A slice is half a second: what ends on its edge is not forgotten with it."""
    gate = throttle(window=1.0, buckets=2)
    gate.settle(1, TAKEN, 0.0)
    for _ in range(4):
        gate.settle(1, TAKEN, 0.5)
    gate.settle(1, REFUSED, 1.0)
    assert gate.chance(1.0) == 0.0  # four taken and one refused


def test_minimum_rate_is_of_the_time_that_the_window_spans() -> None:
    """Ten a second for two seconds are twenty calls: nineteen are too few for a share, twenty are not."""
    for calls, quiet in ((19, True), (20, False)):
        gate = throttle(window=4.0, buckets=4, minimum_rate=10.0)
        gate.settle(1, REFUSED, 0.0)
        for _ in range(calls - 1):
            gate.settle(1, REFUSED, 1.5)
        assert (gate.chance(1.5) == 0.0) is quiet


def test_whoever_is_let_in_has_a_ticket() -> None:
    """With nothing to hold back, as the one of a second, by luck, and in shadow."""
    gate = throttle(0.99)
    gate.settle(1, REFUSED, 0.0)
    gate.rule = ThrottleRule(minimum_rate=1e6)
    assert gate.admit(CALL, 0.0) is not None
    gate.rule = ThrottleRule(minimum_rate=0.0)
    assert gate.admit(CALL, 0.0) is not None
    assert gate.admit(CALL, 0.1) is not None
    shadow = Throttle(ThrottleRule(minimum_rate=0.0, shadow=True), dice=LoadedDice(0.0))
    for _ in range(9):
        shadow.settle(1, REFUSED, 0.0)
    shadow.admit(CALL, 0.0)
    assert shadow.admit(CALL, 0.1) is not None
    assert shadow.would_reject == 1
