"""Every choice avoids who must not be called, and who was tried, as long as there is another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from msgov.call import OK, Call, Outcome
from msgov.discovery import Balancer, Instance, RoundRobin, Snapshot, TwoChoices
from msgov.discovery.instance import snapshot
from msgov.errors import NoInstance

ABC = [Instance("order", f"10.0.0.{n}", 1, id=name) for n, name in enumerate("abc", start=1)]


def pool(*changed: Instance) -> Snapshot:
    """Make a snapshot of a, b and c, some of them changed."""
    return snapshot("order", (ABC if not changed else [*changed, *ABC])[:])


def with_states(**states: str) -> Snapshot:
    """Make a snapshot of a, b and c, some draining or unhealthy."""
    return snapshot(
        "order",
        [
            replace(instance, draining=states.get(instance.id) == "draining", healthy=states.get(instance.id) != "ill")
            for instance in ABC
        ],
    )


def call(*tried: str) -> Call:
    """Make a call that has tried some."""
    made = Call("order")
    made.tried = [instance for instance in ABC if instance.id in tried]
    return made


BOTH = pytest.mark.parametrize("make", [RoundRobin, TwoChoices])


def picked(balancer: Balancer[object], snapshot: Snapshot, *tried: str, allowed: str = "abc") -> set[str]:
    """Pick many times; return who was picked."""
    admits = None if allowed == "abc" else lambda instance, now: instance.id in allowed
    return {balancer.pick(snapshot, call(*tried), 0.0, admits=admits).id for _ in range(60)}


@BOTH
def test_all_that_take_calls_get_some(make: Callable[[], Balancer[object]]) -> None:
    """Healthy instances share the work."""
    assert picked(make(), pool()) == {"a", "b", "c"}


@BOTH
def test_draining_and_unhealthy_get_none(make: Callable[[], Balancer[object]]) -> None:
    """One is about to leave, of the other the registry says that it is not well; even a retry does not go there."""
    assert picked(make(), with_states(a="draining", b="ill")) == {"c"}
    assert picked(make(), with_states(a="draining", b="ill"), "c") == {"c"}
    assert picked(make(), with_states(a="draining"), "b") == {"c"}


@BOTH
def test_another_attempt_goes_elsewhere(make: Callable[[], Balancer[object]]) -> None:
    """Where it has just failed it will probably fail again."""
    assert picked(make(), pool(), "a") == {"b", "c"}
    assert picked(make(), pool(), "a", "c") == {"b"}


@BOTH
def test_when_all_were_tried_any_will_do(make: Callable[[], Balancer[object]]) -> None:
    """A retry is asked for by the plan; that there is no other place is no reason to refuse it."""
    assert picked(make(), pool(), "a", "b", "c") == {"a", "b", "c"}


@BOTH
def test_who_may_not_be_called_is_passed_over(make: Callable[[], Balancer[object]]) -> None:
    """An open breaker keeps its instance out; tried and allowed comes before untried and not allowed."""
    assert picked(make(), pool(), allowed="bc") == {"b", "c"}
    assert picked(make(), pool(), "b", allowed="bc") == {"c"}
    assert picked(make(), pool(), "b", "c", allowed="bc") == {"b", "c"}


@BOTH
@pytest.mark.parametrize(
    ("known", "allowed", "why"),
    [
        (snapshot("order", []), "abc", "no instance is known"),
        (with_states(a="draining", b="draining", c="ill"), "abc", "of 3 instances none takes calls"),
        (pool(), "", "of 3 instances none may be called now"),
        (with_states(a="draining"), "a", "of 2 instances none may be called now"),
    ],
)
def test_no_choice_says_why(make: Callable[[], Balancer[object]], known: Snapshot, allowed: str, why: str) -> None:
    """Not registered, leaving and failing are mended in three different places."""
    with pytest.raises(NoInstance, match=why):
        picked(make(), known, allowed=allowed)
    with pytest.raises(NoInstance, match=why):
        picked(make(), known, "a", allowed=allowed)


@BOTH
def test_ticket_outlives_its_instance(make: Callable[[], Balancer[object]]) -> None:
    """An instance may leave while it is being called; its call is settled all the same."""
    balancer = make()
    gone = balancer.begin(balancer.pick(pool(), call(), 0.0), 0.0)
    late = balancer.begin(Instance("order", "a", 9), 0.0)
    assert picked(balancer, snapshot("order", ABC[:1])) == {"a"}
    balancer.done(gone, Outcome(OK, seconds=1), 1.0)
    balancer.done(late, Outcome(OK, seconds=1), 1.0)


def test_round_robin_takes_turns() -> None:
    """Exactly, from where it was told to begin, across a snapshot that says the same."""
    balancer = RoundRobin(start=1)
    order = [balancer.pick(known, call(), 0.0).id for known in (pool(), pool()) for _ in range(3)]
    assert order == ["b", "c", "a", "b", "c", "a"]


def test_round_robin_begins_anywhere() -> None:
    """Or a hundred clients that start together would all begin with the same instance."""
    assert {RoundRobin().pick(pool(), call(), 0.0).id for _ in range(100)} == {"a", "b", "c"}
