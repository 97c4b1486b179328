"""What only a changed line of the breaker showed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from msgov.call import OK, TRANSIENT, Call, Outcome
from msgov.errors import BreakerOpen, RuleError
from msgov.resilience import Breaker, BreakerRule, HystrixRule, State
from msgov.testing import LoadedDice
from tests.resilience.breaking import CALL, TOP, call, opened, small, state


def test_new_breaker_never_turned_and_is_in_its_first_era() -> None:
    """The era that a console shows is the one of the tickets."""
    gate = Breaker()
    assert gate.since == 0
    assert gate.snapshot(0.0)["era"] == gate.admit(CALL, 0.0)


@pytest.mark.parametrize("slow", [0.0, 5.0])
def test_success_on_the_edge_of_a_slice_counts_as_long_as_the_next_one(slow: float) -> None:
    """A slice is a second: what ends on its edge is not forgotten with it."""
    gate = Breaker(BreakerRule(slow_seconds=slow))
    call(gate, OK, 0.0)
    for _ in range(4):
        call(gate, OK, 1.0)
    call(gate, TRANSIENT, 10.0)
    assert gate.failure_rate(10.0) == pytest.approx(0.2)


def test_hung_probe_is_counted_as_a_failure() -> None:
    """Four that tripped it, and the one that never answered."""
    gate = opened()
    gate.admit(CALL, 3.0)
    with pytest.raises(BreakerOpen):
        gate.admit(CALL, 3.0 + gate.rule.probe_lease)
    assert gate.counts["failure"] == 5


def test_late_success_of_a_calm_breaker_that_was_shut_by_hand_is_ignored() -> None:
    """It was let in before: it says nothing about what is now."""
    gate = Breaker()
    call(gate, OK, 0.0)
    late = gate.admit(CALL, 0.1)
    gate.force(State.FORCED_OPEN, now=0.2)
    gate.settle(late, Outcome(OK), 0.3)
    assert (gate.counts["success"], gate.counts["ignored"]) == (1, 1)


def test_short_ramp_is_one_too() -> None:
    """Half a second of it begins with a tenth of the calls."""
    gate = small(ramp_seconds=0.5)
    for _ in range(gate.rule.minimum_calls):
        call(gate, TRANSIENT, 0.0)
    call(gate, OK, 3.0)
    assert state(gate) is State.CLOSED
    with pytest.raises(BreakerOpen):
        gate.admit(CALL, 3.0)


def test_refusal_near_the_end_of_the_ramp_says_how_near() -> None:
    """A tenth of a second, not a whole one."""
    gate = small(ramp_seconds=3.0)
    for _ in range(gate.rule.minimum_calls):
        call(gate, TRANSIENT, 0.0)
    call(gate, OK, 3.0)
    with pytest.raises(BreakerOpen) as refused:
        gate.admit(CALL, 5.9)
    assert refused.value.retry_after == pytest.approx(0.1)


def test_new_rule_that_counts_slow_calls_counts_the_next_one() -> None:
    """Though nothing had gone wrong, and its quick way out was open."""
    gate = Breaker(dice=LoadedDice(TOP, cycle=True))
    call(gate, OK, 0.0)
    gate.rule = replace(gate.rule, slow_seconds=0.1)
    gate.settle(gate.admit(Call("shop"), 0.1), Outcome(OK, seconds=9.0), 0.2)
    assert gate.counts["slow"] == 1


def test_refusal_while_probing_promises_no_share() -> None:
    """Only a ramp lets a part of the calls in."""
    gate = opened()
    gate.admit(CALL, 3.0)
    with pytest.raises(BreakerOpen) as refused:
        gate.admit(CALL, 3.0)
    assert str(refused.value).startswith("pay: breaker half_open, try again in ")


def test_new_rule_that_counts_the_last_calls_does_so_however_old() -> None:
    """Four failures, a hundred seconds apart, are four of the last four."""
    gate = small(wilson_calls=0, consecutive_failures=0)
    gate.rule = replace(gate.rule, last_calls=4)
    for at in range(4):
        call(gate, TRANSIENT, 100.0 * at)
    assert state(gate) is State.OPEN


def test_fewer_last_calls_forget_the_older_ones_at_once() -> None:
    """Two failures after six successes are a quarter of eight, and half of four."""
    gate = small(wilson_calls=0, consecutive_failures=0, last_calls=8)
    for _ in range(6):
        call(gate, OK, 0.0)
    gate.rule = replace(gate.rule, last_calls=4)
    call(gate, TRANSIENT, 0.0)
    call(gate, TRANSIENT, 0.0)
    assert state(gate) is State.OPEN


def test_probe_whose_lease_ended_is_counted_once() -> None:
    """And its place is not free again, for it was answered by silence."""
    gate = opened(probes=5)
    gate.admit(CALL, 3.0)
    ended = 3.0 + gate.rule.probe_lease
    for _ in range(4):
        gate.admit(CALL, ended)
    with pytest.raises(BreakerOpen):
        gate.admit(CALL, ended)
    assert gate.counts["failure"] == 5


@pytest.mark.parametrize(("timeout", "sleep", "lease"), [(9000, 1000, 9.0), (500, 1000, 1.0)])
def test_test_call_of_hystrix_go_has_the_longer_of_timeout_and_sleep_window(
    timeout: int, sleep: int, lease: float
) -> None:
    """Within its timeout it may still answer; and no sooner than the next would go."""
    assert HystrixRule(timeout=timeout, sleep_window=sleep).breaker.probe_lease == lease


def test_refusal_while_probing_names_the_first_lease_to_end() -> None:
    """Then somebody may go, whoever else is out for longer."""
    gate = opened(probes=2)
    gate.admit(CALL, 3.0)
    gate.admit(Call("shop", deadline=3.5), 3.0)
    with pytest.raises(BreakerOpen) as refused:
        gate.admit(CALL, 3.0)
    assert refused.value.retry_after == 0.5


def test_hung_probe_failed_and_was_not_slow() -> None:
    """It never answered at all: the refusal says what counted."""
    gate = opened()
    gate.admit(CALL, 3.0)
    with pytest.raises(BreakerOpen) as refused:
        gate.admit(CALL, 3.0 + gate.rule.probe_lease)
    assert (refused.value.facts["failures"], refused.value.facts["slow"]) == (1, 0)


def test_window_of_one_call_never_has_twenty() -> None:
    """And no rate would ever be taken."""
    with pytest.raises(RuleError, match="minimum_calls"):
        BreakerRule(last_calls=1)
