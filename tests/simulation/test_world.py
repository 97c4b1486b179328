"""The world is what queueing theory says it is, or it proves nothing."""

from __future__ import annotations

import pytest

from msgov.call import OK, Call, Outcome
from msgov.resilience import Bulkhead, BulkheadRule, Deadline
from tests.simulation.arms import NAIVE, ours
from tests.simulation.scene import SECONDS, WORKERS, Trigger, play
from tests.simulation.world import Callee, Client, World


def served(world: World, callee: Callee, rate: float, seconds: float) -> list[float]:
    """Offer a Poisson stream; return how long each call took that was answered."""
    took: list[float] = []

    def arrive() -> None:
        if world.now >= seconds:
            return
        began = world.now
        callee.ask(None, lambda outcome: took.append(world.now - began))
        world.after(world.chance.expovariate(rate), arrive)

    arrive()
    world.run(seconds)
    return took


def test_overloaded_callee_serves_its_capacity_and_no_more() -> None:
    """Sixteen workers of 40 ms are 400 a second."""
    world = World(1)
    took = served(world, Callee(world, [], workers=2 * WORKERS, seconds=SECONDS), 800.0, 60.0)
    assert len(took) / 60 == pytest.approx(400, rel=0.02)


def test_one_worker_at_half_its_load_takes_twice_the_service_time() -> None:
    """M/M/1: the mean time in the system is 1 / (mu - lambda)."""
    world = World(1)
    took = served(world, Callee(world, [], workers=1, seconds=0.04), 12.5, 4000.0)
    assert sum(took) / len(took) == pytest.approx(0.08, rel=0.05)


def test_the_same_seed_is_the_same_world() -> None:
    """A failure that is seen once is seen again."""
    one, two = (play(ours(), Trigger(capacity=0.25), load=0.5, seed=7, after=5.0) for _ in range(2))
    assert (one.offered, one.good, one.sent) == (two.offered, two.good, two.sent)
    assert play(ours(), Trigger(capacity=0.25), load=0.5, seed=8, after=5.0).offered != one.offered


@pytest.mark.parametrize("threads", [True, False])
def test_nothing_happens_where_nothing_goes_wrong(threads: bool) -> None:
    """Below its capacity every arm is good: what collapses later was well before."""
    for arm in (ours(), NAIVE):
        told = play(arm, Trigger(), load=0.8, seed=3, after=10.0, threads=threads)
        assert told.goodput(0, 40) > 0.999
        assert told.amplification < 1.001


def test_a_call_that_waits_in_a_line_gets_its_turn_or_its_refusal() -> None:
    """A gate that makes a call wait is walked as the drivers walk it; every permit comes back."""
    world = World(1)
    gate = Bulkhead(BulkheadRule(limit=1, queue=1, max_wait=1.0))
    client = Client(world, Callee(world, [], workers=9, seconds=0.001), [Deadline(5.0), gate])
    told: list[Outcome] = []
    for _ in range(3):
        client.call(told.append)
    world.run(10.0)
    assert sorted(outcome.verdict is OK for outcome in told) == [False, True, True]
    assert (gate.inflight, gate.depth) == (0, 0)


def test_expired_call_leaves_a_server_of_a_loop_and_not_one_of_threads() -> None:
    """Who waits longer than its time is cut off there; a thread runs on for nobody."""
    for threads, cut in ((True, False), (False, True)):
        world = World(1)
        callee = Callee(world, [Deadline(60.0)], workers=1, seconds=100.0, threads=threads)
        told: list[tuple[float, Outcome]] = []
        callee.ask(0.5, lambda outcome, told=told, world=world: told.append((world.now, outcome)))  # type: ignore[misc]
        world.run(1000.0)
        assert (told[0][0] == 0.5) is cut
    assert Call("callee").deadline is None
