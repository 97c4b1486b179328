"""Of two drawn, the one that will answer sooner; vectors of Finagle's PeakEwma, and a simulation of what it is for."""

from __future__ import annotations

import heapq
import math
import random
import threading
from dataclasses import replace

import pytest

from msgov.call import IGNORED, OK, PERMANENT, TRANSIENT, Call, Outcome, Verdict
from msgov.discovery import Instance, Snapshot, TwoChoices
from msgov.discovery.instance import snapshot
from msgov.errors import RuleError
from msgov.testing.dice import LoadedDice

A, B, C = (Instance("order", "10.0.0.1", 1, id=name) for name in "abc")
CALL = Call("order")


def balancer(known: Snapshot, now: float = 0.0) -> TwoChoices:
    """Make one that knows its instances; of two, it draws a and then b."""
    made = TwoChoices(dice=LoadedDice(0.0, cycle=True))
    made.pick(known, CALL, now)
    return made


def answered(choices: TwoChoices, instance: Instance, seconds: float, now: float, verdict: Verdict = OK) -> None:
    """Call an instance that answers at `now` after `seconds`."""
    ticket = choices.begin(instance, now - seconds)
    choices.done(ticket, Outcome(verdict, seconds=seconds), now)


def cost(choices: TwoChoices, instance: Instance, now: float) -> float:
    """Read a cost in milliseconds."""
    found = choices.cost(instance, now)
    assert found is not None
    return found * 1000


def test_latency_fades_by_tau() -> None:
    """100 ms, tau 10 s, idle for 10 s: 36.79 ms."""
    choices = balancer(snapshot("order", [A, B]))
    answered(choices, A, 0.1, now=1.0)
    assert cost(choices, A, 1.0) == pytest.approx(100, rel=1e-3)
    assert cost(choices, A, 11.0) == pytest.approx(36.79, rel=1e-3)


def test_of_a_stream_the_time_to_its_first_message_counts() -> None:
    """One that is open for an hour comes from an instance as quick as any."""

    class Streamed(Outcome):
        first = 0.1

    choices = balancer(snapshot("order", [A, B]))
    choices.done(choices.begin(A, 1.0), Streamed(OK, seconds=3600.0), 3601.0)
    assert cost(choices, A, 3601.0) == pytest.approx(100, rel=1e-3)


def test_slower_answer_replaces_at_once() -> None:
    """An instance that turns slow must lose its calls within one of them."""
    choices = balancer(snapshot("order", [A, B]))
    answered(choices, A, 0.01, now=1.0)
    answered(choices, A, 0.5, now=1.1)
    assert cost(choices, A, 1.1) == pytest.approx(500, rel=1e-3)


def test_faster_answer_is_believed_by_and_by() -> None:
    """One fast answer of a slow instance is luck; after tau it counts for 63 %."""
    choices = balancer(snapshot("order", [A, B]))
    answered(choices, A, 0.1, now=1.0)
    answered(choices, A, 0.01, now=11.0)
    assert cost(choices, A, 11.0) == pytest.approx(100 * math.exp(-1) + 10 * (1 - math.exp(-1)), rel=1e-3)


def test_calls_in_flight_multiply_the_cost() -> None:
    """Each one waits behind the others; when all have answered the cost is what it was."""
    choices = balancer(snapshot("order", [A, B]))
    answered(choices, A, 0.1, now=1.0)
    tickets = [choices.begin(A, 1.0) for _ in range(3)]
    assert cost(choices, A, 1.0) == pytest.approx(400, rel=1e-3)
    for ticket in tickets:
        choices.done(ticket, Outcome(IGNORED), 1.0)
    assert cost(choices, A, 1.0) == pytest.approx(100, rel=1e-3)


def test_age_of_calls_in_flight_counts() -> None:
    """A black hole answers nothing, so nothing else tells of it; up to `failed`, for a long stream is no black hole."""
    choices = balancer(snapshot("order", [A, B]))
    answered(choices, A, 0.01, now=1.0)
    choices.begin(A, 1.0)
    choices.begin(A, 1.2)
    assert cost(choices, A, 1.4) == pytest.approx(300 * 3, rel=1e-3)
    assert cost(choices, A, 100.0) == pytest.approx(1000 * 3, rel=1e-3)


def test_weight_divides_the_cost() -> None:
    """Twice the weight, half the cost; an operator's change counts from the next snapshot on."""
    choices = balancer(snapshot("order", [A, B]))
    answered(choices, A, 0.1, now=1.0)
    choices.pick(snapshot("order", [replace(A, weight=2.0), B]), CALL, 1.0)
    assert cost(choices, A, 1.0) == pytest.approx(50, rel=1e-3)


