"""Metrics are gates: they note when a call starts, and add up what became of it.

A gate finds the series of a call by one dictionary lookup and then only counts, so what it costs does not grow with
what is counted.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from typing import Final

from prometheus_client import ProcessCollector
from prometheus_client.registry import CollectorRegistry

from msgov.call import OK, Call, Outcome
from msgov.errors import Rejected
from msgov.observability import catalogue, exposition
from msgov.observability.catalogue import Metric
from msgov.observability.edge import Edge, late
from msgov.observability.exposition import Reading
from msgov.observability.readings import Readings
from msgov.observability.series import MOST_SERIES, MOST_VALUES, Child, Counter, Family, Histogram
from msgov.policy import Gate

_KNOWN: Final = 4096  # kinds of calls whose series a gate finds in one lookup; it asks for the others each time

_Observe = Callable[[float], None]
_Count = Callable[[], int]
_Key = tuple[str, str, str, str, type[object]]
_Entry = tuple[_Observe, _Observe, tuple[_Count, ...]]


class Metrics:
    """All that this process counts, and the page that shows it.

    `registry` is one of your own to join; by default a new one is made, with the process's own metrics in it. Raises
    prometheus_client's `DuplicateTimeseries` when a name is taken there. `most_series` per metric and `most_values` per
    label bound what strangers can make it remember: a Prometheus has room for some hundred thousand series of a whole
    fleet. `overflowed` is told the metric and the label the first time that a metric overflows.
    """

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        *,
        service: str = "",
        release: str = "",
        most_series: int = MOST_SERIES,
        most_values: int = MOST_VALUES,
        overflowed: Callable[[str, str], None] | None = None,
    ) -> None:
        self.readings = Readings(most_series=most_series, overflowed=self._overflowed)
        self.started = Counter()
        self.ended = Counter()
        self._limits = (most_series, most_values)
        self._counters: dict[str, Family[Counter]] = {}
        self._histograms: dict[str, Family[Histogram]] = {}
        self._about = (service, release, version("msgov"), platform.python_version())
        self._tell = overflowed
        self._told: set[str] = set()
        self._lock = threading.Lock()
        self._pages = exposition.Pages(self._families, self._own, self.readings.read, exposition.garbage)
        if registry is None:
            registry = CollectorRegistry()
            ProcessCollector(registry=registry)
        registry.register(self._pages)
        self.registry = registry
        self._joined = True

    def counter(self, metric: Metric, *labels: str) -> Counter:
        """Return the series of a counter of the catalogue. Keep it: to ask takes a lock, to count takes none."""
        family = self._counters.get(metric.name)
        if family is None:
            with self._lock:
                family = self._counters.setdefault(metric.name, self._family(metric, Counter))
        return family.child(*labels)

    def histogram(self, metric: Metric, *labels: str) -> Histogram:
        """Return the series of a histogram of the catalogue; keep it, as with `counter`."""
        family = self._histograms.get(metric.name)
        if family is None:
            with self._lock:
                made = self._family(metric, partial(Histogram, metric.buckets))
                family = self._histograms.setdefault(metric.name, made)
        return family.child(*labels)

    def calls(self, edge: Edge) -> Gate[tuple[Call, float, float | None]]:
        """Make the gate that times whole calls of an edge: put it outermost in the per-call part of a pipeline."""
        return _Calls(self, edge)

    def attempts(self, edge: Edge) -> Gate[tuple[Call, float, int]]:
        """Make the gate that counts and times attempts: put it first in the per-attempt part of a pipeline."""
        return _Attempts(self, edge)

    def exposition(self, accept: str = "") -> tuple[str, bytes]:
        """Write the page for `/metrics`: return its content type and its bytes.

        `accept` is the request's Accept header: OpenMetrics where it is asked for, else the Prometheus text format.
        """
        return exposition.exposition(self.registry, accept)

    def close(self) -> None:
        """Leave the registry; closing twice is fine."""
        with self._lock:
            joined, self._joined = self._joined, False
        if joined:
            self.registry.unregister(self._pages)

    def _family(self, metric: Metric, make: Callable[[], Child]) -> Family[Child]:
        most_series, most_values = self._limits
        return Family(metric, make, overflowed=self._overflowed, most_series=most_series, most_values=most_values)

    def _families(self) -> list[Family[Counter] | Family[Histogram]]:
        with self._lock:
            return [*self._histograms.values(), *self._counters.values()]

    def _overflowed(self, metric: str, label: str) -> None:
        if metric == catalogue.OVERFLOW.name:
            return
        self.counter(catalogue.OVERFLOW, metric, label).inc()
        if self._tell is not None and metric not in self._told:
            self._told.add(metric)
            self._tell(metric, label)

    def _own(self) -> Iterator[Reading]:
        ended = self.ended.value  # before the started ones, so that the difference is never negative
        yield catalogue.INFLIGHT, {(): self.started.value - ended}
        yield catalogue.BUILD, {self._about: 1}


class _Calls(Gate[tuple[Call, float, "float | None"]]):
    """Times whole calls. A ticket is the call, when it came, and what its deadline left it then."""

    waits = False

    def __init__(self, metrics: Metrics, edge: Edge) -> None:
        self._metrics = metrics
        self._edge = edge
        self._inward = not edge.outward
        serves = edge.side == "server"
        self._started = metrics.started.inc if serves else _nothing
        self._ended = metrics.ended.inc if serves else _nothing
        self._entries: dict[_Key, _Entry] = {}
        self._well: dict[tuple[str, str, str], _Entry] = {}  # those of calls that went well, found by less

    def admit(self, call: Call, now: float) -> tuple[Call, float, float | None]:
        """Note the start."""
        deadline = call.deadline
        self._started()
        return call, now, None if deadline is None else deadline - now

    def settle(self, ticket: tuple[Call, float, float | None], outcome: Outcome, now: float) -> None:
        """Add up what became of it."""
        self._ended()
        call, since, left = ticket
        if outcome.verdict is OK:
            entry = self._well.get((call.target, call.method, outcome.status))
        else:
            entry = self._entries.get(_key(call, outcome))
        observe, also, counts = entry or self._find(call, outcome)
        observe(now - since)
        if self._inward:
            if left is not None:
                also(left)
        elif call.attempt > 1:
            also(call.attempt - 1.0)
        for count in counts:
            count()

    def _find(self, call: Call, outcome: Outcome) -> _Entry:
        """Find the series of such calls: how long they took, what else is measured, what is counted."""
        edge, metrics = self._edge, self._metrics
        labels = edge.labels(call, outcome)
        operation = edge.operation(call)
        if edge.outward:
            also = _when_seen(partial(metrics.histogram, catalogue.RETRIES, call.target, operation))
        elif call.deadline is not None:
            also = metrics.histogram(catalogue.DEADLINE_LEFT, operation).observe
        else:
            also = _when_seen(partial(metrics.histogram, catalogue.DEADLINE_LEFT, operation))
        counts: list[_Count] = []
        if edge.side == "producer" and outcome.verdict is OK:
            counts.append(metrics.counter(catalogue.SENT, *labels).inc)
        elif edge.side == "consumer":
            counts.append(metrics.counter(catalogue.CONSUMED, *labels).inc)
        if late(outcome):
            unsent = edge.outward and isinstance(outcome.error, Rejected)
            where = "queue" if unsent else "outbound" if edge.outward else "inbound"
            counts.append(metrics.counter(catalogue.DEADLINE_EXCEEDED, where).inc)
        entry = (metrics.histogram(edge.duration, *labels).observe, also, tuple(counts))
        if len(self._entries) + len(self._well) < _KNOWN:
            if outcome.verdict is OK:
                self._well[call.target, call.method, outcome.status] = entry
            else:
                self._entries[_key(call, outcome)] = entry
        return entry


class _Attempts(Gate[tuple[Call, float, int]]):
    """Counts and times attempts. A ticket is the call, when the attempt began, and which one it is."""

    waits = False

    def __init__(self, metrics: Metrics, edge: Edge) -> None:
        self._metrics = metrics
        self._edge = edge
        self._entries: dict[tuple[str, str, int, str], tuple[_Observe, _Count]] = {}

    def admit(self, call: Call, now: float) -> tuple[Call, float, int]:
        """Note the start."""
        return call, now, call.attempt

    def settle(self, ticket: tuple[Call, float, int], outcome: Outcome, now: float) -> None:
        """Add it up; what was refused on this side is counted, but took no time worth knowing."""
        call, since, attempt = ticket
        if outcome.verdict is OK:
            word = "ok"
        else:
            word = "rejected" if isinstance(outcome.error, Rejected) else outcome.verdict.value
        entry = self._entries.get((call.target, call.method, attempt, word))
        observe, count = entry or self._find(call, attempt, word)
        count()
        observe(now - since)

    def _find(self, call: Call, attempt: int, word: str) -> tuple[_Observe, _Count]:
        metrics, target = self._metrics, call.target
        which = str(attempt) if attempt < 4 else "4+"
        count = metrics.counter(catalogue.ATTEMPTS, target, self._edge.operation(call), which, word).inc
        timed = word != "rejected"
        observe = metrics.histogram(catalogue.ATTEMPT_DURATION, target, word).observe if timed else _unobserved
        if len(self._entries) < _KNOWN:
            self._entries[target, call.method, attempt, word] = (observe, count)
        return observe, count


def _key(call: Call, outcome: Outcome) -> _Key:
    """Name all that the series of a call depend on; a verdict by its text, for an enum member is slow to hash."""
    return call.target, call.method, outcome.verdict._value_, outcome.status, outcome.error.__class__


def _when_seen(find: Callable[[], Histogram]) -> _Observe:
    """Observe in a series that is made with its first value: most calls are never retried."""
    found: Histogram | None = None

    def observe(value: float) -> None:
        nonlocal found
        if found is None:
            found = find()
        found.observe(value)

    return observe


def _nothing() -> int:
    return 0


def _unobserved(seconds: float) -> None:
    """Take no note."""
