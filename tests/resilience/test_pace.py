"""A pace is nothing until the callee says "slow down", then follows CUBIC, then is nothing again."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Hashable
from heapq import heappop, heappush

import pytest

from msgov import _rolling, aio, sync
from msgov.call import IGNORED, NO, OK, PERMANENT, TRANSIENT, Call, Outcome
from msgov.errors import CallFailed, RateLimited, Rejected, RuleError
from msgov.pipeline import Pipeline
from msgov.policy import Waiting
from msgov.resilience import Pace, Paced, PaceRule, pace, pace_rate
from msgov.rule import as_mapping, parse
from msgov.testing import VirtualLoop, outcomes

CALL = Call("stock")
DONE, BUSY = Outcome(OK), Outcome(TRANSIENT, overloaded=True)
K = (10 * 0.3 / 0.4) ** (1 / 3)  # of a peak of ten


def slowed(calls: int = 5, **changed: float) -> Pace:
    """Make one whose callee said "slow down" to so many calls at time zero: five in a half second are ten a second."""
    gate = Pace(PaceRule(**{"max_wait": 60.0, **changed}), name="stock", target="stock")
    for _ in range(calls):
        gate.admit(CALL, 0.0)
    gate.settle(0.0, BUSY, 0.0)
    return gate


def turn(gate: Pace, now: float, call: Call = CALL) -> float:
    """Return when a call that comes now may go."""
    place = gate.admit(call, now)
    return place.until if isinstance(place, Waiting) else place


def refusal(gate: Pace, now: float, call: Call = CALL) -> Paced:
    """Return why a call does not wait for its turn."""
    with pytest.raises(Paced) as caught:
        gate.admit(call, now)
    return caught.value


# Off


def test_botocore_bucket_acquisition_only_if_enabled() -> None:
    """Nobody waits at a callee that has never said so, however many come at once."""
    gate = Pace()
    assert [turn(gate, 1.0) for _ in range(10_000)] == [1.0] * 10_000
    assert (gate.limit, gate.admitted, gate.queued) == (math.inf, 10_000, 0)


@pytest.mark.parametrize(
    "outcome",
    [DONE, Outcome(TRANSIENT), Outcome(PERMANENT, overloaded=True), Outcome(IGNORED, overloaded=True, sent=NO)],
    ids=["ok", "failed", "an answer", "our own refusal"],
)
def test_only_a_slow_down_of_the_callee_turns_it_on(outcome: Outcome) -> None:
    """An error is a breaker's business; a breaker that opened inside is overloaded, but not the callee."""
    gate = Pace()
    gate.settle(gate.admit(CALL, 0.0), outcome, 0.1)  # type: ignore[arg-type]  # it is off: no line
    assert gate.limit == math.inf


def test_calls_take_no_lock_while_it_is_off() -> None:
    """Within a half second: a new one is begun by the first call in it."""
    gate = Pace()
    gate.admit(CALL, 0.0)
    with gate._lock:
        for _ in range(100):
            gate.settle(gate.admit(CALL, 0.4), DONE, 0.45)  # type: ignore[arg-type]  # as above
    assert gate.admitted == 101


def test_what_it_tells_the_drivers_is_true() -> None:
    """A success changes nothing, on or off, so nobody need tell it of one."""
    assert (Pace.waits, Pace.learns) == (True, False)
    gate, other = slowed(), slowed()
    other.settle(1.0, DONE, 1.0)
    assert turn(gate, 1.0) == turn(other, 1.0)
    assert gate.limit == other.limit


def test_rate_is_measured_while_it_is_off() -> None:
    """Ten a second for five seconds are ten a second, when the callee says so at last, and not fifty."""
    gate = Pace()
    for tenth in range(50):
        ticket = turn(gate, tenth / 10)
    gate.settle(ticket, BUSY, 4.95)
    assert gate.limit == pytest.approx(7.0, rel=0.01)


# On


def test_botocore_token_bucket_enabled_on_throttling_error() -> None:
    """Ten a second were sent: from now on seven are."""
    gate = slowed()
    assert gate.limit == pytest.approx(7.0)
    assert gate.slowed == 1
    assert turn(gate, 0.0) == pytest.approx(1 / 7)
    assert turn(gate, 0.0) == pytest.approx(2 / 7)
    assert gate.queued == 2


def test_botocore_cubic_of_ten() -> None:
    """7.0 at the cut, 10.0 at K, where the callee said so last, and 13.0 at 2 K."""
    seen = []
    for now in (0.0, K, 2 * K):
        gate = slowed(ceiling=100.0)
        gate.admit(CALL, now)
        seen.append(gate.limit)
    assert seen == pytest.approx([7.0, 10.0, 13.0])


