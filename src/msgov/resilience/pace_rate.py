"""A rate that was too high comes back along a cubic curve: fast to what was known to work, slowly past it.

After Ha, Rhee and Xu, "CUBIC: A New TCP-Friendly High-Speed TCP Variant" (2008; RFC 9438), as botocore's adaptive retry
mode (`botocore.retries.throttling`, `.adaptive`) applies it to calls a second. Their owner holds a lock.
"""

from __future__ import annotations

import math

from msgov._rolling import Ticks

WIDTH = 0.5  # seconds in which what is sent is counted together, botocore's


class Cubic:
    """The curve C (t - K)^3 + peak, with K such that it begins at `beta` times the peak.

    `peak` is the rate, in calls a second, at which the callee last asked for less; `flat` is when the curve is back at
    it, K seconds after the cut: from there on it looks for what else there is.
    """

    __slots__ = ("flat", "peak", "scale")

    def __init__(self, *, scale: float) -> None:
        self.scale = scale
        self.peak = 0.0
        self.flat = -math.inf

    def cut(self, rate: float, now: float, *, beta: float) -> None:
        """Begin again at `beta` times a rate that was too high."""
        self.peak = rate
        self.flat = now + (rate * (1 - beta) / self.scale) ** (1 / 3)

    def at(self, now: float) -> float:
        """Return the rate of the curve, in calls a second."""
        return self.scale * (now - self.flat) ** 3 + self.peak

    def bend(self, scale: float, now: float) -> None:
        """Go on with another C, from the rate that there is at `now`."""
        above = (self.at(now) - self.peak) / scale
        self.flat = now - math.copysign(abs(above) ** (1 / 3), above)
        self.scale = scale


class Sent:
    """How many calls a second are sent: each half second weighs `smoothing`, all before it together the rest.

    A call is counted by `tick()`, one C-level step that needs no lock; `roll` is due at `edge`.
    """

    __slots__ = ("_since", "_ticks", "_told", "edge", "smooth", "tick")

    def __init__(self) -> None:
        self.smooth = 0.0  # calls a second, of the half seconds that are over
        self.edge = -math.inf
        self._ticks = Ticks()
        self.tick = self._ticks.tick
        self._since = math.inf  # nothing was sent yet
        self._told = 0

    @property
    def total(self) -> int:
        """How many were sent in all."""
        return self._ticks.read()

    def roll(self, now: float, *, smoothing: float) -> None:
        """Close the half second that is over at `now`."""
        half = math.floor(now / WIDTH) * WIDTH
        if self._since == math.inf:
            self._since, self.edge = half, half + WIDTH
        elif half > self._since:
            total = self._ticks.read()
            self.smooth += smoothing * ((total - self._told) / (half - self._since) - self.smooth)
            self._since, self.edge, self._told = half, half + WIDTH, total

    def rate(self) -> float:
        """Return the calls a second, at least those of the half second under way: quiet does not hide a burst."""
        return max(self.smooth, (self._ticks.read() - self._told) / WIDTH)
