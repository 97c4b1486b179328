from __future__ import annotations

from msgov.messaging.lease import Watch


def test_counter_that_stands_still_for_the_lease_is_dead() -> None:
    """Not sooner: a busy machine makes everybody late."""
    watch = Watch(3.0)
    assert [watch.look({"a": 7}, now) for now in (0, 1, 2, 2.9)] == [[], [], [], []]
    assert watch.look({"a": 7}, 3.0) == ["a"]


def test_counter_that_moves_is_alive() -> None:
    """Each movement begins the lease anew."""
    watch = Watch(3.0)
    assert all(watch.look({"a": now // 2, "b": now}, now) == [] for now in range(20))


def test_holder_that_comes_late_gets_the_whole_lease() -> None:
    """Its counter has only just been seen."""
    watch = Watch(3.0)
    for now in range(10):
        watch.look({"a": now}, now)
    assert [watch.look({"a": now, "b": 1}, now) for now in (10, 11, 12)] == [[], [], []]
    assert watch.look({"a": 13, "b": 1}, 13) == ["b"]


def test_watcher_that_was_stopped_itself_gives_the_others_time() -> None:
    """A machine that freezes for an hour stops all alike: on waking up nobody is dead yet."""
    watch = Watch(3.0)
    watch.look({"a": 1}, 0)
    assert watch.look({"a": 1}, 3600) == []
    assert watch.look({"a": 1}, 3601) == []
    assert watch.look({"a": 1}, 3602) == ["a"]


def test_clock_that_goes_back_ends_nobody() -> None:
    """No lease may hang on how far apart two readings of a clock are."""
    watch = Watch(3.0)
    watch.look({"a": 1}, 100)
    assert watch.look({"a": 1}, 0) == []


def test_holders_that_are_gone_are_forgotten() -> None:
    """Or the watch grows with every consumer that ever was."""
    watch = Watch(3.0)
    for number in range(100):
        watch.look({str(number): 1}, number)
    assert len(watch._seen) == 1