def test_botocore_max_rate_cant_exceed_twice_the_measured_rate() -> None:
    """What was not sent says nothing of what the callee would take."""
    gate = slowed(calls=50)
    gate.admit(CALL, 1.0)  # fifty in a second, and the half second under way is empty
    gate.admit(CALL, 4.0)  # one in three
    sent = 0.8 * (1 / 3) + 0.2 * (0.8 * 50)
    assert gate.limit == pytest.approx(2 * sent)


def test_botocore_min_rate_is_half_a_call_a_second() -> None:
    """Somebody must find out that it is well again."""
    gate = slowed(calls=1, beta=0.01)
    assert gate.limit == 0.5
    assert turn(gate, 0.0) == 2.0


def test_callee_that_says_so_again_is_sent_less_again() -> None:
    """From the rate in force, not from all that is asked for."""
    gate = slowed()
    ticket = turn(gate, 0.2)
    before = gate.limit
    gate.settle(ticket, BUSY, 0.25)
    assert gate.slowed == 2
    assert gate.limit == pytest.approx(0.7 * before)


def test_all_that_was_sent_at_one_rate_is_cut_once() -> None:
    """botocore cuts for each of them: a burst of a hundred refusals would leave nothing of the rate."""
    gate = Pace()
    tickets = [gate.admit(CALL, 0.0) for _ in range(100)]
    for ticket in tickets:
        assert isinstance(ticket, float)
        gate.settle(ticket, BUSY, 0.2)
    assert gate.limit == pytest.approx(140.0)
    assert gate.slowed == 1


def test_turns_given_before_a_cut_stand_and_say_nothing_after_it() -> None:
    """They go at the old pace, so their refusals are no news of the new one."""
    gate = slowed()
    places = [gate.admit(CALL, 0.0) for _ in range(3)]
    for place in places:
        assert isinstance(place, Waiting)
        ticket = gate.withdraw(place, place.until)
        assert ticket == place.until
        gate.settle(ticket, BUSY, place.until + 0.01)
        assert gate.slowed == 2
    gate.settle(turn(gate, 1.0), BUSY, 1.1)
    assert gate.slowed == 3


def test_idle_second_may_be_caught_up_at_once() -> None:
    """botocore's bucket holds a second's worth: of ten a second ten, and the next one waits."""
    gate = slowed(ceiling=100.0)
    turns = [turn(gate, K) for _ in range(12)]
    assert turns[:10] == pytest.approx([K] * 10)
    assert turns[10:] == pytest.approx([K + 0.1, K + 0.2])
    assert gate.queued == 2


def test_slow_down_takes_what_was_saved_up() -> None:
    """Or a second's worth at once would be the answer to it."""
    gate = slowed(ceiling=100.0)
    assert turn(gate, K) == K
    gate.settle(K, BUSY, K + 0.01)
    assert turn(gate, K + 0.01) == pytest.approx(K + 0.01 + 1 / gate.limit)


def test_turn_later_than_the_longest_wait_is_refused_with_the_numbers() -> None:
    """Seven a second, and a second to wait: the eighth does not fit, and is told when it will."""
    gate = slowed(max_wait=1.0)
    for _ in range(7):
        assert isinstance(gate.admit(CALL, 0.0), Waiting)
    error = refusal(gate, 0.0)
    assert isinstance(error, RateLimited)
    assert (error.reason, error.verdict, error.sent) == ("rate_limited", IGNORED, NO)
    assert error.retry_after == pytest.approx(1 / 7)
    assert error.facts == pytest.approx({"limit": 7.0, "peak": 10.0, "wait": 8 / 7, "max_wait": 1.0})
    assert str(error) == "stock: its turn at 7 calls/s is 1.143 s away, and it can wait for 1.000 s"
    assert gate.rejected == 1
    assert 1.0 < turn(gate, 1 / 7) < 8 / 7 + 1e-9  # a refusal spends nothing; meanwhile the rate has grown


def test_nobody_waits_past_the_deadline() -> None:
    """A turn that comes after it would be a call for nobody."""
    gate = slowed()
    error = refusal(gate, 0.0, Call("stock", deadline=0.1))
    assert error.retry_after == pytest.approx(1 / 7 - 0.1)
    assert turn(gate, 0.0, Call("stock", deadline=0.2)) == pytest.approx(1 / 7)


def test_call_whose_turn_has_come_is_not_asked_for_its_deadline() -> None:
    """That is the deadline's business, which says it better."""
    gate = slowed()
    assert turn(gate, 0.5, Call("stock", deadline=0.0)) == 0.5


def test_line_has_rate_times_wait_places() -> None:
    """Bounded by time, whatever comes."""
    gate = slowed(calls=50, max_wait=0.5)
    waits = 0
    for _ in range(5_000):
        try:
            gate.admit(CALL, 0.0)
            waits += 1
        except Paced:
            pass
    assert waits == 35  # of seventy a second
    assert gate.rejected == 5_000 - 35


