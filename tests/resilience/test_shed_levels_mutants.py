"""Who had what, and where the line is: what only a changed line of the levels showed."""

from __future__ import annotations

import pytest

from msgov.resilience.shed_levels import Levels
from msgov.scope import Criticality
from msgov.testing import LoadedDice


def levels() -> Levels:
    """Make some with a dice that rolls a half for ever."""
    return Levels(LoadedDice(0.5, cycle=True))


def test_usage_fades_by_a_fifth_a_second_until_it_is_forgotten() -> None:
    """One call is eight tenths of one, and after eleven seconds, less than a tenth, none."""
    made = levels()
    made.let_in(0)
    made.fade()
    assert (made._usage[0], made._total, made._users) == (0.8, 0.8, 1)
    for _ in range(9):
        made.fade()
    assert made._usage[0] == pytest.approx(0.8**10)
    made.fade()
    assert (made._usage[0], made._total, made._users) == (0.0, 0.0, 0)


def test_fifty_levels_say_something_and_all_are_below_the_highest() -> None:
    """Forty-nine say nothing."""
    made = levels()
    found = [made.level(Criticality.CRITICAL, f"{n}", 0.0)[0] for n in range(49)]
    assert made.below(1.0) == 0.0
    found.append(made.level(Criticality.CRITICAL, "49", 0.0)[0])
    assert made.below(1.0) == max(found)


def test_lots_are_spread_over_all_that_luck_may_give() -> None:
    """Of five hundred tenants somebody has nearly the best lot, and somebody nearly the worst."""
    made = levels()
    found = [made.level(Criticality.CRITICAL, f"{n}", 0.0)[0] - Criticality.CRITICAL for n in range(500)]
    assert max(found) > 0.45 + 0.1 * (0.125 + 0.75 * 0.9)
    assert min(found) < 0.45 + 0.1 * (0.125 + 0.75 * 0.1)
