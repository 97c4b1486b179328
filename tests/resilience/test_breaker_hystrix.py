"""Who comes from hystrix-go brings five settings, and gets what they mean."""

from __future__ import annotations

import pytest

from msgov.call import OK, TRANSIENT
from msgov.errors import BulkheadFull, RuleError
from msgov.resilience import Breaker, Bulkhead, Deadline, HystrixRule, State
from msgov.rule import parse
from tests.resilience.breaking import CALL, call, calls, refused, state


def test_hystrix_go_defaults_are_its_own() -> None:
    """settings.go: 1000 ms, 10 at once, 20 calls, 5000 ms, 50 %."""
    rule = HystrixRule()
    assert rule.deadline.seconds == 1.0
    assert (rule.bulkhead.limit, rule.bulkhead.queue) == (10, 0)
    assert (rule.breaker.minimum_calls, rule.breaker.failure_rate, rule.breaker.open_seconds) == (20, 0.5, 5.0)


def test_hystrix_go_settings_are_read_under_their_names() -> None:
    """As they stand in a CommandConfig."""
    rule = parse(
        HystrixRule,
        {
            "timeout": 250,
            "max_concurrent_requests": 3,
            "request_volume_threshold": 4,
            "sleep_window": 1500,
            "error_percent_threshold": 25,
        },
    )
    assert (rule.deadline.seconds, rule.bulkhead.limit) == (0.25, 3)
    breaker = rule.breaker
    assert (breaker.minimum_calls, breaker.open_seconds, breaker.failure_rate) == (4, 1.5, 0.25)


def test_hystrix_go_breaker_opens_on_the_percentage_and_nothing_else() -> None:
    """No bound for low traffic, no failures in a row: circuit.go knows one criterion."""
    gate = Breaker(HystrixRule().breaker)
    calls(gate, "F" * 19)
    assert state(gate) is State.CLOSED
    calls(gate, "F")
    assert state(gate) is State.OPEN


def test_hystrix_go_lets_one_test_in_after_exactly_the_sleep_window() -> None:
    """No jitter, no growth; its success closes, and all come in at once."""
    gate = Breaker(HystrixRule(request_volume_threshold=1).breaker)
    call(gate, TRANSIENT, 0.0)
    for sleep in (5.0, 10.0):
        refused(gate, sleep - 0.01)
        call(gate, TRANSIENT, sleep)
    gate.admit(CALL, 15.0)
    refused(gate, 15.0)
    gate = Breaker(HystrixRule(request_volume_threshold=1).breaker)
    call(gate, TRANSIENT, 0.0)
    for now in (5.0, 5.0, 5.0):
        call(gate, OK, now)
    assert state(gate) is State.CLOSED


def test_hystrix_go_rules_make_the_three_gates() -> None:
    """Ten at once, a second each."""
    rule = HystrixRule(max_concurrent_requests=1)
    places, deadline = Bulkhead(rule.bulkhead), Deadline(rule.deadline)
    places.admit(CALL, 0.0)
    with pytest.raises(BulkheadFull):
        places.admit(CALL, 0.0)
    assert deadline.rule.seconds == 1.0


@pytest.mark.parametrize(
    "wrong",
    [{"timeout": 0}, {"error_percent_threshold": 101}, {"sleep_window": 300_001}, {"max_concurrent_requests": -1}],
)
def test_hystrix_go_settings_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    """There a nought meant the default, and 101 % never opened; here it is said."""
    with pytest.raises(RuleError, match=next(iter(wrong))):
        HystrixRule(**wrong)