def test_place_in_line_is_handed_over_when_its_turn_comes() -> None:
    """Not before, but for a timer that rings a little early."""
    gate = slowed()
    place = gate.admit(CALL, 0.0)
    assert isinstance(place, Waiting)
    assert gate.withdraw(place, 0.1) is None
    assert gate.withdraw(place, place.until - 5e-4) == place.until


# Off again


def test_it_is_off_again_when_the_curve_binds_nobody() -> None:
    """Ten a second was the trouble: at twice that, and of what is sent, the curve holds nothing back."""
    gate = slowed()
    free = K + (10 / 0.4) ** (1 / 3)
    now = 0.0
    while now < free - 0.5:
        now += 0.5
        turn(gate, now)
        assert gate.limit < math.inf
    turn(gate, free + 0.01)
    assert gate.limit == math.inf
    with gate._lock:
        turn(gate, free + 0.02)


def test_while_much_is_sent_it_stays_on() -> None:
    """Thirty a second are more than half of what the curve allows: it may still hold back."""
    gate = slowed()
    for tenth in range(20, 46):
        turn(gate, tenth / 10)
    assert max(turn(gate, 4.6) for _ in range(14)) < 4.8  # nobody is in line after that
    turn(gate, K + (10 / 0.4) ** (1 / 3) + 0.01)
    assert gate.limit < math.inf


def test_while_somebody_is_in_line_it_stays_on() -> None:
    """Who came later would overtake them."""
    gate = slowed()
    last = [turn(gate, 0.0) for _ in range(70)][-1]
    assert last > 9
    assert turn(gate, 6.0) >= last
    assert gate.limit < math.inf


def test_straggler_of_an_older_rate_does_not_turn_it_on_again() -> None:
    """What it says was known, and heeded, before."""
    gate = slowed()
    turn(gate, 1000.0)
    assert gate.limit == math.inf
    gate.settle(0.0, BUSY, 1000.0)
    assert (gate.limit, gate.slowed) == (math.inf, 1)
    gate.settle(1000.0, BUSY, 1000.1)
    assert gate.slowed == 2


def test_callee_with_room_for_forty_of_a_hundred_is_sent_about_forty() -> None:
    """For a minute; then it has room for all, and within half of one nothing is held back."""
    gate = Pace()
    events: list[tuple[float, int, Callable[[float], None]]] = []
    number, room, asked = 0, 40.0, 0.0
    took, refused = [0] * 100, [0] * 100

    def later(now: float, act: Callable[[float], None]) -> None:
        nonlocal number
        number += 1
        heappush(events, (now, number, act))

    def send(ticket: float, now: float) -> None:
        nonlocal room, asked
        capacity = 40.0 if now < 60 else 1000.0
        room, asked = min(capacity, room + (now - asked) * capacity), now
        if room >= 1:
            room -= 1
            took[int(now)] += 1
        else:
            refused[int(now)] += 1
            later(now + 0.02, lambda at: gate.settle(ticket, BUSY, at))

    def arrive(now: float) -> None:
        try:
            place = gate.admit(CALL, now)
        except Paced:
            return
        if isinstance(place, Waiting):
            later(place.until, lambda at: send(place.until, at))
        else:
            send(place, now)

    for each in range(9_800):
        later(each / 100, arrive)
    while events:
        now, _, act = heappop(events)
        act(now)
    assert 37 <= sum(took[5:60]) / 55 <= 40
    assert sum(refused[5:60]) / 55 < 2  # of sixty without it
    assert took[90:97] == [100] * 7
    assert gate.limit == math.inf


# Rules


def test_new_rule_keeps_the_rate() -> None:
    """It goes on from where it is, along another curve."""
    gate = slowed(ceiling=100.0)
    gate.admit(CALL, 1.0)
    before = gate.limit
    gate.rule = PaceRule(scale=4.0, ceiling=100.0, max_wait=60.0)
    gate.admit(CALL, 1.0)
    assert gate.limit == pytest.approx(before)
    gate.admit(CALL, 5.0)
    assert gate.limit > 30
    gate.rule = PaceRule(beta=0.5, scale=4.0, ceiling=100.0, max_wait=60.0)
    gate.admit(CALL, 5.0)
    assert gate.limit > 30


def test_new_rule_of_one_that_is_off_is_that_of_the_next_cut() -> None:
    """There is no rate to keep."""
    gate = Pace(PaceRule(beta=0.9))
    gate.rule = PaceRule(beta=0.5, scale=1.0, ceiling=100.0)
    gate.settle(gate.admit(CALL, 0.0), BUSY, 0.0)  # type: ignore[arg-type]  # it is off: no line
    assert gate.limit == pytest.approx(1.0)
    assert turn(gate, 1.0) == 1.0
    assert gate.limit == pytest.approx(2.0)


