"""Several criteria read one window, and each opens the breaker at its own number."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msgov.call import IGNORED, OK, PERMANENT
from msgov.errors import RuleError
from msgov.resilience import BreakerRule, State
from msgov.resilience.breaker_evidence import wilson
from tests.resilience.breaking import call, calls, counts, refused, small, state

# The lower bound


@pytest.mark.parametrize(
    ("hits", "of", "bound"),
    [(5, 5, 0.5655), (4, 5, 0.3755), (7, 8, 0.5291), (6, 7, 0.4869), (1, 10, 0.0179), (50, 100, 0.4038), (0, 0, 0.0)],
)
def test_wilson_bound_is_the_score_intervals(hits: int, of: int, bound: float) -> None:
    """Numbers of any statistics package (two-sided 95 %)."""
    assert wilson(hits, of) == pytest.approx(bound, abs=1e-4)


@given(st.integers(1, 500), st.data())
def test_wilson_bound_lies_below_the_share_and_falls_with_each_success(of: int, data: st.DataObject) -> None:
    """So one success more can open a breaker only by filling up a minimum of calls: what the quick path rests on."""
    hits = data.draw(st.integers(0, of))
    assert 0.0 <= wilson(hits, of) <= hits / of
    assert wilson(hits, of + 1) <= wilson(hits, of) + 1e-12
    assert wilson(hits + 1, of + 1) >= wilson(hits, of) - 1e-12


# Low traffic


def test_low_traffic_opens_on_what_chance_does_not_explain() -> None:
    """Hystrix 1018, hystrix-go 54: three calls a minute that all fail never tripped it."""
    gate = small(minimum_calls=20, wilson_calls=5)
    calls(gate, "FFFF")
    assert state(gate) is State.CLOSED
    calls(gate, "F")
    assert state(gate) is State.OPEN
    assert refused(gate, 0.0).facts["reason"] == "failure_bound"


@pytest.mark.parametrize(
    ("script", "opens"), [("FFSFF", False), ("SFFFFF", False), ("SFFFFFFF", True), ("FFFFSSSSSS", False)]
)
def test_low_traffic_does_not_open_on_noise(script: str, opens: bool) -> None:
    """Hystrix 1263: five of six may be bad luck at a true rate below a half; seven of eight may not."""
    gate = small(minimum_calls=20, wilson_calls=5)
    calls(gate, script)
    assert (state(gate) is State.OPEN) == opens


def test_from_the_minimum_on_the_rate_itself_decides() -> None:
    """The bound is for want of calls: with enough of them it only would open later."""
    gate = small(minimum_calls=10, wilson_calls=5)
    calls(gate, "SFSFSFSFS")
    assert state(gate) is State.CLOSED
    calls(gate, "F")
    assert refused(gate, 0.0).facts["reason"] == "failure_rate"


def test_by_default_five_of_five_open_a_fresh_one() -> None:
    """All criteria of the default rule at once: the first that is met decides."""
    gate = small(**{name: getattr(BreakerRule(), name) for name in ("minimum_calls", "wilson_calls")})
    calls(gate, "FFFF")
    assert state(gate) is State.CLOSED
    calls(gate, "F")
    assert state(gate) is State.OPEN


# Failures in a row


def test_failures_in_a_row_open_it_whatever_the_rate_is() -> None:
    """A busy callee that is gone is found in so many calls, not in half a window of them."""
    gate = small(consecutive_failures=3, minimum_calls=1000)
    calls(gate, "S" * 500 + "FFSFF")
    assert state(gate) is State.CLOSED
    calls(gate, "F")
    error = refused(gate, 0.0)
    assert (error.facts["reason"], error.facts["in_a_row"]) == ("consecutive_failures", 3)


@pytest.mark.parametrize("between", ["S", "s"])
def test_any_answer_ends_the_row(between: str) -> None:
    """Whether it took the lock (slow) or came by without it."""
    gate = small(consecutive_failures=3, minimum_calls=1000, slow_seconds=1.0)
    calls(gate, f"SFF{between}FF")
    assert state(gate) is State.CLOSED
    assert gate.snapshot(0.0)["failures_in_a_row"] == 2
    calls(gate, "S")
    assert gate.snapshot(0.0)["failures_in_a_row"] == 0


def test_permanent_failure_ends_the_row_and_cancellation_does_not() -> None:
    """An answer such as "not found" is an end of it; a caller who left is no news."""
    gate = small(consecutive_failures=3, minimum_calls=1000)
    calls(gate, "FF")
    call(gate, PERMANENT, 0.0)
    calls(gate, "FF")
    call(gate, IGNORED, 0.0)
    assert state(gate) is State.CLOSED
    calls(gate, "F")
    assert state(gate) is State.OPEN


def test_closing_starts_a_new_row() -> None:
    """The failures before the outage are history."""
    gate = small(consecutive_failures=2, minimum_calls=1000)
    calls(gate, "FF")
    calls(gate, "S", now=2.0)
    assert state(gate) is State.CLOSED
    calls(gate, "F", now=2.0)
    assert state(gate) is State.CLOSED


# Slow calls


def test_slow_answers_open_it_though_none_fails() -> None:
    """Resilience4j's slowCallRateThreshold, reached and not passed."""
    gate = small(slow_seconds=1.0, slow_rate=0.75, minimum_calls=4)
    calls(gate, "Sss")
    assert state(gate) is State.CLOSED
    calls(gate, "s")
    error = refused(gate, 0.0)
    assert (error.facts["reason"], error.facts["slow"], error.facts["failures"]) == ("slow_rate", 3, 0)
    assert counts(gate) == {"success": 4, "slow": 3, "rejected": 1}


