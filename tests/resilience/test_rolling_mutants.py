"""What only a changed line of a window showed."""

from __future__ import annotations

from msgov._rolling import LastCalls, Rolling


def test_cleared_window_has_nothing_left_to_let_fall() -> None:
    """What is forgotten once must not be taken off a second time."""
    made = Rolling(1, seconds=10, buckets=10)
    made.add(0, 0.0)
    made.clear()
    made.add(0, 0.5)
    made.roll(20.0)
    assert made.totals == [0]


def test_ticks_before_a_change_of_the_window_stay_in_it() -> None:
    """They were counted, though nobody had looked yet."""
    made = Rolling(1, seconds=10, buckets=10)
    made.add(0, 0.0)
    made.tick()
    made.reshape(seconds=20, buckets=10)
    assert made.totals == [2]


def test_reshaped_window_keeps_each_count_at_its_age() -> None:
    """What was two seconds old falls in four seconds from a window of six, and in two from one of four."""
    for seconds, buckets, falls in ((6, 6, 4.0), (4, 4, 2.0)):
        made = Rolling(1, seconds=10, buckets=10)
        made.add(0, 0.0)
        made.add(0, 2.0)
        made.reshape(seconds=seconds, buckets=buckets)
        assert made.totals == [2]
        made.roll(2.0 + falls - 0.001)
        assert made.totals == [2]
        made.roll(2.0 + falls)
        assert made.totals == [1]


def test_reshaped_window_spans_as_much_as_it_did() -> None:
    """Three seconds of it: six buckets of half a second, two of two, and never more than there are."""
    for seconds, buckets, spans in ((5, 10, 6), (20, 10, 2), (2, 2, 2)):
        made = Rolling(1, seconds=10, buckets=10)
        made.add(0, 0.0)
        made.roll(2.0)
        assert len(made) == 3
        made.reshape(seconds=seconds, buckets=buckets)
        assert len(made) == spans


def test_what_is_too_old_for_the_shorter_window_is_let_fall() -> None:
    """Three seconds old, in a window of three."""
    made = Rolling(1, seconds=10, buckets=10)
    made.add(0, 0.0)
    made.add(0, 3.0)
    made.reshape(seconds=3, buckets=3)
    assert made.totals == [1]


def test_new_window_of_calls_has_counted_nothing() -> None:
    """Nor ticked."""
    made = LastCalls(3, calls=4)
    assert (made.totals, made.ticked()) == ([0, 0, 0], 0)
    made.tick()
    assert made.ticked() == 1


def test_cleared_window_of_calls_forgets_the_ticks_too() -> None:
    """Though nobody had looked at them; and says so at once."""
    made = LastCalls(2, calls=4)
    made.add(1, 0.0)
    made.tick()
    made.clear()
    assert made.totals == [0, 0]
    made.roll(0.0)
    assert made.totals == [0, 0]


def test_ticks_before_a_change_of_the_number_of_calls_are_in_the_old_window() -> None:
    """Two calls were all that it knew of: three more were never seen."""
    made = LastCalls(2, calls=2)
    for _ in range(3):
        made.tick()
    made.reshape(calls=5)
    assert made.totals == [2, 0]


def test_window_of_calls_takes_over_nothing_from_an_empty_one() -> None:
    """And of ten in three calls it keeps whole ones: the last of them the newest."""
    made = LastCalls(2, calls=4)
    made.take([0, 0])
    assert made.totals == [0, 0]
    made.take([3, 2])
    assert made.totals == [2, 2]
    made.add(0, 0.0)
    made.add(0, 0.0)
    assert made.totals == [3, 1]


def test_ages_and_span_are_counted_in_slices_of_two_seconds_too() -> None:
    """Four seconds old in slices of two, then in slices of one."""
    made = Rolling(1, seconds=20, buckets=10)
    made.add(0, 0.0)
    made.add(0, 4.0)
    assert len(made) == 3
    made.reshape(seconds=10, buckets=10)
    assert (len(made), made.totals) == (6, [2])
    made.reshape(seconds=3, buckets=3)
    assert made.totals == [1]


def test_taken_over_failures_are_spread_over_whole_calls() -> None:
    """Three of five: the first, the third and the last; one call more pushes the first out."""
    made = LastCalls(2, calls=5)
    made.take([2, 3])
    assert made.totals == [2, 3]
    made.add(0, 0.0)
    assert made.totals == [3, 2]
