"""What a process has of one key is leased, lent, or used up until the window ends."""

from __future__ import annotations

import math
from dataclasses import dataclass

from msgov.policy import Waiting

_NEVER = -math.inf


@dataclass(frozen=True, slots=True)
class Ask:
    """One thing to count: `amount` more under the store's `key`, which lasts `window` seconds from its first count.

    More than `quota` is not granted.
    """

    name: str
    key: str
    amount: int
    quota: int
    window: int


class Lease:
    """Calls that a process may let in of one key: `balance`, below 0 those that it let in on credit.

    `left` is what was left of the quota when the store was last asked, `until` when a used-up one begins anew (0: it is
    not used up), `asked` since when an answer is awaited, `seen` when a call came last, `line` who waits. Not safe to
    share between threads: guard it.
    """

    __slots__ = ("asked", "balance", "left", "line", "seen", "until")

    def __init__(self, quota: int) -> None:
        self.balance = 0.0
        self.left = float(quota)
        self.until = 0.0
        self.asked = _NEVER
        self.seen = 0.0
        self.line: list[Waiting[float]] = []

    def turn(self, now: float, quota: int) -> None:
        """Begin anew when the window is over: what was let in too much is forgiven, what is leased stays."""
        if self.until and now >= self.until:
            self.until, self.balance, self.left = 0.0, max(0.0, self.balance), float(quota)

    def fill(self, ask: Ask, count: int, now: float, ends: float) -> None:
        """Add what the store grants of an ask, by what it counts now; `ends` is in seconds from now."""
        self.asked = _NEVER
        self.balance += max(0, min(ask.amount, ask.quota - (count - ask.amount)))
        self.left = float(max(0, ask.quota - count))
        if count > ask.quota:
            self.until = now + ends
