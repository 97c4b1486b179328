"""Time and chance enter here and nowhere else.

A clock is a function that returns seconds; a dice has `random()`. Machines are handed both, so a test can hand them
numbers. Monotonic time serves every timeout, window, lease and backoff; wall time only stamps and retention.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Protocol

Clock = Callable[[], float]
Sleep = Callable[[float], None]

monotonic: Clock = time.monotonic
wall: Clock = time.time
sleep: Sleep = time.sleep


class Dice(Protocol):
    """Chance: a number in [0, 1). `random.Random` is one; `msgov.testing.LoadedDice` returns what it is told."""

    def random(self) -> float:
        """Roll."""
        ...


def dice(seed: int | None = None) -> Dice:
    """Make a dice; with a seed it rolls the same every time."""
    return random.Random(seed)  # noqa: S311  jitter is no secret
