"""How long to wait before trying again: for a retry, and for a source that is down.

Full jitter, after "Exponential Backoff and Jitter" (AWS Architecture Blog, 2015): each wait is drawn evenly from zero
to an exponential ceiling, which spreads a crowd of clients better than any fixed schedule.
"""

from __future__ import annotations

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
        top = ceiling(self.base, self.factor, self.cap, self._step)
        self._step += 1
        return top * (0.5 + 0.5 * self._dice.random())

    def reset(self) -> None:
        """Forget the failures: the last try went well."""
        self._step = 0
