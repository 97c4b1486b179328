"""Admit so many calls a second for each key, and remember one number per key.

GCRA, the generic cell rate algorithm of ITU-T I.371: a key's number is the time at which its bucket will be full again,
and a call that would push it further ahead than the burst allows is early by exactly that much. The other algorithms
share its book-keeping.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from msgov.call import Call, Outcome
from msgov.errors import RateLimited, RuleError
from msgov.event import Observers
from msgov.policy import Waiting
from msgov.resilience.limiter_algorithms import Algorithm, Bucket, Left, algorithm
from msgov.resilience.limiter_keys import PLAIN, SHARED, Keys, digest
from msgov.resilience.limiter_rule import LimiterRule
from msgov.resilience.standing import Metered, Standing

__all__ = ["Cost", "Limiter", "LimiterRule", "Ticket"]

Cost = Callable[[Call], float]
Ticket = float | tuple[Algorithm[Any], object]
"""A snapshot of the key: of a plain bucket when it will be full again, else the state with what can read it."""

_DEFAULT: Final = LimiterRule()
_EARLY = 1e-3  # a timer may ring this much too soon
_QUIET = 1.0  # seconds between two events of one limiter in shadow


class Limiter(Metered[Ticket]):
    """Refuse what comes faster than the rate, each key for itself.

    Keys are `call.key`, or what the `key` function makes of the call. At most `keys_max` are remembered, and only one
    that has nothing in use is forgotten, so that forgetting frees nobody: rotating a million keys never frees a
    limited one. When all are in use, new keys share one bucket.

    A call costs 1, or what `cost` makes of it: any number from 0 up. Raises `RateLimited`, whose `retry_after` is
    exact; None where the call costs more than the burst and will never fit. Raises `RuleError` for a cost that is no
    such number. A "leaky" one answers with a place in line, if the call's deadline leaves time for it; a place that
    was given up is not given to another.

    Counters: `admitted`, `rejected`, `would_reject` (in shadow), `overflowed` (calls decided by the shared bucket).
    Events: "shadow.limiter", at most one a second.
    """

    waits = True  # a new rule may be a leaky one
    learns = False

    def __init__(
        self,
        rule: LimiterRule = _DEFAULT,
        *,
        key: Callable[[Call], str] | None = None,
        cost: Cost | None = None,
        name: str = "",
        target: str = "",
        observers: Observers | None = None,
    ) -> None:
        self.name = name
        self.target = target
        self.admitted = 0
        self.rejected = 0
        self.would_reject = 0
        self.overflowed = 0
        self._key = key
        self._cost = cost
        self._observers = observers or Observers()
        self._lock = threading.Lock()
        self._last = 0.0
        self._told = -math.inf
        self._algorithm = algorithm(rule)
        self._keys = Keys(self._algorithm.free, rule.keys_max)
        self._set(rule)

    @property
    def rule(self) -> LimiterRule:
        """The rule in force; storing another keeps what each key has used, counted in calls."""
        return self._rule

    @rule.setter
    def rule(self, rule: LimiterRule) -> None:
        with self._lock:
            if _arithmetic(rule) != _arithmetic(self._rule):
                was, new, now = self._algorithm, algorithm(rule), self._last
                self._keys.turn(new.free, lambda state: new.after(was.used(state, now), now))
                self._algorithm = new
            self._keys.most = rule.keys_max
            self._set(rule)

    def _set(self, rule: LimiterRule) -> None:
        self._rule = rule
        self._leaky = rule.algorithm == "leaky"
        self._limit, self._burst = rule.per_second, rule.at_once  # read from text once, not at each call
        rate = rule.rate if isinstance(rule.rate, str) else f"{rule.rate:g} calls/s"
        why = f"more than {rate}, {rule.at_once:g} at once"
        self._facts: dict[str, Any] = {"limiter": self.name, "limit": rule.per_second, "burst": rule.at_once}
        # A plain bucket is decided in a few lines of `admit`; for all else they see no key, which costs them nothing.
        self._full: dict[str, float] = {}
        self._step = self._reach = 0.0
        bucket = self._algorithm
        self._bucket = bucket if isinstance(bucket, Bucket) else Bucket(rule.limits[0])  # reads tickets that are floats
        if bucket is self._bucket and self._cost is None and not self._leaky and not rule.shadow:
            self._full = self._keys.states
            self._step = self._bucket.step
            self._reach = self._bucket.ahead - self._bucket.step + self._bucket.grain
        limit = self._bucket.limit
        facts = {**self._facts, "quota": limit.quota, "window": limit.window}
        self._says = (why, facts, self._bucket.ahead - self._bucket.step)

    @property
    def limit(self) -> float:
        """The rate in force, in calls a second; of several the lowest."""
        return self._limit

    @property
    def keys(self) -> int:
        """How many keys are remembered."""
        return len(self._keys)

    def admit(self, call: Call, now: float) -> Ticket | Waiting[Ticket]:
        """Let the call in, or raise `RateLimited` with the seconds until it would fit."""
        key = call.key if self._key is None else self._key(call)
        name = key if len(key) <= PLAIN else digest(key)
        with self._lock:
            full = self._full.get(name)
            if full is not None:
                if full < now:
                    full = now
                if full - now <= self._reach:
                    self._full[name] = full = full + self._step
                    self._last = now
                    self.admitted += 1
                    return full
                why, facts, ahead = self._says
                self._last = now
                self.rejected += 1
        if full is None:
            return self._considered(name, call, now)
        lacks = full - now  # as in `_considered`, for a refusal must cost less than the call it saves
        raise RateLimited(
            f"{self.name or call.target}: {why}", retry_after=lacks - ahead, **facts, remaining=0, reset=lacks
        )

    def _considered(self, name: str, call: Call, now: float) -> Ticket | Waiting[Ticket]:
        """Decide what is not a known key of a plain bucket with something left."""
        cost = 1.0 if self._cost is None else self._costs(self._cost, call)
        with self._lock:
            self._last = now
            rule, decide, leaky = self._rule, self._algorithm, self._leaky
            state, after, early, start = None, None, 0.0, now
            if cost <= self._burst:
                name, state = self._known(name, now)
                after, early, start = decide.spend(state, cost, now)
                # Its turn must come while somebody waits for it.
                if leaky and start > now and call.deadline is not None:
                    early = early or max(0.0, start - call.deadline)
            fits = after is not None and early <= 0.0
            if fits:
                self._keys.states[name] = after
                self.admitted += 1
            elif rule.shadow:
                self.admitted += 1
                self.would_reject += 1
            else:
                self.rejected += 1
        if fits:
            if leaky and not rule.shadow and start > now:
                return Waiting(since=now, until=start)
            return self._ticket(decide, after)
        if not rule.shadow:
            raise self._refused(call, cost, state, decide, early, now)  # in no variable of the frame that it holds
        if now - self._told >= _QUIET:
            self._told = now
            refused = self._refused(call, cost, state, decide, early, now)
            facts = {**refused.facts, "retry_after": refused.retry_after}
            self._observers.tell("shadow.limiter", self.name, self.target, now, **facts)
        if state is None:  # it costs too much, and its key was not looked at
            state = decide.after(0.0, now)
        return self._ticket(decide, state)

    def _known(self, name: str, now: float) -> tuple[str, Any]:
        """Return the key that decides, and its state: the shared one for a new key when there is no room."""
        state = self._keys.find(name)
        if state is None:
            if self._keys.room(now):
                self._keys.add(name)
            else:
                self.overflowed += 1
                name = SHARED
                state = self._keys.find(name)
        return name, state

    def _ticket(self, decide: Algorithm[Any], state: object) -> Ticket:
        return state if isinstance(state, float) else (decide, state)

    def _costs(self, cost: Cost, call: Call) -> float:
        found = cost(call)
        if not 0 <= found < math.inf:  # NaN is neither
            raise RuleError.at("cost", found, "what `cost` returns is a number of calls, 0 or more", where=self.name)
        return found

    def _refused(
        self, call: Call, cost: float, state: Any, decide: Algorithm[Any], early: float, now: float
    ) -> RateLimited:
        who = self.name or call.target
        if state is None:
            return RateLimited(
                f"{who}: the call costs {cost:g} and no more than {self._burst:g} fit at once: it will never fit",
                retry_after=None,
                **self._facts,
                cost=cost,
            )
        # Of several limits the one that refuses; of those that do, the one that lasts.
        limit, calls, reset = min(decide.left(state, now), key=lambda left: (left[1] >= cost, -left[2]))
        return RateLimited(
            f"{who}: {self._says[0]}",
            retry_after=early,
            **self._facts,
            quota=limit.quota,
            window=limit.window,
            remaining=max(0, int(calls)),
            reset=reset,
        )

    def settle(self, ticket: Ticket, outcome: Outcome, now: float) -> None:
        """Learn nothing: what was admitted was spent."""

    def withdraw(self, waiting: Waiting[Ticket], now: float) -> Ticket | None:
        """Leave the line: with a ticket when the turn has come, with None before."""
        return waiting.until if now >= waiting.until - _EARLY else None

    def standings(self, ticket: Ticket, now: float) -> Sequence[Standing]:
        """Return what is left of each limit by the ticket of an admitted call; `now` is when it was admitted."""
        left = self._bucket.left(ticket, now) if isinstance(ticket, float) else ticket[0].left(ticket[1], now)
        return [self._standing(each, len(left) > 1) for each in left]

    def _standing(self, left: Left, one_of_several: bool) -> Standing:
        limit, calls, reset = left
        name = f"{self.name}-{limit.window}s" if one_of_several else self.name
        return Standing(name, limit.quota, limit.window, max(0, int(calls)), reset)


def _arithmetic(rule: LimiterRule) -> tuple[object, ...]:
    """Return what the algorithm is made of: a change of the rest touches no key."""
    return rule.limits, rule.algorithm == "sliding_window", rule.warm_up
