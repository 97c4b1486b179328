"""A breaker opens on a rate, finds out by probes, and listens to nobody from another era."""

from __future__ import annotations

import pickle

import pytest

from msgov.call import IGNORED, OK, PERMANENT, TRANSIENT, Call, Outcome, Verdict
from msgov.resilience import Breaker, BreakerRule, State
from msgov.testing import LoadedDice
from tests.resilience.breaking import CALL, TOP, call, counts, opened, refused, small, state

# Closed


def test_resilience4j_threshold_is_met_not_passed() -> None:
    """Resilience4j issue 6: at exactly half of the calls failing it opens."""
    gate = small()
    for verdict in (OK, TRANSIENT, OK):
        call(gate, verdict, 0.0)
    assert state(gate) is State.CLOSED
    call(gate, TRANSIENT, 0.0)
    assert state(gate) is State.OPEN


def test_success_that_fills_the_minimum_can_open_it() -> None:
    """The rate is a fact about the window, whoever came last."""
    gate = small()
    for verdict in (TRANSIENT, TRANSIENT, TRANSIENT, OK):
        call(gate, verdict, 0.0)
    assert state(gate) is State.OPEN


@pytest.mark.parametrize(
    ("rate", "calls", "failures"), [(0.3, 10, 3), (0.28, 25, 7), (0.07, 100, 7), (1.0, 10, 10), (0.25, 10, 3)]
)
def test_rate_is_exact_whatever_floats_say(rate: float, calls: int, failures: int) -> None:
    """0.28 of 25 calls are seven failures, though 0.28 x 25 is 7.000000000000001."""
    gate = small(failure_rate=rate, minimum_calls=calls)
    for _ in range(calls - failures):
        call(gate, OK, 0.0)
    for _ in range(failures):
        assert state(gate) is State.CLOSED
        call(gate, TRANSIENT, 0.0)
    assert state(gate) is State.OPEN


def test_hystrix_low_volume_does_not_trip() -> None:
    """HystrixCircuitBreakerTest testLowVolumeDoesNotTripCircuit: all of too few calls failing is noise."""
    gate = small(minimum_calls=20)
    for _ in range(19):
        call(gate, TRANSIENT, 0.0)
    assert state(gate) is State.CLOSED


def test_failures_that_fell_out_of_the_window_do_not_count() -> None:
    """gobreaker TestRollingWindowCircuitBreaker: the window slides, it is not reset."""
    gate = small(window=10.0, buckets=10)
    for now in (0.0, 1.0, 2.0):
        call(gate, TRANSIENT, now)
    call(gate, TRANSIENT, 10.5)
    assert state(gate) is State.CLOSED
    assert gate.failure_rate(10.5) == 1.0
    call(gate, TRANSIENT, 10.6)
    assert state(gate) is State.OPEN


def test_permanent_failure_is_an_answer() -> None:
    """A callee that says "not found" is up."""
    gate = small()
    for _ in range(50):
        call(gate, PERMANENT, 0.0)
    assert state(gate) is State.CLOSED
    assert gate.counts["success"] == 50


def test_healthy_calls_take_no_lock() -> None:
    """Eight busy threads cost what one does: held from outside, the lock must not stop a healthy call."""
    gate = small()
    call(gate, OK, 0.0)
    with gate._lock:
        for _ in range(100):
            call(gate, OK, 0.5)
    assert counts(gate) == {"success": 101}


def test_healthy_calls_take_no_lock_beside_a_few_failures() -> None:
    """Once the window has its minimum of calls, one success more cannot open it."""
    gate = small()
    for verdict in (OK, OK, OK, TRANSIENT, OK):
        call(gate, verdict, 0.0)
    with gate._lock:
        call(gate, OK, 0.0)
    assert gate.failure_rate(0.0) == pytest.approx(1 / 6)


def test_lockless_successes_count_against_the_rate() -> None:
    """They are in the window when the next failure is judged."""
    gate = small(failure_rate=0.1, minimum_calls=1)
    for _ in range(100):
        call(gate, OK, 0.0)
    for _ in range(11):
        call(gate, TRANSIENT, 0.0)
    assert state(gate) is State.CLOSED
    call(gate, TRANSIENT, 0.0)
    assert state(gate) is State.OPEN


def test_lockless_success_counts_in_its_own_time() -> None:
    """The first one after a bucket has ended turns the window first: it must not age with the bucket before."""
    gate = small()
    call(gate, OK, 0.0)
    call(gate, OK, 0.5)
    call(gate, OK, 20.0)
    call(gate, TRANSIENT, 20.1)
    assert gate.failure_rate(20.1) == 0.5


# Open


