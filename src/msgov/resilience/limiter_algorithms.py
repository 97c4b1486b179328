"""What one key has used is a small immutable value; an algorithm is the arithmetic on it.

Bucket    a float    when the bucket will be full again: GCRA, which is a token bucket in one number
Cold      a complex  the same, and how cold the key is: a bucket that warms up
Window    24 bytes   the window, the calls of the one before, the calls of this one
Several   a tuple    one value for each limit
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from struct import Struct
from typing import Any, Generic, TypeVar, cast

from msgov.resilience.limiter_rate import Limit
from msgov.resilience.limiter_rule import LimiterRule

S = TypeVar("S")
Left = tuple[Limit, float, float]  # of a limit: the calls that fit at once, the seconds until nothing is used

COLD_FACTOR = 3.0  # how much slower a cold key is: Sentinel's and Guava's


class Algorithm(ABC, Generic[S]):
    """Decides for one key at a time; knows nothing of the others. Not safe to share between threads: guard it."""

    @abstractmethod
    def spend(self, state: S | None, cost: float, now: float) -> tuple[S, float, float]:
        """Return the state after a call, how many seconds too early it is (0: it fits), and when its turn is.

        None is the state of a key that has used nothing. A turn after `now` is for who lets calls out at an even pace.
        """

    @abstractmethod
    def free(self, state: S) -> float:
        """Return when forgetting the key loses nothing."""

    @abstractmethod
    def used(self, state: S, now: float) -> float:
        """Return how many calls of the burst are in use."""

    @abstractmethod
    def after(self, used: float, now: float) -> S:
        """Return the state in which so many calls are in use; no more than all."""

    @abstractmethod
    def left(self, state: S, now: float) -> Sequence[Left]:
        """Return what is left of each limit."""


class Bucket(Algorithm[float]):
    """GCRA, a token bucket in one number: a call pushes the time at which the bucket is full again further ahead."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.step = limit.seconds / limit.calls
        self.ahead = limit.burst * self.step
        # Who comes back after `retry_after` is admitted, whatever floats say; it never adds up to a call more.
        self.grain = min(1e-6, self.step / 100)

    def spend(self, state: float | None, cost: float, now: float) -> tuple[float, float, float]:
        """Push ahead."""
        start = now if state is None or state < now else state
        full = start + cost * self.step
        early = full - self.ahead - now
        return full, early if early > self.grain else 0.0, start

    def free(self, state: float) -> float:
        """When it is full again."""
        return state

    def used(self, state: float, now: float) -> float:
        """What it lacks."""
        return max(0.0, state - now) / self.step

    def after(self, used: float, now: float) -> float:
        """Lack so much."""
        return now + min(used, self.limit.burst) * self.step

    def left(self, state: float, now: float) -> Sequence[Left]:
        """What it holds."""
        lacks = max(0.0, state - now)
        return ((self.limit, (self.ahead - lacks + self.grain) / self.step, lacks),)


class Cold(Algorithm[complex]):
    """A bucket whose calls cost up to three times their time while the key is cold.

    Idleness stores up to `warm_up / step` calls. The upper half of the store is spent at a price that falls from
    `COLD_FACTOR` to 1, which takes `warm_up` seconds; the lower half, and every call beyond, costs its own time. From
    Guava's SmoothRateLimiter.SmoothWarmingUp, which Sentinel's WarmUpController follows. A call that finds the bucket
    full is let in whatever it costs: others wait for it.
    """

    def __init__(self, limit: Limit, warm_up: float) -> None:
        self._bucket = Bucket(limit)
        self._most = warm_up / self._bucket.step
        self._half = self._most / 2

    def _seconds(self, cold: float, cost: float) -> float:
        """Return the time that calls cost from a store: the area under the price."""
        dear = min(cost, max(0.0, cold - self._half))
        slope = (COLD_FACTOR - 1) / self._half
        price = 1 + slope * (cold - self._half - dear / 2)  # in the middle of the dear ones
        return (dear * price + cost - dear) * self._bucket.step

    def _at(self, state: complex | None, now: float) -> tuple[float, float]:
        """Return when the bucket will be full, and how cold the key is."""
        if state is None:
            return now, self._most
        full, cold = state.real, state.imag
        if full >= now:
            return full, cold
        return now, min(self._most, cold + (now - full) / self._bucket.step)

    def spend(self, state: complex | None, cost: float, now: float) -> tuple[complex, float, float]:
        """Push ahead by what it costs now."""
        start, cold = self._at(state, now)
        full = start + self._seconds(cold, cost)
        early = min(full - self._bucket.ahead, start) - now
        return complex(full, max(0.0, cold - cost)), early if early > self._bucket.grain else 0.0, start

    def free(self, state: complex) -> float:
        """When it is full, and as cold as can be."""
        return state.real + (self._most - state.imag) * self._bucket.step

    def used(self, state: complex, now: float) -> float:
        """What it lacks."""
        return self._bucket.used(state.real, now)

    def after(self, used: float, now: float) -> complex:
        """Lack so much, and be warm: the key is in use."""
        return complex(self._bucket.after(used, now), 0.0)

    def left(self, state: complex, now: float) -> Sequence[Left]:
        """What it holds at the present price, which only falls."""
        full, cold = self._at(state, now)
        ((limit, calls, lacks),) = self._bucket.left(full, now)
        price = self._seconds(cold, 1.0) / self._bucket.step
        return ((limit, max(calls / price, 0.0 if lacks else 1.0), lacks),)


