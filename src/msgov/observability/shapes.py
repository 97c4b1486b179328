"""What a thing must offer to be shown in metrics: said by shape, so that anybody's breaker will do.

A shape holds plain attributes that are read at scrape time; none of them is asked on the path of a call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable


class Named(Protocol):
    """What has a name and a target."""

    @property
    def name(self) -> str:
        """What it is called in the rules."""
        ...

    @property
    def target(self) -> str:
        """What it protects."""
        ...


class Valued(Protocol):
    """A member of an enum of texts."""

    @property
    def value(self) -> str:
        """Its text."""
        ...


class Rated(Protocol):
    """A rule with a threshold."""

    @property
    def failure_rate(self) -> float:
        """The share of failures at which a breaker opens."""
        ...


@runtime_checkable
class BreakerLike(Named, Protocol):
    """What is shown as a breaker."""

    @property
    def state(self) -> Valued:
        """One of `STATES`."""
        ...

    @property
    def counts(self) -> Mapping[str, int]:
        """Calls by outcome: success, failure, slow, ignored, rejected."""
        ...

    @property
    def rule(self) -> Rated:
        """The rule in force."""
        ...

    def failure_rate(self, now: float) -> float:
        """Return the share of failures in the window."""
        ...


@runtime_checkable
class BulkheadLike(Named, Protocol):
    """What is shown as a bulkhead."""

    @property
    def inflight(self) -> int:
        """Calls inside."""
        ...

    @property
    def limit(self) -> int:
        """Room in all."""
        ...

    @property
    def depth(self) -> int:
        """Calls in line."""
        ...

    @property
    def rejected(self) -> int:
        """Calls refused since the start."""
        ...


@runtime_checkable
class LimiterLike(Named, Protocol):
    """What is shown as a limiter."""

    @property
    def admitted(self) -> int:
        """Calls let in since the start."""
        ...

    @property
    def rejected(self) -> int:
        """Calls refused since the start."""
        ...

    @property
    def limit(self) -> float:
        """What it allows, in calls a second."""
        ...


@runtime_checkable
class RetryLike(Named, Protocol):
    """What is shown as a retry."""

    @property
    def suppressed(self) -> Mapping[str, int]:
        """Retries not made since the start, by reason."""
        ...


@runtime_checkable
class BudgetLike(Named, Protocol):
    """What is shown as a retry budget."""

    def remaining(self, now: float) -> float:
        """Return the share that is left, 0 to 1."""
        ...


@runtime_checkable
class FallbackLike(Named, Protocol):
    """What is shown as a fallback."""

    @property
    def answered(self) -> int:
        """Calls answered since the start."""
        ...


@runtime_checkable
class Aged(Protocol):
    """The last good value of a source: a `Latest`. Its value is no part of the shape, for to look at it is to ask."""

    @property
    def name(self) -> str:
        """What it is about."""
        ...

    @property
    def known(self) -> bool:
        """Whether there is a value."""
        ...

    @property
    def stale(self) -> bool:
        """Whether the source is failing."""
        ...

    def age(self, now: float) -> float | None:
        """Return the seconds since the source last spoke."""
        ...


class InstanceLike(Protocol):
    """One place where a service answers."""

    @property
    def service(self) -> str:
        """What it is an instance of."""
        ...

    @property
    def healthy(self) -> bool:
        """Whether the registry thinks it well."""
        ...

    @property
    def draining(self) -> bool:
        """Whether it is about to leave."""
        ...


@runtime_checkable
class SnapshotLike(Protocol):
    """All instances of a service."""

    @property
    def service(self) -> str:
        """The service."""
        ...

    @property
    def instances(self) -> Sequence[InstanceLike]:
        """The instances."""
        ...


@runtime_checkable
class RegistrationLike(Protocol):
    """What is shown as a registration of this process."""

    @property
    def registered(self) -> bool:
        """Whether others can find it."""
        ...

    @property
    def instance(self) -> InstanceLike:
        """What is registered."""
        ...


@runtime_checkable
class ConfigLike(Protocol):
    """What is shown as a configuration."""

    @property
    def version(self) -> str:
        """A short name of all that is in force."""
        ...

    @property
    def knowledge(self) -> Mapping[str, Aged]:
        """Its layers, by name."""
        ...


@runtime_checkable
class OutboxLike(Protocol):
    """What is shown as an outbox."""

    @property
    def name(self) -> str:
        """Which one."""
        ...

    @property
    def pending(self) -> int:
        """Messages not yet handed to the bus."""
        ...

    @property
    def oldest_age(self) -> float:
        """Seconds that the oldest of them has waited."""
        ...


@runtime_checkable
class ConsumerLike(Protocol):
    """What is shown as a consumer of messages."""

    @property
    def topic(self) -> str:
        """What the messages are about."""
        ...

    @property
    def group(self) -> str:
        """Who reads."""
        ...

    @property
    def lag(self) -> int:
        """Messages that wait."""
        ...

    @property
    def processed(self) -> int:
        """Messages handled since the start, doubles included."""
        ...

    @property
    def duplicates(self) -> int:
        """Those of them that the inbox knew."""
        ...

    @property
    def failed(self) -> int:
        """Deliveries that failed and will come again."""
        ...

    @property
    def dead(self) -> int:
        """Messages given up on."""
        ...


@runtime_checkable
class SinkLike(Protocol):
    """What is shown as a place that telemetry is written to."""

    @property
    def dropped(self) -> int:
        """Lines that could not be written."""
        ...
