"""While there is too much to do what matters least is left undone, and the rest is done well."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Hashable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from msgov.call import IGNORED, OK, TRANSIENT, Call, Outcome
from msgov.clock import dice
from msgov.errors import RuleError, Shed
from msgov.event import Event, Observers
from msgov.resilience import Shedder, ShedRule, shed, shed_levels
from msgov.scope import Criticality
from msgov.testing import outcomes
from tests.resilience.queueing import Callee

Scene = tuple[list[Callable[[], object]], Callable[[], Hashable]]

SHEDDABLE, SHEDDABLE_PLUS, CRITICAL, CRITICAL_PLUS = Criticality
CALL = Call("shop")
PLUS = Call("shop", criticality=CRITICAL_PLUS)
DONE = Outcome(OK)


def seen(rate: int = 10, seconds: float = 0.5, rule: ShedRule | None = None, **how: object) -> Shedder:
    """Make a gate that has seen two calm seconds of so many calls, each of this length; now it is 3.0."""
    gate = Shedder(rule or ShedRule(), name="shop", dice=dice(1), **how)  # type: ignore[arg-type]
    serve(gate, 0.0, rate, seconds, 3)
    return gate


def serve(gate: Shedder, start: float, rate: int, seconds: float, count: int, outcome: Outcome = DONE) -> None:
    """Let so many seconds pass, each with so many calls of this length that end in it."""
    for second in range(count):
        for number in range(rate):
            at = start + second + number / rate
            gate.settle(gate.admit(CALL, at - seconds), outcome, at)


def fill(gate: Shedder, count: int, now: float = 3.0, call: Call = CALL) -> int:
    """Bring so many to the door; return how many are let in."""
    return sum(fits(gate, now, call) for _ in range(count))


def fits(gate: Shedder, now: float = 3.0, call: Call = CALL) -> bool:
    """Say whether one more is let in; it stays."""
    try:
        gate.admit(call, now)
    except Shed:
        return False
    return True


def test_calm_process_sheds_nothing() -> None:
    """However much is in flight: there are other gates for that."""
    gate = seen()
    gate.sense(cpu=0.8, lag=0.1, delay=0.1)  # at the mark, not above it
    assert (gate.strained, fill(gate, 1000), gate.inflight) == ("", 1000, 1000)


@pytest.mark.parametrize("reading", ["cpu", "lag", "delay"])
def test_each_reading_alone_strains(reading: str) -> None:
    """One of them is enough, and the refusal says which."""
    gate = seen()
    gate.sense(**{reading: 0.9})
    assert gate.strained == reading
    fill(gate, 10)
    with pytest.raises(Shed) as refused:
        gate.admit(CALL, 3.0)
    assert refused.value.facts["because"] == reading


def test_ceiling_is_the_best_throughput_times_the_usual_round_trip() -> None:
    """bbr: ten a second of half a second each are five in flight; more only wait."""
    assert seen(10, 0.5).ceiling == 5
    assert seen(100, 0.2).ceiling == 20


def test_ceiling_is_never_below_one() -> None:
    """A process in which nothing is in flight can do something, whatever its CPU says."""
    gate = seen(1, 0.001)
    gate.sense(cpu=1.0)
    assert (gate.ceiling, fits(gate)) == (1, True)


def test_nothing_is_shed_before_a_second_was_seen() -> None:
    """A start is a hundred percent of CPU, and no reason to refuse the first calls."""
    gate = Shedder()
    gate.sense(cpu=1.0)
    assert fill(gate, 100) == 100


def test_all_stop_at_twice_the_ceiling_and_the_most_critical_at_four_times() -> None:
    """Before a threshold is known this is what holds."""
    gate = seen()
    gate.sense(cpu=0.9)
    assert fill(gate, 100) == 10
    assert fill(gate, 100, call=PLUS) == 10
    assert (gate.inflight, gate.rejected) == (20, 180)


def test_refusal_carries_the_numbers_that_decided() -> None:
    """Whoever is shed can be told why, and when it is decided anew."""
    gate = seen()
    gate.sense(cpu=0.93, lag=0.02, delay=0.01)
    fill(gate, 10)
    with pytest.raises(
        Shed, match=r"shop: critical call shed, 10 in flight of 5, level 2\.\d+ below .* cpu"
    ) as refused:
        gate.admit(CALL, 3.25)
    facts = dict(refused.value.facts)
    assert 2.0 <= float(facts.pop("level") or 0) < 3.0
    assert facts == {
        "because": "cpu",
        "criticality": "critical",
        "threshold": 0.0,
        "inflight": 10,
        "ceiling": 5,
        "cpu": 0.93,
        "lag": 0.02,
        "delay": 0.01,
    }
    assert (refused.value.retry_after, refused.value.overloaded) == (0.75, True)


def test_shedding_goes_on_for_a_second_after_the_last() -> None:
    """bbr: it is because of the shedding that the reading is good again."""
    gate = seen()
    gate.sense(cpu=0.9)
    fill(gate, 11, 3.0)
    gate.sense(cpu=0.1)
    assert (fits(gate, 3.9), fits(gate, 4.95)) == (False, True)


def test_crowd_does_not_become_the_usual() -> None:
    """Were round trips learnt while strained, the ceiling would follow whatever is in flight."""
    gate = seen(10, 0.5)
    gate.sense(cpu=0.9)
    serve(gate, 3.5, 10, 0.9, 30)
    assert gate.ceiling == 5
    gate.sense(cpu=0.1)
    serve(gate, 40.5, 10, 0.9, 20)
    assert gate.ceiling == 9


@pytest.mark.parametrize("outcome", [Outcome(IGNORED), Outcome(TRANSIENT)])
def test_what_was_not_done_is_no_throughput(outcome: Outcome) -> None:
    """A thousand errors in a millisecond each are not what the process can do."""
    gate = seen()
    serve(gate, 4.0, 500, 0.001, 3, outcome)
    assert (gate.ceiling, gate.inflight) == (5, 0)


def crowded(inside: int, offered: int) -> Shedder:
    """Make a gate that can do a hundred a second, with so many inside, and offer so many of the lower three classes."""
    gate = seen(100, 0.2)
    fill(gate, inside)
    gate.sense(cpu=0.9)
    for number in range(offered):
        assert not fits(gate, 3.0 + number / offered, Call("shop", criticality=Criticality(number % 3)))
    assert not fits(gate, 4.0)
    return gate


def test_threshold_lets_in_what_can_be_done_of_what_matters_most() -> None:
    """A hundred a second can be done, twenty are in flight too many: eighty of a hundred and sixty, the upper half."""
    gate = crowded(40, 160)
    assert 1.0 < gate.threshold < 2.0
    for _ in range(20):
        gate.settle(3.0, DONE, 4.0)  # between the ceiling and twice of it the threshold decides
    assert [fits(gate, 4.0, Call("shop", criticality=each)) for each in (SHEDDABLE, CRITICAL)] == [False, True]
    for _ in range(2):
        gate.settle(3.0, DONE, 4.0)  # and below the ceiling nobody is refused
    assert fits(gate, 4.0, Call("shop", criticality=SHEDDABLE))


def test_crowd_inside_is_drained_first() -> None:
    """Sixty too many leave room for forty of a hundred and sixty: the upper quarter, not the upper two thirds."""
    assert 2.0 < crowded(80, 160).threshold < 3.0


def test_great_crowd_locks_nobody_out() -> None:
    """However many are in flight, a tenth of what can be done is let in."""
    gate = crowded(500, 160)
    for _ in range(475):
        gate.settle(3.0, DONE, 4.0)
    came = [fits(gate, 4.5, Call("shop", criticality=Criticality(number % 3))) for number in range(160)]
    assert 4 <= sum(came) <= 40


def test_second_under_way_counts_for_what_can_be_done() -> None:
    """A calm night says little of what the process can do: what it does now is better."""
    gate = seen(10, 0.5)
    gate.sense(cpu=0.9)
    for number in range(100):
        gate.settle(gate.admit(CALL, 3.0 + number / 100), DONE, 3.0 + number / 100)
    fits(gate, 4.0)
    assert gate.threshold == 0.0


def test_time_without_calls_is_no_throughput() -> None:
    """One call of three seconds each two seconds are one and a half in flight."""
    gate = Shedder()
    for number in range(10):
        gate.settle(gate.admit(CALL, number * 2.0 - 3.0), DONE, number * 2.0)
    assert gate.ceiling == 2


def test_tenant_is_forgiven_after_a_while() -> None:
    """Five seconds are remembered: who was heavy then is like the others half a minute later."""

    def level(now: float) -> float:
        with pytest.raises(Shed) as refused:
            gate.admit(Call("shop", key="heavy"), now)
        return float(refused.value.facts["level"] or 0)

    gate = seen(100, 1.0)
    gate.sense(cpu=0.9)
    for number in range(10):
        fits(gate, call=Call("shop", key=f"{number}"))
    fill(gate, 190, call=Call("shop", key="heavy"))
    assert level(3.5) < 2.3
    assert [level(4.0 + second) for second in range(40)][-1] > 2.4


def test_criticality_may_be_a_function_of_the_call() -> None:
    """A server knows better than a stranger how much its own pages matter."""
    gate = seen(criticality=lambda call: CRITICAL_PLUS if call.method == "pay" else SHEDDABLE)
    gate.sense(cpu=0.9)
    fill(gate, 10)
    assert [fits(gate, call=Call("shop", method)) for method in ("list", "pay")] == [False, True]


def test_new_rule_keeps_what_was_seen() -> None:
    """A reload starts nothing anew."""
    gate = seen()
    ticket = gate.admit(CALL, 3.0)
    gate.rule = ShedRule(cpu=0.5, window=2)
    gate.sense(cpu=0.6)
    assert (gate.ceiling, gate.inflight, gate.strained) == (5, 1, "cpu")
    gate.settle(ticket, DONE, 3.1)
    assert gate.inflight == 0


def test_shadow_counts_and_tells_and_lets_in() -> None:
    """So that marks can be watched before they are believed."""
    told: list[Event] = []
    gate = seen(rule=ShedRule(shadow=True), observers=Observers(told.append))
    gate.sense(cpu=0.9)
    assert (fill(gate, 15), gate.inflight, gate.would_reject, gate.rejected) == (15, 15, 5, 0)
    assert (fits(gate, 4.5), len(told)) == (True, 2)
    assert (told[0].kind, told[0].facts["reason"], told[0].facts["inflight"]) == ("shadow.shed", "shed", 10)


@pytest.mark.parametrize("wrong", [{"cpu": 0.0}, {"cpu": 1.5}, {"lag": 0.0}, {"delay": -1.0}, {"window": 0}])
def test_rule_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    """With the field, the value and the range."""
    with pytest.raises(RuleError, match=next(iter(wrong))):
        ShedRule(**wrong)  # type: ignore[arg-type]


class Day:
    """Fifteen calm seconds at half of what ten servers can do, then forty at `load` times that, with the real gate."""

    def __init__(self, load: float, *, weights: tuple[int, ...] = (1,) * 10, shadow: bool = False) -> None:
        self.gate = Shedder(ShedRule(shadow=shadow), dice=dice(1))
        self.callee = Callee(servers=10, service=0.05, seed=1)
        self.cpu = 0.0
        calls = {c: [Call("shop", key=f"{n}", criticality=c) for n in range(len(weights))] for c in Criticality}

        def who(draw: random.Random) -> Call:
            return draw.choices(calls[draw.choice(list(Criticality))], weights)[0]

        self.callee.serve(self.gate, load=0.5, seconds=15.0, who=who, tick=self.look)
        self.callee.serve(self.gate, load=load, seconds=40.0, start=15.0, who=who, tick=self.look)
        self.done = Counter(call for at, call, _ in self.callee.done if at > 15.0)
        self.came = self.done + Counter(call for at, call in self.callee.refused if at > 15.0)

    def look(self, now: float) -> None:
        """Read what the pump would read: busy servers are the CPU, their line is the threads' queue."""
        self.cpu += (self.callee.busy / self.callee.servers - self.cpu) * 0.01
        self.gate.sense(cpu=self.cpu, delay=len(self.callee.line) / self.callee.capacity)

    def success(self, kind: Callable[[Call], bool]) -> float:
        """Return the share of calls of a kind that were done."""
        came = sum(n for call, n in self.came.items() if kind(call))
        return sum(n for call, n in self.done.items() if kind(call)) / came


