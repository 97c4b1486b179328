"""Time that moves only when a test says so."""

from __future__ import annotations

import threading

from msgov.testing._number import non_negative


class ManualClock:
    """A clock that stands still: call it for the seconds, `advance` it, or hand its `sleep` to code that waits.

    It is a `msgov.clock.Clock`, starts at 0.0, never goes back, and may be shared by threads. Code that sleeps by it
    finds its time passed at once, so the blocking driver walks an hour of backoff in no time.
    """

    __slots__ = ("_lock", "_now")

    def __init__(self, start: float = 0.0) -> None:
        self._now = non_negative("ManualClock: start", start)
        self._lock = threading.Lock()

    def __call__(self) -> float:
        """Tell the time, in seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass: 0 or more seconds, finite; `RuleError` otherwise, for monotonic time never goes back."""
        seconds = non_negative("ManualClock.advance: seconds", seconds)
        with self._lock:
            self._now += seconds

    def sleep(self, seconds: float) -> None:
        """Wait without waiting: the same as `advance`, under the name that `time.sleep` has."""
        self.advance(seconds)
