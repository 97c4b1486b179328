"""Criticality first, then who had least, then a lot: and never more memory than for one tenant."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msgov.clock import dice
from msgov.resilience.shed_levels import Levels
from msgov.scope import Criticality
from msgov.testing import LoadedDice

SHEDDABLE, SHEDDABLE_PLUS, CRITICAL, CRITICAL_PLUS = Criticality


def level(levels: Levels, tenant: str, criticality: Criticality = CRITICAL, now: float = 0.0) -> float:
    """Return the level of one more call."""
    return levels.level(criticality, tenant, now)[0]


def use(levels: Levels, tenant: str, calls: int) -> None:
    """Let in so many calls of a tenant."""
    _, row = levels.level(CRITICAL, tenant, 0.0)
    for _ in range(calls):
        levels.let_in(row)


@given(st.text(), st.text(), st.integers(0, 2), st.integers(0, 50), st.floats(0, 1e9))
def test_no_usage_lifts_a_call_out_of_its_class(one: str, other: str, rank: int, used: int, now: float) -> None:
    """A tenant who had nothing is still below one who matters more and had it all."""
    levels = Levels(dice(1))
    use(levels, other, used)
    low, high = Criticality(rank), Criticality(rank + 1)
    assert low <= level(levels, one, low, now) < high <= level(levels, other, high, now) < high + 1


def test_who_had_more_is_lower_in_the_class() -> None:
    """Whatever the lot says, ten times as much weighs more."""
    levels = Levels(dice(1))
    for number in range(20):
        use(levels, f"light {number}", 10)
    use(levels, "heavy", 200)
    assert max(level(levels, "heavy") for _ in range(50)) < min(level(levels, f"light {n}") for n in range(20))


def test_what_was_used_fades() -> None:
    """Five seconds are remembered, half a minute is not."""
    levels = Levels(dice(1))
    for number in range(10):
        use(levels, f"light {number}", 1)
    use(levels, "heavy", 100)
    before = level(levels, "heavy")
    for _ in range(40):
        levels.fade()
    assert before < 2.25 < 2.45 < level(levels, "heavy")


def test_lot_of_a_tenant_stays_for_an_hour_and_then_moves_on() -> None:
    """Of tenants alike a few are served whole, not all in part; the same ones are not the last for ever."""
    levels = Levels(LoadedDice(0.5, cycle=True))
    names = [f"tenant {number}" for number in range(20)]
    first, again, next_hour = ([level(levels, name, now=at) for name in names] for at in (0.0, 3599.0, 3600.0))
    assert first == again
    assert sorted(names, key=dict(zip(names, first, strict=True)).__getitem__) != sorted(
        names, key=dict(zip(names, next_hour, strict=True)).__getitem__
    )


def test_calls_of_one_tenant_are_told_apart_by_the_dice() -> None:
    """Else all or none of them would be below a threshold."""
    levels = Levels(dice(1))
    assert len({level(levels, "") for _ in range(100)}) == 100


def test_part_below_a_level_is_what_was_asked_for() -> None:
    """Of the latest thousand; with less than fifty there is nothing to tell by."""
    levels, draw = Levels(dice(1)), random.Random(2)
    for number in range(2000):
        level(levels, f"{number}", draw.choice([SHEDDABLE, CRITICAL_PLUS]))
        if number == 48:
            assert levels.below(0.5) == 0.0
    assert levels.below(0.0) == levels.below(-1.0) == 0.0
    assert 0.0 < levels.below(0.25) < 1.0
    assert 3.0 < levels.below(0.75) < levels.below(1.0) < 4.0


def test_memory_does_not_grow_with_tenants() -> None:
    """A million keys, of any length, are as many numbers as one."""
    levels = Levels(dice(1))
    for number in range(20_000):
        levels.let_in(levels.level(CRITICAL, f"{number}" * 20, 0.0)[1])
    assert (len(levels._usage), len(levels._levels)) == (1024, 1000)
    assert levels._total == pytest.approx(20_000)


def test_nobody_can_aim_at_the_row_of_another() -> None:
    """Rows are salted anew in each process."""
    rows = [[Levels(dice(seed)).level(CRITICAL, f"{n}", 0.0)[1] for n in range(8)] for seed in (1, 2)]
    assert rows[0] != rows[1]


def test_hostile_keys_have_a_level() -> None:
    """Empty, a megabyte, half a surrogate pair."""
    levels = Levels(dice(1))
    assert all(2.0 <= level(levels, key) < 3.0 for key in ("", "x" * 1_000_000, "\ud800", "\x00"))
