"""Every order that was tried counts once, by what is known of it in the end."""

from __future__ import annotations

import pytest

from shop.demo.tally import Attempt, Tally, Told, milliseconds, percentile


def attempt(told: Told, state: str = "", **more: object) -> Attempt:
    """Make an attempt with this end."""
    order_id = "o1" if told is Told.PLACED else ""
    return Attempt("u", "t", "k", {"TEA": 1}, told=told, order_id=order_id, state=state, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ended", "outcome", "asked"),
    [
        (attempt(Told.PLACED, "confirmed"), "confirmed", "placed"),
        (attempt(Told.PLACED, "cancelled"), "cancelled", "placed"),
        (attempt(Told.PLACED, "pending"), "lost", "placed"),
        (attempt(Told.PLACED), "lost", "placed"),
        (attempt(Told.REFUSED), "refused", "refused"),
        (attempt(Told.NOTHING), "lost", "unknown"),
        (attempt(Told.REFUSED, doubt=True), "refused", "unknown"),
    ],
)
def test_an_attempt_counts_where_it_ended(ended: Attempt, outcome: str, asked: str) -> None:
    """A promise that cannot be read is lost; a refusal after a lost answer proves nothing to the checker."""
    assert (ended.outcome(), ended.asked().told) == (outcome, asked)


def test_placed_is_the_sum() -> None:
    """What shoppers tried, not what the shop admits to."""
    ends = [attempt(Told.PLACED, "confirmed"), attempt(Told.REFUSED), attempt(Told.NOTHING)]
    orders = Tally(attempts=ends).orders()
    assert orders == {"placed": 3, "confirmed": 1, "cancelled": 0, "refused": 1, "lost": 1}


@pytest.mark.parametrize(
    ("seconds", "share", "value"),
    [
        ([], 0.99, 0.0),
        ([3.0], 0.5, 3.0),
        ([4.0, 1.0, 3.0, 2.0], 0.5, 2.0),
        ([float(n) for n in range(100)], 0.99, 98.0),
    ],
)
def test_a_percentile_is_one_of_the_values(seconds: list[float], share: float, value: float) -> None:
    """The nearest rank: no average of two answers that nobody got."""
    assert percentile(seconds, share) == value


def test_milliseconds_are_rounded_to_a_tenth() -> None:
    """More digits would be noise."""
    assert milliseconds(0.0123456) == 12.3
