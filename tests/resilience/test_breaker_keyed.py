"""One key's outage is nobody else's, and no number of keys costs more memory than was said."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from msgov.call import IGNORED, OK, TRANSIENT, Call, Outcome
from msgov.errors import BreakerOpen
from msgov.event import Event, Observers
from msgov.pipeline import Pipeline
from msgov.resilience import Breaker, BreakerRule, Breakers, State, breaker_keyed
from msgov.resilience.breaker_keyed import OTHERS, per_instance, per_method, per_service
from msgov.sync import govern
from msgov.testing import ManualClock, outcomes
from tests.resilience.breaking import OFF

RULE = BreakerRule(minimum_calls=2, window=10.0, **OFF)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Place:
    """An instance of a service."""

    id: str


def by_key(most: int = 1000, rule: BreakerRule = RULE, observers: Observers | None = None) -> Breakers:
    """Make breakers by the call's key."""
    return Breakers(rule, key=lambda call: call.key, most=most, name="tenants", target="shop", observers=observers)


def ask(gate: Breakers, key: str, now: float, *, fails: bool = False) -> bool:
    """Call once for a key; say whether it was let in."""
    try:
        ticket = gate.admit(Call("shop", key=key), now)
    except BreakerOpen:
        return False
    gate.settle(ticket, Outcome(TRANSIENT if fails else OK), now)
    return True


def test_one_key_that_is_down_leaves_the_others_alone() -> None:
    """Listenarr 867: one breaker for all trips everything."""
    gate = by_key()
    for _ in range(2):
        ask(gate, "sick", 0.0, fails=True)
    assert not ask(gate, "sick", 0.1)
    assert ask(gate, "well", 0.1)


def test_one_breaker_a_key_lives_on_from_call_to_call() -> None:
    """aspnetcore 48089: a breaker made anew for each request never trips."""
    gate = by_key()
    assert gate.admit(Call("shop", key="a"), 0.0)[0] is gate.admit(Call("shop", key="a"), 1.0)[0]


def test_breakers_can_be_listed_with_their_keys() -> None:
    """Polly 1828: nobody could see which of them was open."""
    gate = by_key()
    ask(gate, "a", 0.0)
    for _ in range(2):
        ask(gate, "b", 0.0, fails=True)
    assert {key: breaker.state for key, breaker in gate.breakers.items()} == {"a": State.CLOSED, "b": State.OPEN}
    assert gate.breakers["b"].snapshot(0.0)["key"] == "b"


def test_refusals_and_events_name_the_key() -> None:
    """As a fact, never as a label: labels must be few."""
    told: list[Event] = []
    gate = by_key(observers=Observers(told.append))
    for _ in range(2):
        ask(gate, "sick", 0.0, fails=True)
    with pytest.raises(BreakerOpen, match="tenants at sick: breaker open") as caught:
        gate.admit(Call("shop", key="sick"), 0.1)
    assert (caught.value.facts["key"], told[0].facts["key"], told[0].name) == ("sick", "sick", "tenants")


def test_only_a_closed_and_idle_key_is_forgotten_and_the_oldest_first() -> None:
    """R4J 703, hystrix-go 95: memory grew with every key; forgetting an outage would be worse."""
    gate = by_key(most=3)
    for _ in range(2):
        ask(gate, "sick", 0.0, fails=True)
    ask(gate, "old", 0.0)
    ask(gate, "busy", 0.0)
    ask(gate, "busy", 9.5)
    ask(gate, "new", 10.0)
    assert set(gate.breakers) == {"sick", "busy", "new"}
    ask(gate, "newer", 10.0)
    assert set(gate.breakers) == {"sick", "busy", "new", OTHERS}
    ask(gate, "newer", 19.5)
    assert set(gate.breakers) == {"sick", "newer", "new", OTHERS}


def test_of_those_that_may_be_forgotten_the_least_recently_used_is() -> None:
    """It came first or last: when it was asked is what counts."""
    gate = by_key(most=3)
    for now, key in ((0.0, "a"), (1.0, "b"), (2.0, "c"), (3.0, "a"), (20.0, "d"), (20.0, "e")):
        ask(gate, key, now)
    assert set(gate.breakers) == {"a", "d", "e"}


def test_no_call_pays_for_looking_at_all_of_them() -> None:
    """Among a thousand that are busy eight are looked at; the next new key looks at the next."""
    gate = by_key(most=1000)
    for key in range(1000):
        ask(gate, str(key), 0.0 if key == 500 else 5.0)
    for number in range(63):
        ask(gate, f"new-{number}", 10.0)
    assert "500" not in gate.breakers
    assert gate.overflowed == 62


