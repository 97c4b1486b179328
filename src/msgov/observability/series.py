"""Counts and durations add up exactly, from any thread, in a bounded number of series.

The hot path takes one C-level step and no lock: a counter advances an `itertools.count`, a histogram appends to a list
that is folded into its buckets now and then. Nothing is lost with the GIL or without it.
"""

from __future__ import annotations

import itertools
import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from msgov.observability.catalogue import Metric
from msgov.observability.semconv import OTHER

FOLD: Final = 128  # observations that a histogram keeps before it sorts them into buckets
LONGEST: Final = 200  # characters of a label value that are kept
MOST_SERIES: Final = 2_000  # per metric: a Prometheus of ours carries some hundred thousand
MOST_VALUES: Final = 100  # per label of a metric


def text(value: str) -> str:
    """Make a label value fit for the page: at most 200 characters, no lone surrogate, which no page can hold."""
    return value[:LONGEST].encode("utf-8", "backslashreplace").decode()


class Counter:
    """A number that only grows: `inc()` adds one, in a single step that no other thread can come between."""

    __slots__ = ("_lock", "_looks", "inc")

    def __init__(self) -> None:
        self.inc: Callable[[], int] = itertools.count().__next__
        self._looks = 0
        self._lock = threading.Lock()

    @property
    def value(self) -> int:
        """How often it was added to; looking costs a step too, which is taken off again."""
        with self._lock:
            seen = self.inc() - self._looks
            self._looks += 1
            return seen


class Histogram:
    """How values are spread over buckets, and their sum: `observe(value)` adds one."""

    __slots__ = ("_bounds", "_counts", "_lock", "_pending", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        self._pending: list[float] = []
        self._lock = threading.Lock()

    def observe(self, value: float) -> None:
        """Take a value; NaN is passed over."""
        pending = self._pending
        pending.append(value)
        # Whoever does not get the lock leaves the folding to its holder: no call ever waits here.
        if len(pending) >= FOLD and self._lock.acquire(blocking=False):
            try:
                self._fold()
            finally:
                self._lock.release()

    def _fold(self) -> None:
        batch = self._pending[:]
        del self._pending[: len(batch)]
        for value in batch:
            if value == value:  # NaN would poison the sum for good
                self._counts[bisect_left(self._bounds, value)] += 1
                self._sum += value

    def read(self) -> tuple[list[int], float]:
        """Return the count of each bucket, the infinite one last, and the sum of all values."""
        with self._lock:
            self._fold()
            return list(self._counts), self._sum


Child = TypeVar("Child", Counter, Histogram)


class Family(Generic[Child]):
    """All series of one metric, one child per combination of label values.

    A label value one too many becomes `_OTHER`, and so does everything once the series are too many: what a stranger
    sends can fill no memory. `overflowed` is told the metric and the label each time.
    """

    __slots__ = ("_children", "_lock", "_make", "_most_series", "_most_values", "_overflowed", "_seen", "metric")

    def __init__(
        self,
        metric: Metric,
        make: Callable[[], Child],
        *,
        overflowed: Callable[[str, str], None],
        most_series: int = MOST_SERIES,
        most_values: int = MOST_VALUES,
    ) -> None:
        self.metric = metric
        self._make: Callable[[], Child] = make
        self._overflowed = overflowed
        self._most_series = most_series
        self._most_values = most_values
        self._seen: tuple[set[str], ...] = tuple(set() for _ in metric.labels)
        self._children: dict[tuple[str, ...], Child] = {}
        self._lock = threading.Lock()

    def child(self, *values: str) -> Child:
        """Return the series of these label values, made when it is new. Keep what it returns: asking takes a lock."""
        found = self._children.get(values)
        if found is not None:
            return found
        over: list[str] = []
        with self._lock:
            key = tuple(self._admitted(at, value, over) for at, value in enumerate(values))
            found = self._children.get(key)
            if found is None and len(self._children) >= self._most_series:
                over.append("")
                key = (OTHER,) * len(values)
                found = self._children.get(key)
            if found is None:
                found = self._children[key] = self._make()
        for each in over:
            self._overflowed(self.metric.name, each)
        return found

    def _admitted(self, at: int, value: str, over: list[str]) -> str:
        value = text(value)
        seen = self._seen[at]
        if value and value not in seen:
            if len(seen) >= self._most_values:
                over.append(self.metric.labels[at])
                return OTHER
            seen.add(value)
        return value

    def series(self) -> list[tuple[tuple[str, ...], Child]]:
        """Return every series with its label values."""
        with self._lock:
            return list(self._children.items())

    def __len__(self) -> int:
        """Count the series."""
        return len(self._children)