def test_refusal_says_when_and_why() -> None:
    """The numbers that decided are facts, and `retry_after` is the time to the first probe."""
    error = refused(opened(), 0.5)
    assert error.retry_after == pytest.approx(1.5)
    assert str(error) == "pay: breaker open, try again in 1.500 s"
    numbers = {"calls": 4, "failures": 4, "slow": 0, "in_a_row": 4, "seconds": 2.0, "era": 2}
    assert error.facts == {"state": "open", "reason": "failure_rate", **numbers}


@pytest.mark.parametrize("now", [0.5, 2.0])
def test_refusal_of_one_without_a_name_names_the_callee(now: float) -> None:
    """Who reads the log must know what was not called, be it open or half open."""
    gate = Breaker(BreakerRule(minimum_calls=1, probes=1), dice=LoadedDice(TOP))
    call(gate, TRANSIENT, 0.0)
    if now >= 2.0:
        gate.admit(CALL, now)
    assert str(refused(gate, now)).startswith("shop: breaker ")


def test_refusal_crosses_process_pools_whole() -> None:
    """It is an error like any other, though it is made in a quicker way."""
    error = refused(opened(), 0.5)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301  our own bytes
    assert (type(copy), str(copy), copy.retry_after, copy.facts) == (type(error), str(error), 1.5, error.facts)
    assert copy.overloaded


def test_hystrix_single_test_on_open_circuit_after_time_window() -> None:
    """HystrixCircuitBreakerTest: once the open time has passed one call is let in, the next is not."""
    gate = opened()
    refused(gate, 1.99)
    gate.admit(CALL, 2.0)
    assert state(gate) is State.HALF_OPEN
    refused(gate, 2.0)


@pytest.mark.parametrize(("roll", "seconds"), [(0.0, 1.0), (0.5, 1.5), (TOP, 2.0)])
def test_open_time_is_half_certain_and_half_drawn(roll: float, seconds: float) -> None:
    """Finagle's equal jitter: clients that tripped together do not come back together, nor at once."""
    gate = Breaker(BreakerRule(minimum_calls=1), dice=LoadedDice(roll))
    call(gate, TRANSIENT, 0.0)
    assert refused(gate, 0.0).retry_after == pytest.approx(seconds)


def test_open_time_grows_on_each_repeat_up_to_its_cap() -> None:
    """2 s, 3 s, 4.5 s, then 5 s for as long as the probes fail."""
    gate, now, times = small(open_cap=5.0), 0.0, []
    for _ in range(4):
        call(gate, TRANSIENT, now)
    for _ in range(5):
        wait = refused(gate, now).retry_after or 0.0
        times.append(round(wait, 6))
        now += wait
        call(gate, TRANSIENT, now)
    assert times == [2.0, 3.0, 4.5, 5.0, 5.0]


@pytest.mark.parametrize(("calm", "seconds"), [(9.0, 3.0), (10.0, 2.0)])
def test_open_time_starts_over_after_a_whole_window_went_well(calm: float, seconds: float) -> None:
    """A breaker that flaps waits longer; one that has held for a window has forgotten."""
    gate = opened(open_cap=5.0)
    call(gate, OK, 2.0)
    assert state(gate) is State.CLOSED
    for _ in range(4):
        call(gate, TRANSIENT, 2.0 + calm)
    assert refused(gate, 2.0 + calm).retry_after == pytest.approx(seconds)


@pytest.mark.parametrize(("asked", "seconds"), [(30.0, 30.0), (3600.0, 60.0), (0.5, 2.0), (-1.0, 2.0)])
def test_retry_after_lengthens_the_open_time_up_to_its_cap(asked: float, seconds: float) -> None:
    """The callee knows best when it is back; a hostile value must not keep us away for an hour."""
    gate = small()
    call(gate, TRANSIENT, 0.0, retry_after=asked)
    for _ in range(3):
        call(gate, TRANSIENT, 0.0)
    assert refused(gate, 0.0).retry_after == pytest.approx(seconds)


def test_open_breaker_of_long_ago_is_found_at_the_next_call() -> None:
    """No timer runs: the first call after the open time is the probe, be it a week later."""
    gate = opened()
    call(gate, OK, 604_800.0)
    assert state(gate) is State.CLOSED


# Half-open


def test_so_many_probes_are_let_in_and_no_more() -> None:
    """Five by default, at the same time."""
    gate = opened(probes=5)
    tickets = {gate.admit(CALL, 2.0) for _ in range(5)}
    assert len(tickets) == 5
    assert refused(gate, 2.0).retry_after == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("verdicts", "ends"),
    [
        ("SSS", State.CLOSED),
        ("SFSFS", State.CLOSED),
        ("SFF", State.HALF_OPEN),
        ("FFF", State.OPEN),
        ("SFSFF", State.OPEN),
        ("SS", State.HALF_OPEN),
    ],
)
def test_rate_of_the_probes_decides_and_stops_early(verdicts: str, ends: State) -> None:
    """One unlucky probe does not open it again (Polly 2381): of five, three must fail, or three go well."""
    gate = opened(probes=5)
    for verdict in verdicts:
        call(gate, OK if verdict == "S" else TRANSIENT, 2.0)
    assert gate.state is ends


