"""How long to wait before trying again: for a retry, and for a source that is down.

A crowd that failed together must not come back together: "Exponential Backoff and Jitter" (AWS Architecture Blog, 2015)
draws each wait evenly from zero to an exponential ceiling, which spreads it better than any fixed schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from msgov.clock import Dice


def ceiling(base: float, factor: float, cap: float, step: int) -> float:
    """Return `min(cap, base * factor ** step)` seconds for step 0, 1, 2..., without overflow at any step."""
    if step <= 0 or base >= cap:
        return min(base, cap)
    try:
        return min(cap, base * factor**step)
    except OverflowError:
        return cap


def full_jitter(base: float, factor: float, cap: float, step: int, dice: Dice) -> float:
    """Draw evenly from zero to the ceiling."""
    return dice.random() * ceiling(base, factor, cap, step)


def equal_jitter(base: float, factor: float, cap: float, step: int, dice: Dice) -> float:
    """Draw evenly from the upper half of the ceiling: never at once, a little less spread."""
    return (0.5 + 0.5 * dice.random()) * ceiling(base, factor, cap, step)


def decorrelated_jitter(base: float, factor: float, cap: float, step: int, dice: Dice) -> float:
    """Draw from a smooth curve whose first wait has a median of about `base`, without the heaps of a ceiling.

    Polly's DecorrelatedJitterBackoffV2 (Polly.Contrib.WaitAndRetry): with `x(t) = factor ** t * tanh(sqrt(4 t))`, a
    wait is `base * (x(step + u) - x(step - 1 + u')) / 1.4`. Polly keeps u' from the wait before; here it is drawn anew,
    which gives each wait the same distribution without a memory. Never negative, above `cap` or NaN, at any step.
    """
    high, low = _curve(factor, step + dice.random()), _curve(factor, step - 1 + dice.random()) if step > 0 else 0.0
    if math.isinf(high):
        return cap
    return min(cap, base * max(0.0, high - low) / 1.4)


def _curve(factor: float, t: float) -> float:
    try:
        return float(factor**t) * math.tanh(math.sqrt(4.0 * t))
    except OverflowError:
        return math.inf


Jitter = Callable[[float, float, float, int, Dice], float]


class Backoff:
    """Count failures in a row and say how long to wait after each; `reset` on success.

    The wait is drawn from the upper half of the ceiling ("equal jitter"): a loop that must not spin never gets zero.
    `base` and `cap` are seconds.
    """

    __slots__ = ("_dice", "_step", "base", "cap", "factor")

    def __init__(self, dice: Dice, *, base: float = 0.1, factor: float = 2.0, cap: float = 5.0) -> None:
        self.base = base
        self.factor = factor
        self.cap = cap
        self._dice = dice
        self._step = 0

    def next(self) -> float:
        """Return the seconds to wait now, and remember one failure more."""
        self._step += 1
        return equal_jitter(self.base, self.factor, self.cap, self._step - 1, self._dice)

    def reset(self) -> None:
        """Forget the failures: the last try went well."""
        self._step = 0
