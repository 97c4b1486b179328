"""A caller is told where it stands by the numbers that decided."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from msgov import sync
from msgov.call import Call
from msgov.errors import BulkheadFull, RateLimited
from msgov.pipeline import Pipeline
from msgov.policy import Waiting
from msgov.resilience.limiter import Limiter, LimiterRule
from msgov.resilience.standing import Announced, Standing


def standing(gate: Limiter, now: float) -> Standing:
    """Admit one call and say where its caller stands."""
    ticket = gate.admit(Call("shop"), now)
    assert not isinstance(ticket, Waiting)
    (found,) = gate.standings(ticket, now)
    return found


def test_ticket_is_the_snapshot_of_its_call() -> None:
    """What others do after it does not change what it says."""
    gate = Limiter(LimiterRule(rate="100/minute"), name="api")
    tickets = [gate.admit(Call("shop"), 0.0) for _ in range(3)]
    told = [gate.standings(ticket, 0.0)[0] for ticket in tickets if not isinstance(ticket, Waiting)]
    assert [each.remaining for each in told] == [99, 98, 97]
    assert told[2] == Standing("api", 100, 60, 97, told[2].reset)
    assert told[2].reset == pytest.approx(1.8)


@pytest.mark.parametrize(
    ("rule", "remaining", "reset"),
    [
        (LimiterRule(rate="10/minute"), [9, 8, 7], 18.0),
        (LimiterRule(rate="10/minute", algorithm="leaky"), [9], 6.0),
        (LimiterRule(rate="10/minute", algorithm="sliding_window"), [9, 8, 7], 120.0),
        (LimiterRule(rate="10/minute", warm_up=600.0), [2, 1, 0], 53.0),
        (LimiterRule(rate=2.5, burst=4), [3, 2, 1], 1.2),
    ],
)
def test_every_algorithm_tells_what_is_left(rule: LimiterRule, remaining: list[int], reset: float) -> None:
    """As many as it says do fit after it."""
    gate = Limiter(rule)
    told = [standing(gate, 0.0) for _ in remaining]
    assert [each.remaining for each in told] == remaining
    assert told[-1].reset == pytest.approx(reset, rel=0.2)
    for _ in range(told[-1].remaining):
        gate.admit(Call("shop"), 0.0)
    with pytest.raises(RateLimited):
        gate.admit(Call("shop"), 0.0)


def test_several_limits_tell_one_standing_each() -> None:
    """Under a name each."""
    gate = Limiter(LimiterRule(rate="10/second, 200/minute"), name="api")
    ticket = gate.admit(Call("shop"), 0.0)
    assert not isinstance(ticket, Waiting)
    told = gate.standings(ticket, 0.0)
    assert [(each.name, each.quota, each.window, each.remaining) for each in told] == [
        ("api-1s", 10, 1, 9),
        ("api-60s", 200, 60, 199),
    ]


def test_ticket_is_read_after_the_rule_has_changed() -> None:
    """A change between the decision and its telling breaks no reply."""
    gate = Limiter(LimiterRule(rate="10/minute"))
    first = gate.admit(Call("shop"), 0.0)
    gate.rule = LimiterRule(rate="10/minute", algorithm="sliding_window")
    second = gate.admit(Call("shop"), 0.0)
    gate.rule = LimiterRule(rate="10/minute", warm_up=10.0)
    for ticket, left in ((first, 9), (second, 8)):
        assert not isinstance(ticket, Waiting)
        assert gate.standings(ticket, 0.0)[0].remaining == left


@pytest.mark.parametrize("algorithm", ["gcra", "sliding_window"])
def test_refusal_tells_its_standing(algorithm: str) -> None:
    """From the same numbers, never a negative one (flask-limiter #62)."""
    gate = Limiter(LimiterRule(rate="2/minute", algorithm=algorithm), name="api")  # type: ignore[arg-type]
    for _ in range(2):
        gate.admit(Call("shop"), 0.0)
    with pytest.raises(RateLimited) as refused:
        gate.admit(Call("shop"), 0.0)
    found = Standing.of(refused.value)
    assert found is not None
    assert (found.name, found.quota, found.window, found.remaining) == ("api", 2, 60, 0)
    assert found.reset > 0
    assert refused.value.retry_after is not None
    assert refused.value.retry_after <= found.reset


def test_other_refusals_tell_none() -> None:
    """A full bulkhead speaks of no quota, nor does a call that will never fit."""
    assert Standing.of(BulkheadFull("full", limit=3)) is None
    with pytest.raises(RateLimited) as refused:
        Limiter(LimiterRule(rate=1.0), cost=lambda call: 5.0).admit(Call("shop"), 0.0)
    assert Standing.of(refused.value) is None


def test_edge_is_told_after_each_decision() -> None:
    """Let in or refused, in a pipeline, by the limiter that others share."""
    gate = Limiter(LimiterRule(rate="2/hour"), name="api")
    told: list[tuple[str, list[int]]] = []

    def tell(call: Call, standings: Sequence[Standing]) -> None:
        told.append((call.method, [each.remaining for each in standings]))

    call = sync.govern(Pipeline([Announced(gate, tell)]), lambda call: "done")
    assert [call(Call("shop", method)) for method in "ab"] == ["done", "done"]
    with pytest.raises(RateLimited) as refused:
        call(Call("shop", "c"))
    assert told == [("a", [1]), ("b", [0]), ("c", [0])]
    assert (refused.value.policy, refused.value.name) == ("limiter", "api")
    assert gate.admitted == 2


def test_place_in_line_passes_through() -> None:
    """A leaky limiter waits as it would without being announced."""
    gate = Limiter(LimiterRule(rate=50.0, burst=3, algorithm="leaky"))
    told: list[int] = []
    call = sync.govern(Pipeline([Announced(gate, lambda call, each: told.append(len(each)))]), lambda call: "done")
    assert [call(Call("shop")) for _ in range(3)] == ["done"] * 3
    assert told == [1]
