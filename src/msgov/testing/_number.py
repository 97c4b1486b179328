"""A wrong number is refused where it is given, by name and range."""

from __future__ import annotations

import math

from msgov.errors import RuleError


def non_negative(path: str, value: float) -> float:
    """Pass a finite number of 0 or more; `RuleError` with `path` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise RuleError.at(path, value, "a finite number, 0 or more")
    return value


def positive(path: str, value: float) -> float:
    """Pass a finite number above 0; `RuleError` with `path` otherwise."""
    if non_negative(path, value) == 0:
        raise RuleError.at(path, value, "a finite number above 0")
    return value
