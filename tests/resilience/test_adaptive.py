"""The limit is what the callee bears: found in any load, kept through changes, fallen when all is late."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Hashable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from msgov import aio, sync
from msgov.call import IGNORED, OK, TRANSIENT, Call, Outcome, Verdict
from msgov.errors import BulkheadFull, DeadlineExceeded, RuleError
from msgov.event import Event, Observers
from msgov.pipeline import Pipeline
from msgov.policy import Waiting
from msgov.resilience import Adaptive, AdaptiveRule, _line, adaptive
from msgov.rule import parse
from msgov.scope import Criticality
from msgov.testing import outcomes, run
from tests.resilience.queueing import Callee

Scene = tuple[list[Callable[[], object]], Callable[[], Hashable]]

CALL = Call("shop")
DONE = Outcome(OK)
LATE = Outcome(TRANSIENT, error=DeadlineExceeded("no answer in 5.000 s"))


def enter(gate: Adaptive, now: float = 0.0, call: Call = CALL) -> float:
    """Get in at once."""
    ticket = gate.admit(call, now)
    assert not isinstance(ticket, Waiting)
    return ticket


def queue(gate: Adaptive, now: float = 0.0) -> Waiting[float]:
    """Get a place in line."""
    place = gate.admit(CALL, now)
    assert isinstance(place, Waiting)
    return place


def crowd(gate: Adaptive, now: float, seconds: float, outcome: Outcome = DONE) -> float:
    """Fill the gate, have all of them answered so much later; return when that is."""
    tickets = [enter(gate, now) for _ in range(gate.limit - gate.inflight)]
    for ticket in tickets:
        gate.settle(ticket, outcome, now + seconds)
    return now + seconds


def windows(gate: Adaptive, count: int, seconds: float, outcome: Outcome = DONE, now: float = 0.0) -> float:
    """Let so many windows pass in full use; return the time."""
    for _ in range(count):
        end = now + 1.0
        while now <= end:
            now = crowd(gate, now, seconds, outcome)
    return now


def test_limit_is_where_it_begins_until_a_window_has_passed() -> None:
    """Nothing is known before that."""
    gate = Adaptive()
    crowd(gate, 0.0, 0.1)
    assert (gate.limit, gate.inflight, gate.dropped) == (20, 0, 0)


def test_limit_grows_while_the_callee_bears_it() -> None:
    """Round trips that stay as they are mean that there is room."""
    gate = Adaptive()
    windows(gate, 10, 0.1)
    assert 25 <= gate.limit <= 40


def test_full_gate_refuses_with_the_numbers_that_decided() -> None:
    """As a bulkhead does: its error is one that every edge knows already."""
    gate = Adaptive(AdaptiveRule(initial=2), name="pay")
    enter(gate)
    enter(gate)
    with pytest.raises(BulkheadFull, match="pay: 2 in flight of 2, 0 in line") as refused:
        gate.admit(CALL, 0.0)
    assert refused.value.facts == {"inflight": 2, "limit": 2, "depth": 0, "queue": 0}
    assert gate.rejected == 1


def test_constant_timeouts_bring_the_limit_down() -> None:
    """concurrency-limits 137: there 225 of them at 5 s each raise the limit to its maximum."""
    gate = Adaptive()
    windows(gate, 30, 5.0, LATE)
    assert gate.limit <= 4
    alone = Adaptive()
    for number in range(225):  # one at a time, so that at no moment half of the limit is in use
        alone.settle(enter(alone, number * 5.0), LATE, number * 5.0 + 5.0)
    assert (alone.limit, alone.dropped) == (1, 225)


@pytest.mark.parametrize("algorithm", ["vegas", "gradient2", "aimd"])
def test_drops_cut_by_a_tenth_whatever_the_algorithm(algorithm: str) -> None:
    """AIMDLimit.java: times 0.9; the others know no drops of their own."""
    gate = Adaptive(parse(AdaptiveRule, {"algorithm": algorithm, "initial": 100}))
    crowd(gate, 0.0, 0.1, Outcome(IGNORED))  # the first to leave begins the window
    crowd(gate, 1.0, 0.2, LATE)
    assert gate.limit == 90
    crowd(gate, 3.0, 0.2, Outcome(TRANSIENT, status="503", overloaded=True))
    assert gate.limit == 81


@pytest.mark.parametrize(("drops", "cut"), [(19, False), (20, True)])
def test_one_drop_in_ten_cuts(drops: int, cut: bool) -> None:
    """Of all that ended: nineteen in two hundred are not yet one in ten."""
    gate = Adaptive(AdaptiveRule(algorithm="aimd", initial=200, max_limit=200))
    crowd(gate, 0.0, 0.1, Outcome(IGNORED))
    tickets = [enter(gate, 0.5) for _ in range(200)]
    for number, ticket in enumerate(tickets):
        gate.settle(ticket, LATE if number < drops else DONE, 1.2 if number == 199 else 0.9)
    assert gate.limit == (180 if cut else 200)


def test_window_with_few_calls_ends_after_half_a_minute() -> None:
    """A percentile needs fifty, but a quiet service must not wait for them all day."""
    gate = Adaptive(AdaptiveRule(algorithm="aimd", initial=1))
    for second in range(31):
        assert gate.limit == 1
        gate.settle(enter(gate, float(second)), DONE, second + 0.1)
    assert gate.limit == 2


def test_stream_counts_until_its_first_message() -> None:
    """How long it goes on is the caller's wish: a minute of stream is no slow callee."""

    class Streamed(Outcome):
        first = 0.1

    short, long = Adaptive(AdaptiveRule(rtt_max=1.0)), Adaptive(AdaptiveRule(rtt_max=1.0))
    windows(short, 5, 60.0, Streamed(OK))
    windows(long, 5, 60.0)
    assert (short.limit >= 20, long.limit < 20) == (True, True)


