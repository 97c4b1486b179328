"""A breaker can be taken in hand, watched, ruled anew and shared by threads, and stays right."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable

import pytest

from msgov import _rolling
from msgov.call import IGNORED, OK, PERMANENT, TRANSIENT, Outcome
from msgov.errors import BreakerOpen, RuleError
from msgov.event import Event, Observers
from msgov.resilience import Breaker, BreakerRule, State, breaker
from msgov.testing import LoadedDice, outcomes
from tests.resilience.breaking import CALL, call, counts, opened, refused, small, state

Scene = tuple[list[Callable[[], object]], Callable[[], Hashable]]


# By hand


def test_forced_open_refuses_all_and_promises_nothing() -> None:
    """Nobody knows when the hand lets go."""
    gate = small()
    gate.force(State.FORCED_OPEN, now=1.0)
    error = refused(gate, 9999.0)
    assert (error.retry_after, error.facts["reason"]) == (None, "by_hand")


def test_forced_closed_counts_and_never_opens() -> None:
    """What it would have decided can be read, nothing is refused."""
    gate = opened()
    gate.force(State.FORCED_CLOSED, now=1.0)
    for _ in range(50):
        call(gate, TRANSIENT, 1.0)
    assert state(gate) is State.FORCED_CLOSED
    assert gate.failure_rate(1.0) == 1.0


def test_disabled_does_not_even_count() -> None:
    """As if it were not there."""
    gate = small()
    call(gate, OK, 0.5)
    gate.force(State.DISABLED, now=1.0)
    for _ in range(50):
        call(gate, TRANSIENT, 1.0)
        call(gate, OK, 1.0)
    assert gate.failure_rate(1.0) == 0.0
    assert counts(gate) == {"success": 1, "ignored": 100}


@pytest.mark.parametrize("forced", [State.FORCED_OPEN, State.FORCED_CLOSED, State.DISABLED])
def test_hand_lets_go_into_closed(forced: State) -> None:
    """From then on it decides again, by what comes from then on."""
    gate = small()
    gate.force(forced, now=1.0)
    gate.force(State.CLOSED, now=2.0)
    for _ in range(4):
        call(gate, TRANSIENT, 2.0)
    assert state(gate) is State.OPEN


@pytest.mark.parametrize("wanted", [State.OPEN, State.HALF_OPEN])
def test_states_that_it_reaches_by_itself_cannot_be_forced(wanted: State) -> None:
    """Forced open is another thing than open: it does not end by itself."""
    with pytest.raises(RuleError, match="FORCED_OPEN, FORCED_CLOSED, DISABLED"):
        small().force(wanted, now=0.0)


# Events


def test_every_turn_is_told_with_its_reason() -> None:
    """After the lock, as a frozen value; the era puts two reports in order."""
    told: list[Event] = []
    gate = Breaker(
        BreakerRule(minimum_calls=4, probes=1, ramp_seconds=0),
        name="pay",
        target="payment",
        dice=LoadedDice(0.0, cycle=True),
        observers=Observers(told.append),
    )
    for _ in range(4):
        call(gate, TRANSIENT, 1.0)
    call(gate, OK, 2.0)
    gate.force(State.FORCED_OPEN, now=3.0)
    assert [(event.kind, event.at, event.facts["reason"]) for event in told] == [
        ("breaker.opened", 1.0, "failure_rate"),
        ("breaker.half_open", 2.0, "waited"),
        ("breaker.closed", 2.0, "probes_passed"),
        ("breaker.forced_open", 3.0, "by_hand"),
    ]
    assert told[0].facts == {
        "before": "closed",
        "after": "open",
        "reason": "failure_rate",
        "era": 2,
        "calls": 4,
        "failures": 4,
        "slow": 0,
        "in_a_row": 4,
        "seconds": 1.0,
    }
    assert {(event.name, event.target) for event in told} == {("pay", "payment")}


def test_observer_is_told_with_no_lock_held() -> None:
    """It may look at the breaker, or even take it in hand."""
    gate = small()

    def look(event: Event) -> None:
        seen.append((event.kind, gate.counts["failure"]))
        if gate.state is State.OPEN:
            gate.force(State.FORCED_OPEN, now=event.at)

    seen: list[tuple[str, int]] = []
    gate.observers.add(look)
    for _ in range(4):
        call(gate, TRANSIENT, 0.0)
    assert seen == [("breaker.opened", 4), ("breaker.forced_open", 4)]
    assert state(gate) is State.FORCED_OPEN


# Rules


def test_new_rule_keeps_the_window() -> None:
    """A reload during an incident must not make the breaker blind."""
    gate = small(minimum_calls=20)
    for _ in range(10):
        call(gate, TRANSIENT, 0.0)
    gate.rule = BreakerRule(minimum_calls=5, window=20.0, consecutive_failures=0)
    assert gate.failure_rate(15.0) == 1.0
    call(gate, OK, 15.0)
    assert state(gate) is State.OPEN


def test_new_rule_is_seen_by_the_healthy_path() -> None:
    """A success that took no lock before looks at the window again after a reload."""
    gate = small(failure_rate=0.9)
    for verdict in (TRANSIENT, TRANSIENT, OK, OK, OK, OK):
        call(gate, verdict, 0.0)
    gate.rule = BreakerRule(failure_rate=0.25, minimum_calls=4)
    call(gate, OK, 0.0)
    assert state(gate) is State.OPEN


def test_new_rule_keeps_probes_and_cannot_wedge_them() -> None:
    """Fewer probes than were answered already: the next call decides by the new number."""
    gate = opened(probes=5)
    for verdict in (OK, TRANSIENT):
        call(gate, verdict, 2.0)
    gate.rule = BreakerRule(probes=1, open_cap=2.0)
    refused(gate, 2.0)
    assert state(gate) is State.OPEN


@pytest.mark.parametrize(
    "wrong",
    [
        {"failure_rate": -0.1},
        {"failure_rate": 1.1},
        {"minimum_calls": 0},
        {"window": 0.0},
        {"probes": 0},
        {"open_cap": 1.0},
    ],
)
def test_rule_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    """An open time whose cap lies below its start contradicts itself: lint says so."""
    with pytest.raises(RuleError, match=next(iter(wrong))):
        BreakerRule(**wrong)  # type: ignore[arg-type]


# Threads


def test_gobreaker_in_parallel() -> None:
    """TestCircuitBreakerInParallel: of many threads at the door of a half-open breaker exactly the probes get in."""

    def scene() -> Scene:
        gate, got = opened(probes=2), list[int]()

        def knock() -> None:
            try:
                got.append(gate.admit(CALL, 2.0))
            except BreakerOpen:
                pass

        return [knock] * 4, lambda: (len(got), gate.counts["rejected"])

    assert set(outcomes(scene, watch=[breaker], seeds=range(15))) == {(2, 2)}


def test_lockless_successes_lose_no_count_beside_failures() -> None:
    """A tick and a turn of the window may fall between any two lines of each other."""

    def scene() -> Scene:
        gate = small(minimum_calls=100)
        call(gate, OK, 0.0)
        acts: list[Callable[[], object]] = [lambda: call(gate, OK, 0.5), lambda: call(gate, TRANSIENT, 0.5)]
        acts.append(lambda: call(gate, OK, 1.5))
        return acts, lambda: (gate.counts["success"], gate.counts["failure"], round(gate.failure_rate(1.5), 2))

    assert set(outcomes(scene, watch=[breaker, _rolling], seeds=range(15))) == {(3, 1, 0.25)}


def test_late_success_beside_the_opening_never_closes_it() -> None:
    """A call from before the turn may settle at any line of it."""

    def scene() -> Scene:
        gate = small(minimum_calls=2)
        late = gate.admit(CALL, 0.0)
        call(gate, TRANSIENT, 0.0)
        acts: list[Callable[[], object]] = [lambda: call(gate, TRANSIENT, 0.0)]
        acts.append(lambda: gate.settle(late, Outcome(OK), 0.0))
        return acts, lambda: gate.state

    assert set(outcomes(scene, watch=[breaker], seeds=range(20))) == {State.OPEN}


def test_counts_are_exact_after_a_storm_of_threads() -> None:
    """What went in comes out, by outcome."""
    gate = small(minimum_calls=1_000_000)
    verdicts = [OK, OK, OK, TRANSIENT, IGNORED, PERMANENT]

    def work() -> None:
        for number in range(3_000):
            call(gate, verdicts[number % 6], number / 1000)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts(gate) == {"success": 12_000, "failure": 3_000, "ignored": 3_000}
