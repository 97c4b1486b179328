"""hystrix-go's five settings, under their names, mean a deadline, a bulkhead and a breaker."""

from __future__ import annotations

from msgov.resilience.breaker_rule import BreakerRule
from msgov.resilience.bulkhead import BulkheadRule
from msgov.resilience.deadline import DeadlineRule
from msgov.rule import field, rule


@rule
class HystrixRule:
    """The settings of hystrix-go's `CommandConfig`, in its milliseconds and percent, with its defaults.

    `deadline`, `bulkhead` and `breaker` are the rules that they mean. The breaker is hystrix-go's as it was meant: one
    window of ten seconds, one test call after the sleep window, no jitter, no growth, no ramp, and no criterion but the
    error percentage. What is not carried over is what was wrong with it; `docs/howto/from-hystrix-go` lists it.
    """

    timeout: int = field(default=1000, ge=1, le=3_600_000, unit="ms", why="hystrix.DefaultTimeout")
    max_concurrent_requests: int = field(
        default=10, ge=1, le=1_000_000, unit="calls", why="hystrix.DefaultMaxConcurrent"
    )
    request_volume_threshold: int = field(
        default=20, ge=1, le=1_000_000, unit="calls", why="hystrix.DefaultVolumeThreshold"
    )
    sleep_window: int = field(default=5000, ge=1, le=300_000, unit="ms", why="hystrix.DefaultSleepWindow")
    error_percent_threshold: int = field(default=50, ge=1, le=100, unit="%", why="hystrix.DefaultErrorPercentThreshold")

    @property
    def deadline(self) -> DeadlineRule:
        """The deadline that `timeout` means."""
        return DeadlineRule(seconds=self.timeout / 1000)

    @property
    def bulkhead(self) -> BulkheadRule:
        """The bulkhead that `max_concurrent_requests` means: no queue."""
        return BulkheadRule(limit=self.max_concurrent_requests)

    @property
    def breaker(self) -> BreakerRule:
        """The breaker that the other three mean."""
        sleep = self.sleep_window / 1000
        return BreakerRule(
            failure_rate=self.error_percent_threshold / 100,
            minimum_calls=self.request_volume_threshold,
            wilson_calls=0,
            consecutive_failures=0,
            open_seconds=sleep,
            open_cap=sleep,
            open_growth=1.0,
            open_jitter=0.0,
            probes=1,
            probe_lease=max(sleep, self.timeout / 1000),
            ramp_seconds=0.0,
        )
