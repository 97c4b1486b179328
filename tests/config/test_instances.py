"""One instance that is down does not close the door to the others."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from msgov.call import OK, TRANSIENT, Call, Outcome
from msgov.config import instances as module
from msgov.config.instances import InstanceBreakers
from msgov.errors import BreakerOpen
from msgov.resilience.breaker import CLOSED, OPEN, BreakerRule
from msgov.testing.dice import LoadedDice


@dataclass(frozen=True)
class Place:
    """An instance of a service."""

    id: str


def to(instance: str) -> Call:
    """Make a call that goes to an instance."""
    call = Call("payment", "Charge")
    call.instance = Place(instance)
    return call


def fail(breakers: InstanceBreakers, instance: str, *, times: int = 2) -> None:
    """Let calls to an instance fail."""
    for _ in range(times):
        breakers.settle(breakers.admit(to(instance), 0.0), Outcome(TRANSIENT), 0.0)


def breakers() -> InstanceBreakers:
    """Make breakers that open at the second failure."""
    return InstanceBreakers(BreakerRule(minimum_calls=2), name="payment/Charge", dice=LoadedDice(0.5, cycle=True))


def test_an_open_door_is_one_instances() -> None:
    """The call goes elsewhere, where it is let in."""
    gate = breakers()
    fail(gate, "one")
    with pytest.raises(BreakerOpen):
        gate.admit(to("one"), 0.0)
    gate.settle(gate.admit(to("two"), 0.0), Outcome(OK), 0.0)
    assert {name: breaker.state for name, breaker in gate.breakers.items()} == {"one": OPEN, "two": CLOSED}


def test_call_without_an_instance_has_a_breaker_too() -> None:
    """A channel with one fixed address picks nothing."""
    gate = breakers()
    for _ in range(2):
        gate.settle(gate.admit(Call("payment"), 0.0), Outcome(TRANSIENT), 0.0)
    with pytest.raises(BreakerOpen, match="payment/Charge"):
        gate.admit(Call("payment"), 0.0)


def test_new_rule_reaches_every_instance_and_keeps_its_window() -> None:
    """One failure before, one after: together they are two."""
    gate = InstanceBreakers(BreakerRule(minimum_calls=10))
    fail(gate, "one", times=1)
    gate.rule = BreakerRule(minimum_calls=2)
    fail(gate, "one", times=1)
    fail(gate, "two")
    assert [breaker.state for breaker in gate.breakers.values()] == [OPEN, OPEN]
    assert gate.rule == BreakerRule(minimum_calls=2)


def test_instances_are_bounded_and_a_sick_one_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restarts make new names for ever; what is forgotten is one that did well and that nobody calls any more."""
    monkeypatch.setattr(module, "MOST", 3)
    gate = breakers()
    fail(gate, "sick")
    for now, name in enumerate(("a", "b", "c", "d")):
        gate.settle(gate.admit(to(name), now * 20.0), Outcome(OK), now * 20.0)
    assert set(gate.breakers) == {"sick", "c", "d"}


def test_picker_is_told_which_instances_may_be_called() -> None:
    """An attempt that would meet an open breaker need not be made."""
    gate = breakers()
    fail(gate, "one")
    assert not gate.admits(Place("one"), 0.1)
    assert gate.admits(Place("two"), 0.1)
    assert gate.admits(Place("one"), 10.0)
