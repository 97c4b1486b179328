"""Counting is exact and bounded, whoever counts and whatever they send."""

from __future__ import annotations

import math
import random
import threading

import pytest

from msgov.observability.catalogue import Metric
from msgov.observability.series import FOLD, Counter, Family, Histogram, text

METRIC = Metric("m_total", "counter", "M.", ("method", "status"))


def family(told: list[tuple[str, str]], *, most_series: int = 2000, most_values: int = 100) -> Family[Counter]:
    """Make a family that notes what overflowed."""
    return Family(
        METRIC,
        Counter,
        overflowed=lambda metric, label: told.append((metric, label)),
        most_series=most_series,
        most_values=most_values,
    )


def test_looking_at_a_counter_does_not_count() -> None:
    """Reading takes a step of the same iterator."""
    counter = Counter()
    assert [counter.value, counter.value] == [0, 0]
    counter.inc()
    counter.inc()
    assert [counter.value, counter.value] == [2, 2]
    counter.inc()
    assert counter.value == 3


def test_threads_lose_no_count() -> None:
    """The hot path takes no lock, so it must not need one."""
    counter, histogram = Counter(), Histogram((0.5,))

    def work() -> None:
        for _ in range(2000):
            counter.inc()
            histogram.observe(0.25)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    seen = [counter.value for _ in range(50)]
    for thread in threads:
        thread.join()
    assert seen == sorted(seen)
    assert counter.value == 16_000
    assert histogram.read() == ([16_000, 0], 4000.0)


def test_a_bound_belongs_to_its_bucket() -> None:
    """`le` means less or equal."""
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5):
        histogram.observe(value)
    assert histogram.read() == ([2, 2, 1], 7.5)


def test_sums_are_exact_over_many_folds() -> None:
    """Values are kept aside and sorted in later: none may be dropped or counted twice on the way."""
    dice, histogram = random.Random(7), Histogram((0.25, 0.5))
    values = [dice.randrange(0, 1024) / 1024 for _ in range(FOLD * 5 + 3)]
    for at, value in enumerate(values):
        histogram.observe(value)
        if at % 100 == 0:
            histogram.read()
    counts, total = histogram.read()
    assert total == sum(values)
    assert counts == [
        sum(value <= 0.25 for value in values),
        sum(0.25 < value <= 0.5 for value in values),
        sum(value > 0.5 for value in values),
    ]


def test_not_a_number_does_not_poison_the_sum() -> None:
    """A sum of NaN never recovers."""
    histogram = Histogram((1.0,))
    histogram.observe(math.nan)
    histogram.observe(0.5)
    assert histogram.read() == ([1, 0], 0.5)


def test_what_is_kept_aside_is_bounded() -> None:
    """A page that nobody scrapes must not grow."""
    histogram = Histogram((1.0,))
    for _ in range(FOLD * 3 + 1):
        histogram.observe(0.5)
    assert len(histogram._pending) < FOLD


def test_the_same_labels_are_the_same_series() -> None:
    """Two edges of one process add up."""
    made = family([])
    assert made.child("a", "ok") is made.child("a", "ok")
    assert made.child("a", "ok") is not made.child("a", "bad")


def test_a_value_too_many_becomes_other() -> None:
    """Labels come from registries; should one not, the damage is bounded and seen."""
    told: list[tuple[str, str]] = []
    made = family(told, most_values=2)
    first = made.child("a", "ok")
    made.child("b", "ok")
    assert made.child("c", "ok") is made.child("d", "ok")
    assert made.child("a", "ok") is first
    assert told == [("m_total", "method"), ("m_total", "method")]
    assert ("_OTHER", "ok") in dict(made.series())


def test_an_empty_value_takes_no_room() -> None:
    """An empty label is no label."""
    told: list[tuple[str, str]] = []
    made = family(told, most_values=1)
    made.child("a", "")
    made.child("a", "x")
    made.child("a", "")
    assert not told


def test_series_too_many_become_one() -> None:
    """Labels that are few each may still be many together."""
    told: list[tuple[str, str]] = []
    made = family(told, most_series=10)
    for method in range(10):
        for status in range(10):
            made.child(f"m{method}", f"s{status}").inc()
    assert len(made) == 11
    assert sum(child.value for _, child in made.series()) == 100
    assert told == [("m_total", "")] * 90


@pytest.mark.parametrize("hostile", ["\ud800", "x" * 5000, "a\ud8ffb"])
def test_a_hostile_value_fits_the_page(hostile: str) -> None:
    """One value that cannot be written in UTF-8 would cost the whole page."""
    made = family([])
    made.child(hostile, "ok")
    ((value, _), _) = made.series()[0]
    assert len(value.encode()) <= 1200
    assert value == text(hostile)