def test_high_criticality_succeeds_at_three_times_the_load() -> None:
    """99 % of CRITICAL_PLUS, and no capacity is wasted over it."""
    day = Day(3.0)
    by_class = [day.success(lambda call, each=each: call.criticality is each) for each in Criticality]  # type: ignore[misc]
    assert by_class[3] >= 0.99
    assert by_class[2] > 0.2 > 0.1 > max(by_class[:2])
    assert day.callee.goodput(20.0, 55.0) > 0.95 * day.callee.capacity
    assert day.callee.round_trip(20.0) < 3 * day.callee.service


def test_without_shedding_the_same_load_drowns_everyone() -> None:
    """Else the test before it says nothing."""
    day = Day(3.0, shadow=True)
    assert day.gate.would_reject > 1000
    assert day.callee.round_trip(40.0) > 100 * day.callee.service


def test_tenant_who_asks_ten_times_as_much_gets_no_more() -> None:
    """Inside a class the level falls with what was let in, so each gets about the same."""
    day = Day(3.0, weights=(10, *[1] * 10))
    mine = [
        sum(n for call, n in day.done.items() if call.key == f"{key}" and call.criticality == 2) for key in range(11)
    ]
    others = sorted(mine[1:])
    assert mine[0] < 1.5 * others[-1]
    assert others[0] > 0.4 * others[-1]
    assert day.success(lambda call: call.key == "0" and call.criticality == 2) < 0.2


