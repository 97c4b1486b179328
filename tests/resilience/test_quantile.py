"""The percentile is exact, of what is recent, and of enough."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from msgov.resilience.quantile import AGE, MOST, Recent


def seen(*lengths: float, at: float = 0.0) -> Recent:
    """Make one that has seen some calls."""
    recent = Recent()
    for length in lengths:
        recent.add((at, length))
    return recent


def test_nearest_rank() -> None:
    """Of a hundred calls the p95 is the 95th, not between two of them."""
    recent = seen(*[n / 100 for n in range(100, 0, -1)])
    assert recent.quantiles((0.95, 0.5, 0.999), 0.0, least=100) == (0.95, 0.5, 1.0)


def test_too_few_are_no_percentile() -> None:
    """The 99th call of 99 is one call's opinion."""
    recent = seen(*[0.1] * 99)
    assert recent.quantiles((0.95,), 0.0, least=100) is None
    recent.add((0.0, 0.1))
    assert recent.quantiles((0.95,), 0.0, least=100) == (0.1,)


def test_what_is_old_says_nothing() -> None:
    """After a minute without calls nothing is known."""
    recent = seen(*[0.1] * 100)
    assert recent.quantiles((0.5,), AGE, least=100) == (0.1,)
    assert recent.quantiles((0.5,), AGE + 0.1, least=100) is None
    late = seen(*[0.1] * 100, at=1000.0)
    assert late.quantiles((0.5,), 1000.0 + AGE, least=100) == (0.1,)


def test_memory_is_bounded() -> None:
    """The last thousand decide, however many came before."""
    recent = seen(*[9.0] * 5000, *[1.0] * MOST)
    assert recent.quantiles((0.999,), 0.0, least=1) == (1.0,)
    assert recent.quantiles((0.5,), 0.0, least=MOST) == (1.0,)
    assert recent.quantiles((0.5,), 0.0, least=1001) is None


@given(st.lists(st.floats(0, 100), min_size=1, max_size=200), st.floats(0.01, 0.999))
def test_share_stays_within(lengths: list[float], share: float) -> None:
    """At least this share of what was seen is not longer, and a shorter one seen would not do."""
    (found,) = seen(*lengths).quantiles((share,), 0.0, least=1) or (math.nan,)
    assert sum(length <= found for length in lengths) >= share * len(lengths) - 1e-6
    assert sum(length < found for length in lengths) < share * len(lengths) + 1e-6
