"""A quota is said in one line: how much of what all processes have together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgov.errors import Problem
from msgov.resilience.limiter_rate import Limit, read
from msgov.rule import field, rule

_ANY = Limit.of(1.0, 1.0, None)  # in place of what `lint` refuses


@rule
class QuotaRule:
    """How many calls all processes together let in, for each key.

    The windows are fixed, and begin with the first call that the store counts. In one window the processes may let in
    up to one `lease` each more than the rate says: what was leased in the window before, or let in before the store
    has answered.
    """

    rate: str | float = field(
        default="1000/minute",
        unit="calls",
        why="one rate; the default is a guess that every service replaces",
    )
    processes: int = field(
        default=1,
        ge=1,
        le=10_000,
        why="how many share it: while the store is lost each lets in its part, with 1 each lets in all of it",
    )
    lease: int | None = field(
        default=None,
        ge=1,
        le=1_000_000,
        unit="calls",
        why="how many a process fetches at a time, and may let in too many; by default a tenth of its part, at least 2",
    )
    unknown: Literal["local", "wait"] = field(
        default="local",
        why="a call that the leased part does not cover is let in on half a lease of credit; or waits for the store, "
        "which costs a round trip now and then and lets in less",
    )
    patience: float = field(
        default=0.1,
        gt=0,
        le=10,
        unit="s",
        why="how long a call waits for the store at most, then this process's part decides; an answer takes a few ms",
    )
    keys_max: int = field(
        default=100_000,
        ge=1,
        le=10_000_000,
        unit="keys",
        why="about 30 MB; past it new keys share one quota, none is forgiven",
    )

    def lint(self) -> Iterable[Problem]:
        """Check what no single field can see."""
        limits = read(self.rate)
        if limits is None or len(limits) != 1:
            yield Problem("rate", self.rate, 'one rate: calls a second (> 0, <= 1e9), or text like "1000/minute"')
        if self.lease == 1 and self.unknown == "local":
            yield Problem("lease", self.lease, 'at least 2: one half is credit; or unknown = "wait"')

    @property
    def limit(self) -> Limit:
        """What the rate says; the store counts its `quota` in its `window`."""
        limits = read(self.rate)
        return limits[0] if limits else _ANY

    @property
    def held(self) -> int:
        """How many calls a process has leased at most."""
        return self._lease - self.credit

    @property
    def credit(self) -> int:
        """How many calls are let in before the store has answered."""
        return self._lease // 2 if self.unknown == "local" else 0

    @property
    def _lease(self) -> int:
        return max(2, self.limit.quota // (10 * self.processes)) if self.lease is None else self.lease
