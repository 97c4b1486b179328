"""What shoppers tried, what they were told, and how long it took them to hear it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from ..laws import Asked


class Told(StrEnum):
    """What a shopper knows about an order in the end."""

    NOTHING = "nothing"
    PLACED = "placed"
    REFUSED = "refused"


@dataclass(slots=True)
class Attempt:
    """One order that a shopper tries to place, with all its repetitions under one key.

    `state` is what the order was read to be at the end: "confirmed", "cancelled", or "" when it could not be read.
    `doubt` says that an answer got lost on the way, so that a later refusal proves nothing.
    """

    user_id: str
    token: str
    key: str
    lines: Mapping[str, int]
    reused: bool = False
    told: Told = Told.NOTHING
    order_id: str = ""
    state: str = ""
    doubt: bool = False

    def asked(self) -> Asked:
        """Put it as the checker of the books wants it."""
        told = {Told.PLACED: "placed", Told.REFUSED: "unknown" if self.doubt else "refused", Told.NOTHING: "unknown"}
        return Asked(self.user_id, self.key, told[self.told], self.order_id, self.lines, self.reused)  # type: ignore[arg-type]

    def outcome(self) -> str:
        """Say where it counts: an order that was promised and cannot be read, or of which nothing is known, is lost."""
        if self.told is Told.REFUSED:
            return "refused"
        return self.state if self.state in ("confirmed", "cancelled") else "lost"


@dataclass(slots=True)
class Tally:
    """Everything that was tried; seconds until an answer in `waits`, and of each friendly refusal in `friendly`."""

    attempts: list[Attempt] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    friendly: list[float] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    again: int = 0

    def count(self, what: str) -> None:
        """Count one more answer of a kind, for the board."""
        self.statuses[what] = self.statuses.get(what, 0) + 1

    def orders(self) -> dict[str, int]:
        """Count the outcomes; `placed` is their sum."""
        counts = dict.fromkeys(("placed", "confirmed", "cancelled", "refused", "lost"), 0)
        for attempt in self.attempts:
            counts["placed"] += 1
            counts[attempt.outcome()] += 1
        return counts


def percentile(seconds: Sequence[float], share: float) -> float:
    """Return the smallest of the values that so large a share does not exceed; 0 of none."""
    if not seconds:
        return 0.0
    return sorted(seconds)[max(0, math.ceil(share * len(seconds)) - 1)]


def milliseconds(seconds: float) -> float:
    """Write seconds as milliseconds with one digit after the point."""
    return round(seconds * 1000, 1)