def test_fast_failure_is_no_speed() -> None:
    """What refuses in a millisecond looks the fastest of all; it counts as a second, and by its failures besides."""
    choices = balancer(snapshot("order", [A, B]))
    answered(choices, A, 0.1, now=1.0)
    answered(choices, B, 0.001, now=1.0, verdict=TRANSIENT)
    assert cost(choices, B, 1.0) == pytest.approx(1000 / 0.9, rel=1e-3)
    for _ in range(50):
        answered(choices, B, 0.001, now=1.0, verdict=TRANSIENT)
    assert cost(choices, B, 1.0) == pytest.approx(1000 / 0.01, rel=1e-3)
    for _ in range(50):
        answered(choices, B, 0.001, now=60.0)
    assert cost(choices, B, 60.0) < 10


@pytest.mark.parametrize(("verdict", "counts"), [(IGNORED, False), (PERMANENT, True)])
def test_answers_count_and_cancellations_do_not(verdict: Verdict, counts: bool) -> None:
    """Not found is an answer like any other; who hung up says nothing about who was called."""
    choices = balancer(snapshot("order", [A, B]))
    answered(choices, A, 0.1, now=1.0)
    answered(choices, A, 0.4, now=1.0, verdict=verdict)
    assert cost(choices, A, 1.0) == pytest.approx(400 if counts else 100, rel=1e-3)


def test_newcomer_stands_at_the_median() -> None:
    """Neither flooded, as with zero, nor starved, as with Finagle's penalty."""
    choices = balancer(snapshot("order", [A, B]))
    answered(choices, A, 0.1, now=1.0)
    answered(choices, B, 0.3, now=1.0)
    choices.pick(snapshot("order", [A, B, C]), CALL, 1.0)
    assert cost(choices, C, 1.0) == pytest.approx(200, rel=1e-3)
    answered(choices, C, 0.01, now=1.1)
    assert cost(choices, C, 1.1) == pytest.approx(10, rel=1e-3)


def test_first_answer_of_all_is_a_guess_for_the_rest() -> None:
    """Else everybody not heard of yet would look free until it answered once."""
    choices = balancer(snapshot("order", [A, B, C]))
    answered(choices, A, 0.1, now=1.0)
    assert cost(choices, B, 1.0) == pytest.approx(100, rel=1e-3)


def test_what_was_learned_outlasts_a_snapshot() -> None:
    """A membership change elsewhere must not forget who is slow; who leaves is forgotten."""
    choices = balancer(snapshot("order", [A, B]))
    answered(choices, A, 0.1, now=1.0)
    choices.pick(snapshot("order", [A, C]), CALL, 1.0)
    assert cost(choices, A, 1.0) == pytest.approx(100, rel=1e-3)
    assert choices.cost(B, 1.0) is None


def test_lower_cost_wins() -> None:
    """Whichever was drawn first."""
    choices = balancer(snapshot("order", [A, B]))
    answered(choices, A, 0.1, now=0.1)
    answered(choices, B, 0.01, now=0.1)
    assert {choices.pick(snapshot("order", [A, B]), CALL, 0.2).id for _ in range(10)} == {"b"}


def test_idle_loser_is_tried_once_in_a_while() -> None:
    """An estimate grows old; looking again costs one call a second over all instances, however many there are."""
    known = snapshot("order", [A, B])
    choices = balancer(known)
    answered(choices, A, 0.1, now=0.1)
    answered(choices, B, 0.01, now=0.1)
    picks = []
    for tick in range(1, 51):
        now = 0.1 + tick / 10
        instance = choices.pick(known, CALL, now)
        choices.done(choices.begin(instance, now), Outcome(OK, seconds=0.01 if instance is B else 0.1), now)
        picks.append(instance.id)
    assert picks.count("a") == 5
    assert picks.index("a") >= 8  # idle for a second by then


