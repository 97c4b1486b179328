"""Each attempt gets an instance, and the balancer hears what became of it."""

from __future__ import annotations

import asyncio
import math

import pytest

from msgov.aio import govern
from msgov.call import TRANSIENT, Call, Outcome
from msgov.discovery import Instance, Pick, RoundRobin, Snapshot, TwoChoices
from msgov.discovery.instance import snapshot
from msgov.errors import NoInstance
from msgov.latest import Latest
from msgov.pipeline import Pipeline
from msgov.policy import Plan

A, B = (Instance("order", "10.0.0.1", 1, id=name) for name in "ab")


class Twice(Plan):
    """Try once more, at once."""

    def next(self, call: Call, tries: int, outcome: Outcome | None, now: float) -> float | None:
        return 0.0 if outcome is not None and tries < 2 else None


def known(*instances: Instance) -> Latest[Snapshot]:
    """Know some instances."""
    latest: Latest[Snapshot] = Latest("order")
    latest.put(snapshot("order", instances), 0.0)
    return latest


def test_retry_goes_to_another_instance() -> None:
    """It stands inside the seam, so each attempt is picked by itself and remembers where the others went."""

    async def handler(call: Call) -> str:
        assert call.instance is not None
        if call.attempt == 1:
            raise ConnectionError("refused")
        return call.instance.id

    call = Call("order")
    pipeline = Pipeline([Twice(), Pick(known(A, B), RoundRobin(start=0))])

    async def main() -> object:
        return await govern(pipeline, handler)(call)

    assert asyncio.run(main()) == "b"
    assert call.tried == [A, B]


def test_balancer_learns_from_each_attempt() -> None:
    """Exactly once, with the attempt's own outcome."""
    choices = TwoChoices(failed=1.0)
    pick = Pick(known(A), choices)
    ticket = pick.admit(Call("order"), 1.0)
    assert choices.cost(A, 1.0) == pytest.approx(2e-6)  # one in flight, nothing heard yet
    pick.settle(ticket, Outcome(TRANSIENT, seconds=2.0), 3.0)
    assert choices.cost(A, 3.0) == pytest.approx(2.0 / math.exp(-0.2), rel=1e-3)


def test_gate_outside_says_who_may_be_called() -> None:
    """The per-instance breaker is somebody else's; it is asked with the instance and the time."""
    asked: list[tuple[str, float]] = []

    def admits(instance: Instance, now: float) -> bool:
        asked.append((instance.id, now))
        return instance is B

    pick = Pick(known(A, B), RoundRobin(start=0), admits=admits)
    call = Call("order")
    pick.admit(call, 5.0)
    assert call.instance is B
    assert asked == [("a", 5.0), ("b", 5.0)]


def test_nothing_known_is_no_instance() -> None:
    """Not sent, so safe to try elsewhere; and it says what the registry's trouble is."""
    latest: Latest[Snapshot] = Latest("order")
    latest.fail(ConnectionError("registry refused"))
    with pytest.raises(NoInstance, match=r"order: nothing is known yet \(registry refused\)"):
        Pick(latest, RoundRobin()).admit(Call("order"), 0.0)


def test_new_knowledge_counts_from_the_next_call_on() -> None:
    """One attribute read a call."""
    latest = known(A)
    pick = Pick(latest, RoundRobin())
    call = Call("order")
    pick.admit(call, 0.0)
    latest.put(snapshot("order", [B]), 1.0)
    pick.admit(call, 1.0)
    assert call.tried == [A, B]
