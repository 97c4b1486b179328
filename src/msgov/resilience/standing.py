"""A caller is told where it stands by the numbers that decided its call, not by a second look at them.

A limiter's ticket *is* its snapshot, so that whoever does not ask pays nothing. Three ways to ask, for an edge:

- `limiter.standings(ticket, now)` turns the ticket of an admitted call into one `Standing` for each limit of the gate;
- a `RateLimited` carries the standing of the limit that refused as facts (`quota`, `window`, `remaining`, `reset`),
  which `Standing.of(error)` reads;
- `Announced(limiter, tell)` is the limiter for a pipeline whose edge wants to know: the same decisions, and after each
  one, let in or refused, `tell(call, standings)` is called with no lock held. `msgov.transport.ratelimit` writes
  them as headers: `tell=lambda call, standings: call.context.extra.extend(ratelimit.headers(standings))`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from msgov.call import Call, Outcome
from msgov.errors import RateLimited, Rejected, explain
from msgov.policy import Gate, Waiting

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Standing:
    """What is left of one limit at the moment of a decision.

    `quota` calls in `window` seconds (both whole, at least 1) is the limit; `remaining` calls (whole, at least 0) can
    be made at once, and after `reset` seconds (at least 0) without a call nothing of the limit is used.
    """

    name: str
    quota: int
    window: int
    remaining: int
    reset: float

    @classmethod
    def of(cls, error: Rejected) -> Standing | None:
        """Read the standing of the limit that refused; None where the error speaks of none."""
        facts = error.facts
        quota, window, left, reset = (facts.get(each) for each in ("quota", "window", "remaining", "reset"))
        if not isinstance(quota, int) or not isinstance(window, int) or not isinstance(left, int):
            return None
        return cls(str(facts.get("limiter", "")), quota, window, left, reset if isinstance(reset, float) else 0.0)


class Metered(Gate[T]):
    """A gate that can say from a ticket where the call's caller stood when it was given."""

    @abstractmethod
    def standings(self, ticket: T, now: float) -> Sequence[Standing]:
        """Return one standing for each limit of the gate, `now` being the time at which the ticket was given."""


Tell = Callable[[Call, Sequence[Standing]], None]


class Announced(Gate[T]):
    """The same limiter, for an edge that tells the caller where it stands.

    `tell` is called after each decision, in the caller's thread or task, with no lock held; it must not raise.
    """

    learns = False

    def __init__(self, gate: Metered[T], tell: Tell) -> None:
        self.gate = gate
        self.waits = gate.waits
        self._tell = tell

    def admit(self, call: Call, now: float) -> T | Waiting[T]:
        """Decide as the limiter does, and tell."""
        try:
            ticket = self.gate.admit(call, now)
        except RateLimited as refused:
            explain(self.gate, refused)  # it is the limiter that refuses
            standing = Standing.of(refused)
            if standing is not None:
                self._tell(call, (standing,))
            raise
        if not isinstance(ticket, Waiting):
            self._tell(call, self.gate.standings(ticket, now))
        return ticket

    def settle(self, ticket: T, outcome: Outcome, now: float) -> None:
        """Pass it on."""
        self.gate.settle(ticket, outcome, now)

    def withdraw(self, waiting: Waiting[T], now: float) -> T | None:
        """Pass it on: who waited is not told, for others came since."""
        return self.gate.withdraw(waiting, now)

    def late(self, waiting: Waiting[T], now: float) -> Rejected:
        """Pass it on."""
        return self.gate.late(waiting, now)
