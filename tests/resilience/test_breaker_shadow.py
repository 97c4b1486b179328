"""A rule is tried on real traffic before it bites: it decides and tells, and refuses nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from msgov.call import OK, TRANSIENT, Outcome
from msgov.event import Event
from msgov.resilience import Breaker, State
from tests.resilience.breaking import CALL, call, calls, counts, opened, refused, small, state


def shadowed(**changed: object) -> tuple[Breaker, list[Event]]:
    """Make one that has opened in shadow, and the list of what it tells."""
    gate, told = small(shadow=True, **changed), list[Event]()
    gate.observers.add(told.append)
    calls(gate, "FFFF")
    assert state(gate) is State.OPEN
    return gate, told


def test_shadow_refuses_nothing_and_counts_what_it_would_have() -> None:
    """Resilience4j's METRICS_ONLY counts only; here the state runs on as if it were in force."""
    gate, _ = shadowed()
    calls(gate, "SSSSS", now=1.0)
    assert counts(gate) == {"failure": 4, "ignored": 5, "would_reject": 5}
    assert gate.ready(1.0)


def test_shadow_tells_its_turns_and_the_first_refusal_of_each_era() -> None:
    """One event for an outage, not one for a call: the count says how many."""
    gate, told = shadowed()
    calls(gate, "SSS", now=1.0)
    calls(gate, "F", now=2.0)
    calls(gate, "SS", now=2.5)
    assert [event.kind for event in told] == [
        "breaker.opened",
        "shadow.breaker",
        "breaker.half_open",
        "breaker.opened",
        "shadow.breaker",
    ]
    assert told[0].facts["shadow"] is True
    why = {"state": "open", "reason": "failure_rate", "era": 2}
    numbers = {"calls": 4, "failures": 4, "slow": 0, "in_a_row": 4, "seconds": 2.0, "retry_after": 1.0}
    assert told[1].facts == {**why, **numbers}


def test_calls_that_only_the_shadow_let_in_say_nothing() -> None:
    """In force they would not have been made: neither their success nor their failure may turn it."""
    gate, _ = shadowed(probes=1)
    passed = [gate.admit(CALL, 1.0) for _ in range(5)]
    probe = gate.admit(CALL, 2.0)
    beside = gate.admit(CALL, 2.0)
    for ticket in (*passed, beside):
        gate.settle(ticket, Outcome(TRANSIENT), 2.0)
    assert state(gate) is State.HALF_OPEN
    gate.settle(probe, Outcome(OK), 2.0)
    assert state(gate) is State.CLOSED
    assert gate.counts["would_reject"] == 6


def test_shadow_comes_to_the_same_turns_as_the_rule_in_force() -> None:
    """That is what makes it a trial: the same calls, the same states, at the same times."""
    real, shadow = small(), small(shadow=True)
    for now, script in ((0.0, "SFFF"), (1.0, "SS"), (2.0, "F"), (3.0, "S"), (4.0, "S"), (9.0, "SFFF"), (11.5, "S")):
        for letter in script:
            if real.ready(now):
                calls(real, letter, now)
            calls(shadow, letter, now)
        assert (state(real), real.since) == (state(shadow), shadow.since)


def test_rule_taken_out_of_the_shadow_bites_at_once() -> None:
    """And back in it, lets go at once: the state is the same."""
    gate, _ = shadowed()
    gate.rule = replace(gate.rule, shadow=False)
    error = refused(gate, 1.0)
    assert error.retry_after == pytest.approx(1.0)
    gate.rule = replace(gate.rule, shadow=True)
    call(gate, OK, 1.0)


def test_hand_is_no_trial() -> None:
    """Forced open refuses in shadow too: somebody decided it."""
    gate, _ = shadowed()
    gate.force(State.FORCED_OPEN, now=1.0)
    assert refused(gate, 1.0).facts["reason"] == "by_hand"
    assert not gate.ready(1.0)


def test_ramp_in_shadow_lets_all_in() -> None:
    """What chance would have refused is counted."""
    gate = opened(shadow=True, ramp_seconds=3.0)  # the dice rolls high: nobody would get in
    calls(gate, "S", now=2.0)
    calls(gate, "SSS", now=2.1)
    assert (state(gate), gate.counts["would_reject"]) == (State.CLOSED, 3)


def test_healthy_calls_take_no_lock_in_shadow_either() -> None:
    """Trying a rule costs what the rule costs."""
    gate = small(shadow=True)
    calls(gate, "S")
    with gate._lock:
        calls(gate, "SSSS")
    assert counts(gate) == {"success": 5}
