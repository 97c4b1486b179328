"""One instance that is down must not close the door to the others: each has a breaker of its own."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from msgov.call import Call, Outcome
from msgov.clock import Dice
from msgov.event import Observers
from msgov.policy import Gate
from msgov.resilience.breaker import CLOSED, Breaker, BreakerRule

MOST: Final = 1000  # instances; restarts make new ones, and what is forgotten first is an old one that did well


class InstanceBreakers(Gate[tuple[Breaker, int]]):
    """A breaker for each instance that a call goes to, all by one rule.

    Stands inside the retry, after the pick: a call that meets an open one is not sent, and the next attempt goes to
    another instance. A call without an instance has a breaker too. Raises what `Breaker` raises.
    """

    def __init__(
        self,
        rule: BreakerRule,
        *,
        name: str = "",
        target: str = "",
        dice: Dice | None = None,
        observers: Observers | None = None,
    ) -> None:
        self.name = name
        self.target = target
        self._rule = rule
        self._dice = dice
        self._observers = observers
        self._each: dict[str, Breaker] = {}
        self._lock = threading.Lock()

    @property
    def rule(self) -> BreakerRule:
        """The rule in force; storing another keeps every window and state."""
        return self._rule

    @rule.setter
    def rule(self, rule: BreakerRule) -> None:
        with self._lock:
            self._rule = rule
            breakers = tuple(self._each.values())
        for breaker in breakers:
            breaker.rule = rule

    @property
    def breakers(self) -> Mapping[str, Breaker]:
        """The breakers by instance id."""
        with self._lock:
            return MappingProxyType(dict(self._each))

    def admit(self, call: Call, now: float) -> tuple[Breaker, int]:
        """Ask the breaker of the instance that the attempt goes to."""
        instance = call.instance
        breaker = self._each.get("" if instance is None else instance.id)
        if breaker is None:
            breaker = self._add("" if instance is None else instance.id)
        return breaker, breaker.admit(call, now)

    def settle(self, ticket: tuple[Breaker, int], outcome: Outcome, now: float) -> None:
        """Tell the breaker that let the call in."""
        breaker, its = ticket
        breaker.settle(its, outcome, now)

    def _add(self, instance: str) -> Breaker:
        with self._lock:
            found = self._each.get(instance)
            if found is None:
                if len(self._each) >= MOST:
                    well = (old for old, breaker in self._each.items() if breaker.state is CLOSED)
                    del self._each[next(well, next(iter(self._each)))]
                found = self._each[instance] = Breaker(
                    self._rule, name=self.name, target=self.target, dice=self._dice, observers=self._observers
                )
        return found
