"""What counts for itself is read when Prometheus asks, so that counting costs a call nothing more.

A thing is known by what it offers, not by its class: a breaker of yours with the same attributes is shown too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from msgov.clock import Clock, monotonic, wall
from msgov.event import unraisable
from msgov.observability import catalogue
from msgov.observability.catalogue import Metric
from msgov.observability.shapes import (
    Aged,
    BreakerLike,
    BudgetLike,
    BulkheadLike,
    ConfigLike,
    ConsumerLike,
    FallbackLike,
    LimiterLike,
    OutboxLike,
    RegistrationLike,
    RetryLike,
    SinkLike,
    SnapshotLike,
)

Sample = tuple[Metric, tuple[str, ...], float]
Reader = Callable[[float], Iterable[Sample]]

STATES: Final = ("closed", "open", "half_open", "forced_open", "forced_closed", "disabled")
_WORST: Final = frozenset(
    metric.name
    for metric in (
        catalogue.BREAKER_STATE, catalogue.BREAKER_FAILURES, catalogue.BREAKER_THRESHOLD, catalogue.LIMITER_LIMIT,
        catalogue.DISCOVERY_STALE, catalogue.DISCOVERY_UPDATED, catalogue.REGISTERED, catalogue.CONFIG_INFO,
        catalogue.CONFIG_RELOADED, catalogue.OUTBOX_AGE, catalogue.RETRY_BUDGET,
    )
)  # fmt: skip
"""Metrics of which two things under one name show the greater value; of all others they show the sum."""


def _breaker(it: BreakerLike, now: float) -> Iterator[Sample]:
    labels = (it.name or it.target, it.target)
    state = it.state.value
    for each in STATES:
        yield catalogue.BREAKER_STATE, (*labels, each), float(each == state)
    for outcome, count in it.counts.items():
        yield catalogue.BREAKER_CALLS, (*labels, outcome), count
    yield catalogue.BREAKER_FAILURES, labels, it.failure_rate(now)
    yield catalogue.BREAKER_THRESHOLD, labels, it.rule.failure_rate


def _bulkhead(it: BulkheadLike) -> Iterator[Sample]:
    labels = (it.name or it.target,)
    yield catalogue.BULKHEAD_INFLIGHT, labels, it.inflight
    yield catalogue.BULKHEAD_LIMIT, labels, it.limit
    yield catalogue.BULKHEAD_QUEUE, labels, it.depth
    yield catalogue.BULKHEAD_REJECTED, labels, it.rejected


def _limiter(it: LimiterLike) -> Iterator[Sample]:
    name = it.name or it.target
    yield catalogue.LIMITER_DECISIONS, (name, "admitted"), it.admitted
    yield catalogue.LIMITER_DECISIONS, (name, "rejected"), it.rejected
    yield catalogue.LIMITER_LIMIT, (name,), it.limit


def _retry(it: RetryLike, now: float) -> Iterator[Sample]:
    for reason, count in it.suppressed.items():
        yield catalogue.RETRY_SUPPRESSED, (it.target or it.name, reason), count
    budget = getattr(it, "budget", None)
    if isinstance(budget, BudgetLike):
        yield catalogue.RETRY_BUDGET, (budget.target or it.target or it.name,), budget.remaining(now)


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


def _fallback(it: FallbackLike) -> Iterator[Sample]:
    yield catalogue.FALLBACKS, (it.target, it.name or "fallback", "answered"), it.answered


def _reader(thing: object, clock: Clock) -> Reader | None:
    """Return what reads a thing, None for one that shows nothing."""
    if isinstance(thing, BreakerLike):
        return lambda now: _breaker(thing, now)
    if isinstance(thing, BulkheadLike):  # before the limiter, which it also looks like
        return lambda now: _bulkhead(thing)
    if isinstance(thing, LimiterLike):
        return lambda now: _limiter(thing)
    if isinstance(thing, RetryLike):
        return lambda now: _retry(thing, now)
    if isinstance(thing, FallbackLike):
        return lambda now: _fallback(thing)
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
    return None


class Readings:
    """What is read at each scrape. `clock` is what the things themselves run by, `at` tells the time of day."""

    def __init__(self, clock: Clock = monotonic, *, at: Clock = wall) -> None:
        self._clock = clock
        self._at = at
        self._readers: tuple[Reader, ...] = ()
        self._lock = threading.Lock()

    def watch(self, *things: object) -> Callable[[], None]:
        """Show things from now on; return a function that ends it.

        Breakers, limiters, bulkheads, retries with their budgets, fallbacks, a `Latest` of a service's instances,
        registrations, a configuration, outbox relays, consumers. Hand in all policies of a pipeline: one that shows
        nothing is passed over.
        """
        return self.add(*(reader for thing in things if (reader := _reader(thing, self._at)) is not None))

    def follow(self, things: Callable[[], Iterable[object]]) -> Callable[[], None]:
        """Show whatever `things` yields at each scrape, for those that come and go; return a function that ends it."""

        def read(now: float) -> Iterator[Sample]:
            for thing in things():
                reader = _reader(thing, self._at)
                if reader is not None:
                    yield from reader(now)

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
        now = self._clock()
        for reader in self._readers:
            try:
                for metric, labels, value in reader(now):
                    _, samples = found.setdefault(metric.name, (metric, {}))
                    before = samples.get(labels)
                    if before is not None:
                        value = max(before, value) if metric.name in _WORST else before + value
                    samples[labels] = value
            except Exception as fault:  # noqa: BLE001  one broken thing must not cost the whole page
                unraisable(fault, reader)
        return list(found.values())
