"""What the machines tell becomes a line that people find and a count that Prometheus sees.

One observer serves every room: an event that is not known here is a line all the same.
"""

from __future__ import annotations

import logging
from typing import Final, Protocol

from msgov.clock import Clock, wall
from msgov.event import Event
from msgov.observability import catalogue
from msgov.observability.catalogue import Metric, Sample
from msgov.observability.levels import Voice
from msgov.observability.series import Counter

LOGGER: Final = "msgov.events"

LEVELS: Final = {
    "breaker.opened": logging.WARNING,
    "breaker.half_open": logging.INFO,
    "breaker.closed": logging.INFO,
    "breaker.forced_open": logging.WARNING,
    "breaker.forced_closed": logging.WARNING,
    "breaker.disabled": logging.WARNING,
    "shadow.breaker": logging.INFO,
    "shadow.limiter": logging.INFO,
    "shadow.throttle": logging.INFO,
    "shadow.adaptive": logging.INFO,
    "shadow.shed": logging.INFO,
    "shadow.deadline": logging.INFO,
    "quota.lost": logging.WARNING,
    "quota.found": logging.INFO,
    "cache.stale": logging.INFO,
    "cache.refresh_failed": logging.WARNING,
    "fallback.answered": logging.INFO,
    "fallback.failed": logging.WARNING,
    "fault.injected": logging.WARNING,
    "config.rejected": logging.ERROR,
    "config.copy_ignored": logging.WARNING,
    "config.copy_failed": logging.WARNING,
    "registration.lost": logging.WARNING,
    "consumer.down": logging.WARNING,
    "consumer.failed": logging.WARNING,
    "consumer.dead": logging.ERROR,
    "outbox.failed": logging.WARNING,
    "outbox.refused": logging.ERROR,
}
"""How much an event matters; all others are info.

Whose work is done in another way is info: a stale answer, a fallback. A protection that is switched off by hand, or a
fault on purpose, is a warning, for neither may stay unnoticed.
"""

_RELOADS: Final = {"config.changed": "applied", "config.rejected": "rejected"}


class Tell(Protocol):
    """Writes a line: `Logs.tell` does."""

    def __call__(self, level: int, logger: str, event: str, /, **fields: object) -> None:
        """Write it."""
        ...


class Count(Protocol):
    """Finds a counter: `Metrics.counter` does."""

    def __call__(self, metric: Metric, *labels: str) -> Counter:
        """Find it."""
        ...


class Events:
    """An observer for every room: `Breaker(..., observers=Observers(events))`.

    Each event is a line of the logger `msgov.events`, in the trace of the call that it happened in. Changes of a
    breaker's state and reloads of the configuration are counted too; `count` is None where there are no metrics.
    """

    def __init__(self, voice: Voice, *, tell: Tell, count: Count | None = None, at: Clock = wall) -> None:
        self.reloaded: float | None = None
        self._voice = voice
        self._tell = tell
        self._count = count
        self._at = at

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        level = LEVELS.get(event.kind, logging.INFO)
        if level > logging.INFO and event.facts.get("shadow"):
            level = logging.INFO  # what is only tried out does no harm
        if level >= self._voice.level:
            about = {"name": event.name, "target": event.target, **event.facts}
            self._tell(level, self._voice.name, event.kind, **{key: fact for key, fact in about.items() if fact != ""})
        if event.kind == "config.changed":
            self.reloaded = self._at()
        if self._count is not None:
            if event.kind in _RELOADS:
                self._count(catalogue.CONFIG_RELOADS, _RELOADS[event.kind]).inc()
            elif event.kind.startswith("breaker."):
                self._turned(event, self._count)

    def _turned(self, event: Event, count: Count) -> None:
        """Count a change of a breaker's state; a hand that leaves it as it is changes nothing."""
        facts = event.facts
        before, after = str(facts.get("before", "")), str(facts.get("after", ""))
        if before != after:
            name, reason = event.name or event.target, str(facts.get("reason", ""))
            count(catalogue.BREAKER_TRANSITIONS, name, event.target, before, after, reason).inc()

    def read(self, now: float) -> list[Sample]:
        """Tell when the configuration last changed: a reader for `Readings.add`."""
        return [] if self.reloaded is None else [(catalogue.CONFIG_RELOADED, (), self.reloaded)]
