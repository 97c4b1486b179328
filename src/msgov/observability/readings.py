"""What counts for itself is read when Prometheus asks, so that counting costs a call nothing more.

A thing is known by what it offers, not by its class: a breaker of yours with the same attributes is shown too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from msgov.clock import Clock, monotonic, wall
from msgov.event import unraisable
from msgov.observability import catalogue, readings_policies
from msgov.observability.catalogue import Metric, Sample
from msgov.observability.readings_policies import Reader
from msgov.observability.semconv import OTHER
from msgov.observability.series import MOST_SERIES
from msgov.observability.shapes import (
    Aged,
    ConfigLike,
    ConsumerLike,
    OutboxLike,
    RegistrationLike,
    SinkLike,
    SnapshotLike,
)

_GREATEST: Final = frozenset(
    metric.name
    for metric in (
        catalogue.BREAKER_STATE, catalogue.BREAKER_FAILURES, catalogue.BREAKER_THRESHOLD, catalogue.BREAKER_SLOW,
        catalogue.BREAKER_SLOW_THRESHOLD, catalogue.LIMITER_LIMIT, catalogue.QUOTA_LOST, catalogue.THROTTLE_HELD,
        catalogue.SHED_THRESHOLD, catalogue.LOAD_CPU, catalogue.LOAD_LAG, catalogue.LOAD_DELAY, catalogue.HEDGE_DELAY,
        catalogue.FAULT_ALLOWED, catalogue.DISCOVERY_STALE, catalogue.DISCOVERY_UPDATED, catalogue.REGISTERED,
        catalogue.CONFIG_INFO, catalogue.CONFIG_RELOADED, catalogue.OUTBOX_AGE,
    )
)  # fmt: skip
_LEAST: Final = frozenset(
    metric.name for metric in (catalogue.BREAKER_OPENED, catalogue.BREAKER_ADMITTED, catalogue.RETRY_BUDGET)
)
"""Metrics of which two things under one name show the greater, or the smaller value: the worse; else their sum."""


def _together(metric: Metric, one: float, other: float) -> float:
    """Put together what two things of one name show."""
    if metric.name in _GREATEST:
        return max(one, other)
    return min(one, other) if metric.name in _LEAST else one + other


def _knowledge(it: Aged, now: float, at: float) -> Iterator[Sample]:
    target = it.name
    value = getattr(it, "value", None) if it.known else None
    if isinstance(value, SnapshotLike):
        target = value.service
        states = dict.fromkeys(("healthy", "unhealthy", "draining"), 0)
        for instance in value.instances:
            states["draining" if instance.draining else "healthy" if instance.healthy else "unhealthy"] += 1
        for state, count in states.items():
            yield catalogue.INSTANCES, (target, state), count
    age = it.age(now)
    if age is not None:
        yield catalogue.DISCOVERY_UPDATED, (target,), at - age
    yield catalogue.DISCOVERY_STALE, (target,), float(it.stale)


def _registration(it: RegistrationLike) -> Iterator[Sample]:
    yield catalogue.REGISTERED, (it.instance.service,), float(it.registered)


def _config(it: ConfigLike) -> Iterator[Sample]:
    yield catalogue.CONFIG_INFO, ("", it.version, "+".join(it.knowledge)), 1
    for layer, knowledge in it.knowledge.items():
        yield catalogue.CONFIG_STALE, (layer,), float(knowledge.stale)


def _outbox(it: OutboxLike) -> Iterator[Sample]:
    yield catalogue.OUTBOX_PENDING, (it.name,), it.pending
    yield catalogue.OUTBOX_AGE, (it.name,), it.oldest_age


def _consumer(it: ConsumerLike) -> Iterator[Sample]:
    labels = (it.topic, it.group)
    yield catalogue.CONSUMER_LAG, labels, it.lag
    yield catalogue.REDELIVERIES, labels, it.failed
    yield catalogue.DEAD_LETTERS, labels, it.dead
    yield catalogue.DEDUP, (it.group, "duplicate"), it.duplicates
    yield catalogue.DEDUP, (it.group, "first"), it.processed - it.duplicates


def _reader(thing: object, clock: Clock) -> Reader | None:
    """Return what reads a thing, None for one that shows nothing."""
    policy = readings_policies.reader(thing, clock)
    if policy is not None:
        return policy
    if isinstance(thing, RegistrationLike):
        return lambda now: _registration(thing)
    if isinstance(thing, ConfigLike):
        return lambda now: _config(thing)
    if isinstance(thing, OutboxLike):
        return lambda now: _outbox(thing)
    if isinstance(thing, ConsumerLike):
        return lambda now: _consumer(thing)
    if isinstance(thing, SinkLike):
        return lambda now: [(catalogue.DROPPED, ("logs", "write"), thing.dropped)]
    if isinstance(thing, Aged):
        return lambda now: _knowledge(thing, now, clock())
    inner = readings_policies.inside(thing)
    return None if inner is None else _reader(inner, clock)


class Readings:
    """What is read at each scrape. `clock` is what the things themselves run by, `at` tells the time of day.

    A metric has at most `most_series` series, 2,000 by default; what is beyond is put together under `_OTHER`, and
    `overflowed` is told the metric and "", once a scrape.
    """

    def __init__(
        self,
        clock: Clock = monotonic,
        *,
        at: Clock = wall,
        most_series: int = MOST_SERIES,
        overflowed: Callable[[str, str], None] | None = None,
    ) -> None:
        self._clock = clock
        self._at = at
        self._most_series = most_series
        self._overflowed = overflowed
        self._readers: tuple[Reader, ...] = ()
        self._lock = threading.Lock()

    def watch(self, *things: object) -> Callable[[], None]:
        """Show things from now on; return a function that ends it.

        Every policy of `msgov.resilience`, a `Latest` of a service's instances, registrations, a configuration, outbox
        relays, consumers. Hand in all policies of a pipeline: one that shows nothing is passed over.
        """
        return self.add(*(reader for thing in things if (reader := _reader(thing, self._at)) is not None))

    def follow(self, things: Callable[[], Iterable[object]]) -> Callable[[], None]:
        """Show whatever `things` yields at each scrape, for those that come and go; return a function that ends it.

        What was there at the last scrape is known again, so that a thousand gates are not looked over each time.
        """
        known: dict[int, tuple[object, Reader | None]] = {}

        def read(now: float) -> Iterator[Sample]:
            nonlocal known
            before, known = known, {}
            for thing in things():
                found = before.get(id(thing))
                if found is None or found[0] is not thing:
                    found = thing, _reader(thing, self._at)
                known[id(thing)] = found
                if found[1] is not None:
                    yield from found[1](now)

        return self.add(read)

    def add(self, *readers: Reader) -> Callable[[], None]:
        """Ask these at each scrape, giving the time by `clock`; return a function that ends it.

        A reader that raises is reported and passed over: its metrics are missing, the page is not.
        """
        with self._lock:
            self._readers = (*self._readers, *readers)

        def end() -> None:
            with self._lock:
                self._readers = tuple(each for each in self._readers if each not in readers)

        return end

    def read(self) -> list[tuple[Metric, dict[tuple[str, ...], float]]]:
        """Ask all of them and put together what belongs to one metric."""
        found: dict[str, tuple[Metric, dict[tuple[str, ...], float]]] = {}
        over: set[str] = set()
        now = self._clock()
        for reader in self._readers:
            try:
                for metric, labels, value in reader(now):
                    _, samples = found.setdefault(metric.name, (metric, {}))
                    before = samples.get(labels)
                    if before is None and len(samples) >= self._most_series:
                        over.add(metric.name)
                        labels = (OTHER,) * len(labels)
                        before = samples.get(labels)
                    samples[labels] = value if before is None else _together(metric, before, value)
            except Exception as fault:  # noqa: BLE001  one broken thing must not cost the whole page
                unraisable(fault, reader)
        if self._overflowed is not None:
            for name in over:
                self._overflowed(name, "")
        return list(found.values())
