"""A sliding window forgets in steps and never miscounts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msgov._rolling import LastCalls, Rolling, Ticks

WELL, BADLY, SLOW = 0, 1, 2


def test_hystrix_eleventh_increment_still_makes_ten_buckets() -> None:
    """HystrixRollingNumberTest: ten increments 20 ms apart make ten buckets of a 200 ms window, so do eleven."""
    window = Rolling(1, seconds=0.2, buckets=10)
    for step in range(10):
        window.add(0, step * 0.02)
    assert (len(window), window.totals) == (10, [10])
    window.add(0, 0.2)
    assert (len(window), window.totals) == (10, [10])


def test_hystrix_empty_buckets_are_filled() -> None:
    """HystrixRollingNumberTest: an increment, 60 ms, an increment are four buckets with a sum of two."""
    window = Rolling(1, seconds=0.2, buckets=10)
    window.add(0, 0.0)
    window.add(0, 0.06)
    assert (len(window), window.totals) == (4, [2])


def test_resilience4j_five_calls_of_which_two_are_slow() -> None:
    """SlidingTimeWindowMetricsTest: counts, slow counts and total duration of five calls, kept as running totals."""
    calls, well, slow, millis = range(4)
    window = Rolling(4, seconds=5, buckets=5)
    for duration, failed in [(10_000, True), (10_000, False), (100, False), (100, False), (100, False)]:
        for kind, amount in ((calls, 1), (well, not failed), (slow, duration > 5_000), (millis, duration)):
            window.add(kind, 100.0, int(amount))
    assert window.totals == [5, 4, 2, 20_300]
    assert window.totals[slow] / window.totals[calls] == 0.4
    assert window.totals[millis] / window.totals[calls] == 4_060


def test_what_is_older_than_the_window_falls_out() -> None:
    """A count lives between nine tenths of the window and all of it."""
    window = Rolling(1, seconds=10, buckets=10)
    window.add(0, 0.0, 5)
    window.roll(9.99)
    assert window.totals == [5]
    window.roll(10.0)
    assert window.totals == [0]


def test_long_silence_empties_the_window_at_once() -> None:
    """Years without a call cost one turn of the ring, not one step per bucket of the years."""
    window = Rolling(2, seconds=1, buckets=4)
    window.add(BADLY, 0.0)
    window.add(WELL, 1e10)
    assert window.totals == [1, 0]
    assert window.edge > 1e10


def test_time_from_before_the_bucket_counts_in_the_current_one() -> None:
    """Threads hand in their times out of order; nobody is lost for it."""
    window = Rolling(1, seconds=10, buckets=10)
    window.add(0, 100.0)
    window.add(0, 95.0)
    assert window.totals == [2]


def test_ticks_count_without_a_call_and_are_seen_by_the_next_one() -> None:
    """A tick is one C-level step: the healthy path of a breaker takes no lock."""
    window = Rolling(2, seconds=10, buckets=10)
    window.add(BADLY, 0.0)
    for _ in range(1000):
        window.tick()
    window.roll(0.5)
    assert window.totals == [1000, 1]
    assert window.ticked() == window.ticked() == 1000


def test_ticks_age_with_the_bucket_in_which_they_were_taken() -> None:
    """They are taken in before the window moves on."""
    window = Rolling(1, seconds=10, buckets=10)
    window.roll(0.0)
    window.tick()
    window.roll(5.0)
    window.tick()
    window.roll(10.0)
    assert window.totals == [1]


def test_clear_forgets_the_window_but_not_how_many_ticks_there_were() -> None:
    """A breaker that closes starts anew; its counters go on."""
    window = Rolling(2, seconds=10, buckets=10)
    window.add(BADLY, 0.0, 3)
    window.tick()
    window.clear()
    window.tick()
    window.roll(0.0)
    assert window.totals == [1, 0]
    assert window.ticked() == 2


@pytest.mark.parametrize(
    ("seconds", "buckets", "kept"), [(20, 10, 6), (10, 20, 6), (5, 5, 5), (1, 10, 3), (10, 10, 6), (100, 2, 6)]
)
def test_new_shape_keeps_what_still_fits(seconds: float, buckets: int, kept: int) -> None:
    """A new rule never throws away a window, only what is too old for it."""
    window = Rolling(1, seconds=10, buckets=10)
    for at, n in ((0.0, 1), (5.0, 2), (9.0, 3)):
        window.add(0, at, n)
    window.reshape(seconds=seconds, buckets=buckets)
    assert window.totals == [kept]
    window.roll(9.5)
    assert sum(window.totals) in (kept, 3)
    window.roll(9.0 + seconds + 10)
    assert window.totals == [0]


def test_new_shape_of_an_empty_window_is_empty() -> None:
    """A rule may change before the first call."""
    window = Rolling(1, seconds=10, buckets=10)
    window.reshape(seconds=5, buckets=2)
    assert len(window) == 0
    window.add(0, 3.0)
    assert (len(window), window.totals) == (1, [1])


@given(
    buckets=st.integers(1, 8),
    width=st.sampled_from([0.25, 1.0, 2.0]),
    events=st.lists(st.tuples(st.integers(0, 12), st.sampled_from(["well", "badly", "tick", "look"])), max_size=40),
)
def test_totals_are_those_of_a_plain_list(buckets: int, width: float, events: list[tuple[int, str]]) -> None:
    """The ring with its ticks and running totals equals a list of events sorted into the same buckets."""
    window = Rolling(2, seconds=buckets * width, buckets=buckets)
    plain: list[tuple[int, int]] = []
    now = 0
    window.roll(0.0)
    for step, what in events:
        now += step
        at = now * width / 4  # a quarter of a bucket at a time
        bucket = now // 4
        if what == "tick":
            window.roll(at)
            window.tick()
            plain.append((bucket, WELL))
        elif what != "look":
            kind = WELL if what == "well" else BADLY
            window.add(kind, at)
            plain.append((bucket, kind))
        window.roll(at)
        alive = [kind for then, kind in plain if then > bucket - buckets]
        assert window.totals == [alive.count(WELL), alive.count(BADLY)]
        assert len(window) == min(buckets, bucket + 1)


# The last calls


def test_resilience4j_fixed_size_window_holds_the_last_calls() -> None:
    """FixedSizeSlidingWindowMetrics: of five, the sixth call takes the place of the first."""
    window = LastCalls(3, calls=5)
    for kind, slow in [(BADLY, True), (WELL, True), (WELL, False), (WELL, False), (WELL, False)]:
        window.add(kind, 0.0)
        if slow:
            window.add(SLOW, 0.0)
    assert (len(window), window.totals) == (5, [4, 1, 2])
    window.add(WELL, 0.0)
    assert (len(window), window.totals) == (5, [5, 0, 1])


def test_time_does_not_move_a_window_of_calls() -> None:
    """That is what it is for."""
    window = LastCalls(2, calls=5)
    window.add(BADLY, 0.0)
    window.roll(1e9)
    assert window.totals == [0, 1]
    assert window.edge == float("inf")


def test_window_of_calls_remembers_no_more_than_it_holds() -> None:
    """Its memory is the failures in it: of a million calls that fail, so many numbers."""
    window = LastCalls(2, calls=10)
    for _ in range(1000):
        window.add(BADLY, 0.0)
    assert [len(marks) for marks in window._marks] == [10]


@pytest.mark.parametrize(("size", "totals"), [(2, [0, 2]), (4, [2, 2]), (10, [2, 2])])
def test_new_size_keeps_the_calls_that_fit(size: int, totals: list[int]) -> None:
    """Longer than before, it knows what it knew, and fills with the calls to come."""
    window = LastCalls(2, calls=4)
    for kind in (BADLY, BADLY, WELL, WELL, BADLY, BADLY):
        window.add(kind, 0.0)
    window.reshape(calls=size)
    assert window.totals == totals
    window.add(WELL, 0.0)
    assert len(window) == min(size, 5)


def test_window_that_takes_over_begins_with_the_sums_of_another() -> None:
    """In proportion where it is shorter; one of time takes it all as of now."""
    calls = LastCalls(3, calls=10)
    calls.take([60, 40, 20])
    assert calls.totals == [6, 4, 2]
    for _ in range(5):
        calls.add(WELL, 0.0)
    assert calls.totals == [8, 2, 1]  # spread evenly: half of them has fallen out
    time = Rolling(3, seconds=10, buckets=10)
    time.take([6, 4, 2])
    time.roll(1000.0)
    assert time.totals == [6, 4, 2]
    time.roll(1010.0)
    assert time.totals == [0, 0, 0]


def test_nothing_taken_over_is_nothing() -> None:
    """A rule may change before the first call."""
    window = LastCalls(3, calls=10)
    window.take([0, 0, 0])
    assert (len(window), window.totals) == (0, [0, 0, 0])


@given(
    size=st.integers(1, 8),
    events=st.lists(st.sampled_from(["tick", "well", "badly", "slowly", "clear", "look"]), max_size=60),
)
def test_last_calls_are_those_of_a_plain_list(size: int, events: list[str]) -> None:
    """Numbers of failures in place of a ring equal the end of a list."""
    window = LastCalls(3, calls=size)
    plain: list[tuple[bool, bool]] = []
    for what in events:
        if what == "tick":
            window.tick()
        elif what == "clear":
            window.clear()
        elif what != "look":
            window.add(BADLY if what == "badly" else WELL, 0.0)
            if what == "slowly":
                window.add(SLOW, 0.0)
        if what == "clear":
            plain.clear()
        elif what != "look":
            plain.append((what == "badly", what == "slowly"))
        if what != "tick":
            window.roll(0.0)
            last = plain[-size:]
            badly, slow = sum(failed for failed, _ in last), sum(slow for _, slow in last)
            assert (len(window), window.totals) == (len(last), [len(last) - badly, badly, slow])


def test_ticks_are_read_without_being_counted() -> None:
    """Looking is a step of the same counter, and is taken off again."""
    ticks = Ticks()
    for _ in range(5):
        ticks.tick()
    assert (ticks.fresh(), ticks.fresh(), ticks.read(), ticks.read()) == (5, 0, 5, 5)
    ticks.tick()
    assert ticks.read() == 6
