"""What a gate must offer to be shown in metrics: said by shape, so that anybody's breaker will do.

A shape holds plain attributes that are read at scrape time; none of them is asked on the path of a call.
"""

from __future__ import annotations

from collections.abc import Mapping
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
        """The share of failures at which a breaker opens; 0 for never."""
        ...


@runtime_checkable
class SlowRated(Protocol):
    """A rule with a threshold for slow calls."""

    @property
    def slow_seconds(self) -> float:
        """How long a call takes that is not slow; 0 where none is."""
        ...

    @property
    def slow_rate(self) -> float:
        """The share of slow calls at which a breaker opens."""
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
        """Calls by outcome: success, failure, slow, ignored, rejected; maybe would_reject, in shadow."""
        ...

    @property
    def rule(self) -> Rated:
        """The rule in force."""
        ...

    def failure_rate(self, now: float) -> float:
        """Return the share of failures in the window."""
        ...


@runtime_checkable
class BreakerSeen(Protocol):
    """A breaker of which more is shown."""

    @property
    def since(self) -> float:
        """When its state began."""
        ...

    def snapshot(self, now: float) -> Mapping[str, object]:
        """Return what it knows: window_calls and window_slow in numbers, the share that is let in."""
        ...


@runtime_checkable
class BreakersLike(Named, Protocol):
    """What is shown as a breaker for each key; the key is never a label."""

    @property
    def breakers(self) -> Mapping[str, BreakerLike]:
        """The breakers by key."""
        ...

    @property
    def overflowed(self) -> int:
        """Calls that shared a breaker for want of room."""
        ...


class CircuitLike(Protocol):
    """The breaker of another library."""

    @property
    def current_state(self) -> str:
        """One of `STATES`, with a hyphen."""
        ...


@runtime_checkable
class CircuitGateLike(Named, Protocol):
    """What is shown as a gate before the breaker of another library."""

    @property
    def breaker(self) -> CircuitLike:
        """That breaker."""
        ...

    @property
    def rejected(self) -> int:
        """Calls refused since the start."""
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
class QueuedLike(Protocol):
    """What counts who waits."""

    @property
    def queued(self) -> int:
        """Calls that had to wait since the start."""
        ...


@runtime_checkable
class AdaptiveLike(QueuedLike, BulkheadLike, Protocol):
    """What is shown as a limiter that finds its limit."""

    @property
    def dropped(self) -> int:
        """Calls since the start that spoke for a lower limit."""
        ...

    @property
    def inflight_by_share(self) -> Mapping[str, int]:
        """Calls inside, by the shares that its rule names."""
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
class KeyedLike(Protocol):
    """A limiter that keeps keys apart."""

    @property
    def keys(self) -> int:
        """How many it remembers."""
        ...

    @property
    def overflowed(self) -> int:
        """Calls that shared a bucket for want of room."""
        ...


@runtime_checkable
class QuotaLike(Protocol):
    """A limiter that shares its limit with other processes."""

    @property
    def by_part(self) -> int:
        """Calls that this process decided by itself since the start."""
        ...

    @property
    def lost(self) -> bool:
        """Whether the store is out of reach."""
        ...

    @property
    def losses(self) -> int:
        """How often it was lost since the start."""
        ...


@runtime_checkable
class ThrottleLike(Named, Protocol):
    """What is shown as a throttle."""

    @property
    def taken(self) -> int:
        """Calls that the callee took since the start."""
        ...

    @property
    def refused(self) -> int:
        """Calls that it refused."""
        ...

    @property
    def held(self) -> int:
        """Calls held back here."""
        ...

    def chance(self, now: float) -> float:
        """Return the share of calls that is held back."""
        ...


@runtime_checkable
class LoadLike(Protocol):
    """What knows how loaded the process is."""

    @property
    def cpu(self) -> float:
        """The share of the CPU in use."""
        ...

    @property
    def lag(self) -> float:
        """How late the event loop is, in seconds."""
        ...

    @property
    def delay(self) -> float:
        """How long work waits for a thread, in seconds."""
        ...


@runtime_checkable
class ShedderLike(LoadLike, Named, Protocol):
    """What is shown as a shedder."""

    @property
    def shed(self) -> Mapping[tuple[str, str], int]:
        """Calls turned away since the start, by what was too high and how much they matter."""
        ...

    @property
    def inflight(self) -> int:
        """Calls inside."""
        ...

    @property
    def ceiling(self) -> float:
        """Calls that can be inside without waiting; infinite until it is known."""
        ...

    @property
    def threshold(self) -> float:
        """The level below which calls past the ceiling are shed."""
        ...


@runtime_checkable
class DeadlineLike(Named, Protocol):
    """What is shown as a deadline."""

    @property
    def refused(self) -> int:
        """Calls refused since the start, for no time was left."""
        ...

    @property
    def let_through(self) -> int:
        """Calls let in though none was."""
        ...

    @property
    def exceeded(self) -> int:
        """Calls that ran out of it."""
        ...


@runtime_checkable
class FaultLike(Named, Protocol):
    """What is shown as breaking calls on purpose."""

    @property
    def allowed(self) -> bool:
        """Whether it may."""
        ...

    @property
    def delayed(self) -> int:
        """Calls made late since the start."""
        ...

    @property
    def failed(self) -> int:
        """Calls made to fail."""
        ...

    @property
    def hung(self) -> int:
        """Calls left without an answer."""
        ...


@runtime_checkable
class ShadowLike(Named, Protocol):
    """What can decide without refusing."""

    @property
    def would_reject(self) -> int:
        """Calls that it would have refused since the start."""
        ...


@runtime_checkable
class WrapperLike(Protocol):
    """What stands round a gate that is shown."""

    @property
    def gate(self) -> object:
        """That gate."""
        ...
