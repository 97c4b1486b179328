"""One that is down must not close the door to the others: each key has a breaker of its own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from msgov.call import Call, Outcome
from msgov.clock import Dice
from msgov.event import Observers
from msgov.policy import Gate
from msgov.resilience.breaker import Breaker
from msgov.resilience.breaker_rule import BreakerRule
from msgov.resilience.breaker_states import CLOSED

OTHERS: Final = "*"  # the key of the breaker of all for whom there is no room
_LOOKS: Final = 8  # entries looked at for each new key: no call pays for all of them


def per_instance(call: Call) -> str:
    """Key by the instance that the attempt goes to; "" where nothing was picked."""
    instance = call.instance
    return "" if instance is None else instance.id


def per_method(call: Call) -> str:
    """Key by service and method, for one gate in front of many services."""
    return f"{call.target}/{call.method}"


def per_service(call: Call) -> str:
    """Key by service."""
    return call.target


class Breakers(Gate[tuple[Breaker, int]]):
    """A breaker for each key, all by one rule.

    `key` is a function of the call: `per_instance`, `per_method`, `per_service`, or your own (a tenant, a shard, a
    path). Scopes add up by standing one inside the other: a call that an inner one refuses says nothing to the outer
    one. Raises what `Breaker` raises, with the key among the facts.

    At most `most` keys are remembered. For a new one the least recently used is forgotten (of eight that are looked at,
    as Redis does it), and only if its breaker is closed and was not asked for a whole window: it knows nothing any
    more. With none such, new keys share one breaker, the key "*", so that memory has a bound and no outage is
    forgotten; `overflowed` counts their calls.
    """

    def __init__(
        self,
        rule: BreakerRule,
        *,
        key: Callable[[Call], str],
        most: int = 1000,
        name: str = "",
        target: str = "",
        dice: Dice | None = None,
        observers: Observers | None = None,
    ) -> None:
        self.name = name
        self.target = target
        self.most = most
        self.overflowed = 0
        self._key = key
        self._rule = rule
        self._dice = dice
        self._observers = observers
        self._each: dict[str, _Kept] = {}
        self._others: _Kept | None = None
        self._line: deque[_Kept] = deque()  # all in `_each`, in the order in which they are looked at
        self._lock = threading.Lock()

    @property
    def rule(self) -> BreakerRule:
        """The rule in force; storing another keeps every window and state."""
        return self._rule

    @rule.setter
    def rule(self, rule: BreakerRule) -> None:
        with self._lock:
            self._rule = rule
            breakers = tuple(self._all())
        for breaker in breakers:
            breaker.rule = rule

    @property
    def breakers(self) -> Mapping[str, Breaker]:
        """The breakers by key; that of the keys for which there was no room stands under "*"."""
        with self._lock:
            return MappingProxyType({breaker.key: breaker for breaker in self._all()})

    def admit(self, call: Call, now: float) -> tuple[Breaker, int]:
        """Ask the breaker of the call's key."""
        key = self._key(call)
        breaker = self._each.get(key) or self._add(key, now)
        breaker.used = now
        return breaker, breaker.admit(call, now)

    def settle(self, ticket: tuple[Breaker, int], outcome: Outcome, now: float) -> None:
        """Tell the breaker that let the call in."""
        breaker, its = ticket
        breaker.settle(its, outcome, now)

    def ready(self, key: str, now: float) -> bool:
        """Say whether the breaker of a key may let a call in now; an unknown key's does."""
        breaker = self._each.get(key)
        return breaker is None or breaker.ready(now)

    def _all(self) -> list[_Kept]:
        return [*self._each.values(), *(() if self._others is None else (self._others,))]

    def _add(self, key: str, now: float) -> _Kept:
        with self._lock:
            found = self._each.get(key)
            if found is not None:
                return found
            if len(self._each) < self.most or self._forget(now):
                found = self._each[key] = self._make(key, now)
                self._line.append(found)
                return found
            self.overflowed += 1
            if self._others is None:
                self._others = self._make(OTHERS, now)
            return self._others

    def _make(self, key: str, now: float) -> _Kept:
        made = _Kept(
            self._rule, name=self.name, target=self.target, key=key, dice=self._dice, observers=self._observers
        )
        made.used = now
        return made

    def _forget(self, now: float) -> bool:
        """Forget the least recently used of a few, if one of them knows nothing any more; say whether it did."""
        looked = [self._line.popleft() for _ in range(min(_LOOKS, len(self._line)))]
        idle = [each for each in looked if each.state is CLOSED and now - each.used >= self._rule.window]
        oldest = min(idle, key=lambda each: each.used, default=None)
        self._line.extend(each for each in looked if each is not oldest)
        if oldest is not None:
            del self._each[oldest.key]
        return oldest is not None


class _Kept(Breaker):
    """A breaker with the time at which it was last asked."""

    used = 0.0
