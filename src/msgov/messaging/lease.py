"""A lease is a counter that its holder moves; whoever watches judges it by its own clock.

No time is stored, so clocks that jump, differ or begin anew with the next boot cannot end a lease or keep one alive.
"""

from __future__ import annotations

from collections.abc import Mapping


class Watch:
    """Tell which holders have stopped moving their counters.

    A holder is dead when its counter has stood still for `lease` seconds *of our own looking*: the time between two
    looks counts for a third of the lease at most, so a watcher that was stopped itself (SIGSTOP, a debugger, a frozen
    machine) does not wake up and declare everybody dead.
    """

    __slots__ = ("_looked", "_seen", "lease")

    def __init__(self, lease: float) -> None:
        self.lease = lease
        self._looked: float | None = None
        self._seen: dict[str, tuple[int, float]] = {}

    def look(self, beats: Mapping[str, int], now: float) -> list[str]:
        """Take the counters of all holders as they stand at `now`; return those that are dead."""
        since = 0.0 if self._looked is None else min(max(0.0, now - self._looked), self.lease / 3)
        self._looked = now
        still: dict[str, tuple[int, float]] = {}
        for holder, beat in beats.items():
            last, quiet = self._seen.get(holder, (None, 0.0))
            still[holder] = (beat, quiet + since if beat == last else 0.0)
        self._seen = still
        return [holder for holder, (_, quiet) in still.items() if quiet >= self.lease]