def test_new_longest_wait_holds_for_who_comes_next() -> None:
    """Who is in line keeps the turn."""
    gate = slowed()
    place = gate.admit(CALL, 0.0)
    gate.rule = PaceRule(max_wait=0.0)
    refusal(gate, 0.0)
    assert isinstance(place, Waiting)
    assert gate.withdraw(place, place.until) == place.until


@pytest.mark.parametrize(
    "wrong",
    [
        {"beta": 1.0},
        {"beta": 0.0},
        {"scale": 0.0},
        {"smoothing": 1.1},
        {"ceiling": 1.0},
        {"floor": 0.0},
        {"max_wait": -1.0},
    ],
    ids=str,
)
def test_rule_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    """A cut that cuts nothing, a rate that cannot grow, a floor that lets nobody find out."""
    with pytest.raises(RuleError, match=next(iter(wrong))):
        PaceRule(**wrong)


def test_rule_is_the_same_after_a_file() -> None:
    """All of it can stand in a rules file."""
    assert parse(PaceRule, as_mapping(PaceRule(max_wait=3.0))) == PaceRule(max_wait=3.0)


# Drivers


def test_calls_wait_for_their_turn_under_asyncio() -> None:
    """The first is told to slow down; of those that follow each has its turn, one gives up, and one comes too late."""
    gate = Pace(PaceRule(max_wait=3.0), name="stock")
    went: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def handler(call: Call) -> None:
            went.append(loop.time())
            if len(went) == 1:
                raise CallFailed("slow down", status="429", overloaded=True)

        call = aio.govern(Pipeline([gate]), handler, clock=loop.time)
        with pytest.raises(CallFailed):
            await call(Call("stock"))
        assert gate.limit == pytest.approx(1.4)  # one in a half second were two
        tasks = [asyncio.ensure_future(call(Call("stock"))) for _ in range(5)]
        await asyncio.sleep(0.1)
        tasks[1].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(each) for each in done].count(asyncio.CancelledError) == 1
        assert all(each is None for each in done if not isinstance(each, asyncio.CancelledError | Rejected))

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
    assert went == sorted(went)
    assert went[1] == pytest.approx(1 / 1.4)


def test_calls_wait_for_their_turn_in_threads() -> None:
    """The same object with blocking code, in real time."""
    gate = Pace(PaceRule(floor=50.0))
    told = threading.Event()

    def handler(call: Call) -> None:
        if not told.is_set():
            told.set()
            raise CallFailed("slow down", status="429", overloaded=True)

    call = sync.govern(Pipeline([gate]), handler)
    with pytest.raises(CallFailed):
        call(Call("stock"))
    threads = [threading.Thread(target=call, args=[Call("stock")]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gate.admitted == 5
    assert gate.queued >= 1


def test_refusal_says_which_policy_refused() -> None:
    """On both sides of a wire."""
    gate = slowed(max_wait=0.0)
    call = sync.govern(Pipeline([gate]), lambda call: None, clock=lambda: 0.0)
    with pytest.raises(Paced) as caught:
        call(Call("stock"))
    assert (caught.value.policy, caught.value.name) == ("pace", "stock")
    assert "limit" in caught.value.for_caller()


# Threads

Scene = tuple[list[Callable[[], object]], Callable[[], Hashable]]


def test_race_of_quick_calls_with_two_slow_downs_counts_all_and_cuts_once() -> None:
    """A call may be counted, and a rate cut, between any two lines of each other."""

    def scene() -> Scene:
        gate = Pace(PaceRule(max_wait=600.0))
        ticket = gate.admit(CALL, 0.0)
        assert isinstance(ticket, float)

        def again() -> None:
            gate.settle(ticket, BUSY, 0.2)
            gate.admit(CALL, 0.6)

        acts: list[Callable[[], object]] = [
            lambda: [gate.admit(CALL, 0.1) for _ in range(2)],
            lambda: gate.settle(ticket, BUSY, 0.2),
            again,
        ]
        return acts, lambda: (gate.admitted, gate.slowed, gate._edge)

    assert set(outcomes(scene, watch=[pace, pace_rate, _rolling], seeds=range(25))) == {(4, 1, -math.inf)}


def test_race_for_turns_gives_each_its_own() -> None:
    """Two calls in one turn would be twice the rate."""

    def scene() -> Scene:
        gate, turns = slowed(), list[float]()
        acts: list[Callable[[], object]] = [lambda: turns.append(turn(gate, 0.0)) for _ in range(3)]
        return acts, lambda: tuple(round(each * 7, 6) for each in sorted(turns))

    assert set(outcomes(scene, watch=[pace, pace_rate], seeds=range(15))) == {(1.0, 2.0, 3.0)}
