"""It comes back by a few probes, then by a growing share of the calls."""

from __future__ import annotations

import pytest

from msgov.call import OK, TRANSIENT, Call, Outcome
from msgov.errors import BreakerOpen
from msgov.resilience import Breaker, BreakerRule, State
from msgov.resilience.breaker_recovery import share_at
from msgov.testing import LoadedDice
from tests.resilience.breaking import CALL, OFF, call, calls, counts, opened, refused, small, state


def ramping(*rolls: float, **changed: object) -> Breaker:
    """Make one that has just closed, at 2.0; its next rolls are those given."""
    rule = BreakerRule(minimum_calls=1, probes=1, open_cap=2.0, **{**OFF, "ramp_seconds": 3.0, **changed})  # type: ignore[arg-type]
    gate = Breaker(rule, name="pay", target="payment", dice=LoadedDice(0.0, *rolls))
    call(gate, TRANSIENT, 0.0)
    call(gate, OK, 2.0)
    assert state(gate) is State.CLOSED
    return gate


# The open time


@pytest.mark.parametrize(
    ("jitter", "roll", "seconds"),
    [(0.0, 0.9, 2.0), (0.5, 0.0, 1.0), (0.5, 0.5, 1.5), (1.0, 0.0, 0.0), (1.0, 0.25, 0.5)],
)
def test_open_jitter_is_the_share_that_is_drawn(jitter: float, roll: float, seconds: float) -> None:
    """None of it (Hystrix), half of it (Finagle's equal jitter), all of it (full jitter)."""
    rule = BreakerRule(minimum_calls=1, open_jitter=jitter)
    gate = Breaker(rule, dice=LoadedDice(roll))
    call(gate, TRANSIENT, 0.0)
    assert gate.snapshot(0.0)["retry_after"] == pytest.approx(seconds)


def test_retry_after_of_a_failed_probe_lengthens_the_next_open_time() -> None:
    """The probe brought an answer: not yet."""
    gate = opened()
    call(gate, TRANSIENT, 2.0, retry_after=20.0)
    assert refused(gate, 2.0).retry_after == pytest.approx(20.0)


def test_retry_after_of_a_late_call_changes_nothing() -> None:
    """It speaks of an era that is over."""
    gate = small()
    late = gate.admit(CALL, 0.0)
    calls(gate, "FFFF")
    gate.settle(late, Outcome(TRANSIENT, retry_after=50.0), 0.5)
    assert refused(gate, 0.5).retry_after == pytest.approx(1.5)


# Slow probes


@pytest.mark.parametrize(
    ("script", "ends"),
    [
        ("ssss", State.OPEN),
        ("sssS", State.HALF_OPEN),
        ("sssSS", State.CLOSED),
        ("SS", State.CLOSED),
        ("FFs", State.HALF_OPEN),
    ],
)
def test_slow_probes_do_not_close_it(script: str, ends: State) -> None:
    """A callee that answers late is not back: of five probes four slow ones are 0.8 of them."""
    gate = opened(probes=5, slow_seconds=1.0, slow_rate=0.8, failure_rate=0.8)
    calls(gate, script, now=2.0)
    assert state(gate) is ends


def test_probes_need_a_rate_even_where_none_is_ruled() -> None:
    """With the failure rate off half of them decides."""
    gate = small(failure_rate=0.0, consecutive_failures=2, probes=4)
    calls(gate, "FF")
    calls(gate, "SF", now=2.0)
    assert state(gate) is State.HALF_OPEN
    calls(gate, "F", now=2.0)
    assert state(gate) is State.OPEN


# After closing


@pytest.mark.parametrize(
    ("over", "t", "share"),
    [
        (60, 6, 0.1),
        (60, 15, 0.25),
        (60, 30, 0.5),
        (60, 1, 0.1),
        (60, 60, 1.0),
        (60, 90, 1.0),
        (0, 0, 1.0),
        (3, -1, 0.1),
    ],
)
def test_envoy_slow_start_with_aggression_one(over: float, t: float, share: float) -> None:
    """slow_start.rst: linear, never below a tenth; 0 is off."""
    assert share_at(BreakerRule(ramp_seconds=over), t) == pytest.approx(share)


def test_share_let_in_grows_by_the_dice() -> None:
    """At half of the ramp a roll below a half gets in, one of a half does not."""
    gate = ramping(0.49, 0.5)
    gate.admit(CALL, 3.5)
    error = refused(gate, 3.5)
    assert (error.facts["reason"], error.facts["share"], error.retry_after) == ("ramp_up", 0.5, 1.5)
    assert str(error) == "pay: breaker closed, letting 50% in, try again in 1.500 s"
    assert state(gate) is State.CLOSED


def test_calls_let_in_early_count_as_ever() -> None:
    """A callee that falls over again under a tenth of the calls is left alone again."""
    gate = ramping(0.0, 0.0)
    call(gate, TRANSIENT, 2.1)
    assert state(gate) is State.OPEN


def test_after_the_ramp_the_door_is_simply_open() -> None:
    """No roll more, and no lock."""
    gate = ramping()
    call(gate, OK, 5.0)
    with gate._lock:
        call(gate, OK, 5.1)
    assert gate.snapshot(5.1)["share"] == 1.0


def test_ramp_can_be_off() -> None:
    """At nought it closes at once, for all."""
    gate = ramping(ramp_seconds=0)
    for _ in range(10):
        call(gate, OK, 2.0)
    assert counts(gate) == {"success": 11, "failure": 1}


def test_ramp_switched_off_while_it_lasts_ends_at_the_next_call() -> None:
    """A new rule is live."""
    gate = ramping()
    gate.rule = BreakerRule(ramp_seconds=0)
    call(gate, OK, 2.1)
    assert gate.snapshot(2.1)["share"] == 1.0


def test_hand_that_closes_it_wants_no_ramp() -> None:
    """Somebody looked, and decided."""
    gate = opened(ramp_seconds=3.0)
    gate.force(State.CLOSED, now=1.0)
    call(gate, OK, 1.0)
    gate.admit(CALL, 2.0)
    gate.force(State.CLOSED, now=2.0)
    call(gate, OK, 2.0)


# Where an instance is chosen


def test_ready_asks_without_taking_a_place() -> None:
    """A picker may look at a thousand instances for one call."""
    gate = opened(probe_lease=3.0)
    assert [gate.ready(now) for now in (0.0, 1.9, 2.0, 2.0)] == [False, False, True, True]
    assert state(gate) is State.OPEN
    gate.admit(CALL, 2.0)
    assert [gate.ready(now) for now in (2.0, 4.9, 5.0)] == [False, False, True]
    for forced, ready in ((State.FORCED_OPEN, False), (State.FORCED_CLOSED, True), (State.DISABLED, True)):
        gate.force(forced, now=6.0)
        assert gate.ready(6.0) is ready


def test_ready_while_the_ramp_lasts() -> None:
    """There is a chance."""
    assert ramping().ready(2.0)


def test_lease_never_outlasts_the_calls_deadline() -> None:
    """Whichever comes first."""
    for deadline, end in ((None, 12.0), (2.5, 2.5), (60.0, 12.0)):
        gate = opened(probe_lease=10.0)
        gate.admit(Call("shop", deadline=deadline), 2.0)
        assert not gate.ready(end - 0.1)
        assert gate.ready(end)
        with pytest.raises(BreakerOpen):
            gate.admit(CALL, end - 0.1)
