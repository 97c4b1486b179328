"""When to stop calling, for how long, and how to find out that it is over: one rule."""

from __future__ import annotations

from collections.abc import Iterable

from msgov.errors import Problem
from msgov.rule import field, rule


@rule
class BreakerRule:
    """What a breaker opens on, how long it stays so, and how it comes back.

    It opens as soon as one of its criteria is met; each is off at 0, `slow_rate` as long as `slow_seconds` is 0.
    """

    failure_rate: float = field(
        default=0.5,
        ge=0,
        le=1,
        why="open at this share of failures or more; half is Hystrix' and Resilience4j's default; 0 = off",
    )
    minimum_calls: int = field(
        default=20,
        ge=1,
        le=1_000_000,
        unit="calls",
        why="with fewer in the window a rate is noise (Hystrix' requestVolumeThreshold)",
    )
    wilson_calls: int = field(
        default=5,
        ge=0,
        le=1_000_000,
        unit="calls",
        why="from so many on, though below minimum_calls, a rate counts when even its lower bound (Wilson, 95 %) is "
        "reached: a callee with little traffic opens too, at 5 of 5 or 7 of 8; 0 = off",
    )
    consecutive_failures: int = field(
        default=20,
        ge=0,
        le=1_000_000,
        unit="calls",
        why="a busy callee that is gone is found in 20 calls, not in half a window of them; five (Finagle, Envoy) come "
        "by chance every few seconds at 20 % failures and 1,000 calls/s; 0 = off",
    )
    slow_seconds: float = field(
        default=0.0, ge=0, le=3600, unit="s", why="an answer that took longer was slow; only you know how long; 0 = off"
    )
    slow_rate: float = field(
        default=0.8,
        gt=0,
        le=1,
        why="open at this share of slow calls or more: slow still serves, so later than failing",
    )
    window: float = field(
        default=10.0, ge=0.1, le=3600, unit="s", why="long enough for a rate, short enough to react (Hystrix)"
    )
    buckets: int = field(
        default=10, ge=2, le=120, unit="buckets", why="the window moves by a tenth of itself (Hystrix)"
    )
    last_calls: int = field(
        default=0,
        ge=0,
        le=100_000,
        unit="calls",
        why="the window is the last so many calls instead, however old (Resilience4j's COUNT_BASED); 0 = by time",
    )
    open_seconds: float = field(
        default=2.0,
        gt=0,
        le=300,
        unit="s",
        why="ceiling of the first open time; Hystrix' 5 s keep a short hiccup alive",
    )
    open_jitter: float = field(
        default=0.5,
        ge=0,
        le=1,
        why="the share of the open time that is drawn, so that clients that tripped together do not come back together "
        "(Finagle's equal jitter: half certain, half drawn)",
    )
    open_growth: float = field(
        default=1.5, ge=1, le=10, why="each further opening lasts longer, until a whole window went well"
    )
    open_cap: float = field(
        default=5.0, gt=0, le=300, unit="s", why="so that a callee that came back is found within seconds"
    )
    retry_after_cap: float = field(
        default=60.0, ge=0, le=3600, unit="s", why="the callee's Retry-After lengthens the open time, up to here"
    )
    probes: int = field(
        default=5,
        ge=1,
        le=1000,
        unit="calls",
        why="let in to find out, decided by the same rates; one alone is a coin toss (Polly 2381, cockatiel 73)",
    )
    probe_lease: float = field(
        default=10.0,
        gt=0,
        le=3600,
        unit="s",
        why="a probe that hangs longer, or past its call's deadline, has failed: it cannot wedge the breaker",
    )
    ramp_seconds: float = field(
        default=3.0,
        ge=0,
        le=600,
        unit="s",
        why="after an outage the share let in grows from a tenth to all over so long, for a callee with cold caches "
        "falls over again under all of it (Envoy's slow start); 0 = off",
    )
    shadow: bool = field(
        default=False, why="decide, count and tell, but refuse nothing: to try a rule on real traffic before it bites"
    )

    def lint(self) -> Iterable[Problem]:
        """Check what no single field can see."""
        if self.open_cap < self.open_seconds:
            yield Problem("open_cap", self.open_cap, f"at least open_seconds ({self.open_seconds:g} s)")
        if 0 < self.last_calls < self.minimum_calls:
            yield Problem(
                "minimum_calls", self.minimum_calls, f"at most last_calls ({self.last_calls}), or no rate is ever taken"
            )
        if not (self.failure_rate or self.slow_seconds or self.consecutive_failures):
            yield Problem(
                "failure_rate", self.failure_rate, "one of failure_rate, slow_seconds, consecutive_failures above 0"
            )
