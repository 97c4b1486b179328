"""How a limit is found, and between which bounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from msgov.errors import Problem
from msgov.resilience._line import LineRule
from msgov.rule import field, rule


@rule
class AdaptiveRule(LineRule):
    """How a limit is found, between which bounds, and what is guaranteed to whom."""

    algorithm: Literal["vegas", "gradient2", "aimd"] = field(
        default="vegas",
        why="vegas bounds the queue that it causes; gradient2 tolerates half as slow again; aimd heeds drops only",
    )
    initial: int = field(
        default=20, ge=1, le=100_000, unit="calls", why="enough to begin with, and low enough to do no harm (Netflix)"
    )
    min_limit: int = field(
        default=1, ge=1, le=100_000, unit="calls", why="one call at a time is what finds out that it is over"
    )
    max_limit: int = field(
        default=1000, ge=1, le=1_000_000, unit="calls", why="more than one Python process has in flight"
    )
    window: float = field(
        default=1.0,
        ge=0.01,
        le=30,
        unit="s",
        why="the limit moves at most once in it, by its 90th percentile: one slow call says nothing (failsafe-go)",
    )
    samples: int = field(
        default=50,
        ge=1,
        le=500,
        unit="calls",
        why="with fewer the window goes on, up to 30 s: a percentile needs them (failsafe-go)",
    )
    rtt_max: float | None = field(
        default=None,
        unit="s",
        why="off; a window slower than this cuts the limit whatever was usual before (failsafe-go 127)",
    )
    shares: Mapping[str, float] | None = field(
        default=None, why="off; what part of the limit is kept for whom, lent out while it is idle (Netflix)"
    )
    shadow: bool = field(default=False, why="off; else what would be refused is counted and told, and let in")

    def lint(self) -> Iterable[Problem]:
        """Check what no single field can see."""
        if not self.min_limit <= self.initial <= self.max_limit:
            yield Problem("initial", self.initial, f"min_limit ({self.min_limit}) to max_limit ({self.max_limit})")
        if self.rtt_max is not None and not 0 < self.rtt_max <= 600:
            yield Problem("rtt_max", self.rtt_max, "above 0, at most 600 s")
        shares = self.shares or {}
        for name, share in shares.items():
            if not 0 < share <= 1:
                yield Problem(f"shares.{name}", share, "above 0, at most 1: the part of the limit")
        if sum(shares.values()) > 1 + 1e-9:
            yield Problem("shares", dict(shares), "at most 1 together")
        if len(shares) > 100:
            yield Problem("shares", len(shares), "at most 100 of them")
        if shares and self.queue:
            yield Problem("queue", self.queue, "0 with shares: they are guaranteed at the door, not in a line")