def test_few_drops_only_keep_the_limit_from_growing() -> None:
    """One slow call in a hundred is bad luck; it is no reason to grow either."""
    gate = Adaptive()
    now = 0.0
    for _ in range(300):
        tickets = [enter(gate, now) for _ in range(20)]
        now += 0.1
        gate.settle(tickets.pop(), LATE, now)
        for ticket in tickets:
            gate.settle(ticket, DONE, now)
    assert gate.limit == 20


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(IGNORED, status="cancelled"),
        Outcome(TRANSIENT, error=ConnectionError("refused"), status="ConnectionError"),
        Outcome(TRANSIENT, status="500"),
    ],
)
def test_what_says_nothing_of_the_load_does_not_move_the_limit(outcome: Outcome) -> None:
    """A caller that left, a callee that is broken: neither is too much concurrency."""
    gate = Adaptive()
    windows(gate, 50, 0.1, outcome)
    assert (gate.limit, gate.inflight, gate.dropped) == (20, 0, 0)


def test_grpc_deadline_by_its_status_is_a_drop() -> None:
    """The transport's own error is no TimeoutError."""
    gate = Adaptive()
    gate.settle(enter(gate), Outcome(TRANSIENT, status="DEADLINE_EXCEEDED"), 5.0)
    assert gate.dropped == 1


def test_refused_and_failed_calls_are_no_round_trips() -> None:
    """An error in a millisecond must not become the usual."""
    gate = Adaptive(AdaptiveRule(samples=10))
    now = windows(gate, 20, 0.1)
    grown = gate.limit
    for number in range(2000):
        at = now + number * 0.001
        gate.settle(enter(gate, at), Outcome(TRANSIENT, error=ConnectionError()), at + 0.001)
    windows(gate, 2, 0.1, now=now + 3.0)
    assert gate.limit >= grown


def test_limit_comes_down_to_what_is_used_but_not_below_its_beginning() -> None:
    """failsafe-go: at most five times what is in flight; a quiet night must not cost the morning."""
    gate = Adaptive()
    now = windows(gate, 100, 0.1)
    assert gate.limit > 100
    for number in range(3000):
        before = gate.limit
        gate.settle(enter(gate, now + number * 0.1), DONE, now + number * 0.1 + 0.1)
        assert gate.limit >= before * 0.9 - 1  # by a tenth a window: one quiet second forgets nothing
    assert gate.limit == 20


