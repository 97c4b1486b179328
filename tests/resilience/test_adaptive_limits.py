"""A limit grows while its queue is short, shrinks when it is long, and does not take a bad time for the usual."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msgov.resilience.adaptive_limits import Aimd, Algorithm, Gradient2, Mean, Vegas, Window, correlation, spread


def walk(algorithm: Algorithm, limit: float, rtts: list[float], *, full: bool = True) -> list[float]:
    """Give it one window after the other, each with as many in flight as the limit; return the limits."""
    found = []
    for rtt in rtts:
        limit = algorithm.next(limit, Window(rtt, int(limit), limit / rtt, full))
        found.append(limit)
    return found


def settled(rtt: float, limit: float = 20.0) -> Vegas:
    """Return one that has seen ten calm windows of this round trip."""
    vegas = Vegas()
    for _ in range(10):
        vegas.next(limit, Window(rtt, int(limit), limit / rtt))
    return vegas


def test_gradient2_constant_rtt_adds_four_fifths_per_update() -> None:
    """Gradient2Limit.java by its formula: 20 is 28 after 10 updates, 200 after 225."""
    limits = walk(Gradient2(), 20.0, [0.1] * 225)
    assert all(later - earlier == pytest.approx(0.8) for earlier, later in pairwise(limits))
    assert [limits[9], limits[224]] == pytest.approx([28.0, 200.0])


def test_gradient2_after_a_jump_of_the_rtt() -> None:
    """Gradient2Limit.java by its formula: ten windows of 100 ms from a limit of 100, then 300 ms."""
    algorithm = Gradient2()
    limits = walk(algorithm, 100.0, [0.1] * 10)
    assert limits[-1] == pytest.approx(108.0)
    assert walk(algorithm, limits[-1], [0.3] * 5) == pytest.approx([98.072, 89.195, 81.253, 74.143, 67.774], abs=1e-3)


@given(st.floats(1.51, 2.9))
def test_gradient2_rests_where_the_gradient_leaves_its_queue(slower: float) -> None:
    """Gradient2Limit.java: of a constant gradient g the fixed point is 4 / (1 - g)."""
    gradient = 1.5 / slower

    class Held(Gradient2):
        """Whose long mean stays where it is."""

        def next(self, limit: float, seen: Window) -> float:
            """Move by a mean made anew: of this value and one that makes up for it."""
            self._long = Mean(self.AGE)
            self._long.add(0.2 - seen.rtt)
            return super().next(limit, seen)

    rest = 4.0 / (1.0 - gradient)
    assert walk(Held(), rest, [0.1 * slower] * 50)[-1] == pytest.approx(rest)


def test_gradient2_forgets_a_bad_time_sooner() -> None:
    """Gradient2Limit.java: a long round trip of more than twice the short one loses a twentieth each time."""
    algorithm = Gradient2()
    walk(algorithm, 100.0, [1.0] * 10)
    limits = walk(algorithm, 100.0, [0.1] * 60)
    assert algorithm.next(limits[-1], Window(0.6, int(limits[-1]))) < limits[-1] * 0.95


def test_gradient2_stays_where_less_than_half_is_in_use() -> None:
    """Gradient2Limit.java: a limit that nobody comes near says nothing."""
    assert Gradient2().next(100.0, Window(0.1, 49)) == 100.0


def test_aimd_adds_one_where_half_is_in_use() -> None:
    """AIMDLimit.java: in flight times two at least the limit."""
    assert [Aimd().next(10.0, Window(0.1, inflight)) for inflight in (4, 5, 10)] == [10.0, 11.0, 11.0]


def test_vegas_grows_by_the_logarithm_of_the_limit_while_there_is_no_queue() -> None:
    """Its step is log10 of the limit, at least one."""
    assert settled(0.1, 100.0).next(100.0, Window(0.1, 100)) == pytest.approx(102.0)
    assert settled(0.1).next(5.0, Window(0.1, 5)) == 6.0


@pytest.mark.parametrize(("queue", "moves"), [(5, 2), (9, 0), (11, 0), (13, -2)])
def test_vegas_aims_at_a_queue_of_three_to_six_logarithms(queue: int, moves: int) -> None:
    """Of a limit of 100 that is 6 to 12 calls waiting."""
    rtt = 0.1 / (1 - queue / 100)
    assert settled(0.1, 100.0).next(100.0, Window(rtt, 100, full=True)) == pytest.approx(100.0 + moves)


def test_vegas_does_not_grow_where_less_than_half_is_in_use() -> None:
    """A quiet hour must not earn a limit that nobody has tried."""
    assert settled(0.1).next(100.0, Window(0.1, 49)) == 100.0


def test_vegas_does_not_grow_at_a_quarter_slower_for_long() -> None:
    """concurrency-limits 134: Gradient2 goes from 100 to 149 in 50 such updates, to 189 in 100."""
    limits = walk(settled(0.1, 100.0), 100.0, [0.125] * 100)
    assert max(limits) <= 100.0
    assert limits[-1] < 75.0


def test_vegas_does_not_take_an_incident_for_the_usual() -> None:
    """failsafe-go 127: ten minutes of three times the round trip, all of it full, and the baseline stands."""
    vegas = settled(0.1)
    limits = walk(vegas, 100.0, [0.3] * 600)
    assert vegas.usual == pytest.approx(0.1)
    assert limits[-1] < 15.0
    assert walk(vegas, limits[-1], [0.1] * 60)[-1] > 60.0


def test_vegas_learns_a_slower_callee_while_it_is_not_full() -> None:
    """A release that takes twice as long is no queue of ours: in calm times the baseline follows."""
    vegas = settled(0.1)
    walk(vegas, 100.0, [0.2] * 60, full=False)
    assert vegas.usual == pytest.approx(0.2, rel=0.01)


def test_vegas_leaves_a_queue_that_it_was_born_in() -> None:
    """The first window was slow for our own crowd already: round trips follow the limit, throughput does not."""
    vegas, limit, servers = Vegas(), 40.0, 10
    limits = []
    for _ in range(60):
        busy = min(limit, servers)
        limit = vegas.next(limit, Window(0.1 * limit / busy, int(limit), busy / 0.1, full=True))
        limits.append(limit)
    assert max(limits[25:]) < 25.0
    assert sum(min(limit, servers) for limit in limits) > 0.95 * servers * len(limits)


def test_vegas_asks_for_no_reason_while_it_is_not_full() -> None:
    """What is below the limit is not held by it: round trips that follow are not ours to mend."""
    vegas, limits = Vegas(), [40.0]
    for _ in range(60):
        limits.append(vegas.next(limits[-1], Window(0.01 * limits[-1], int(limits[-1]), 100.0, full=False)))
    assert limits == sorted(limits)


def test_vegas_stays_in_a_callee_that_gives_more_for_more() -> None:
    """Throughput that grows with what is in flight is no queue, however round trips wander along."""
    vegas, limit = Vegas(), 20.0
    for number in range(40):
        limit = vegas.next(limit, Window(0.1 + number * 1e-4, int(limit), limit / 0.1, full=True))
    assert limit > 50.0


def test_mean_warms_up_and_then_ages() -> None:
    """ExpAvgMeasurement.java: the plain mean of the first ten, from then on 2 / (age + 1) of each."""
    mean = Mean(600)
    assert [mean.add(value) for value in (1.0, 2.0, 3.0)] == pytest.approx([1.0, 1.5, 2.0])
    for _ in range(7):
        mean.add(2.0)
    assert mean.add(602.0) == pytest.approx(2.0 + 600.0 * 2 / 601)


def test_correlation_is_pearsons() -> None:
    """One for what moves together, minus one for what moves apart, nothing for what does not move."""
    assert correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1.0)
    assert correlation([1, 2, 3], [6, 4, 2]) == pytest.approx(-1.0)
    assert correlation([1, 2, 3], [5, 5, 5]) == 0.0
    assert correlation([1, 2, 3, 4], [1, 0, 0, 1]) == pytest.approx(0.0)
    assert spread([5, 5]) == 0.0
    assert spread([0, 0]) == 0.0
    assert spread([1, 3]) == 0.5


@given(
    st.sampled_from([Vegas, Gradient2, Aimd]),
    st.lists(st.tuples(st.floats(1e-6, 100), st.integers(0, 1000), st.booleans()), max_size=60),
)
def test_no_window_breaks_an_algorithm(
    kind: type[Vegas | Gradient2 | Aimd], seen: list[tuple[float, int, bool]]
) -> None:
    """Whatever is measured, the next limit is a number, and no window more than halves or doubles it."""
    algorithm, limit = kind(), 20.0
    for rtt, inflight, full in seen:
        before = limit
        limit = max(1.0, algorithm.next(limit, Window(rtt, inflight, inflight / rtt, full)))
        assert before / 2 <= limit <= before * 2
