"""Waits are spread, bounded, and the same in every project that took them from the same place."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msgov.backoff import Backoff, Jitter, ceiling, decorrelated_jitter, equal_jitter, full_jitter
from msgov.testing import LoadedDice

HALF = LoadedDice(0.5, cycle=True)


def test_a6_ceilings() -> None:
    """gRFC A6, before jitter: from 0.1 s, doubled, at most 1 s."""
    assert [ceiling(0.1, 2, 1, step) for step in range(5)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0])


def test_full_jitter_draws_from_zero_to_the_ceiling() -> None:
    """The widest spread there is (AWS Architecture Blog, 2015)."""
    assert [full_jitter(1, 2, 9, 2, LoadedDice(roll)) for roll in (0.0, 0.5)] == [0.0, 2.0]


def test_equal_jitter_draws_from_the_upper_half() -> None:
    """Never at once: for loops that must not spin."""
    assert [equal_jitter(1, 2, 9, 2, LoadedDice(roll)) for roll in (0.0, 0.5)] == [2.0, 3.0]


def test_polly_decorrelated_v2() -> None:
    """DecorrelatedJitterBackoffV2 with a base of 1 s, every draw one half."""
    waits = [decorrelated_jitter(1, 2, 999, step, HALF) for step in range(5)]
    assert waits == pytest.approx([0.8974, 1.093, 2.0357, 4.046, 8.0836], abs=1e-4)


def test_polly_2163_no_overflow_at_attempt_1024() -> None:
    """Polly 2163 overflowed, and cockatiel 86 gave NaN: the cap is the answer."""
    for step in (1022, 1023, 1024, 1025, 100_000):
        assert decorrelated_jitter(1, 2, 20, step, HALF) == 20


@given(
    jitter=st.sampled_from([full_jitter, equal_jitter, decorrelated_jitter]),
    base=st.floats(1e-9, 1e9),
    factor=st.floats(1, 10),
    cap=st.floats(0, 1e9),
    step=st.integers(0, 5000),
    rolls=st.tuples(*[st.floats(0, 1, exclude_max=True)] * 2),
)
def test_no_wait_is_negative_or_above_the_cap(
    jitter: Jitter, base: float, factor: float, cap: float, step: int, rolls: tuple[float, float]
) -> None:
    """Polly's own specification of jitter (FsCheck), over all of ours."""
    wait = jitter(base, factor, cap, step, LoadedDice(*rolls))
    assert 0 <= wait <= cap
    assert not math.isnan(wait)


def test_decorrelated_waits_are_spread_without_a_heap_at_the_ceiling() -> None:
    """What it is for: a draw of nearly one and of nearly zero are far apart, and neither is a bound of its step."""
    low, high = (decorrelated_jitter(1, 2, 999, 2, LoadedDice(*rolls)) for rolls in ((0.0, 0.999), (0.999, 0.0)))
    assert 0 <= low < 0.01
    assert high > 4


def test_backoff_counts_up_and_starts_again() -> None:
    """A source that came back and went again is not made to wait for its past."""
    backoff = Backoff(HALF, base=0.1, factor=2, cap=0.3)
    assert [backoff.next() for _ in range(3)] == pytest.approx([0.075, 0.15, 0.225])
    backoff.reset()
    assert backoff.next() == pytest.approx(0.075)
