"""An instance that is down does not close the door to the others: a rule book's breakers, instance by instance."""

from __future__ import annotations

from typing import Final

from msgov.call import Call, Endpoint
from msgov.clock import Dice
from msgov.event import Observers
from msgov.resilience.breaker import Breaker
from msgov.resilience.breaker_keyed import Breakers, per_instance
from msgov.resilience.breaker_rule import BreakerRule

MOST: Final = 1000  # instances; restarts make new ones, and what is forgotten is one that nobody calls any more


class InstanceBreakers(Breakers):
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
        super().__init__(rule, key=per_instance, most=MOST, name=name, target=target, dice=dice, observers=observers)

    def admit(self, call: Call, now: float) -> tuple[Breaker, int]:
        """Ask the breaker of the instance that the attempt goes to."""
        instance = call.instance  # as in `per_instance`, without a call more: every outgoing attempt comes by here
        key = "" if instance is None else instance.id
        breaker = self._each.get(key) or self._add(key, now)
        breaker.used = now
        return breaker, breaker.admit(call, now)

    def admits(self, instance: Endpoint, now: float) -> bool:
        """Say whether a call to the instance may be let in now: what `Pick` asks before it chooses."""
        return self.ready(instance.id, now)
