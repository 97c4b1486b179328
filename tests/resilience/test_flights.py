"""Who leads lands, who joins leaves, and nobody waits for himself."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from msgov.call import Call
from msgov.errors import CallFailed, DeadlineExceeded, DeadlineSpent
from msgov.resilience import CoalesceRule, flights
from msgov.resilience.flights import Flight, Flights
from msgov.testing import outcomes

Scene = tuple[list[Callable[[], object]], Callable[[], Hashable]]


def due(deadline: float | None = None) -> Call:
    """Make a call with a deadline."""
    return Call("shop", "price", deadline=deadline)


def led(table: Flights, key: str = "tea", deadline: float | None = None, inside: Flight | None = None) -> Flight:
    """Begin a flight."""
    flight, leads = table.join(key, due(deadline), inside=inside)
    assert flight is not None
    assert leads
    return flight


def joined(table: Flights, key: str = "tea", inside: Flight | None = None) -> Flight | None:
    """Join a flight; None for who must go alone."""
    flight, leads = table.join(key, due(), inside=inside)
    assert not leads
    return flight


def test_first_leads_and_all_others_join_until_it_lands() -> None:
    """Then the next one begins anew: nothing is remembered."""
    table = Flights()
    flight = led(table)
    assert joined(table) is flight
    table.land(flight, "reply")
    assert flight.reply(due()) == "reply"
    assert led(table) is not flight
    assert (table.led, table.joined, table.alone) == (2, 1, 0)


def test_last_to_leave_is_told_so_while_the_flight_is_under_way() -> None:
    """He ends the work; and whoever comes now begins anew, for that one is as good as dead."""
    table = Flights()
    flight = led(table)
    joined(table)
    assert not table.leave(flight)
    assert table.leave(flight)
    assert led(table) is not flight


def test_last_to_leave_what_is_over_takes_along_what_it_held() -> None:
    """A reply is not kept by those who once waited for it."""
    table = Flights()
    flight = led(table)
    table.land(flight, "reply")
    assert not table.leave(flight)
    assert flight.value is None


def test_what_lands_with_nobody_left_keeps_nothing() -> None:
    """Its own code may go on for long with the flight in its context; the reply must not stay with it."""
    table = Flights()
    flight = led(table)
    table.leave(flight)
    table.land(flight, "reply")
    assert (flight.over, flight.value) == (True, None)


def test_who_watches_is_woken_once_and_who_comes_late_is_told() -> None:
    """No wake-up falls between the look and the wait."""
    table, woken = Flights(), list[str]()
    flight = led(table)
    assert table.watch(flight, lambda: woken.append("woken"))
    table.land(flight, 1)
    table.spoil(flight)
    assert woken == ["woken"]
    assert not table.watch(flight, lambda: woken.append("late"))


def test_who_left_is_not_woken() -> None:
    """A long flight does not gather those who gave up on it."""
    table, woken = Flights(), list[str]()
    flight = led(table)
    joined(table)

    def wake() -> None:
        woken.append("woken")

    table.watch(flight, wake)
    table.leave(flight, wake=wake)
    assert flight.wakes == []


def test_keys_are_bounded() -> None:
    """Past the bound a call goes alone, as it would without; those under way are joined as before."""
    table = Flights(CoalesceRule(keys_max=1))
    flight = led(table)
    assert table.join("cup", due()) == (None, False)
    assert joined(table) is flight
    assert (table.alone, len(table)) == (1, 1)


def test_flights_of_closed_loops_make_room() -> None:
    """A loop that was closed over its tasks lands nothing."""
    table = Flights(CoalesceRule(keys_max=1))
    table.join("tea", due(), closed=lambda: True)
    assert led(table, "cup").key == "cup"


def test_who_would_wait_for_himself_goes_alone() -> None:
    """A function that calls itself with the same arguments from its own flight."""
    table = Flights()
    flight = led(table)
    assert joined(table, inside=flight) is None


def test_circle_of_flights_is_not_closed() -> None:
    """Tea waits for milk, milk for a cow; a cow that asked for tea would wait for ever."""
    table = Flights()
    tea = led(table, "tea")
    milk = led(table, "milk", inside=tea)
    cow = led(table, "cow")
    assert joined(table, "cow", inside=milk) is cow
    assert joined(table, "tea", inside=cow) is None
    assert joined(table, "tea", inside=led(table, "cup")) is tea


def test_wait_that_is_over_closes_no_circle() -> None:
    """Only those who wait now count."""
    table = Flights()
    tea, cow = led(table, "tea"), led(table, "cow")
    joined(table, "cow", inside=tea)
    table.leave(cow, inside=tea)
    assert joined(table, "tea", inside=cow) is tea


@pytest.mark.parametrize(
    ("error", "at", "mine", "speaks"),
    [
        (None, 5.0, None, True),
        (CallFailed("no", status="503"), 10.0, None, True),
        (DeadlineExceeded("late"), 10.0, None, False),
        (DeadlineExceeded("late"), 10.0, 11.0, False),
        (DeadlineExceeded("late"), 10.0, 10.0, True),
        (DeadlineExceeded("late"), 10.0, 9.0, True),
        (DeadlineExceeded("late"), 5.0, None, True),  # an attempt's own deadline: the callee was late
        (DeadlineSpent("spent"), 5.0, None, False),
        (DeadlineSpent("spent"), 5.0, 10.0, True),
    ],
)
def test_deadline_of_the_first_caller_is_no_answer_to_one_with_more_time(
    error: Exception | None, at: float, mine: float | None, speaks: bool
) -> None:
    """It says how much time the first had, nothing of the callee."""
    table = Flights()
    flight = led(table, deadline=10.0)
    table.land(flight, error=error)
    assert flight.speaks_to(due(mine), at) is speaks


def test_what_was_cut_off_says_nothing() -> None:
    """Who joined begins anew."""
    table = Flights()
    flight = led(table)
    table.spoil(flight)
    assert not flight.speaks_to(due(), 0.0)


def test_error_is_shared_as_it_is_and_its_traceback_does_not_grow() -> None:
    """However many raise it, each starts from where it was raised first."""
    table = Flights()
    flight = led(table)
    try:
        raise ConnectionError("down")
    except ConnectionError as down:
        table.land(flight, error=down)
    depths = []
    for _ in range(3):
        with pytest.raises(ConnectionError) as got:
            flight.reply(due())
        depths.append(len(got.traceback))
        assert got.value is flight.error
    assert depths == [depths[0]] * 3


def test_joining_and_landing_race_in_every_order_of_lines() -> None:
    """One lands while two come: each has the reply, or begins anew; nobody waits for what is over."""

    def scene() -> Scene:
        table = Flights()
        first = led(table)
        replies: list[str] = []

        def come() -> None:
            flight, leads = table.join("tea", due())
            assert flight is not None
            if leads:
                table.land(flight, "anew")
            woken: list[bool] = []
            while table.watch(flight, lambda: woken.append(True)) and not woken:
                pass
            replies.append(str(flight.reply(due())))
            table.leave(flight)

        def land() -> None:
            table.land(first, "first")
            table.leave(first)

        return [come, come, land], lambda: (len(replies), len(table))

    assert set(outcomes(scene, watch=[flights], seeds=range(10))) == {(2, 0)}


class Walk(RuleBasedStateMachine):
    """A table against a dict of key -> those who want it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Flights(CoalesceRule(keys_max=2))
        self.wanted: dict[Flight, int] = {}
        self.under_way: dict[str, Flight] = {}

    @rule(key=st.sampled_from("abc"))
    def come(self, key: str) -> None:
        """One more asks."""
        flight, leads = self.table.join(key, due())
        assert leads == (key not in self.under_way and len(self.under_way) < 2)
        if leads:
            assert flight is not None
            self.under_way[key] = flight
        assert flight is self.under_way.get(key)
        if flight is not None:
            self.wanted[flight] = self.wanted.get(flight, 0) + 1

    @rule(data=st.data(), well=st.booleans())
    def land(self, data: st.DataObject, well: bool) -> None:
        """One is over."""
        if self.under_way:
            key = data.draw(st.sampled_from(sorted(self.under_way)))
            flight = self.under_way.pop(key)
            if well:
                self.table.land(flight, key)
            else:
                self.table.spoil(flight)
            assert flight.speaks_to(due(), 0.0) is well

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """One has its reply, or gives up."""
        if not self.wanted:
            return
        flight = list(self.wanted)[data.draw(st.integers(0, len(self.wanted) - 1))]
        self.wanted[flight] -= 1
        last = not self.wanted[flight]
        assert self.table.leave(flight) is (last and flight in self.under_way.values())
        if last:
            del self.wanted[flight]
            self.under_way = {key: each for key, each in self.under_way.items() if each is not flight}

    @invariant()
    def agrees(self) -> None:
        """What is under way is what somebody wants and what has not landed."""
        assert len(self.table) == len(self.under_way)


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
