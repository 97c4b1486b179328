"""What only a changed line of the limiter showed."""

from __future__ import annotations

import pytest

from msgov.call import Call
from msgov.errors import RateLimited
from msgov.event import Event, Observers
from msgov.policy import Waiting
from msgov.resilience import Limiter, LimiterRule
from tests.resilience.limiting import admits, refusal


def test_shadow_tells_again_after_a_second() -> None:
    """Once a second, to the second: a limiter in shadow that is silent looks like one that refuses nothing."""
    told: list[Event] = []
    gate = Limiter(LimiterRule(rate=0.01, burst=1, shadow=True), observers=Observers(told.append))
    for now in (0.0, 0.0, 0.5, 1.0):
        gate.admit(Call("shop"), now)
    assert [event.at for event in told] == [0.0, 1.0]


@pytest.mark.parametrize(("before", "calls"), [(5, 1), (5, 2), (0, 1)])
def test_new_rate_counts_what_is_used_now(before: int, calls: int) -> None:
    """Not what was used when the key was last looked at for longer than a moment."""
    gate = Limiter(LimiterRule(rate=1, burst=10))
    for _ in range(before):
        admits(gate, 0.0)
    for _ in range(calls):
        admits(gate, 100.0)
    gate.rule = LimiterRule(rate=2, burst=10)
    assert sum(admits(gate, 100.0) for _ in range(20)) == 10 - calls


def test_new_rate_counts_what_was_used_by_then_though_the_last_call_was_refused() -> None:
    """A refusal tells the time too."""
    gate = Limiter(LimiterRule(rate=1, burst=2))
    assert [admits(gate, 0.0), admits(gate, 0.0), admits(gate, 0.5)] == [True, True, False]
    gate.rule = LimiterRule(rate=2, burst=4)
    assert sum(admits(gate, 0.5) for _ in range(9)) == 2  # one and a half are in use


def test_call_that_costs_too_much_leaves_a_readable_ticket_in_shadow() -> None:
    """Its key was not looked at: what is told is a key with nothing in use."""
    gate = Limiter(LimiterRule(rate=1, burst=5, shadow=True), cost=lambda call: 99.0)
    ticket = gate.admit(Call("shop"), 0.0)
    assert not isinstance(ticket, Waiting)
    assert [standing.remaining for standing in gate.standings(ticket, 0.0)] == [5]


def test_call_that_shadow_let_in_all_the_same_tells_what_is_left() -> None:
    """Nothing, though it went through."""
    gate = Limiter(LimiterRule(rate=0.01, burst=1, shadow=True))
    gate.admit(Call("shop"), 0.0)
    ticket = gate.admit(Call("shop"), 0.0)
    assert not isinstance(ticket, Waiting)
    assert [standing.remaining for standing in gate.standings(ticket, 0.0)] == [0]


def test_refusal_speaks_under_the_name_or_else_of_the_target() -> None:
    """A message says who refuses."""
    for gate, who in ((Limiter(LimiterRule(rate=1), name="edge"), "edge"), (Limiter(LimiterRule(rate=1)), "shop")):
        gate.rule = LimiterRule(rate=1, algorithm="sliding_window")
        admits(gate, 0.0)
        assert str(refusal(gate, 0.0)).startswith(f"{who}: ")


def test_of_two_limits_that_refuse_the_one_that_lasts_is_told() -> None:
    """Who comes back when the short one is over is refused again."""
    gate = Limiter(LimiterRule(rate="1/second, 1/minute"))
    admits(gate, 0.0)
    refused = refusal(gate, 0.0)
    assert refused.facts["window"] == 60
    assert refused.retry_after == pytest.approx(60)


def test_refusal_of_a_dear_call_tells_what_a_cheap_one_would_find() -> None:
    """One call is left, and this one costs two."""
    gate = Limiter(LimiterRule(rate=1, burst=3), cost=lambda call: 2.0)
    gate.admit(Call("shop"), 0.0)
    with pytest.raises(RateLimited) as refused:
        gate.admit(Call("shop"), 0.0)
    assert refused.value.facts["remaining"] == 1


def test_place_in_line_is_handed_over_by_a_timer_a_millisecond_early() -> None:
    """A loop rings its timers early by its clock's resolution; earlier is too early."""
    gate = Limiter(LimiterRule(rate=1, burst=2, algorithm="leaky"))
    gate.admit(Call("shop"), 0.0)
    waiting = gate.admit(Call("shop"), 0.0)
    assert isinstance(waiting, Waiting)
    assert gate.withdraw(waiting, waiting.until - 1e-3) is not None
    assert gate.withdraw(waiting, waiting.until - 2e-3) is None


def test_tolerance_for_floats_is_no_call_more_at_any_rate() -> None:
    """At ten million a second a call is a tenth of a microsecond."""
    gate = Limiter(LimiterRule(rate=1e6, burst=1))
    assert [admits(gate, 0.0) for _ in range(3)] == [True, False, False]