def test_limit_stays_between_its_bounds() -> None:
    """They are the last word."""
    gate = Adaptive(AdaptiveRule(initial=10, min_limit=8, max_limit=12))
    now = windows(gate, 20, 0.1)
    assert gate.limit == 12
    windows(gate, 60, 1.0, LATE, now)
    assert gate.limit == 8


def test_round_trip_above_the_maximum_cuts_whatever_was_usual() -> None:
    """failsafe-go 127: a baseline learnt in a bad time is no excuse."""
    gate = Adaptive(AdaptiveRule(rtt_max=0.5))
    windows(gate, 5, 0.6)
    assert gate.limit <= 14


def test_lag_of_the_loop_is_taken_off_the_round_trip() -> None:
    """Our own stall says nothing about the callee: no cut, where the same round trips without lag cut."""
    ours, theirs = Adaptive(AdaptiveRule(initial=100)), Adaptive(AdaptiveRule(initial=100))
    ours.rule = theirs.rule = AdaptiveRule(initial=100, max_limit=100)
    now = [windows(gate, 10, 0.1) for gate in (ours, theirs)]
    ours.sense(lag=0.1)
    for gate, at in zip((ours, theirs), now, strict=True):
        windows(gate, 10, 0.2, now=at)
    assert (ours.lag, ours.limit) == (0.1, 100)
    assert theirs.limit < 85


def test_lag_longer_than_the_round_trip_leaves_a_number() -> None:
    """The readings are of another moment: nothing may become negative."""
    gate = Adaptive()
    gate.sense(lag=9.0)
    windows(gate, 5, 0.1)
    assert gate.limit >= 20


def test_new_rule_keeps_limit_and_permits() -> None:
    """A reload starts nothing anew, not even with another algorithm."""
    gate = Adaptive()
    windows(gate, 10, 0.1)
    found, ticket = gate.limit, enter(gate, 99.0)
    gate.rule = AdaptiveRule(algorithm="aimd")
    assert (gate.limit, gate.inflight, gate.rule.algorithm) == (found, 1, "aimd")
    gate.rule = AdaptiveRule(max_limit=20)
    assert gate.limit == 20
    gate.settle(ticket, DONE, 100.0)
    assert gate.inflight == 0


def test_higher_bound_lets_the_line_in_at_once() -> None:
    """A reload must not wait for somebody to leave."""
    gate = Adaptive(AdaptiveRule(initial=1, queue=3))
    enter(gate)
    first, second = queue(gate), queue(gate)
    gate.rule = AdaptiveRule(min_limit=2, initial=2, queue=3)
    assert (gate.limit, first.over, second.over) == (2, True, False)


def test_wait_in_line_is_no_part_of_the_round_trip() -> None:
    """The ticket is the time of the grant: our own queue must not shrink the limit."""
    gate = Adaptive(AdaptiveRule(initial=1, queue=3))
    ticket, place = enter(gate), queue(gate, 0.01)
    gate.settle(ticket, DONE, 0.05)
    assert gate.withdraw(place, 0.05) == 0.05
    assert gate.depth == 0


def test_wait_in_vain_is_refused() -> None:
    """With what it waited behind."""
    gate = Adaptive(AdaptiveRule(initial=1, queue=3), name="pay")
    enter(gate)
    place = queue(gate)
    assert gate.withdraw(place, 0.1) is None
    assert "pay: waited 0.100 s behind 1 in flight" in str(gate.late(place, 0.1))
    assert (gate.queued, gate.rejected, gate.depth) == (1, 1, 0)


