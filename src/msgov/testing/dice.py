"""Chance that is decided beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle as repeat

from msgov.errors import RuleError


class LoadedDice:
    """A dice that rolls the given values in turn, each in [0, 1), and then fails the test.

    It is a `msgov.clock.Dice`. With `cycle=True` it starts again at the first value instead:
    `LoadedDice(0.5, cycle=True)` always rolls 0.5.
    """

    __slots__ = ("_count", "_rolls")

    def __init__(self, *values: float, cycle: bool = False) -> None:
        for value in values:
            if not 0 <= value < 1:
                raise RuleError.at("LoadedDice: value", value, "a number of at least 0 and below 1")
        if cycle and not values:
            raise RuleError.at("LoadedDice: values", values, "at least one value when cycle=True")
        self._count = len(values)
        self._rolls: Iterator[float] = repeat(values) if cycle else iter(values)

    def random(self) -> float:
        """Roll the next value; `AssertionError` when all were rolled: the code rolls more often than expected."""
        for value in self._rolls:
            return value
        raise AssertionError(f"LoadedDice: all {self._count} values were rolled; give one more, or cycle=True")
