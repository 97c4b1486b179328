"""What people complain of in other breakers (resilience.md, section 3), each as the scene that they met."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from msgov.call import IGNORED, OK, TRANSIENT, Call, Outcome, Verdict
from msgov.errors import BreakerOpen, RateLimited
from msgov.event import Event, Observers
from msgov.pipeline import Pipeline
from msgov.resilience import Breaker, BreakerRule, Breakers, Limiter, LimiterRule, State
from msgov.sync import govern
from msgov.testing import LoadedDice, ManualClock
from tests.resilience.breaking import CALL, call, calls, opened, refused, small, state

# 1. Half-open for ever (Resilience4j 544 903 935 2028, Sentinel 1638, sentinel-golang 196)


@pytest.mark.parametrize("ways", [[IGNORED] * 50, [OK, IGNORED] * 3, [IGNORED, TRANSIENT, IGNORED] * 2])
def test_complaint_1_every_way_out_gives_the_probe_back(ways: list[Verdict]) -> None:
    """An ignored error, a cancellation: none of them uses a place up."""
    gate = opened(probes=5)
    for verdict in ways:
        call(gate, verdict, 2.0)
    calls(gate, "SSSSS", now=2.0)
    assert state(gate) is State.CLOSED


def test_complaint_1_refusal_by_a_gate_inside_gives_the_probe_back() -> None:
    """Sentinel 1638: a limiter behind the breaker refused the probe, and the breaker stayed half open."""
    gate, clock = small(), ManualClock()
    limiter = Limiter(LimiterRule(rate=1.0, burst=1))

    def failing(call: Call) -> object:
        raise ConnectionError

    for _ in range(4):
        with pytest.raises(ConnectionError):
            govern(Pipeline([gate]), failing, clock=clock)(Call("shop"))
    clock.advance(2.0)
    limiter.admit(CALL, clock())
    governed = govern(Pipeline([gate, limiter]), lambda call: "done", clock=clock)
    with pytest.raises(RateLimited):
        governed(Call("shop"))
    assert state(gate) is State.HALF_OPEN
    clock.advance(1.0)
    assert governed(Call("shop")) == "done"
    assert state(gate) is State.CLOSED


def test_complaint_1_hung_probes_expire_one_by_one() -> None:
    """Each at the end of its own lease; those that answered count."""
    gate = opened(probes=5, probe_lease=3.0)
    hung = [gate.admit(CALL, 2.0 + late) for late in (0.0, 0.5, 1.0)]
    calls(gate, "SS", now=3.0)
    refused(gate, 5.6)
    assert state(gate) is State.HALF_OPEN
    refused(gate, 6.0)
    assert (state(gate), gate.snapshot(6.0)["reason"]) == (State.OPEN, "probe_hung")
    for ticket in hung:
        gate.settle(ticket, Outcome(OK), 6.5)
    assert state(gate) is State.OPEN


# 2. Half-open floods, late results decide (Polly 216 217 223 254, Resilience4j 1432, safe-client-gateway 3442)


def test_complaint_2_of_a_flood_only_the_probes_get_in() -> None:
    """17 times the traffic met the callee that had just come back; here, a probe for each that ended."""
    gate = opened(probes=5)
    let_in = []
    for _ in range(1000):
        try:
            let_in.append(gate.admit(CALL, 2.0))
        except BreakerOpen:
            pass
    assert len(let_in) == 5


def test_complaint_2_late_results_of_every_earlier_era_say_nothing() -> None:
    """Of the closed one, of the probes of the first half-open; good or bad."""
    gate = small(probes=2, open_growth=1.0)
    old = [gate.admit(CALL, 0.0) for _ in range(2)]
    calls(gate, "FFFF")
    old.append(gate.admit(CALL, 2.0))
    calls(gate, "F", now=2.0)
    fresh = gate.admit(CALL, 4.0)
    for ticket, verdict in zip(old, (OK, TRANSIENT, TRANSIENT), strict=True):
        gate.settle(ticket, Outcome(verdict), 4.0)
    assert state(gate) is State.HALF_OPEN
    gate.settle(fresh, Outcome(OK), 4.0)
    calls(gate, "S", now=4.0)
    assert (state(gate), gate.failure_rate(4.0)) == (State.CLOSED, 0.0)


# 3. One unlucky probe opens it again (Polly 239 2381, cockatiel 73, sentinel-golang 411, Kevlar 508)


def test_complaint_3_a_callee_that_fails_one_call_in_five_is_let_back() -> None:
    """It served four of five before, and does so now: two failed probes of five close it all the same."""
    gate = opened(probes=5)
    calls(gate, "FSSFS", now=2.0)
    assert state(gate) is State.CLOSED


# 4. The caller's cancellation trips it (rubyist 42, cockroach 35433, go-zero 5358, muninndb 642)


def test_complaint_4_a_thousand_callers_who_leave_are_no_outage() -> None:
    """In any state, by any criterion: how long they waited before they left says nothing either."""
    gate = small(slow_seconds=1.0, consecutive_failures=2, wilson_calls=2)
    for _ in range(1000):
        call(gate, IGNORED, 0.0, seconds=60.0)
    calls(gate, "F")
    call(gate, IGNORED, 0.0)
    assert (state(gate), gate.snapshot(0.0)["window_calls"]) == (State.CLOSED, 1)


# 5. Shared state (Resilience4j 350 419 1284 2146, Polly 215 287, gobreaker 85, opossum 675)


def test_complaint_5_a_fleet_may_share_its_verdict_off_the_call_path() -> None:
    """Refused elsewhere, for each call would pay and one bad node poison all: here events go out and a hand comes in.

    Between the two stands whatever you have (a bus, a config key) and whatever quorum you want; no call waits for it.
    """
    others, said = [small() for _ in range(2)], list[Event]()
    mine = [small() for _ in range(3)]
    for gate in mine:
        gate.observers.add(said.append)
    for gate in mine[:2]:
        calls(gate, "FFFF")
    if sum(event.kind == "breaker.opened" for event in said) > len(mine) / 2:
        for gate in others:
            gate.force(State.FORCED_OPEN, now=1.0)
    assert [refused(gate, 1.0).facts["reason"] for gate in others] == ["by_hand", "by_hand"]
    assert state(mine[2]) is State.CLOSED


# 18. Keyed instances (aspnetcore 48089, Listenarr 867, Resilience4j 703 1221, hystrix-go 95, Polly 1828)


def test_complaint_18_a_million_keys_cost_what_a_thousand_do_and_no_outage_is_forgotten() -> None:
    """Bounded, lossless, and each that is left can be listed."""
    gate = Breakers(BreakerRule(), key=lambda call: call.key, most=100)
    for _ in range(5):
        gate.settle(gate.admit(Call("shop", key="sick"), 0.0), Outcome(TRANSIENT), 0.0)
    for number in range(20_000):
        now = 0.001 * number
        gate.settle(gate.admit(Call("shop", key=f"tenant-{number}"), now), Outcome(OK), now)
    assert len(gate.breakers) <= 101
    assert gate.breakers["sick"].state is State.OPEN


# 19. Low traffic: never trips, or trips on noise (Hystrix 1018 1263 1704 1729, hystrix-go 54)


def test_complaint_19_five_failures_of_five_are_enough_and_one_of_one_is_not() -> None:
    """The default rule, at a call a second."""
    gate = Breaker(dice=LoadedDice(0.5, cycle=True))
    for second in range(4):
        calls(gate, "F", now=float(second))
        assert state(gate) is State.CLOSED
    calls(gate, "F", now=4.0)
    assert state(gate) is State.OPEN


def test_complaint_19_by_default_a_callee_that_fails_one_call_in_four_stays_open_to_all() -> None:
    """Below the threshold it is noise, at 100 calls a second for ten minutes; five in a row come up all the time."""
    gate, told = Breaker(dice=LoadedDice(0.5, cycle=True)), list[Event]()
    gate.observers.add(told.append)
    chance, row, rows = random.Random(7), 0, 0
    for number in range(60_000):
        failed = chance.random() < 0.25
        gate.settle(gate.admit(CALL, number / 100), _BAD if failed else _GOOD, number / 100)
        row = row + 1 if failed else 0
        rows += row == 5
    assert told == []
    assert rows > 30  # so often a criterion of five in a row would have opened it


_GOOD, _BAD = Outcome(OK), Outcome(TRANSIENT)


# 6. Another rule at run time (Resilience4j 299 546 845 1960 2025)


def test_complaint_6_every_field_of_the_rule_is_live() -> None:
    """No field needs a new breaker, and none forgets the window."""
    gate = small(minimum_calls=100)
    calls(gate, "SFF")
    changed = [
        {"minimum_calls": 50}, {"failure_rate": 0.9}, {"wilson_calls": 40}, {"consecutive_failures": 30}, {"probes": 3},
        {"slow_seconds": 1.0}, {"slow_rate": 0.9}, {"window": 20.0}, {"buckets": 20}, {"open_seconds": 1.0},
        {"open_jitter": 0.0}, {"open_growth": 2.0}, {"open_cap": 3.0}, {"retry_after_cap": 1.0}, {"probe_lease": 5.0},
        {"ramp_seconds": 1.0}, {"shadow": True}, {"last_calls": 50},
    ]  # fmt: skip
    assert {name for each in changed for name in each} == set(BreakerRule.__dataclass_fields__)  # type: ignore[attr-defined]
    for each in changed:
        gate.rule = replace(gate.rule, **each)  # type: ignore[arg-type]
        view = gate.snapshot(0.5)
        assert (view["window_calls"], view["window_failures"], view["failures_in_a_row"]) == (3, 2, 2)


def test_events_can_be_read_by_whoever_comes_later() -> None:
    """An observer may be added to a breaker that stands."""
    told: list[str] = []
    gate = Breaker(BreakerRule(minimum_calls=1), observers=Observers())
    gate.observers.add(lambda event: told.append(event.kind))
    call(gate, TRANSIENT, 0.0)
    assert told == ["breaker.opened"]
