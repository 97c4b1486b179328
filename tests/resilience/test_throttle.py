"""A throttle holds back in proportion to what the callee refuses, and gives way as the callee does."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Hashable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msgov import _rolling
from msgov.call import IGNORED, OK, PERMANENT, TRANSIENT, Call, Outcome
from msgov.errors import Rejected, RuleError, Shed
from msgov.event import Event
from msgov.resilience import Throttle, Throttled, ThrottleRule, throttle
from msgov.resilience.throttle import rejection
from msgov.testing import LoadedDice, outcomes

CALL = Call("stock")
TAKEN, REFUSED = Outcome(OK), Outcome(TRANSIENT, overloaded=True)
HIGH, LOW = 1 - 2**-53, 0.0


def one(*rolls: float, cycle: bool = False, **changed: object) -> Throttle:
    """Make one that throttles at any rate, over a window that does not move."""
    rule = ThrottleRule(**{"minimum_rate": 0.0, **changed})  # type: ignore[arg-type]
    return Throttle(rule, name="stock", target="stock", dice=LoadedDice(*rolls, cycle=cycle))


def learn(gate: Throttle, outcome: Outcome, times: int = 1, now: float = 0.0) -> None:
    """Settle so many calls, as if they had been let in."""
    for _ in range(times):
        gate.settle(1, outcome, now)


def held(gate: Throttle, now: float = 0.0) -> Throttled:
    """Return why a call is held back."""
    with pytest.raises(Throttled) as caught:
        gate.admit(CALL, now)
    return caught.value


# The formula


@pytest.mark.parametrize(
    ("calls", "taken", "chance"),
    [(100, 50, 0.0), (100, 40, 0.198), (100, 10, 0.7921), (100, 0, 0.9901), (10, 0, 0.9091), (0, 0, 0.0)],
)
def test_sre_book_throttle_with_k_two(calls: int, taken: int, chance: float) -> None:
    """Chapter 21: max(0, (n - K s) / (n + 1))."""
    assert rejection(calls, taken, multiplier=2) == pytest.approx(chance, abs=1e-4)


@pytest.mark.parametrize(
    ("k", "calls", "taken", "chance"),
    [(1 / 0.9, 120, 90, 0.1653), (1.0, 1, 0, 0.5), (1 / 0.95, 100, 90, 0.0521), (1 / 0.95, 100, 50, 0.469)],
)
def test_failsafe_go_and_envoy_are_the_same_with_another_k(k: float, calls: int, taken: int, chance: float) -> None:
    """failsafe-go: threshold .1, (120, 90) -> 20/121; Envoy's admission control: threshold .95, aggression 1."""
    assert rejection(calls, taken, multiplier=k) == pytest.approx(chance, abs=1e-4)


def test_envoy_admission_is_capped() -> None:
    """Nothing taken would be .99: the ceiling leaves some to find out with."""
    gate = one(ceiling=0.8)
    learn(gate, REFUSED, 100)
    assert gate.chance(0.0) == 0.8


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.floats(1, 10))
def test_chance_is_one_and_grows_with_refusals(calls: int, taken: int, k: float) -> None:
    """Between 0 and 1, whatever comes in; one refusal more never lowers it."""
    taken = min(calls, taken)
    assert 0.0 <= rejection(calls, taken, multiplier=k) < 1.0
    assert rejection(calls + 1, taken, multiplier=k) >= rejection(calls, taken, multiplier=k)


# The gate


def test_it_holds_back_by_chance() -> None:
    """Of a hundred it took forty: a roll below .198 is held back, one above goes (each one held back adds to it)."""
    gate = one(LOW, 0.2, 0.22)
    learn(gate, TAKEN, 40)
    learn(gate, REFUSED, 60)
    gate.admit(CALL, 0.0)  # the first after a long time goes without a roll
    held(gate)
    held(gate)
    gate.admit(CALL, 0.0)
    assert (gate.taken, gate.refused, gate.held) == (40, 60, 2)


def test_refusal_says_why() -> None:
    """The chance and what made it; when a call goes anyway."""
    gate = one(LOW)
    learn(gate, TAKEN, 40)
    learn(gate, REFUSED, 60)
    gate.admit(CALL, 0.0)
    error = held(gate, 0.25)
    assert isinstance(error, Shed)
    assert isinstance(error, Rejected)
    assert error.facts == {"chance": 0.198, "calls": 100, "taken": 40}
    assert (error.reason, error.retry_after, error.verdict) == ("throttled", 0.75, IGNORED)
    assert str(error) == "stock: 20% of the calls are held back, for it took 40 of 100"


