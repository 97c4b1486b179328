"""The arithmetic of a key, number by number: what only a changed line of it showed."""

from __future__ import annotations

from typing import cast

import pytest

from msgov.errors import RuleError
from msgov.resilience import LimiterRule
from msgov.resilience.limiter_algorithms import Bucket, Cold, Several, Window
from msgov.resilience.limiter_rate import Limit, read

TEN = Limit.of(10, 10.0, None)


def window() -> tuple[Window, bytes]:
    """Ten in ten seconds, four of them used in the first window."""
    made = Window(TEN)
    return made, made.spend(None, 4.0, 5.0)[0]


def test_window_before_counts_by_the_share_that_is_still_inside() -> None:
    """Four calls, a fifth of the next window gone: 3.2."""
    made, state = window()
    assert made.used(state, 5.0) == 4
    assert made.used(state, 12.0) == pytest.approx(3.2)


def test_window_is_unused_when_both_are_over() -> None:
    """Calls of the first leave it at twenty; with nothing in the second that is the end of it."""
    made, state = window()
    ((_, _, reset),) = made.left(state, 12.0)
    assert reset == 8
    ((_, _, reset),) = made.left(state, 25.0)
    assert reset == 0
    assert made.free(made.spend(state, 0.0, 12.0)[0]) == 20


@pytest.mark.parametrize(("now", "early"), [(12.0, 1.0), (12.5, 0.5)])
def test_window_says_when_enough_calls_have_left_it(now: float, early: float) -> None:
    """Ten before and two here: at thirteen seven of the ten still count, and a third fits."""
    made = Window(TEN)
    state = made.spend(None, 10.0, 5.0)[0]
    state = made.spend(state, 2.0, 12.0)[0]
    assert made.spend(state, 1.0, now)[1] == pytest.approx(early)


def test_window_of_a_clock_that_lags_counts_the_window_before_in_full() -> None:
    """Another thread was in the next window already."""
    made = Window(TEN)
    state = made.spend(made.spend(None, 10.0, 5.0)[0], 1.0, 12.0)[0]
    assert made.spend(state, 1.0, 9.9)[1] > 0


def test_window_tolerates_floats_and_no_call_more() -> None:
    """A millionth of two million would be two."""
    made = Window(Limit.of(2e6, 1.0, None))
    state = made.spend(None, 2e6, 0.0)[0]
    assert made.spend(state, 1.0, 0.0)[1] > 0


def test_window_takes_over_what_was_used_in_whole_windows() -> None:
    """All keys share the edges."""
    made = Window(TEN)
    assert made.used(made.after(3.0, 15.0), 21.0) == pytest.approx(2.7)


COLD = Cold(Limit.of(1, 1.0, 1.0), 6.0)  # stores six calls, the upper three of them dear


def test_cold_call_costs_the_middle_of_its_price() -> None:
    """From 3 down to 1 over three calls: the first costs 2.667 seconds, the next 2, then 1.333, then 1."""
    state, costs = None, []
    for _ in range(4):
        now = 0.0 if state is None else state.real
        full = COLD.spend(state, 1.0, now)[0]
        costs.append(full.real - now)
        state = complex(full.real, full.imag)
    assert costs == pytest.approx([8 / 3, 2, 4 / 3, 1])


def test_cold_store_is_never_below_nothing() -> None:
    """A call of ten leaves none of six."""
    assert COLD.spend(None, 10.0, 0.0)[0].imag == 0


def test_cold_key_may_be_forgotten_when_it_is_as_cold_as_can_be() -> None:
    """Full at ten with two stored: at fourteen it has six."""
    assert COLD.free(complex(10.0, 2.0)) == 14


def test_cold_key_uses_what_its_bucket_lacks() -> None:
    """And one that is taken over is warm, for it is in use."""
    assert COLD.used(complex(10.0, 2.0), 7.0) == 3
    assert COLD.after(1.0, 7.0) == complex(8.0, 0.0)


def test_cold_key_has_one_call_left_whatever_it_costs() -> None:
    """A call that finds the bucket full is let in."""
    ((_, calls, lacks),) = COLD.left(complex(0.0, 6.0), 0.0)
    assert (calls, lacks) == (1.0, 0.0)


def test_turn_of_several_limits_is_the_last_of_theirs() -> None:
    """Who lets calls out at an even pace waits for the slowest."""
    both = Several([Bucket(Limit.of(1, 1.0, 5.0)), Bucket(Limit.of(1, 10.0, 5.0))])
    state = both.spend(None, 1.0, 0.0)[0]
    assert both.spend(state, 1.0, 0.0)[2] == 10


def test_bucket_tolerates_floats_and_no_call_more() -> None:
    """A hundredth of a call, where that is less than a microsecond."""
    bucket = Bucket(Limit.of(1e7, 1.0, 1.0))
    state = bucket.spend(None, 1.0, 0.0)[0]
    assert bucket.spend(state, 1.0, 0.0)[1] > 0


def test_rate_of_less_than_a_call_a_second_is_said_in_whole_calls() -> None:
    """One in a minute, not two."""
    (limit,) = cast("tuple[Limit, ...]", read("1/minute"))
    assert (limit.quota, limit.window) == (1, 60)


@pytest.mark.parametrize(
    ("rate", "fine"),
    [
        (1e9, True),
        (1e9 + 1, False),
        ("1000000000/s", True),
        ("1000000001/s", False),
        ("10000000/1000s", True),
        ("1/s, 2/s, 3/s, 4/s", True),
        ("1/s, 2/s, 3/s, 4/s, 5/s", False),
    ],
)
def test_edges_of_what_is_a_rate(rate: float | str, fine: bool) -> None:
    """A thousand million a second, and four at once, are in it; one more is not."""
    assert (read(rate) is not None) is fine


def test_edges_of_a_burst() -> None:
    """The same thousand million."""
    LimiterRule(rate=1, burst=1e9)
    with pytest.raises(RuleError, match="burst"):
        LimiterRule(rate=1, burst=1e9 + 1)


def test_of_several_rates_the_least_fits_at_once() -> None:
    """All of them hold."""
    assert LimiterRule(rate="10/second, 200/minute").at_once == 10