def test_shadow_counts_and_tells_and_lets_in() -> None:
    """So that a limit can be watched before it is believed; it still learns."""
    told: list[Event] = []
    gate = Adaptive(AdaptiveRule(initial=1, shadow=True), name="pay", observers=Observers(told.append))
    tickets = [enter(gate, at) for at in (0.0, 0.1, 0.2, 1.5)]
    assert (gate.inflight, gate.would_reject, gate.rejected) == (4, 3, 0)
    assert [(event.kind, event.at) for event in told] == [("shadow.adaptive", 0.1), ("shadow.adaptive", 1.5)]
    assert told[0].facts == {"reason": "bulkhead_full", "inflight": 1, "limit": 1, "depth": 0, "queue": 0}
    for ticket in tickets:
        gate.settle(ticket, DONE, 2.0)
    assert gate.inflight == 0


# Partitions: AbstractPartitionedLimiterTest of concurrency-limits, with its numbers.


def parted() -> Adaptive:
    """Make a gate of ten, three of them for batch and seven for live."""
    rule = AdaptiveRule(initial=10, shares={"batch": 0.3, "live": 0.7})
    return Adaptive(rule, share=lambda call: call.key)


BATCH, LIVE = Call("shop", key="batch"), Call("shop", key="live")


def full(gate: Adaptive, call: Call) -> bool:
    """Say whether one more is refused; if not, it is in."""
    try:
        enter(gate, call=call)
    except BulkheadFull:
        return True
    return False


def test_partition_limits_are_exact() -> None:
    """limitAllocatedToBins: 0.07 of 100 is 7, though floats make it a little more."""
    gate = Adaptive(AdaptiveRule(initial=100, shares={"batch": 0.07}), share=lambda call: call.key)
    assert not any(full(gate, LIVE) for _ in range(100))
    assert [full(gate, BATCH) for _ in range(8)] == [False] * 7 + [True]


def test_partition_use_excess_capacity_until_total_limit() -> None:
    """useExcessCapacityUntilTotalLimit: idle shares are lent out."""
    gate = parted()
    assert [full(gate, BATCH) for _ in range(11)] == [False] * 10 + [True]
    assert gate.inflight_by_share == {"batch": 10, "live": 0}


def test_partition_exceed_total_limit_for_unused_bin() -> None:
    """exceedTotalLimitForUnusedBin: a guaranteed share is there though all is lent out."""
    gate = parted()
    assert [full(gate, BATCH) for _ in range(11)] == [False] * 10 + [True]
    assert [full(gate, LIVE) for _ in range(8)] == [False] * 7 + [True]


def test_partition_reject_once_all_limits_reached() -> None:
    """rejectOnceAllLimitsReached, which says limitAllocatedToBins too: three and seven, and no more of either."""
    gate = parted()
    assert not any(full(gate, BATCH) for _ in range(3))
    assert not any(full(gate, LIVE) for _ in range(7))
    assert full(gate, BATCH)
    assert full(gate, LIVE)


def test_partition_release_gives_the_share_back() -> None:
    """releaseLimit: who leaves makes room in his own share."""
    gate = parted()
    ticket = enter(gate, call=BATCH)
    assert not any(full(gate, BATCH) for _ in range(9))
    assert full(gate, BATCH)
    gate.settle(ticket, DONE, 0.1)
    assert gate.inflight_by_share == {"batch": 9, "live": 0}
    assert not full(gate, BATCH)


def test_partition_follows_the_limit_and_keeps_who_is_in() -> None:
    """setLimitReservesBusy: shares are parts, and a new limit forgets nobody."""
    gate = parted()
    enter(gate, call=BATCH)
    gate.rule = AdaptiveRule(initial=20, min_limit=20, shares={"batch": 0.3, "live": 0.7})
    assert gate.inflight_by_share == {"batch": 1, "live": 0}
    assert not any(full(gate, LIVE) for _ in range(19))
    assert [full(gate, BATCH) for _ in range(6)] == [False] * 5 + [True]


def test_stranger_has_no_share_and_takes_what_is_free() -> None:
    """Only names of the rule are counted: memory does not grow with what a client sends."""
    gate = parted()
    assert not any(full(gate, Call("shop", key=f"{number}")) for number in range(10))
    assert full(gate, Call("shop", key="11"))
    assert gate.inflight_by_share == {"batch": 0, "live": 0}