def test_quick_is_what_takes_no_longer_than_slow_seconds() -> None:
    """Longer is slow; as long is not, as in Resilience4j and Sentinel."""
    gate = small(slow_seconds=1.0)
    call(gate, OK, 0.0, seconds=1.0)
    call(gate, OK, 0.0, seconds=math.nextafter(1.0, 2.0))
    assert counts(gate)["slow"] == 1


def test_slow_failure_counts_as_both() -> None:
    """Four timeouts are four failures and four slow calls; the failure rate speaks first."""
    gate = small(slow_seconds=1.0)
    calls(gate, "ffff")
    assert refused(gate, 0.0).facts["reason"] == "failure_rate"
    assert counts(gate) == {"failure": 4, "slow": 4, "rejected": 1}


def test_few_slow_calls_open_it_when_chance_is_no_explanation() -> None:
    """The lower bound is that of the slow rate too."""
    gate = small(slow_seconds=1.0, slow_rate=0.5, minimum_calls=20, wilson_calls=5)
    calls(gate, "sssss")
    assert refused(gate, 0.0).facts["reason"] == "slow_bound"


def test_quick_successes_take_no_lock_where_slow_ones_count() -> None:
    """Held from outside, the lock must not stop a healthy call."""
    gate = small(slow_seconds=1.0)
    calls(gate, "S")
    with gate._lock:
        for _ in range(100):
            call(gate, OK, 0.5, seconds=1.0)
    assert counts(gate) == {"success": 101}


def test_without_slow_seconds_no_call_is_slow() -> None:
    """Only the user knows how long is slow: off by default."""
    gate = small()
    calls(gate, "ssss")
    assert counts(gate) == {"success": 4}


# The last calls


def test_resilience4j_count_based_window_holds_the_last_calls() -> None:
    """COUNT_BASED: an old failure falls out as the next call comes in, however old it is."""
    gate = small(last_calls=4)
    calls(gate, "FSSS")
    calls(gate, "F", now=1e6)
    assert gate.failure_rate(1e6) == 0.25
    calls(gate, "F", now=2e6)
    assert state(gate) is State.OPEN


def test_count_window_needs_no_lock_either() -> None:
    """A window of calls remembers only those that did not go well: a success is one tick."""
    gate = small(last_calls=10)
    with gate._lock:
        calls(gate, "S" * 100)
    calls(gate, "F")
    assert gate.failure_rate(0.0) == 0.1
    assert counts(gate) == {"success": 100, "failure": 1}


def test_failures_off_leave_the_others_on() -> None:
    """Each criterion is off at nought."""
    gate = small(failure_rate=0.0, consecutive_failures=6)
    calls(gate, "FFFFF")
    assert state(gate) is State.CLOSED
    calls(gate, "F")
    assert state(gate) is State.OPEN


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"last_calls": 10}, "at most last_calls"),
        ({"failure_rate": 0.0, "consecutive_failures": 0}, "one of failure_rate, slow_seconds, consecutive_failures"),
        ({"slow_rate": 0.0}, "greater than 0"),
        ({"wilson_calls": -1}, "wilson_calls"),
    ],
)
def test_rule_that_can_never_open_is_refused(wrong: dict[str, float], says: str) -> None:
    """A minimum of calls beyond the window is never reached; a breaker without a criterion is `breaker = false`."""
    with pytest.raises(RuleError, match=says):
        BreakerRule(**wrong)  # type: ignore[arg-type]


# Another rule


@pytest.mark.parametrize(("before", "after"), [(0, 10), (10, 0), (10, 5), (5, 10)])
def test_window_of_another_kind_begins_with_what_the_old_one_knew(before: int, after: int) -> None:
    """A reload during an incident must not make it blind; in proportion, where only sums are known."""
    gate = small(failure_rate=0.9, last_calls=before, minimum_calls=5)
    calls(gate, "FS" * 5, now=1.0)
    rate = gate.failure_rate(1.0)
    gate.rule = BreakerRule(failure_rate=0.9, last_calls=after, minimum_calls=5)
    assert gate.failure_rate(1.0) == pytest.approx(rate, abs=0.11)
    assert counts(gate) == {"success": 5, "failure": 5}
    calls(gate, "S" * 3, now=1.0)
    assert counts(gate)["success"] == 8


def test_row_of_failures_survives_another_kind_of_window() -> None:
    """Two before, one after: three in a row; a success between them still ends it."""
    gate = small(consecutive_failures=3, minimum_calls=1000)
    calls(gate, "SSFF")
    gate.rule = BreakerRule(consecutive_failures=3, minimum_calls=50, last_calls=100, wilson_calls=0)
    calls(gate, "F")
    assert state(gate) is State.OPEN
    other = small(consecutive_failures=3, minimum_calls=1000)
    calls(other, "SSFF")
    other.rule = BreakerRule(consecutive_failures=3, minimum_calls=50, last_calls=100, wilson_calls=0)
    calls(other, "SF")
    assert state(other) is State.CLOSED
