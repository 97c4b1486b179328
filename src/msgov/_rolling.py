"""Counts over a sliding window cost one addition each, however long the window is.

A ring of buckets with running totals, after Hystrix' HystrixRollingNumber and Resilience4j's SlidingTimeWindowMetrics:
the oldest bucket is taken from the totals when its place is needed, and buckets in which nothing happened count too.
"""

from __future__ import annotations

from itertools import count

_EXACT = 1e-9  # of a bucket: what happens on the edge is in the next one, whatever floats say


class Rolling:
    """Counts of a few kinds over the last `seconds`, in `buckets` steps.

    Its owner holds a lock round every method; the one thing to do without is `tick()`, which counts one of kind 0
    while `now < edge` by one C-level step, and is seen by the next method. A `now` from before the current bucket
    counts in the current one, so threads may hand in their times out of order.
    """

    __slots__ = ("_at", "_filled", "_ring", "_ticked", "_told", "_width", "edge", "tick", "totals")

    def __init__(self, kinds: int, *, seconds: float, buckets: int) -> None:
        self.totals = [0] * kinds
        self.edge = float("-inf")  # nothing was counted yet: the first roll starts the first bucket
        self.tick = count(1).__next__
        self._told = 0
        self._ticked = 0
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
        n = self.tick()  # looking is a tick too: it is not counted
        fresh, self._told = n - self._told - 1, n
        if fresh:
            self._ring[self._at][0] += fresh
            self.totals[0] += fresh
            self._ticked += fresh
        return self._ticked

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

    def __len__(self) -> int:
        """Count the buckets that the window spans so far."""
        return self._filled
