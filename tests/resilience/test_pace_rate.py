"""The curve and the measured rate are those of botocore's adaptive retry mode."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msgov.resilience.pace_rate import Cubic, Sent

K = 1.9574338205844317  # of a peak of 10 calls/s


def cut(peak: float, now: float = 0.0, *, beta: float = 0.7) -> Cubic:
    """Return the curve after a cut at that rate."""
    cubic = Cubic(scale=0.4)
    cubic.cut(peak, now, beta=beta)
    return cubic


def measured(times: Sequence[float], *, start: float = 0.0) -> Sent:
    """Count a call at each of the times as botocore does: one on the edge is in the half second that ends there."""
    sent = Sent()
    sent.roll(start, smoothing=0.8)
    for now in times:
        sent.tick()
        sent.roll(now, smoothing=0.8)
    return sent


# The curve: tests/unit/retries/test_throttling.py


def test_botocore_starting_params() -> None:
    """Of ten calls a second the curve is flat after K."""
    assert cut(10).flat == pytest.approx(K)


def test_botocore_cubic_of_ten() -> None:
    """Seven at the cut, ten at K, thirteen at twice K."""
    assert [cut(10).at(now) for now in (0.0, K, 2 * K)] == pytest.approx([7.0, 10.0, 13.0])


def test_botocore_success_responses_until_max_hit() -> None:
    """Below what was too much until K, above it from then on."""
    cubic = cut(10)
    assert all(cubic.at(K * part) <= 10 for part in (1 / 3, 1 / 2, 1 / 1.1))
    assert all(cubic.at(K * part) >= 10 for part in (1.1, 2.0))


def test_botocore_error_response_decreases_rate_by_beta() -> None:
    """Of eight at second one: 5.6, and another K."""
    cubic = cut(8, 1.0)
    assert cubic.at(1.0) == pytest.approx(5.6)
    assert cubic.peak == 8
    assert cubic.flat - 1.0 == pytest.approx(1.8171205928321397)


def test_botocore_t_0_should_match_beta_decrease() -> None:
    """The curve begins where the cut ends, whatever beta is."""
    assert cut(10, 1.0, beta=0.6).at(1.0) == pytest.approx(6.0)


def test_cut_from_nothing_is_a_curve_from_nothing() -> None:
    """A rate of zero has no root to fail on."""
    assert cut(0, 3.0).at(4.0) == pytest.approx(0.4)


@given(st.floats(0.1, 1e4), st.floats(0.0, 30.0), st.floats(0.01, 10.0), st.floats(0.01, 0.99))
def test_another_scale_goes_on_from_the_rate_that_there_is(peak: float, now: float, scale: float, beta: float) -> None:
    """Below the peak and above it; what follows only grows."""
    cubic = cut(peak, beta=beta)
    before = cubic.at(now)
    cubic.bend(scale, now)
    assert cubic.at(now) == pytest.approx(before, rel=1e-6, abs=1e-6)
    assert cubic.at(now + 1.0) >= cubic.at(now)
    assert (cubic.scale, cubic.peak) == (scale, peak)


# The measured rate: tests/unit/retries/test_adaptive.py


def test_botocore_initial_rate_is_0() -> None:
    """Nothing is over yet."""
    assert measured([]).smooth == 0


def test_botocore_time_updates_if_after_bucket_range() -> None:
    """One in a second: 1 x 0.8 + 0 x 0.2."""
    assert measured([1]).smooth == pytest.approx(0.8)


def test_botocore_can_measure_constant_rate() -> None:
    """One each second is one a second."""
    assert measured(range(1, 21)).smooth == pytest.approx(1.0)


def test_botocore_uses_smoothing_to_favor_recent_weights() -> None:
    """Two a second, all but; then, after ten seconds of nothing, much nearer to a tenth."""
    times = [1, 1.5, 2, 2.5, 3, 3.5, 4]
    assert 1.99 <= measured(times).smooth <= 2.0
    assert measured([*times, 14]).smooth == pytest.approx(0.8 * 0.1 + 0.2 * measured(times).smooth)


def test_botocore_noop_when_delta_t_is_0() -> None:
    """Several at one time divide by no time."""
    assert measured([1, 1, 1, 2, 3]).smooth >= 1.0


def test_botocore_times_are_grouped_per_time_bucket() -> None:
    """Until the half second is over the rate is that of the one before; six in it are twelve a second."""
    times = [0.1, 0.2, 0.3, 0.4, 0.49]
    assert measured(times).smooth == 0
    assert measured([*times, 0.5]).smooth == pytest.approx(12 * 0.8)


def test_half_second_under_way_counts_at_least_for_what_is_in_it() -> None:
    """Fifty at once after an hour of nothing are no fiftieth of a call a second."""
    sent = measured([1.0], start=0.0)
    sent.roll(3600.0, smoothing=0.8)
    assert sent.rate() < 1
    for _ in range(50):
        sent.tick()
    assert sent.rate() == pytest.approx(100.0)
    assert sent.total == 51


def test_times_out_of_order_count_in_the_half_second_under_way() -> None:
    """Threads hand in their times as they get to it."""
    sent = measured([1.0, 0.2, 0.7], start=0.0)
    assert sent.smooth == pytest.approx(0.8)
    assert (sent.edge, sent.total) == (1.5, 3)
