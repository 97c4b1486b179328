"""How long calls take now: quantiles of the last few, exact, for the price of one append a call.

Histograms are for merging and for memory; a thousand numbers need neither, and to sort them every few seconds costs a
tenth of a millisecond.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence

MOST = 1000  # calls remembered: a p99 still stands on ten of them
AGE = 60.0  # seconds; what is older says nothing about now


class Recent:
    """The durations of the last `MOST` calls, none older than `AGE` seconds.

    `add((now, seconds))` is one C-level step and takes no lock, from any thread.
    """

    __slots__ = ("_seen", "add")

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque(maxlen=MOST)
        self.add: Callable[[tuple[float, float]], None] = self._seen.append

    def quantiles(self, shares: Sequence[float], now: float, *, least: int) -> tuple[float, ...] | None:
        """Return how many seconds such shares of the calls stay within; None of fewer calls than `least`.

        By nearest rank: the smallest duration seen that at least this share does not exceed.
        """
        lengths = sorted(seconds for at, seconds in list(self._seen) if now - at <= AGE)
        if len(lengths) < max(1, least):
            return None
        return tuple(lengths[max(0, math.ceil(share * len(lengths) - _EXACT) - 1)] for share in shares)


_EXACT = 1e-9  # 0.95 of 100 is rank 95, whatever floats say
