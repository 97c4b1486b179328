"""What only a changed line of the adaptive limit showed."""

from __future__ import annotations

from typing import Any

import pytest

from msgov.call import OK, TRANSIENT, Call, Outcome
from msgov.errors import RuleError
from msgov.event import Event, Observers
from msgov.policy import Waiting
from msgov.resilience import Adaptive, AdaptiveRule
from msgov.resilience.adaptive_limits import Gradient2, Vegas, Window

CALL = Call("shop")
LATE = Outcome(TRANSIENT, status="DEADLINE_EXCEEDED")


def window(gate: Adaptive, now: float, calls: int, seconds: float = 0.1, *, slow: int = 0, slower: float = 0.0) -> None:
    """Make so many calls at once, so many of them slower; the last one ends at `now`."""
    tickets = [gate.admit(CALL, now - seconds) for _ in range(calls - slow)]
    tickets += [gate.admit(CALL, now - slower) for _ in range(slow)]
    for ticket in tickets:
        assert not isinstance(ticket, Waiting)
        gate.settle(ticket, Outcome(OK), now)


def small(**changed: object) -> Adaptive:
    """Make one whose limit only drops and a full window move, at most once a second."""
    values: dict[str, object] = {"algorithm": "aimd", "initial": 10, "samples": 5, **changed}
    return Adaptive(AdaptiveRule(**values))  # type: ignore[arg-type]


def test_window_ends_with_so_many_samples_and_at_its_very_end() -> None:
    """The first call begins it; a second later five are enough, four are not."""
    for calls, limit in ((4, 4), (5, 5)):
        gate = small(initial=4)
        window(gate, 1.0, 1)
        window(gate, 2.0, calls - 1)
        assert gate.limit == limit


def test_one_sample_may_be_enough_and_the_first_call_only_begins() -> None:
    """No time has passed then, so there is no throughput to speak of."""
    gate = small(samples=1, initial=2)
    window(gate, 1.0, 1)
    assert gate.limit == 2
    window(gate, 2.0, 1)
    assert gate.limit == 3


@pytest.mark.parametrize(("drops", "limit"), [(9, 20), (10, 18)])
def test_ten_drops_end_a_window_that_has_too_few_samples(drops: int, limit: int) -> None:
    """A callee that answers nothing gives no samples."""
    gate = small(initial=20)
    window(gate, 0.0, 1)
    for _ in range(drops):
        gate.settle(gate.admit(CALL, 1.0), LATE, 1.5)  # type: ignore[arg-type]
    assert gate.limit == limit


def test_after_half_a_minute_an_answer_and_a_drop_are_a_window() -> None:
    """Half of it was dropped."""
    gate = small(initial=20)
    window(gate, 0.0, 1)
    gate.settle(gate.admit(CALL, 1.0), LATE, 31.0)  # type: ignore[arg-type]
    assert gate.limit == 18


@pytest.mark.parametrize(("slow", "limit"), [(5, 18), (4, 21)])
def test_round_trip_of_a_window_is_its_ninetieth_percentile(slow: int, limit: int) -> None:
    """Of fifty calls it is that of the fifth slowest."""
    gate = small(initial=20, samples=50, rtt_max=1.0)
    window(gate, 0.0, 1)
    window(gate, 0.5, 20)
    window(gate, 0.6, 20)
    window(gate, 2.5, 9, slow=slow, slower=2.0)
    assert gate.limit == limit


def test_round_trip_of_just_the_most_is_healthy() -> None:
    """Slower than it cuts, as slow does not."""
    gate = small(rtt_max=1.0)
    window(gate, 0.0, 1)
    window(gate, 4.0, 10, seconds=1.0)
    assert gate.limit == 11


def test_limit_comes_down_to_five_times_what_is_in_flight() -> None:
    """What was never tried is not known to be borne."""
    gate = small(initial=10, samples=1)
    now = 0.0
    window(gate, now, 1)
    for _ in range(40):
        now += 2
        window(gate, now, gate.limit)
    assert gate.limit == 50
    for _ in range(40):
        now += 2
        window(gate, now, 4)
    assert gate.limit == 20