def test_shares_by_default_are_those_of_criticalities() -> None:
    """So that a rules file can name them."""
    gate = Adaptive(AdaptiveRule(initial=4, shares={"critical_plus": 0.5}))
    assert not any(full(gate, CALL) for _ in range(4))
    plus = Call("shop", criticality=Criticality.CRITICAL_PLUS)
    assert [full(gate, CALL), full(gate, plus), full(gate, plus), full(gate, plus)] == [True, False, False, True]


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"initial": 0}, "initial"),
        ({"initial": 5, "min_limit": 6}, "initial"),
        ({"initial": 5, "max_limit": 4}, "initial"),
        ({"rtt_max": 0.0}, "rtt_max"),
        ({"algorithm": "cubic"}, "algorithm"),
        ({"shares": {"live": 0.0}}, "shares.live"),
        ({"shares": {"live": 0.7, "batch": 0.4}}, "shares"),
        ({"shares": {"live": 0.7}, "queue": 1}, "queue"),
        ({"window": 0.0}, "window"),
        ({"samples": 501}, "samples"),
    ],
)
def test_rule_out_of_range_is_refused(wrong: dict[str, object], where: str) -> None:
    """With the field, the value and what is allowed."""
    with pytest.raises(RuleError, match=rf"^{where} ="):
        parse(AdaptiveRule, wrong)


@pytest.mark.parametrize("load", [0.5, 1.0, 2.0, 5.0])
def test_limit_is_within_fifteen_percent_of_the_capacity(load: float) -> None:
    """M/M/10 at half, all, twice and five times of what it can do: so much is done, in a bearable time."""
    gate, callee = Adaptive(), Callee(servers=10, service=0.05, seed=4)
    callee.serve(gate, load=load, seconds=80.0)
    expected = callee.capacity * min(load, 1.0)
    assert callee.goodput(20.0, 80.0) == pytest.approx(expected, rel=0.15)
    assert callee.round_trip(40.0) < 4 * callee.service
    assert gate.limit < 4 * callee.servers


def test_grant_and_withdrawal_race_in_every_order_of_lines() -> None:
    """Two leave, two wait, one of these gives up: in any order every permit comes back."""

    def scene() -> Scene:
        gate = Adaptive(AdaptiveRule(initial=2, queue=2))
        inside = [enter(gate), enter(gate)]
        waiting = [queue(gate), queue(gate)]

        def leave() -> None:
            gate.settle(inside.pop(), DONE, 0.01)

        def give_up() -> None:
            granted = gate.withdraw(waiting[0], 0.01)
            if granted is not None:
                gate.settle(granted, DONE, 0.01)

        def outcome() -> object:
            granted = gate.withdraw(waiting[1], 0.02)
            assert granted is not None
            gate.settle(granted, DONE, 0.02)
            return gate.inflight, gate.depth

        return [leave, leave, give_up], outcome

    assert set(outcomes(scene, watch=[adaptive, _line], seeds=range(20))) == {(0, 0)}


def test_permits_are_exact_after_a_storm_of_cancellations() -> None:
    """Every call is cancelled, refused, late or served: at the end every permit is back."""
    gate = Adaptive(AdaptiveRule(initial=3, min_limit=1, max_limit=5, queue=8, max_wait=0.4, samples=5, window=0.1))
    most = 0

    async def handler(call: Call) -> object:
        nonlocal most
        most = max(most, gate.inflight)
        await asyncio.sleep(0.05)
        return "done"

    async def scene() -> list[object]:
        loop = asyncio.get_running_loop()
        governed = aio.govern(Pipeline([gate]), handler, clock=loop.time)

        async def one(number: int) -> object:
            await asyncio.sleep(number * 0.013)
            return await governed(CALL)

        tasks = [asyncio.ensure_future(one(number)) for number in range(300)]
        for number, task in enumerate(tasks):
            if number % 3 == 0:
                loop.call_later(number * 0.013 + (number % 7) * 0.02, task.cancel)
        return await asyncio.gather(*tasks, return_exceptions=True)

    kinds = {type(each).__name__ for each in run(scene())}
    assert (gate.inflight, gate.depth) == (0, 0)
    assert most <= 5
    assert {"str", "CancelledError"} <= kinds <= {"str", "CancelledError", "BulkheadFull"}