def test_slow_crowd_costs_one_call_a_second() -> None:
    """If each idle instance were tried each second, ten slow ones would get ten calls a second."""
    slow = [Instance("order", "10.0.0.1", 1, id=f"slow{n}") for n in range(10)]
    known = snapshot("order", [A, *slow])
    rolls = [roll for n in range(10) for roll in (0.0, n / 10 + 0.05)]  # A against each of them in turn
    choices = TwoChoices(dice=LoadedDice(*rolls, cycle=True), tau=3600)
    for instance in (A, *slow):
        choices.pick(known, CALL, 0.0)
        answered(choices, instance, 0.01 if instance is A else 1.0, now=0.1)
    tried = 0
    for tick in range(1000):
        now = 0.1 + tick / 100
        instance = choices.pick(known, CALL, now)
        choices.done(choices.begin(instance, now), Outcome(IGNORED), now)
        tried += instance is not A
    assert 5 <= tried <= 10


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["tau", "failed", "idle"])
def test_settings_have_ranges(name: str, value: float) -> None:
    """Zero would divide, NaN would compare with nothing."""
    given = {"tau": 10.0, "failed": 1.0, "idle": 1.0} | {name: value}
    with pytest.raises(RuleError, match=f"{name} = .*above 0 and at most 3600 s"):
        TwoChoices(tau=given["tau"], failed=given["failed"], idle=given["idle"])


def test_count_in_flight_survives_threads() -> None:
    """A count that drifts would shun an instance for ever."""
    choices = balancer(snapshot("order", [A, B]))
    answered(choices, A, 0.1, now=1.0)

    def work() -> None:
        for _ in range(2000):
            choices.done(choices.begin(A, 1.0), Outcome(IGNORED), 1.0)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cost(choices, A, 1.0) == pytest.approx(100, rel=1e-3)


class Simulation:
    """Calls in virtual time: ten instances that serve one call at a time each, clients that come at random."""

    def __init__(self, seed: int, *, rate: float, seconds: float) -> None:
        self.dice = random.Random(seed)
        self.rate = rate
        self.seconds = seconds
        self.instances = [Instance("order", "10.0.0.1", 1, id=f"i{n}") for n in range(10)]
        self.known = snapshot("order", self.instances)
        self.choices = TwoChoices(dice=self.dice)
        self.waits: list[float] = []
        self.counts = dict.fromkeys((instance.id for instance in self.instances), 0)

    def serve(self, instance: Instance) -> tuple[float, Verdict]:
        """Take 10 ms on average, like most."""
        return self.dice.expovariate(100), OK

    def run(self) -> None:
        """Let the calls come, wait, be served and be learned from."""
        free = dict.fromkeys(self.counts, 0.0)
        ends: list[tuple[float, int, object, Outcome]] = []
        now, number = 0.0, 0
        while now < self.seconds:
            now += self.dice.expovariate(self.rate)
            while ends and ends[0][0] <= now:
                when, _, ticket, outcome = heapq.heappop(ends)
                self.choices.done(ticket, outcome, when)  # type: ignore[arg-type]  # its own ticket
            instance = self.choices.pick(self.known, CALL, now)
            ticket = self.choices.begin(instance, now)
            seconds, verdict = self.serve(instance)
            end = max(now, free[instance.id]) + seconds
            free[instance.id] = end
            number += 1
            self.counts[instance.id] += 1
            self.waits.append(end - now)
            heapq.heappush(ends, (end, number, ticket, Outcome(verdict, seconds=end - now)))

    def share(self, id_: str) -> float:
        """Return an instance's share of all calls."""
        return self.counts[id_] / sum(self.counts.values())


class OneSlow(Simulation):
    """One instance takes ten times as long."""

    def serve(self, instance: Instance) -> tuple[float, Verdict]:
        seconds, verdict = super().serve(instance)
        return (seconds * 10 if instance.id == "i0" else seconds), verdict


class OneFailing(Simulation):
    """One instance fails in a tenth of the time."""

    def serve(self, instance: Instance) -> tuple[float, Verdict]:
        seconds, verdict = super().serve(instance)
        return (seconds / 10, TRANSIENT) if instance.id == "i0" else (seconds, verdict)


@pytest.mark.parametrize("seed", range(3))
def test_slow_instance_gets_little(seed: int) -> None:
    """Of ten, one that is ten times slower gets far less than its tenth."""
    simulation = OneSlow(seed, rate=300, seconds=20)
    simulation.run()
    assert simulation.share("i0") < 0.02


@pytest.mark.parametrize("seed", range(3))
def test_fast_failing_instance_pulls_no_traffic(seed: int) -> None:
    """Least-request and plain EWMA send it nearly everything."""
    simulation = OneFailing(seed, rate=300, seconds=20)
    simulation.run()
    assert simulation.share("i0") < 0.01


@pytest.mark.parametrize("seed", range(3))
def test_equal_instances_share_equally(seed: int) -> None:
    """Each gets about its tenth."""
    simulation = Simulation(seed, rate=300, seconds=20)
    simulation.run()
    assert all(abs(simulation.share(id_) - 0.1) < 0.05 for id_ in simulation.counts)
