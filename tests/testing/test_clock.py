"""`ManualClock` is time that a test moves."""

from __future__ import annotations

import math

import pytest

from msgov.clock import Clock
from msgov.errors import RuleError
from msgov.testing import ManualClock


def test_clock_starts_at_zero_and_stands_still() -> None:
    """A test that does not move it must see no time pass, however slow the machine."""
    clock: Clock = ManualClock()
    assert (clock(), clock()) == (0.0, 0.0)


def test_advance_adds_up() -> None:
    """Windows and leases are walked step by step."""
    clock = ManualClock(start=100)
    clock.advance(0.5)
    clock.advance(2)
    assert clock() == 102.5


def test_sleep_passes_the_time_at_once() -> None:
    """The blocking driver sleeps by it: an hour of backoff must take none."""
    clock = ManualClock()
    clock.sleep(3600)
    assert clock() == 3600


@pytest.mark.parametrize("seconds", [-1e-9, math.nan, math.inf, True])
def test_time_that_cannot_pass_is_refused(seconds: float) -> None:
    """A negative or absurd step is a mistake of the test, and would hide in a window that never turns."""
    clock = ManualClock()
    with pytest.raises(RuleError, match=r"ManualClock.advance: seconds = .* 0 or more"):
        clock.advance(seconds)
    assert clock() == 0.0
