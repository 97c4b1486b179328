"""What a thing must offer to be shown in metrics: said by shape, so that anybody's breaker will do.

A shape holds plain attributes that are read at scrape time; none of them is asked on the path of a call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable


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
