"""What tries again, or answers without the callee, is shown in metrics when it offers this: said by shape.

A shape holds plain attributes that are read at scrape time; none of them is asked on the path of a call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from msgov.observability.shapes_gates import Named


@runtime_checkable
class RetryLike(Named, Protocol):
    """What is shown as a retry."""

    @property
    def suppressed(self) -> Mapping[str, int]:
        """Retries not made since the start, by reason."""
        ...


@runtime_checkable
class RetriedLike(Protocol):
    """A retry that counts what it does."""

    @property
    def retries(self) -> int:
        """Retries made since the start."""
        ...


@runtime_checkable
class HedgeLike(Named, Protocol):
    """What is shown as a hedge, and as a retry."""

    @property
    def hedged(self) -> int:
        """Attempts begun beside another since the start."""
        ...

    @property
    def won(self) -> int:
        """Those of them whose reply was taken."""
        ...

    @property
    def lost(self) -> int:
        """Those of them beside which another's was."""
        ...

    @property
    def retried(self) -> int:
        """Attempts begun after a failure."""
        ...

    @property
    def delay(self) -> float | None:
        """How long the first attempt has for itself, in seconds."""
        ...


@runtime_checkable
class BudgetLike(Named, Protocol):
    """What is shown as a retry budget."""

    def remaining(self, now: float) -> float:
        """Return the share that is left, 0 to 1."""
        ...


class TokensRated(Protocol):
    """A rule of tokens."""

    @property
    def maximum(self) -> float:
        """How many there are at most."""
        ...


@runtime_checkable
class TokensLike(Named, Protocol):
    """What is shown as a retry budget that lasts until half of its tokens are gone."""

    @property
    def left(self) -> float:
        """How many there are."""
        ...

    @property
    def rule(self) -> TokensRated:
        """The rule in force."""
        ...


@runtime_checkable
class FallbackLike(Named, Protocol):
    """What is shown as a fallback."""

    @property
    def answered(self) -> int:
        """Calls answered since the start."""
        ...


@runtime_checkable
class CacheLike(Named, Protocol):
    """What is shown as a cache."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Calls since the start by what it had: hit, miss, stale, error; answers evicted."""
        ...

    def __len__(self) -> int:
        """Count the answers kept."""
        ...


@runtime_checkable
class CoalesceLike(Named, Protocol):
    """What is shown as a coalescing of calls."""

    @property
    def led(self) -> int:
        """Executions since the start that others could join."""
        ...

    @property
    def joined(self) -> int:
        """Calls that joined one."""
        ...

    @property
    def alone(self) -> int:
        """Calls that went alone."""
        ...

    def __len__(self) -> int:
        """Count the executions under way."""
        ...