def test_moderate_load_sheds_almost_nothing() -> None:
    """At seven tenths the CPU is not above its mark but for moments."""
    assert Day(0.7).success(lambda call: True) > 0.995


def test_threads_race_in_every_order_of_lines() -> None:
    """Two come to one place while a third leaves: what is in flight is exact."""

    def scene() -> Scene:
        gate = seen(10, 0.1)  # a ceiling of one
        gate.sense(cpu=0.9)
        ticket = gate.admit(CALL, 3.0)
        let_in: list[float] = []

        def come() -> None:
            try:
                let_in.append(gate.admit(CALL, 3.0))
            except Shed:
                pass

        return [come, come, lambda: gate.settle(ticket, DONE, 3.1)], lambda: gate.inflight - len(let_in)

    assert set(outcomes(scene, watch=[shed, shed_levels], seeds=range(20))) == {0}


class Walk(RuleBasedStateMachine):
    """A shedder against a list of who is inside: whatever it is told, it is exact and never idle."""

    @initialize(shadow=st.booleans())
    def begin(self, shadow: bool) -> None:
        """Draw the rule."""
        self.gate = Shedder(ShedRule(shadow=shadow, window=3), dice=dice(1))
        self.now = 0.0
        self.inside: list[float] = []
        self.shed = 0

    @rule(key=st.sampled_from("abc"), criticality=st.sampled_from(Criticality))
    def come(self, key: str, criticality: Criticality) -> None:
        """One more at the door: nobody is turned away below the ceiling, and none is let in far above it."""
        gate, busy = self.gate, len(self.inside)
        calm = not gate.strained
        try:
            self.inside.append(gate.admit(Call("shop", key=key, criticality=criticality), self.now))
        except Shed as error:
            self.shed += 1
            assert busy >= max(1, gate.ceiling)
            assert not gate.rule.shadow
            assert error.facts["inflight"] == busy
        else:
            assert calm or gate.rule.shadow or busy < 4 * gate.ceiling

    @rule(data=st.data(), verdict=st.sampled_from([OK, TRANSIENT, IGNORED]))
    def leave(self, data: st.DataObject, verdict: object) -> None:
        """One of those inside is done."""
        if self.inside:
            ticket = self.inside.pop(data.draw(st.integers(0, len(self.inside) - 1)))
            self.gate.settle(ticket, Outcome(verdict), self.now)  # type: ignore[arg-type]

    @rule(seconds=st.floats(0.01, 2.0))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    @rule(cpu=st.sampled_from([0.0, 0.9]), lag=st.sampled_from([0.0, 0.0, 1.0]))
    def look(self, cpu: float, lag: float) -> None:
        """Tell it the readings."""
        self.gate.sense(cpu=cpu, lag=lag)

    @invariant()
    def agrees(self) -> None:
        """It counts what is inside, and what it shed."""
        if hasattr(self, "gate"):
            assert (self.gate.inflight, self.gate.rejected) == (len(self.inside), self.shed)
            assert self.gate.ceiling >= 1


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
