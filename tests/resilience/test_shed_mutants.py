"""What only a changed line of the shedder showed."""

from __future__ import annotations

import math

import pytest

from msgov.call import OK, Call, Outcome
from msgov.errors import Shed
from msgov.event import Event, Observers
from msgov.resilience import Shedder, ShedRule
from msgov.scope import Criticality
from msgov.testing import LoadedDice

PLAIN = Call("shop")
CHEAP = Call("shop", criticality=Criticality.SHEDDABLE)


def shedder(*, observers: Observers | None = None, **changed: object) -> Shedder:
    """Make one with a dice that rolls a half for ever."""
    rule = ShedRule(**changed)  # type: ignore[arg-type]
    return Shedder(rule, dice=LoadedDice(0.5, cycle=True), observers=observers)


def second(gate: Shedder, start: float, calls: int, seconds: float) -> None:
    """Do so many calls in the second that begins then, each taking so long."""
    for _ in range(calls):
        gate.settle(gate.admit(PLAIN, start + 0.5 - seconds), Outcome(OK), start + 0.5)


def crowded(gate: Shedder, now: float = 3.0) -> None:
    """Let it know that one call at a time is all, strain it, and fill it past twice that."""
    second(gate, 0.0, 10, 0.1)
    second(gate, 1.0, 10, 0.1)
    second(gate, 2.0, 1, 0.1)
    assert gate.ceiling == 1
    gate.sense(cpu=1.0)
    for _ in range(2):
        gate.admit(PLAIN, now)


def test_new_one_has_read_nothing_and_shed_nobody() -> None:
    """A console that shows a strain before the first reading lies."""
    gate = shedder()
    assert (gate.threshold, gate.cpu, gate.lag, gate.delay, gate.strained, gate.ceiling) == (0, 0, 0, 0, "", math.inf)
    assert set(gate.shed.values()) == {0}


def test_who_was_shed_is_counted_by_what_was_too_high() -> None:
    """And by criticality; in the second after, as "recent"."""
    gate = shedder()
    crowded(gate)
    for _ in range(2):
        with pytest.raises(Shed):
            gate.admit(CHEAP, 3.0)
    gate.sense()
    with pytest.raises(Shed):
        gate.admit(PLAIN, 3.5)
    counted = {why: n for why, n in gate.shed.items() if n}
    assert counted == {("cpu", "sheddable"): 2, ("recent", "critical"): 1}


def test_second_after_the_last_one_shed_is_over_to_the_second() -> None:
    """Then a calm gate lets in whatever is in flight."""
    gate = shedder()
    crowded(gate)
    with pytest.raises(Shed):
        gate.admit(PLAIN, 3.0)
    gate.sense()
    gate.admit(PLAIN, 4.0)


def test_second_ends_at_its_very_end() -> None:
    """What was done in it sets the ceiling then."""
    gate = shedder()
    gate.settle(gate.admit(PLAIN, 0.0), Outcome(OK), 0.0)
    gate.settle(gate.admit(PLAIN, 0.0), Outcome(OK), 1.0)
    assert gate.ceiling == 1


def test_new_window_is_live_and_keeps_what_was_seen() -> None:
    """Of two seconds the better throughput and the better round trip count, though the window was one."""
    gate = shedder(window=1)
    gate.rule = ShedRule(window=2)
    second(gate, 0.0, 20, 0.1)
    second(gate, 1.0, 4, 0.2)
    second(gate, 2.0, 1, 0.2)
    assert gate.ceiling == 2


def test_shadow_tells_again_after_a_second_and_counts_usage() -> None:
    """To the second; and who is let in all the same has had what he had."""
    told: list[Event] = []
    gate = shedder(shadow=True, observers=Observers(told.append))
    crowded(gate)
    before = gate._levels._total
    for now in (3.0, 3.0, 3.5, 4.0):
        gate.admit(CHEAP, now)
    assert [event.at for event in told] == [3.0, 4.0]
    assert gate._levels._total > before


def test_strained_gate_learns_a_better_round_trip_and_no_worse() -> None:
    """Else the crowd would become what is usual; of several it must beat the best."""
    gate = shedder()
    second(gate, 0.0, 10, 0.1)
    second(gate, 1.0, 10, 0.3)
    second(gate, 2.0, 10, 0.2)
    gate.sense(lag=9.0)
    second(gate, 3.0, 1, 0.2)
    assert list(gate._usual) == pytest.approx([0.1, 0.3])


def test_threshold_is_of_what_came_in_a_second() -> None:
    """Sixty in four seconds are fifteen in one; ten less the one in flight too many can be done: four in ten go."""
    gate = shedder()
    crowded(gate)
    for n in range(60):
        with pytest.raises(Shed):
            gate.admit(Call("shop", key=f"{n}"), 3.5)
    with pytest.raises(Shed):
        gate.admit(PLAIN, 7.0)
    levels = list(gate._levels._levels)[:-1]
    assert 0.3 < sum(level < gate.threshold for level in levels) / len(levels) < 0.5
