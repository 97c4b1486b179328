"""Whatever line two threads switch at, the probes are as many as ruled, it opens once, and every count is exact."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial

from msgov import _rolling
from msgov.call import IGNORED, OK, TRANSIENT, Outcome
from msgov.errors import BreakerOpen
from msgov.event import Event
from msgov.resilience import Breaker, BreakerRule, State, breaker, breaker_evidence, breaker_recovery, breaker_telling
from msgov.testing import outcomes
from tests.resilience.breaking import CALL, OFF, call, calls, counts, opened, small

Scene = tuple[list[Callable[[], object]], Callable[[], Hashable]]

WATCH = [breaker, breaker_evidence, breaker_recovery, breaker_telling, _rolling]
SEEDS = range(12)


def knock(gate: Breaker, got: list[int], now: float) -> None:
    """Try to get in."""
    try:
        got.append(gate.admit(CALL, now))
    except BreakerOpen:
        pass


def test_race_at_the_end_of_the_open_time_lets_so_many_probes_in() -> None:
    """Four at the door, two may go; one turn is told."""

    def scene() -> Scene:
        gate, got, told = opened(probes=2), list[int](), list[Event]()
        gate.observers.add(told.append)
        acts: list[Callable[[], object]] = [lambda: knock(gate, got, 2.0)] * 4
        return acts, lambda: (len(set(got)), gate.counts["rejected"], len(told))

    assert set(outcomes(scene, watch=WATCH, seeds=SEEDS)) == {(2, 2, 1)}


def test_race_of_failures_opens_it_once() -> None:
    """The fourth failure opens it, whoever brings it; a fifth one is of an era that is over, or refused."""

    def scene() -> Scene:
        gate, told = small(), list[Event]()
        gate.observers.add(told.append)
        calls(gate, "FF")
        tickets = [gate.admit(CALL, 0.0) for _ in range(3)]
        acts: list[Callable[[], object]] = [partial(gate.settle, each, Outcome(TRANSIENT), 0.0) for each in tickets]
        return acts, lambda: (gate.state, len(told), counts(gate).get("failure"), counts(gate).get("ignored"))

    assert set(outcomes(scene, watch=WATCH, seeds=SEEDS)) == {(State.OPEN, 1, 4, 1)}


def test_race_of_a_probe_that_leaves_and_one_that_comes() -> None:
    """The place of a cancelled probe goes to one other, and never to two."""

    def scene() -> Scene:
        gate, got = opened(probes=1), list[int]()
        probe = gate.admit(CALL, 2.0)
        acts: list[Callable[[], object]] = [lambda: gate.settle(probe, Outcome(IGNORED), 2.0)]
        acts += [lambda: knock(gate, got, 2.0)] * 2
        return acts, lambda: (len(got) <= 1, gate.snapshot(2.0)["probes_out"] == len(got))

    assert set(outcomes(scene, watch=WATCH, seeds=SEEDS)) == {(True, True)}


def test_race_of_a_probe_with_the_end_of_its_lease() -> None:
    """It has failed or it went well: one of the two, and it is counted once."""

    def scene() -> Scene:
        gate, got = opened(probes=1, probe_lease=1.0), list[int]()
        probe = gate.admit(CALL, 2.0)
        acts: list[Callable[[], object]] = [lambda: gate.settle(probe, Outcome(OK), 3.0)]
        acts.append(lambda: knock(gate, got, 3.0))
        return acts, lambda: (gate.state, gate.counts["success"], gate.counts["failure"], gate.counts["ignored"])

    found = set(outcomes(scene, watch=WATCH, seeds=range(25)))
    assert found <= {(State.CLOSED, 1, 4, 0), (State.OPEN, 0, 5, 1)}
    assert len(found) == 2


def test_race_of_refusals_beside_a_turn_loses_no_count() -> None:
    """A refusal takes no lock, and is counted all the same."""

    def scene() -> Scene:
        gate, got = opened(), list[int]()
        acts: list[Callable[[], object]] = [lambda: knock(gate, got, 1.0)] * 3
        acts.append(lambda: gate.force(State.FORCED_CLOSED, now=1.0))
        return acts, lambda: len(got) + gate.counts["rejected"]

    assert set(outcomes(scene, watch=WATCH, seeds=SEEDS)) == {3}


def test_race_of_a_new_rule_with_quick_successes_loses_none() -> None:
    """The window may be replaced by one of another kind under the calls that count in it."""

    def scene() -> Scene:
        gate = small(minimum_calls=50)
        calls(gate, "SF")
        acts: list[Callable[[], object]] = [lambda: calls(gate, "SS")] * 2
        acts.append(lambda: setattr(gate, "rule", BreakerRule(last_calls=50, minimum_calls=50, **OFF)))  # type: ignore[arg-type]
        return acts, lambda: gate.counts["success"]

    assert set(outcomes(scene, watch=WATCH, seeds=SEEDS)) == {5}


def test_race_of_a_success_with_failures_in_a_row() -> None:
    """It falls somewhere among them: before, between or after, and the row is what that order gives."""

    def scene() -> Scene:
        gate = small(consecutive_failures=3, minimum_calls=1000)
        calls(gate, "SFF")
        acts: list[Callable[[], object]] = [lambda: calls(gate, "S"), lambda: calls(gate, "F")]
        return acts, lambda: (gate.state, gate.counts["failure"])

    found = set(outcomes(scene, watch=WATCH, seeds=range(25)))
    assert found <= {(State.OPEN, 3), (State.CLOSED, 3)}
    assert len(found) == 2


def test_race_at_the_end_of_the_ramp_opens_the_door_for_all() -> None:
    """Whoever finds it over says so; nobody is refused."""

    def scene() -> Scene:
        gate = opened(ramp_seconds=3.0)
        call(gate, OK, 2.0)
        got: list[int] = []
        return [lambda: knock(gate, got, 5.0)] * 3, lambda: (len(got), set(got) == {gate.admit(CALL, 5.0)})

    assert set(outcomes(scene, watch=WATCH, seeds=SEEDS)) == {(3, True)}
