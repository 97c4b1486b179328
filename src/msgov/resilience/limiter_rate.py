"""A rate is read as it is said: "100/minute", or several at once, "10/second, 200/minute"."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

_RATE = re.compile(r"\s*(\d{1,12}(?:\.\d{1,9})?)\s*/\s*(\d{1,6})?\s*([a-z]+?)s?\s*", re.ASCII)
_UNITS = {
    "": 1.0, "s": 1.0, "sec": 1.0, "second": 1.0, "m": 60.0, "min": 60.0, "minute": 60.0,
    "h": 3600.0, "hour": 3600.0, "d": 86400.0, "day": 86400.0,
}  # fmt: skip
_MOST = 4  # rates in one text: each costs a number a key

RATES: Final = (
    'calls a second (> 0, <= 1e9), or text like "100/minute", "5/s", "1000/10 minutes", '
    f'and up to {_MOST} of them: "10/second, 200/minute"'
)
"""What may stand where a rate is asked for."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit: `calls` in `seconds`, and at most `burst` of them at once.

    `quota` in `window` says it in whole numbers, as a header does: long enough for a whole call.
    """

    calls: float
    seconds: float
    burst: float
    quota: int
    window: int

    @classmethod
    def of(cls, calls: float, seconds: float, burst: float | None) -> Limit:
        """Make one; where `burst` is None as many fit at once as `calls` says, and at least 1."""
        window = max(1, math.ceil(seconds), math.ceil(seconds / calls))
        quota = max(1, int(calls / seconds * window + 1e-9))
        return cls(calls, seconds, max(1.0, calls) if burst is None else burst, quota, window)

    @property
    def per_second(self) -> float:
        """The rate in calls a second."""
        return self.calls / self.seconds


def read(rate: float | str, burst: float | None = None) -> tuple[Limit, ...] | None:
    """Return the limits that a rate speaks of; None for what is no rate.

    Where `burst` is None as many fit at once as the rate says: 100 of "100/minute", of a number a second's worth, and
    at least 1.
    """
    if not isinstance(rate, str):
        return (Limit.of(rate, 1.0, burst),) if 0 < rate <= 1e9 else None
    limits = []
    for text in rate.split(",", _MOST):
        found = _RATE.fullmatch(text)
        if found is None or found[3] not in _UNITS:
            return None
        calls, seconds = float(found[1]), float(found[2] or 1) * _UNITS[found[3]]
        if not seconds or not 0 < calls / seconds <= 1e9:
            return None
        limits.append(Limit.of(calls, seconds, burst))
    return tuple(limits) if len(limits) <= _MOST else None
