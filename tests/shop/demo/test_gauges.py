"""Breakers are read from the page that Prometheus reads, and those of other calls are passed over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from shop.demo.gauges import Gauges, Reading, read

CHARGE = 'breaker="payment/Charge",target="payment"'
QUOTE = 'breaker="product/Quote",target="product"'
PAGE = f"""
# HELP msgov_breaker_state 1 for the state that the breaker is in.
msgov_breaker_state{{{CHARGE},state="closed"}} 0.0
msgov_breaker_state{{{CHARGE},state="open"}} 1.0
msgov_breaker_state{{{CHARGE},state="half_open"}} 1.0
msgov_breaker_state{{{QUOTE},state="closed"}} 1.0
msgov_breaker_transitions_total{{{CHARGE},from="closed",reason="failure_rate",to="open"}} 2.0
msgov_breaker_transitions_total{{{CHARGE},from="half_open",reason="probes_failed",to="open"}} 3.0
msgov_breaker_transitions_total{{{CHARGE},from="half_open",reason="probes_passed",to="closed"}} 1.0
msgov_breaker_transitions_total{{{QUOTE},from="closed",reason="failure_rate",to="open"}} 9.0
"""


def test_a_page_tells_states_and_turns() -> None:
    """Each instance of payment has a breaker of its own: one name may show two states."""
    reading = read(PAGE)
    assert reading.states == {"open", "half_open"}
    assert reading.turns == {"open": 5, "closed": 1}


def test_a_page_without_breakers_tells_nothing() -> None:
    """As at the start, before the first charge."""
    assert read("# nothing\n") == Reading()


def told(*readings: Reading, dead: int = 0) -> Gauges:
    """Make gauges that have heard this, the first `dead` of it from instances that are gone."""
    gauges = Gauges(lambda: ())
    gauges._heard = dict(enumerate(readings))
    gauges._alive = set(range(dead, len(readings)))
    asyncio.run(gauges.aclose())
    return gauges


def reading(*states: str, **turns: int) -> Reading:
    """Make a reading."""
    made = Reading(set(states))
    made.turns.update(turns)
    return made


@pytest.mark.parametrize(
    ("gauges", "closed"),
    [
        (lambda: told(reading("closed")), False),
        (lambda: told(reading("open", open=1)), False),
        (lambda: told(reading("closed", open=1, closed=1), reading("closed", "half_open", open=1)), False),
        (lambda: told(reading("closed", open=1, closed=1), reading()), True),
        (lambda: told(reading("open", open=1), reading("closed", open=1, closed=1), dead=1), True),
    ],
)
def test_closed_again_takes_a_turn_and_every_living_breaker(gauges: Callable[[], Gauges], closed: bool) -> None:
    """One that never opened has not closed again, and one that died open says nothing any more."""
    assert gauges().closed_again is closed


def test_turns_of_the_dead_still_count() -> None:
    """An instance that was killed took its counters with it."""
    assert told(reading("open", open=2), reading("closed", open=1, closed=1), dead=1).opened == 3
