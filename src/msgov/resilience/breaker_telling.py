"""What a breaker says: to the call that it refuses, to who watches it, to who counts."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from types import MappingProxyType

from msgov._rolling import Ticks
from msgov.errors import BreakerOpen, Fact
from msgov.event import Observers


def refusal(who: str, state: str, left: float | None, facts: Mapping[str, Fact], *, share: float = 0.0) -> BreakerOpen:
    """Say who refuses, why, and for how many seconds more; `share` is what part of the calls is let in all the same."""
    what = f"breaker {state}, letting {share:.0%} in" if share else f"breaker {state}"
    again = "" if left is None else f", try again in {left:.3f} s"
    # Made by hand: unpacking the facts into the constructor costs as much as all the rest, and an open breaker in a
    # storm of retries does little else.
    error = BreakerOpen.__new__(BreakerOpen, f"{who}: {what}{again}")
    error.retry_after = left
    error.facts = facts
    return error


class Tally:
    """Calls by what the breaker made of them; those that took no lock come from the window and from `rejected`."""

    __slots__ = ("failure", "ignored", "rejected", "slow", "success", "would_reject")

    def __init__(self) -> None:
        self.success = 0
        self.failure = 0
        self.slow = 0
        self.ignored = 0
        self.rejected = Ticks()
        self.would_reject = 0

    def counts(self, ticked: int) -> Mapping[str, int]:
        """Return all of them, with so many successes more."""
        return MappingProxyType(
            {
                "success": self.success + ticked,
                "failure": self.failure,
                "slow": self.slow,
                "ignored": self.ignored,
                "rejected": self.rejected.read(),
                "would_reject": self.would_reject,
            }
        )


class News:
    """What happened under the lock, told after it, in order; whoever comes first tells it."""

    __slots__ = ("_all", "_name", "_target", "observers")

    def __init__(self, observers: Observers, *, name: str, target: str) -> None:
        self.observers = observers
        self._name = name
        self._target = target
        self._all: deque[tuple[str, float, Mapping[str, Fact]]] = deque()

    def add(self, kind: str, at: float, facts: Mapping[str, Fact]) -> None:
        """Note it; one C-level step, so that holding the lock is not asked for."""
        self._all.append((kind, at, facts))

    def tell(self) -> None:
        """Tell it, with no lock held."""
        while self._all:
            try:
                kind, at, facts = self._all.popleft()
            except IndexError:  # another thread told it
                return
            self.observers.tell(kind, self._name, self._target, at, **facts)

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._all)
