"""A breaker opens on a rate, finds out by probes, and listens to nobody from another era."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable

import pytest

from msgov import _rolling
from msgov.call import IGNORED, OK, PERMANENT, TRANSIENT, Call, Outcome, Verdict
from msgov.errors import BreakerOpen, RuleError
from msgov.event import Event, Observers
from msgov.resilience import Breaker, BreakerRule, State, breaker
from msgov.testing import LoadedDice, outcomes

Scene = tuple[list[Callable[[], object]], Callable[[], Hashable]]

CALL = Call("shop")
TOP = 1 - 2**-53  # the highest roll: an open time of (almost) its ceiling


def small(**changed: object) -> Breaker:
    """Make a breaker that opens at half of four calls, for two seconds and no more."""
    values: dict[str, object] = {"minimum_calls": 4, "open_cap": 2.0, "probes": 1, **changed}
    rule = BreakerRule(**values)  # type: ignore[arg-type]
    return Breaker(rule, name="pay", target="payment", dice=LoadedDice(TOP, cycle=True))


def call(gate: Breaker, verdict: Verdict, now: float, *, retry_after: float | None = None) -> None:
    """Make one call that takes no time."""
    gate.settle(gate.admit(CALL, now), Outcome(verdict, retry_after=retry_after), now)


def state(gate: Breaker) -> State:
    """Read the state: through a function, for a type checker takes an attribute to stay what it was."""
    return gate.state


def opened(now: float = 0.0, **changed: object) -> Breaker:
    """Make one that has just opened."""
    gate = small(**changed)
    for _ in range(gate.rule.minimum_calls):
        call(gate, TRANSIENT, now)
    assert state(gate) is State.OPEN
    return gate


def refused(gate: Breaker, now: float) -> BreakerOpen:
    """Return why a call does not get in."""
    with pytest.raises(BreakerOpen) as caught:
        gate.admit(CALL, now)
    return caught.value


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


@pytest.mark.parametrize(("rate", "failures"), [(0.3, 3), (0.1, 1), (0.7, 7), (1.0, 10), (0.25, 3)])
def test_rate_is_exact_whatever_floats_say(rate: float, failures: int) -> None:
    """0.7 of ten calls are seven failures, not eight."""
    gate = small(failure_rate=rate, minimum_calls=10)
    for _ in range(10 - failures):
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
    assert gate.counts == {"success": 101, "failure": 0, "ignored": 0, "rejected": 0}


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


# Open


def test_refusal_says_when_and_why() -> None:
    """The numbers that decided are facts, and `retry_after` is the time to the first probe."""
    error = refused(opened(), 0.5)
    assert error.retry_after == pytest.approx(1.5)
    assert str(error) == "pay: breaker open, try again in 1.500 s"
    assert error.facts == {"state": "open", "reason": "failure_rate", "calls": 4, "failures": 4, "era": 2}


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
    ("rate", "probes", "failures"), [(0.5, 1, 1), (0.5, 4, 2), (0.5, 5, 3), (1.0, 3, 3), (0.01, 5, 1), (0.7, 10, 7)]
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
    gate.force(State.DISABLED, now=1.0)
    for _ in range(50):
        call(gate, TRANSIENT, 1.0)
    assert gate.failure_rate(1.0) == 0.0
    assert gate.counts == {"success": 0, "failure": 0, "ignored": 50, "rejected": 0}


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
        BreakerRule(minimum_calls=4, probes=1),
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
    gate.rule = BreakerRule(minimum_calls=5, window=20.0)
    assert gate.failure_rate(0.0) == 1.0
    call(gate, OK, 0.0)
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
        {"failure_rate": 0.0},
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
    assert gate.counts == {"success": 12_000, "failure": 3_000, "ignored": 3_000, "rejected": 0}
