"""`LoadedDice` is chance that a test decides."""

from __future__ import annotations

import math

import pytest

from msgov.clock import Dice
from msgov.errors import RuleError
from msgov.testing import LoadedDice


def test_dice_rolls_its_values_in_turn() -> None:
    """Each draw of a machine is known beforehand."""
    dice: Dice = LoadedDice(0.25, 0.0, 0.75)
    assert [dice.random() for _ in range(3)] == [0.25, 0.0, 0.75]


def test_empty_dice_fails_the_test_and_says_how_many_it_had() -> None:
    """A machine that draws more often than expected must be seen, not served."""
    dice = LoadedDice(0.5)
    dice.random()
    with pytest.raises(AssertionError, match="all 1 values were rolled"):
        dice.random()


def test_cycle_starts_again() -> None:
    """A soak needs endless chance that is still known."""
    dice = LoadedDice(0.1, 0.2, cycle=True)
    assert [dice.random() for _ in range(5)] == [0.1, 0.2, 0.1, 0.2, 0.1]


@pytest.mark.parametrize("value", [-0.1, 1.0, math.nan])
def test_value_no_dice_can_roll_is_refused(value: float) -> None:
    """A machine may rely on [0, 1): 1.0 would walk past the end of a list."""
    with pytest.raises(RuleError, match="below 1"):
        LoadedDice(0.5, value)


def test_cycle_of_nothing_is_refused() -> None:
    """It could never roll."""
    with pytest.raises(RuleError, match="at least one value"):
        LoadedDice(cycle=True)