_WINDOW = Struct("3d")  # half the memory of a tuple of three floats


class Window(Algorithm[bytes]):
    """As many in any window as the rate says, the one before counted by the share of it that is still inside.

    "How we built rate limiting capable of scaling to millions of domains", Cloudflare 2017. All keys share the edges.
    """

    def __init__(self, limit: Limit) -> None:
        self._limit = limit
        self._seconds = limit.seconds
        self._most = max(1.0, limit.calls)
        self._grain = min(1e-3, 1e-6 * self._most)  # as in a bucket

    def _at(self, state: bytes | None, now: float) -> tuple[float, float, float, float]:
        """Return the window, how far it has run (0 to 1), the calls of the one before and the calls of this one."""
        at, into = divmod(now, self._seconds)
        if state is None:
            return at, into / self._seconds, 0.0, 0.0
        since, before, here = _WINDOW.unpack(state)
        if since > at:  # another thread was faster than the clock that this one read
            return since, 0.0, before, here
        if since < at:
            before, here = (here if since == at - 1 else 0.0), 0.0
        return at, into / self._seconds, before, here

    def spend(self, state: bytes | None, cost: float, now: float) -> tuple[bytes, float, float]:
        """Count it, or say when enough of the calls before it have left the window."""
        at, into, before, here = self._at(state, now)
        after = _WINDOW.pack(at, before, here + cost)
        if before * (1 - into) + here + cost <= self._most + self._grain:
            return after, 0.0, now
        room = self._most - cost
        # In this window, or in the next, of which this is the one before.
        fits = at + 1 - (room - here) / before if here <= room else at + 2 - room / here
        return after, max(fits * self._seconds - now, 1e-6), now

    def free(self, state: bytes) -> float:
        """When both windows are over."""
        since, _, here = _WINDOW.unpack(state)
        return float((since + (2 if here else 1)) * self._seconds)

    def used(self, state: bytes, now: float) -> float:
        """What is counted."""
        _, into, before, here = self._at(state, now)
        return before * (1 - into) + here

    def after(self, used: float, now: float) -> bytes:
        """Count so many."""
        return _WINDOW.pack(now // self._seconds, 0.0, min(used, self._most))

    def left(self, state: bytes, now: float) -> Sequence[Left]:
        """What is not counted."""
        return ((self._limit, self._most + self._grain - self.used(state, now), max(0.0, self.free(state) - now)),)


class Several(Algorithm[tuple[Any, ...]]):
    """Several limits that all hold: a call that one refuses spends nothing of the others."""

    def __init__(self, parts: Sequence[Algorithm[Any]]) -> None:
        self._parts = tuple(parts)

    def spend(self, state: tuple[Any, ...] | None, cost: float, now: float) -> tuple[tuple[Any, ...], float, float]:
        """Spend of each; the strictest decides."""
        states = (None,) * len(self._parts) if state is None else state
        spent = [part.spend(each, cost, now) for part, each in zip(self._parts, states, strict=True)]
        after, early, turns = zip(*spent, strict=True)
        return after, max(early), max(turns)

    def free(self, state: tuple[Any, ...]) -> float:
        """When each is."""
        return max(part.free(each) for part, each in zip(self._parts, state, strict=True))

    def used(self, state: tuple[Any, ...], now: float) -> float:
        """What is used of the one that is used most."""
        return max(part.used(each, now) for part, each in zip(self._parts, state, strict=True))

    def after(self, used: float, now: float) -> tuple[Any, ...]:
        """Use so much of each."""
        return tuple(part.after(used, now) for part in self._parts)

    def left(self, state: tuple[Any, ...], now: float) -> Sequence[Left]:
        """What is left of each."""
        return [left for part, each in zip(self._parts, state, strict=True) for left in part.left(each, now)]


def algorithm(rule: LimiterRule) -> Algorithm[Any]:
    """Choose the arithmetic of a rule."""
    parts = [_one(rule, limit) for limit in rule.limits]
    return parts[0] if len(parts) == 1 else Several(parts)


def _one(rule: LimiterRule, limit: Limit) -> Algorithm[Any]:
    if rule.algorithm == "sliding_window":
        return Window(limit)
    return cast("Algorithm[Any]", Cold(limit, rule.warm_up)) if rule.warm_up else Bucket(limit)