def test_permits_are_exact_after_a_storm_of_threads() -> None:
    """The same with threads, of which some are interrupted at their work."""
    gate = Adaptive(AdaptiveRule(initial=3, max_limit=4, queue=4, max_wait=0.002, samples=5, window=0.01))

    def handler(call: Call) -> object:
        if call.key == "0":
            raise KeyboardInterrupt
        return "done"

    governed = sync.govern(Pipeline([gate]), handler)
    ended: list[str] = []

    def work() -> None:
        for number in range(60):
            try:
                governed(Call("shop", key=str(number % 7)))
            except (KeyboardInterrupt, BulkheadFull) as error:
                ended.append(type(error).__name__)
            else:
                ended.append("done")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    assert (gate.inflight, gate.depth, len(ended)) == (0, 0, 480)


class Walk(RuleBasedStateMachine):
    """An adaptive gate against a set of who is inside: whatever its limit does, permits are exact."""

    @initialize(shadow=st.booleans(), shares=st.booleans())
    def begin(self, shadow: bool, shares: bool) -> None:
        """Draw the rule."""
        self.now = 0.0
        self.inside: list[tuple[float, str]] = []
        self.gate = Adaptive(
            AdaptiveRule(
                initial=2,
                max_limit=6,
                window=0.5,
                samples=3,
                shadow=shadow,
                shares={"a": 0.5, "b": 0.25} if shares else None,
            ),
            share=lambda call: call.key,
        )

    @rule(key=st.sampled_from(["a", "b", "c"]))
    def come(self, key: str) -> None:
        """One more at the door: in if there is room, or if it is below its own share."""
        gate, shares = self.gate, self.gate.rule.shares or {}
        mine = sum(each == key for _, each in self.inside)
        share = max(1, -int(-gate.limit * shares[key] // 1)) if key in shares else 0
        if len(self.inside) < gate.limit or mine < share or gate.rule.shadow:
            self.inside.append((enter(gate, self.now, Call("shop", key=key)), key))
        else:
            with pytest.raises(BulkheadFull):
                gate.admit(Call("shop", key=key), self.now)

    @rule(data=st.data(), verdict=st.sampled_from([OK, TRANSIENT, IGNORED]), late=st.booleans())
    def leave(self, data: st.DataObject, verdict: Verdict, late: bool) -> None:
        """One of those inside is done."""
        if self.inside:
            ticket, _ = self.inside.pop(data.draw(st.integers(0, len(self.inside) - 1)))
            self.gate.settle(ticket, Outcome(verdict, error=TimeoutError() if late else None), self.now)

    @rule(seconds=st.floats(0.01, 2.0))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    @rule(most=st.integers(2, 8), algorithm=st.sampled_from(["vegas", "gradient2", "aimd"]))
    def reload(self, most: int, algorithm: str) -> None:
        """Change the rule."""
        old = self.gate.rule
        given = {"shadow": old.shadow, "shares": old.shares, "initial": 2, "samples": 3, "window": 0.5}
        self.gate.rule = parse(AdaptiveRule, {**given, "max_limit": most, "algorithm": algorithm})

    @invariant()
    def agrees(self) -> None:
        """Permits are those of the list, the limit is within its bounds."""
        if hasattr(self, "gate"):
            assert self.gate.inflight == len(self.inside)
            assert 1 <= self.gate.limit <= self.gate.rule.max_limit
            if not self.gate.rule.shadow:
                for name, busy in self.gate.inflight_by_share.items():
                    assert busy == sum(each == name for _, each in self.inside)


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