def test_another_algorithm_is_live_and_any_other_change_keeps_what_it_knows() -> None:
    """A round trip three times the usual one is a queue to vegas, and nothing to aimd."""
    for before, after, moves in (("aimd", "aimd", 1), ("vegas", "vegas", -1), ("vegas", "aimd", 1)):
        gate = small(algorithm=before, initial=20, samples=1)
        window(gate, 0.0, 1)
        for at in range(1, 6):
            window(gate, 2.0 * at, 9)
        limit = gate.limit
        gate.rule = AdaptiveRule(algorithm=after, initial=20, samples=1, max_wait=0.2)  # type: ignore[arg-type]
        window(gate, 20.0, gate.limit, seconds=0.3)
        assert (gate.limit > limit) - (gate.limit < limit) == moves, (before, after)


def test_new_rule_is_live_in_the_line() -> None:
    """A place in line where there was none."""
    gate = small(initial=1)
    gate.admit(CALL, 0.0)
    gate.rule = AdaptiveRule(algorithm="aimd", initial=1, queue=1)
    assert isinstance(gate.admit(CALL, 0.0), Waiting)


def test_new_rule_is_live_in_the_shares() -> None:
    """A name that has used nothing of its share gets in though the limit is reached."""
    gate = small(initial=1)
    gate.admit(CALL, 0.0)
    gate.rule = AdaptiveRule(algorithm="aimd", initial=1, shares={"critical": 0.5})
    assert gate.inflight_by_share == {"critical": 0}
    gate.admit(CALL, 0.0)
    assert gate.inflight_by_share == {"critical": 1}


def test_who_is_granted_a_permit_is_woken() -> None:
    """By a call that ends, and by a rule that makes room."""
    gate = small(initial=1, queue=3, max_wait=9.0)
    ticket = gate.admit(CALL, 0.0)
    woken: list[int] = []
    for at in range(2):
        waiting = gate.admit(CALL, 0.0)
        assert isinstance(waiting, Waiting)
        waiting.wake = lambda at=at: woken.append(at)
    assert not isinstance(ticket, Waiting)
    gate.settle(ticket, Outcome(OK), 0.1)
    assert woken == [0]
    gate.rule = AdaptiveRule(algorithm="aimd", initial=2, min_limit=2, queue=3, max_wait=9.0)
    assert woken == [0, 1]


def test_wait_in_vain_says_how_long_it_was() -> None:
    """From when the line was joined."""
    gate = small(initial=1, queue=1, max_wait=0.5)
    gate.admit(CALL, 100.0)
    waiting = gate.admit(CALL, 100.0)
    assert isinstance(waiting, Waiting)
    assert "waited 0.500 s" in str(gate.late(waiting, 100.5))


def test_shadow_tells_again_after_a_second() -> None:
    """To the second."""
    told: list[Event] = []
    gate = Adaptive(AdaptiveRule(initial=1, shadow=True), observers=Observers(told.append))
    for now in (0.0, 0.0, 0.5, 1.0):
        gate.admit(CALL, now)
    assert [event.at for event in told] == [0.0, 1.0]


def seen(rtt: float, inflight: int = 10) -> Window:
    """A full window."""
    return Window(rtt, inflight, 100.0, full=True)


def test_vegas_stays_while_three_or_four_calls_queue() -> None:
    """Between alpha and beta nothing moves; half in use is enough to grow."""
    vegas = Vegas()
    assert vegas.next(10.0, seen(0.1, inflight=5)) == 11
    assert vegas.next(10.0, seen(0.1 / 0.65)) == 10


def test_gradient_forgets_a_bad_time_sooner() -> None:
    """A long mean of more than twice the round trip falls by a twentieth; half in use is enough to move."""
    gradient = Gradient2()
    gradient.next(100.0, seen(1.0, 100))
    gradient.next(100.0, seen(0.25, 100))
    long = 0.625 * 0.95 + (2.0 - 0.625 * 0.95) / 3
    assert gradient.next(100.0, seen(2.0, 50)) == pytest.approx(80 + 0.2 * (100 * 1.5 * long / 2.0 + 4))


@pytest.mark.parametrize(
    ("values", "fine"),
    [
        ({"rtt_max": 600.0}, True),
        ({"rtt_max": 600.5}, False),
        ({"shares": {"a": 1.0}}, True),
        ({"shares": {f"{n}": 0.01 for n in range(100)}}, True),
        ({"shares": {f"{n}": 0.005 for n in range(101)}}, False),
    ],
)
def test_edges_of_the_rule(values: dict[str, Any], fine: bool) -> None:
    """Ten minutes, the whole limit and a hundred names are allowed; what is beyond is not."""
    if fine:
        AdaptiveRule(**values)
    else:
        with pytest.raises(RuleError, match=next(iter(values))):
            AdaptiveRule(**values)