def test_what_was_held_back_counts_as_asked() -> None:
    """The book's "requests" are those of the application: or the chance would settle far too low."""
    gate = one(LOW, cycle=True)
    learn(gate, REFUSED, 10)
    gate.admit(CALL, 0.0)
    held(gate)
    assert gate.chance(0.0) == 0.9
    learn(gate, TAKEN, 5)
    assert gate.chance(0.0) == pytest.approx((16 - 10) / 17)


def test_one_goes_through_in_every_second_whatever_chance_says() -> None:
    """go-zero's googlebreaker: somebody must find out that the callee is well again."""
    gate = one(LOW, cycle=True)
    learn(gate, REFUSED, 100)
    went = []
    for tenth in range(31):
        try:
            gate.admit(CALL, tenth / 10)
            went.append(tenth)
        except Throttled:
            pass
    assert went == [0, 10, 20, 30]


@pytest.mark.parametrize(
    "outcome",
    [Outcome(OK), Outcome(PERMANENT), Outcome(TRANSIENT), Outcome(TRANSIENT, status="UNAVAILABLE")],
    ids=["ok", "permanent", "transient", "unavailable"],
)
def test_only_overload_counts_as_refused(outcome: Outcome) -> None:
    """An error was taken too: whether it is down is a breaker's question."""
    gate = one()
    learn(gate, outcome, 100)
    assert (gate.taken, gate.refused, gate.chance(0.0)) == (100, 0, 0.0)


def test_our_own_refusals_and_callers_who_left_feed_nothing() -> None:
    """A breaker that opened inside says it is overloaded: it was not the callee that said so."""
    gate = one()
    learn(gate, Outcome(IGNORED, overloaded=True), 100)
    assert (gate.taken, gate.refused, gate.chance(0.0)) == (0, 0, 0.0)


def test_calls_in_flight_are_no_refusals() -> None:
    """A thousand at once to a callee that is well: none is held back before one is answered."""
    gate = one()
    for _ in range(1000):
        gate.admit(CALL, 0.0)
    assert gate.chance(0.0) == 0.0


@pytest.mark.parametrize(("refusals", "chance"), [(14, 0.0), (15, 0.9)])
def test_below_five_calls_a_second_it_is_off(refusals: int, chance: float) -> None:
    """Of the first three seconds that is fifteen calls: with fewer a share is noise."""
    gate = one(minimum_rate=5.0)
    learn(gate, REFUSED, refusals)
    assert gate.chance(0.0) == chance
    if not chance:
        gate.admit(CALL, 0.0)


def test_it_forgets_as_the_window_moves() -> None:
    """Two minutes after the overload nothing is held back, though nobody told it so."""
    gate = one(LOW, cycle=True)
    learn(gate, REFUSED, 100)
    assert gate.chance(119.0) == 0.9
    assert gate.chance(120.0) == 0.0
    for _ in range(10):
        gate.admit(CALL, 120.0)


def test_it_gives_way_as_the_callee_does() -> None:
    """Of a callee with room for 40 of 100 a second it lets 80 through, twice what is taken, and all when it is well."""
    gate = Throttle(ThrottleRule(window=10.0, buckets=10), dice=random.Random(7))
    sent: list[int] = []
    for second in range(60):
        room, went = (40 if second < 40 else 100), 0
        for number in range(100):
            now = second + number / 100
            try:
                gate.admit(CALL, now)
            except Throttled:
                continue
            went += 1
            gate.settle(1, TAKEN if went <= room else REFUSED, now)
        sent.append(went)
    assert 74 <= sum(sent[20:40]) / 20 <= 86
    assert sum(sent[52:]) / 8 == 100


def test_healthy_calls_take_no_lock() -> None:
    """Nothing is held back, and no success can change that."""
    gate = one()
    learn(gate, TAKEN, 10)
    with gate._lock:
        for _ in range(100):
            gate.settle(gate.admit(CALL, 0.5), TAKEN, 0.5)
    assert gate.taken == 110


def test_few_refusals_among_many_leave_the_quick_path_open() -> None:
    """Up to K times what is taken nothing is held back."""
    gate = one()
    learn(gate, TAKEN, 10)
    learn(gate, REFUSED, 10)
    with gate._lock:
        gate.settle(gate.admit(CALL, 0.0), TAKEN, 0.0)
    learn(gate, REFUSED, 2)
    assert gate.chance(0.0) > 0