@pytest.mark.parametrize(
    ("rate", "probes", "failures"), [(0.5, 1, 1), (0.5, 4, 2), (0.5, 5, 3), (1.0, 3, 3), (0.01, 5, 1), (0.28, 25, 7)]
)
def test_the_same_rate_decides_as_when_closed(rate: float, probes: int, failures: int) -> None:
    """So many failures of so many probes are the rate or more."""
    gate = opened(failure_rate=rate, probes=probes)
    tickets = [gate.admit(CALL, 2.0) for _ in range(probes)]
    for ticket in tickets[: failures - 1]:
        gate.settle(ticket, Outcome(TRANSIENT), 2.0)
        assert state(gate) is State.HALF_OPEN
    gate.settle(tickets[-1], Outcome(TRANSIENT), 2.0)
    assert state(gate) is State.OPEN


def test_closing_starts_a_new_window() -> None:
    """The failures that opened it are history: they must not open it again at the first one more."""
    gate = opened()
    call(gate, OK, 2.0)
    call(gate, TRANSIENT, 2.0)
    assert state(gate) is State.CLOSED
    assert gate.counts["failure"] == 5


def test_hystrix_unsubscription_does_not_leave_it_half_open() -> None:
    """testUnsubscriptionDoesNotLeaveCircuitStuckHalfOpen: a probe whose caller left gives its place back."""
    gate = opened()
    call(gate, IGNORED, 2.0)
    assert state(gate) is State.HALF_OPEN
    call(gate, OK, 2.0)
    assert state(gate) is State.CLOSED


def test_hung_probe_has_failed_when_its_lease_ends() -> None:
    """It cannot wedge the breaker: the next caller finds it out."""
    gate = opened(probe_lease=3.0)
    gate.admit(CALL, 2.0)
    assert refused(gate, 4.5).retry_after == pytest.approx(0.5)
    assert refused(gate, 5.0).facts["reason"] == "probe_hung"
    assert state(gate) is State.OPEN
    call(gate, OK, 7.0 + 1.0)
    assert state(gate) is State.CLOSED


def test_lease_ends_with_the_calls_deadline() -> None:
    """Nobody waits for a probe that nobody waits for."""
    gate = opened(probe_lease=30.0)
    gate.admit(Call("shop", deadline=2.5), 2.0)
    assert refused(gate, 2.5).facts["reason"] == "probe_hung"


def test_probe_that_answers_after_its_lease_says_nothing() -> None:
    """It was counted as failed already, and another era has begun."""
    gate = opened(probe_lease=3.0)
    late = gate.admit(CALL, 2.0)
    refused(gate, 5.0)
    gate.settle(late, Outcome(OK), 5.1)
    assert state(gate) is State.OPEN
    assert gate.counts["ignored"] == 1


def test_probe_of_an_earlier_half_open_says_nothing_in_a_later_one() -> None:
    """nopanic 0.3.0 lets three in and leaves its counter at one: here tickets are never used twice."""
    gate = opened(probes=2, open_growth=1.0)
    old = gate.admit(CALL, 2.0)
    gate.settle(gate.admit(CALL, 2.0), Outcome(TRANSIENT), 2.0)  # one of two is half of them
    assert state(gate) is State.OPEN
    fresh = gate.admit(CALL, 4.0)
    gate.settle(old, Outcome(TRANSIENT), 4.0)
    assert state(gate) is State.HALF_OPEN
    gate.admit(CALL, 4.0)
    refused(gate, 4.0)
    gate.settle(fresh, Outcome(OK), 4.0)
    assert state(gate) is State.HALF_OPEN


# Eras


@pytest.mark.parametrize("verdict", [OK, TRANSIENT])
def test_gobreaker_generation(verdict: Verdict) -> None:
    """TestGeneration: the result of a call from before the turn changes nothing, in any state after it."""
    gate = small()
    old = [gate.admit(CALL, 0.0) for _ in range(3)]
    for _ in range(4):
        call(gate, TRANSIENT, 0.0)
    gate.settle(old[0], Outcome(verdict), 1.0)
    assert state(gate) is State.OPEN
    probe = gate.admit(CALL, 2.0)
    gate.settle(old[1], Outcome(verdict), 2.0)
    assert state(gate) is State.HALF_OPEN
    gate.settle(probe, Outcome(OK), 2.0)
    gate.settle(old[2], Outcome(verdict), 2.0)
    assert state(gate) is State.CLOSED
    assert gate.failure_rate(2.0) == 0.0
    assert gate.counts["ignored"] == 3
