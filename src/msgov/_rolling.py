"""Counts over a sliding window cost one addition each, however long the window is.

A ring of buckets with running totals, after Hystrix' HystrixRollingNumber and Resilience4j's SlidingTimeWindowMetrics:
the oldest bucket is taken from the totals when its place is needed, and buckets in which nothing happened count too.
A window of the last so many calls needs no ring: it remembers only the calls that did not go well, by their number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import count

_EXACT = 1e-9  # of a bucket: what happens on the edge is in the next one, whatever floats say


class Ticks:
    """A count that anybody adds to by one C-level step, `tick()`, and that its owner reads under a lock."""

    __slots__ = ("_told", "tick", "total")

    def __init__(self) -> None:
        self.tick = count(1).__next__
        self.total = 0  # as of the last look
        self._told = 0

    def fresh(self) -> int:
        """Return how many ticks there were since the last look."""
        n = self.tick()  # looking is a tick too: it is not counted
        fresh, self._told = n - self._told - 1, n
        self.total += fresh
        return fresh

    def read(self) -> int:
        """Return how many there were in all."""
        self.fresh()
        return self.total


class Rolling:
    """Counts of a few kinds over the last `seconds`, in `buckets` steps.

    Its owner holds a lock round every method; the one thing to do without is `tick()`, which counts one of kind 0
    while `now < edge` by one C-level step, and is seen by the next method. A `now` from before the current bucket
    counts in the current one, so threads may hand in their times out of order.
    """

    __slots__ = ("_at", "_filled", "_ring", "_ticks", "_width", "edge", "tick", "totals")

    def __init__(self, kinds: int, *, seconds: float, buckets: int) -> None:
        self.totals = [0] * kinds
        self.edge = float("-inf")  # nothing was counted yet: the first roll starts the first bucket
        self._ticks = Ticks()
        self.tick = self._ticks.tick
        self._ring = [[0] * kinds for _ in range(buckets)]
        self._width = seconds / buckets
        self._at = 0
        self._filled = 0

    def add(self, kind: int, now: float, n: int = 1) -> None:
        """Count `n` more of a kind, at `now`."""
        self.roll(now)
        self._ring[self._at][kind] += n
        self.totals[kind] += n

    def roll(self, now: float) -> None:
        """Let fall what is out of the window at `now`; `totals` is right afterwards."""
        self.ticked()
        if now < self.edge:
            return
        if not self._filled:
            self._filled, self.edge = 1, now + self._width
            return
        steps = int((now - self.edge) / self._width + _EXACT) + 1
        size = len(self._ring)
        for _ in range(min(steps, size)):
            self._at = (self._at + 1) % size
            bucket = self._ring[self._at]
            for kind, old in enumerate(bucket):
                self.totals[kind] -= old
                bucket[kind] = 0
        self._filled = min(size, self._filled + steps)
        self.edge += steps * self._width

    def ticked(self) -> int:
        """Take in what `tick` has counted since the last look; return how many ticks there were in all."""
        fresh = self._ticks.fresh()
        if fresh:
            self._ring[self._at][0] += fresh
            self.totals[0] += fresh
        return self._ticks.total

    def clear(self) -> None:
        """Forget every count."""
        self.ticked()
        for bucket in self._ring:
            bucket[:] = [0] * len(bucket)
        self.totals[:] = [0] * len(self.totals)

    def reshape(self, *, seconds: float, buckets: int) -> None:
        """Change the window and keep what was counted, each bucket at its own age."""
        self.ticked()
        size, width = len(self._ring), seconds / buckets
        fresh = [[0] * len(self.totals) for _ in range(buckets)]
        for back in range(size):
            to = int((back + 0.5) * self._width / width)
            if to < buckets:
                for kind, n in enumerate(self._ring[(self._at - back) % size]):
                    fresh[-to % buckets][kind] += n
        self._filled = min(buckets, -int(-self._filled * self._width // width))
        self._ring, self._width, self._at = fresh, width, 0
        self.totals[:] = [sum(column) for column in zip(*fresh, strict=True)]

    def take(self, totals: Sequence[int]) -> None:
        """Begin with what another window counted: it is taken to be as old as the next call."""
        self.totals[:] = self._ring[self._at][:] = totals

    def __len__(self) -> int:
        """Count the buckets that the window spans so far."""
        return self._filled


class LastCalls:
    """Counts of a few kinds over the last so many calls: a drop-in for `Rolling` that time does not move.

    Kinds 0 and 1 are calls, that went well and badly; all others mark the call that was counted last. Memory is a
    number for each call in the window that is of another kind than 0, never more than the window has calls.
    """

    __slots__ = ("_calls", "_from", "_marks", "_size", "_ticks", "edge", "tick", "totals")

    def __init__(self, kinds: int, *, calls: int) -> None:
        self.totals = [0] * kinds
        self.edge = float("inf")  # no time ends it
        self._ticks = Ticks()
        self.tick = self._ticks.tick
        self._calls = 0  # all that were counted
        self._from = 0  # the window knows nothing of this call and of those before it
        self._size = calls
        self._marks: list[deque[int]] = [deque() for _ in range(kinds - 1)]  # the numbers of the calls, kind by kind

    def add(self, kind: int, now: float, n: int = 1) -> None:
        """Count `n` calls more, or mark the last one."""
        self.ticked()
        for _ in range(n):
            self._calls += kind <= 1
            if kind:
                self._marks[kind - 1].append(self._calls)
        self._sum()

    def roll(self, now: float) -> None:
        """Let `totals` be right: whatever the time is, only calls move it."""
        self.ticked()
        self._sum()

    def ticked(self) -> int:
        """Take in what `tick` has counted since the last look; return how many ticks there were in all."""
        self._calls += self._ticks.fresh()
        return self._ticks.total

    def clear(self) -> None:
        """Forget every call."""
        self.ticked()
        self._from = self._calls
        self._sum()

    def reshape(self, *, calls: int) -> None:
        """Change the window and keep what it knows; a longer one fills with the calls to come."""
        self.ticked()
        self._from = max(self._from, self._calls - self._size)
        self._size = calls
        self._sum()

    def take(self, totals: Sequence[int]) -> None:
        """Begin with what another window counted: its last calls in proportion, for their order is unknown."""
        calls = totals[0] + totals[1]
        known = min(calls, self._size)
        for marks, n in zip(self._marks, totals[1:], strict=True):
            share = round(n * known / calls) if calls else 0
            marks.extend(self._calls + (i + 1) * known // share for i in range(share))
        self._calls += known
        self._sum()

    def _sum(self) -> None:
        last = max(self._from, self._calls - self._size)
        for kind, marks in enumerate(self._marks, start=1):
            while marks and marks[0] <= last:
                marks.popleft()
            self.totals[kind] = len(marks)
        self.totals[0] = self._calls - last - self.totals[1]

    def __len__(self) -> int:
        """Count the calls that the window knows of."""
        return self._calls - max(self._from, self._calls - self._size)
