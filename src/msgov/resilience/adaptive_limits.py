"""The next limit follows from the last one and from what a window has shown: arithmetic, and nothing else.

Vegas: Brakmo and Peterson, "TCP Vegas", 1994, as Netflix' concurrency-limits and failsafe-go apply it to calls.
Gradient2 and AIMD: concurrency-limits, Gradient2Limit.java and AIMDLimit.java.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Window(NamedTuple):
    """What was seen: the 90th percentile of the round trips (s), the most in flight, calls a second, if it was full."""

    rtt: float
    inflight: int
    throughput: float = 0.0
    full: bool = False


class Algorithm(Protocol):
    """Finds the next limit."""

    def next(self, limit: float, seen: Window) -> float:
        """Return the limit to go on with."""
        ...


class Mean:
    """A mean of the first few, exponential from then on: each new value counts `2 / (age + 1)`."""

    __slots__ = ("_count", "_factor", "_warm_up", "value")

    def __init__(self, age: int, *, warm_up: int = 10) -> None:
        self.value = 0.0
        self._count = 0
        self._factor = 2.0 / (age + 1)
        self._warm_up = warm_up

    def add(self, value: float) -> float:
        """Take a value in; return the mean."""
        if self._count < self._warm_up:
            self._count += 1
            self.value += (value - self.value) / self._count
        else:
            self.value += (value - self.value) * self._factor
        return self.value


class Vegas:
    """Grow while the queue that the limit causes is short, shrink when it is long.

    The queue is what the round trip says it is: of `limit` calls in flight, those that would not be there at the usual
    round trip. The usual one is a slow mean that does not rise while the window was full: it would learn our own queue.
    And where it was learnt in a queue already, correlation tells: round trips follow what is in flight, and throughput
    does not (after Uber's Cinnamon auto-tuner and failsafe-go).
    """

    __slots__ = ("_usual", "_windows")

    AGE = 10  # windows
    REMEMBERED = 20  # windows looked at for correlation; 50 (failsafe-go) overshoot: they speak of limits long gone
    ENOUGH = 10  # of them
    FOLLOWS = 0.5  # a correlation from here on is one
    SPREAD = 0.02  # relative, of either: below it there is nothing to correlate

    def __init__(self) -> None:
        self._usual = Mean(self.AGE)
        self._windows: deque[Window] = deque(maxlen=self.REMEMBERED)

    @property
    def usual(self) -> float:
        """The round trip (s) without a queue of ours."""
        return self._usual.value

    def next(self, limit: float, seen: Window) -> float:
        """Move by log10 of the limit, or stay."""
        if not seen.full or not self.usual or seen.rtt < self.usual:
            self._usual.add(seen.rtt)
        self._windows.append(seen)
        queue = limit * (1.0 - self.usual / seen.rtt)
        step = max(1.0, math.log10(limit))
        if queue > 6.0 * step or (seen.full and self._pointless()):
            return limit - step
        if queue < 3.0 * step and seen.inflight * 2 >= limit:
            return limit + step
        return limit

    def _pointless(self) -> bool:
        """Whether more in flight has only meant longer round trips."""
        if len(self._windows) < self.ENOUGH:
            return False
        rtts, inflight, throughputs, _ = zip(*self._windows, strict=True)
        if min(spread(inflight), spread(rtts)) < self.SPREAD:
            return False
        follows = correlation(inflight, rtts)
        return follows >= self.FOLLOWS and correlation(inflight, throughputs) < follows / 2


class Gradient2:
    """Shrink in proportion to how much slower a window is than the long mean, past a tolerance of 1.5."""

    __slots__ = ("_long",)

    TOLERANCE = 1.5
    QUEUE = 4.0  # calls that the limit may cause to wait
    SMOOTHING = 0.2
    AGE = 600  # windows

    def __init__(self) -> None:
        self._long = Mean(self.AGE)

    def next(self, limit: float, seen: Window) -> float:
        """Return `0.8 L + 0.2 (g L + 4)`; stay where less than half of the limit was in use."""
        long = self._long.add(seen.rtt)
        if long / seen.rtt > 2.0:  # it was learnt in a bad time: forget that sooner
            self._long.value = long * 0.95
        if seen.inflight < limit / 2:
            return limit
        gradient = max(0.5, min(1.0, self.TOLERANCE * long / seen.rtt))
        return limit * (1.0 - self.SMOOTHING) + self.SMOOTHING * (limit * gradient + self.QUEUE)


class Aimd:
    """One more after each window that used the limit; only drops cut it."""

    __slots__ = ()

    def next(self, limit: float, seen: Window) -> float:
        """Add one where at least half was in use."""
        return limit + 1.0 if seen.inflight * 2 >= limit else limit


def spread(values: Sequence[float]) -> float:
    """Return the standard deviation relative to the mean; 0 where the mean is."""
    mean = sum(values) / len(values)
    return math.sqrt(sum((each - mean) ** 2 for each in values) / len(values)) / mean if mean else 0.0


def correlation(ones: Sequence[float], others: Sequence[float]) -> float:
    """Return Pearson's coefficient, -1 to 1; 0 where one of them does not move."""
    one, other = sum(ones) / len(ones), sum(others) / len(others)
    together = sum((a - one) * (b - other) for a, b in zip(ones, others, strict=True))
    apart = math.sqrt(sum((a - one) ** 2 for a in ones) * sum((b - other) ** 2 for b in others))
    return together / apart if apart else 0.0