def test_keys_for_which_there_is_no_room_share_one_breaker() -> None:
    """A million keys that come and go cost as much as so many; what they share opens when most of them fail."""
    gate = by_key(most=10)
    for key in range(10):
        ask(gate, str(key), 0.0)
    for key in range(10, 1000):
        ask(gate, str(key), 0.1, fails=True)
    assert len(gate.breakers) == 11
    assert gate.overflowed == 990
    assert gate.breakers[OTHERS].state is State.OPEN
    assert not ask(gate, "stranger", 0.2)
    assert ask(gate, "3", 0.2)


def test_call_under_way_when_its_key_is_forgotten_is_settled_where_it_began() -> None:
    """Its ticket holds the breaker; nobody else hears of it."""
    gate = by_key(most=1)
    ticket = gate.admit(Call("shop", key="old"), 0.0)
    ask(gate, "new", 11.0)
    gate.settle(ticket, Outcome(TRANSIENT), 12.0)
    assert set(gate.breakers) == {"new"}
    assert gate.breakers["new"].counts["failure"] == 0


def test_new_rule_reaches_all_of_them_and_keeps_what_they_know() -> None:
    """The shared one too."""
    gate = by_key(most=1)
    for key in ("a", "b"):
        ask(gate, key, 0.0, fails=True)
    gate.rule = BreakerRule(minimum_calls=3, **OFF)  # type: ignore[arg-type]
    for key in ("a", "b"):
        ask(gate, key, 0.0, fails=True)
        assert ask(gate, key, 0.0)
        ask(gate, key, 0.0, fails=True)
    assert [breaker.state for breaker in gate.breakers.values()] == [State.OPEN, State.OPEN]
    assert gate.rule.minimum_calls == 3


def test_ready_is_asked_by_key_and_makes_none() -> None:
    """Looking at a key must not take a place."""
    gate = by_key()
    assert gate.ready("unknown", 0.0)
    assert not gate.breakers
    for _ in range(2):
        ask(gate, "sick", 0.0, fails=True)
    assert not gate.ready("sick", 0.1)
    assert gate.ready("sick", 5.0)


def test_scopes_by_name() -> None:
    """Instance, method, service."""
    call = Call("payment", "Charge")
    assert (per_instance(call), per_method(call), per_service(call)) == ("", "payment/Charge", "payment")
    call.instance = Place("10.0.0.1:80")
    assert per_instance(call) == "10.0.0.1:80"


def test_service_method_and_instance_together() -> None:
    """Each scope counts for itself; what an inner one refuses says nothing to the outer ones."""
    service = Breaker(BreakerRule(minimum_calls=8, **OFF))  # type: ignore[arg-type]
    method = Breakers(BreakerRule(minimum_calls=5, **OFF), key=per_method)  # type: ignore[arg-type]
    instance = Breakers(RULE, key=per_instance)
    failing, seen = {"a"}, list[str]()

    def handler(call: Call) -> object:
        assert call.instance is not None
        seen.append(call.instance.id)
        if call.instance.id in failing:
            raise ConnectionError
        return "done"

    governed = govern(Pipeline([service, method, instance]), handler, clock=ManualClock())

    def go(method: str, instance: str) -> object:
        call = Call("payment", method)
        call.instance = Place(instance)
        try:
            return governed(call)
        except (BreakerOpen, ConnectionError) as error:
            return type(error)

    assert [go("Charge", "a") for _ in range(4)] == [ConnectionError] * 2 + [BreakerOpen] * 2
    assert go("Charge", "b") == "done"
    assert service.counts["ignored"] == 2
    failing |= {"b", "c"}
    assert [go("Charge", "b"), go("Charge", "c")] == [ConnectionError, ConnectionError]  # 4 of 5 of the method
    assert go("Charge", "d") is BreakerOpen
    assert go("Refund", "d") == "done"
    assert (seen[-1], service.state) == ("d", State.CLOSED)


def test_two_threads_make_one_breaker_for_a_key() -> None:
    """Or one of them would count for nothing."""

    def scene():  # type: ignore[no-untyped-def]
        gate = by_key()
        act = lambda: ask(gate, "a", 0.0, fails=True)  # noqa: E731
        return [act, act], lambda: (len(gate.breakers), gate.breakers["a"].state)

    assert set(outcomes(scene, watch=[breaker_keyed], seeds=range(20))) == {(1, State.OPEN)}


def test_cancelled_call_gives_nothing_to_its_key() -> None:
    """Neutral, as in one breaker."""
    gate = by_key()
    for _ in range(5):
        gate.settle(gate.admit(Call("shop", key="a"), 0.0), Outcome(IGNORED), 0.0)
    assert gate.breakers["a"].snapshot(0.0)["window_calls"] == 0
