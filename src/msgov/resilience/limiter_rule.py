"""A limit is said in one line, and refused where it cannot be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgov.errors import Problem
from msgov.resilience.limiter_rate import RATES, Limit, read
from msgov.rule import field, rule

_ANY = (Limit.of(1.0, 1.0, None),)  # in place of what `lint` refuses


@rule
class LimiterRule:
    """How many calls, how many at once, for how many keys.

    `algorithm` says what becomes of a burst:

    - "gcra": let in at once as long as it fits, then at the rate (ITU-T I.371, the generic cell rate algorithm);
    - "token_bucket": the same decisions under their other name, for GCRA is a token bucket that stores one number;
    - "leaky": what fits waits for its turn and leaves at an even pace (Turner 1986; nginx `limit_req`);
    - "sliding_window": as many in any window as the rate says, the window before counted by the share of it that is
      still inside (Cloudflare 2017).
    """

    rate: float | str = field(
        default=100.0,
        unit="calls/s",
        why='a number of calls a second, or text like "100/minute" or "10/second, 200/minute", which all hold; '
        "the default is a guess that every service replaces",
    )
    burst: float | None = field(
        default=None,
        unit="calls",
        why='how many at once; by default what the rate says: 100 of "100/minute", of a number a second\'s worth',
    )
    algorithm: Literal["gcra", "token_bucket", "leaky", "sliding_window"] = field(
        default="gcra", why="one number a key, exact, and no edge of a window at which twice as many get in"
    )
    warm_up: float = field(
        default=0.0,
        ge=0,
        le=3600,
        unit="s",
        why="off; else a key that was idle begins at a third of its rate and has all of it after so many seconds at "
        "that pace (Guava's SmoothWarmingUp and Sentinel's coldFactor, 3)",
    )
    keys_max: int = field(
        default=100_000,
        ge=1,
        le=10_000_000,
        unit="keys",
        why="about 15 MB; past it new keys share one bucket, none is forgiven",
    )
    shadow: bool = field(default=False, why="off; else what would be refused is counted and told, and let in")

    def lint(self) -> Iterable[Problem]:
        """Check what no single field can see."""
        limits = read(self.rate, self.burst)
        if limits is None:
            yield Problem("rate", self.rate, RATES)
        if self.burst is not None:
            if not 1 <= self.burst <= 1e9:
                yield Problem("burst", self.burst, "at least 1, at most 1e9 calls")
            if limits is not None and len(limits) > 1:
                yield Problem("burst", self.burst, "none beside several rates: each lets in at once what it says")
            if self.algorithm == "sliding_window":
                yield Problem("burst", self.burst, "none beside a sliding window: it lets in what the rate says")
        if self.warm_up and self.algorithm == "sliding_window":
            yield Problem("warm_up", self.warm_up, "0 beside a sliding window, which has no pace to warm")

    @property
    def limits(self) -> tuple[Limit, ...]:
        """What the rate says, one or several."""
        return read(self.rate, self.burst) or _ANY

    @property
    def per_second(self) -> float:
        """The rate in calls a second; of several the lowest."""
        return min(limit.per_second for limit in self.limits)

    @property
    def at_once(self) -> float:
        """The burst in force, in calls; of several limits the smallest."""
        return min(limit.burst for limit in self.limits)
