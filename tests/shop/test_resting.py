"""The breakers before a call are asked without being moved: the answer is theirs, the call is not made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from msgov import Call, Service
from msgov.call import IGNORED, TRANSIENT, Outcome
from msgov.config.instances import InstanceBreakers
from msgov.discovery.instance import Instance, snapshot
from msgov.testing import ManualClock
from shop.resting import resting

CHARGE = "/shop.v1.Payment/Charge"
RULES = """
[call."payment/Charge"]
breaker = {minimum_calls = 2, window = 10, open_seconds = 4, open_cap = 4, probes = 2}
"""
ONE, TWO = Instance("payment", "127.0.0.1", 1001), Instance("payment", "127.0.0.1", 1002)


class Caller:
    """A service that calls payment, at a time of the test's choosing."""

    def __init__(self, folder: Path) -> None:
        rules = folder / "rules.toml"
        rules.write_text(RULES)
        self.clock = ManualClock(100.0)
        self.svc = Service("order", config=rules, logs="off", environ={}, clock=self.clock)
        self.ask = resting(self.svc, "payment", CHARGE)
        self.pick = self.svc.targets.pick("payment")
        chain = self.svc.policies.for_call("payment", CHARGE, pick=self.pick)
        (self.breakers,) = (gate for gate in chain if isinstance(gate, InstanceBreakers))

    def knows(self, *instances: Instance) -> None:
        """Take what the registry says."""
        self.pick.latest.put(snapshot("payment", instances), self.clock())

    def fails(self, instance: Instance) -> None:
        """Fail often enough to open an instance's breaker."""
        for _ in range(2):
            call = Call("payment", CHARGE)
            call.instance = instance
            self.breakers.settle(self.breakers.admit(call, self.clock()), Outcome(TRANSIENT), self.clock())


@pytest.fixture
def caller(tmp_path: Path) -> Iterator[Caller]:
    """Make one, and close it."""
    made = Caller(tmp_path)
    yield made
    made.svc.close()


def test_nothing_rests_as_long_as_one_instance_is_well(caller: Caller) -> None:
    """Also before anything is known: the call itself then says what is wrong."""
    assert caller.ask() is None
    caller.knows(ONE, TWO)
    caller.fails(ONE)
    assert caller.ask() is None


def test_it_rests_when_every_breaker_is_open(caller: Caller) -> None:
    """For as long as the first of them stays open."""
    caller.knows(ONE, TWO)
    caller.fails(ONE)
    caller.clock.advance(1.0)
    caller.fails(TWO)
    wait = caller.ask()
    assert wait is not None
    assert 1.0 <= wait <= 3.0  # two to four seconds are drawn, one has passed
    caller.clock.advance(wait)
    assert caller.ask() is None


def test_an_instance_that_takes_no_calls_is_not_asked(caller: Caller) -> None:
    """A closed breaker of one that is leaving helps nobody."""
    caller.knows(ONE, Instance("payment", "127.0.0.1", 1002, draining=True))
    caller.fails(ONE)
    assert caller.ask() is not None


def test_asking_takes_no_probe(caller: Caller) -> None:
    """However often: the probes are for calls."""
    caller.knows(ONE)
    caller.fails(ONE)
    caller.clock.advance(4.0)
    assert [caller.ask() for _ in range(10)] == [None] * 10
    call = Call("payment", CHARGE)
    call.instance = ONE
    tickets = [caller.breakers.admit(call, caller.clock()) for _ in range(2)]
    assert caller.ask() is not None
    caller.breakers.settle(tickets[0], Outcome(IGNORED), caller.clock())
    assert caller.ask() is None