def test_callee_that_recovers_brings_the_quick_path_back() -> None:
    """One success too many to hold back is the last to take the lock."""
    gate = one(HIGH, cycle=True)
    learn(gate, REFUSED, 2)
    learn(gate, TAKEN, 2)
    with gate._lock:
        gate.settle(gate.admit(CALL, 0.0), TAKEN, 0.0)


# Rules


def test_shadow_lets_all_in_and_tells_once_in_a_while() -> None:
    """The count says how many; an event a second is enough for whoever watches."""
    gate, told = one(LOW, cycle=True, shadow=True), list[Event]()
    gate.observers.add(told.append)
    learn(gate, REFUSED, 100)
    for tenth in range(20):
        gate.admit(CALL, tenth / 10)
    assert (gate.would_reject, gate.held) == (18, 0)
    assert [(event.kind, event.at) for event in told] == [("shadow.throttle", 0.1), ("shadow.throttle", 1.1)]
    assert told[0].facts == {"reason": "throttled", "chance": 0.9, "calls": 100, "taken": 0}


def test_new_rule_is_live_and_keeps_the_window() -> None:
    """A K of four holds back nothing of what one of two holds back."""
    gate = one()
    learn(gate, TAKEN, 40)
    learn(gate, REFUSED, 60)
    assert gate.chance(0.0) == pytest.approx(0.198, abs=1e-3)
    gate.rule = ThrottleRule(multiplier=4.0, minimum_rate=0.0)
    assert gate.chance(0.0) == 0.0
    gate.rule = ThrottleRule(window=60.0, buckets=30, minimum_rate=0.0)
    assert gate.chance(0.0) == pytest.approx(0.198, abs=1e-3)
    assert gate.chance(70.0) == 0.0
    assert gate.taken == 40


def test_new_rule_is_seen_by_calls_on_the_quick_path() -> None:
    """A call that took no lock before looks at the window again after a reload."""
    gate = one(LOW, cycle=True)
    learn(gate, TAKEN, 60)
    learn(gate, REFUSED, 40)
    gate.admit(CALL, 0.0)
    gate.rule = ThrottleRule(multiplier=1.0, minimum_rate=0.0)
    gate.admit(CALL, 0.0)
    held(gate)


@pytest.mark.parametrize(
    "wrong",
    [
        {"multiplier": 0.9},
        {"ceiling": 1.0},
        {"ceiling": 0.0},
        {"window": 0.5},
        {"minimum_rate": -1.0},
        {"pass_every": 0.0},
    ],
)
def test_rule_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    """A K below one would hold back calls that are all taken; a ceiling of one would never find out."""
    with pytest.raises(RuleError, match=next(iter(wrong))):
        ThrottleRule(**wrong)  # type: ignore[arg-type]


# Threads

Scene = tuple[list[Callable[[], object]], Callable[[], Hashable]]


def test_race_of_quick_successes_with_refusals_loses_no_count() -> None:
    """A tick and a roll of the window may fall between any two lines of each other."""

    def scene() -> Scene:
        gate = one(HIGH, cycle=True)
        learn(gate, TAKEN, 2)
        acts: list[Callable[[], object]] = [lambda: learn(gate, TAKEN, 2, 0.5), lambda: learn(gate, REFUSED, 2, 0.5)]
        acts.append(lambda: learn(gate, TAKEN, 1, 3.5))
        return acts, lambda: (gate.taken, gate.refused)

    assert set(outcomes(scene, watch=[throttle, _rolling], seeds=range(12))) == {(5, 2)}


def test_counts_are_exact_after_a_storm_of_threads() -> None:
    """What was let in was taken or refused; what was not was held back."""
    gate = Throttle(ThrottleRule(minimum_rate=0.0), dice=random.Random(1))
    let_in, kept_out = [0] * 6, [0] * 6

    def work(who: int) -> None:
        for number in range(3_000):
            now = number / 1000
            try:
                ticket = gate.admit(CALL, now)
            except Throttled:
                kept_out[who] += 1
                continue
            let_in[who] += 1
            gate.settle(ticket, REFUSED if number % 3 else TAKEN, now)

    threads = [threading.Thread(target=work, args=(who,)) for who in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gate.taken + gate.refused == sum(let_in)
    assert gate.held == sum(kept_out) > 0
