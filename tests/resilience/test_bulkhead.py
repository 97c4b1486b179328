"""Permits in are permits out, whoever waits, leaves, comes late or is resized away."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from msgov.call import OK, Call, Outcome
from msgov.errors import BulkheadFull, RuleError
from msgov.policy import Waiting
from msgov.resilience import Bulkhead, BulkheadRule, _line, bulkhead
from msgov.testing import outcomes

Scene = tuple[list[Callable[[], object]], Callable[[], Hashable]]

CALL = Call("shop")
DONE = Outcome(OK)


def enter(gate: Bulkhead, now: float = 0.0, call: Call = CALL) -> int:
    """Get in at once."""
    ticket = gate.admit(call, now)
    assert not isinstance(ticket, Waiting)
    return ticket


def queue(gate: Bulkhead, now: float = 0.0, call: Call = CALL) -> Waiting[int]:
    """Get a place in line."""
    place = gate.admit(call, now)
    assert isinstance(place, Waiting)
    return place


def test_so_many_at_once_and_no_more() -> None:
    """By default nobody waits: the next one is refused, with the numbers that decided."""
    gate = Bulkhead(BulkheadRule(limit=2))
    tickets = [enter(gate), enter(gate)]
    with pytest.raises(BulkheadFull) as refused:
        gate.admit(CALL, 0.0)
    assert refused.value.facts == {"inflight": 2, "limit": 2, "depth": 0, "queue": 0}
    gate.settle(tickets[0], DONE, 1.0)
    enter(gate)
    assert (gate.inflight, gate.rejected) == (2, 1)


def test_first_come_is_first_served() -> None:
    """A permit given back goes to the head of the line, at once."""
    gate = Bulkhead(BulkheadRule(limit=1, queue=3, max_wait=9.0))
    ticket = enter(gate)
    first, second = queue(gate), queue(gate)
    gate.settle(ticket, DONE, 1.0)
    assert (first.over, second.over, gate.inflight, gate.depth) == (True, False, 1, 1)
    assert gate.withdraw(first, 1.0) == ticket


def test_grant_wakes_whoever_listens() -> None:
    """After the lock, by the one call that may come from any thread."""
    gate, woken = Bulkhead(BulkheadRule(limit=1, queue=1)), list[str]()
    ticket, place = enter(gate), queue(gate)
    place.wake = lambda: woken.append("woken")
    gate.settle(ticket, DONE, 0.05)
    assert woken == ["woken"]


def test_newcomer_does_not_overtake_the_line() -> None:
    """A freed permit belongs to the line before anyone at the door sees it."""
    gate = Bulkhead(BulkheadRule(limit=1, queue=2))
    ticket, place = enter(gate), queue(gate)
    gate.settle(ticket, DONE, 0.05)
    assert not queue(gate).over
    assert place.over


def test_line_is_bounded() -> None:
    """A queue without an end is only a slower way to fail."""
    gate = Bulkhead(BulkheadRule(limit=1, queue=2))
    enter(gate)
    queue(gate)
    queue(gate)
    with pytest.raises(BulkheadFull, match="1 in flight, 2 in line"):
        gate.admit(CALL, 0.0)
    assert (gate.queued, gate.rejected) == (2, 1)


def test_nobody_waits_past_the_maximum_or_the_deadline() -> None:
    """An answer after the deadline is for nobody."""
    gate = Bulkhead(BulkheadRule(limit=1, queue=9, max_wait=2.0))
    enter(gate, 10.0)
    assert queue(gate, 10.0).until == 12.0
    assert queue(gate, 10.0, Call("shop", deadline=11.0)).until == 11.0
    with pytest.raises(BulkheadFull):
        gate.admit(Call("shop", deadline=10.0), 10.0)


def test_leaving_the_line_makes_room_in_it() -> None:
    """Who left is not served."""
    gate = Bulkhead(BulkheadRule(limit=1, queue=1))
    ticket, place = enter(gate), queue(gate)
    assert gate.withdraw(place, 0.01) is None
    assert gate.depth == 0
    gate.settle(ticket, DONE, 0.02)
    assert (gate.inflight, place.over) == (0, False)


def test_permit_granted_at_the_moment_of_leaving_is_handed_over() -> None:
    """The one way out returns it, so that it can be given back."""
    gate = Bulkhead(BulkheadRule(limit=1, queue=1))
    ticket, place = enter(gate), queue(gate)
    gate.settle(ticket, DONE, 0.01)
    granted = gate.withdraw(place, 0.01)
    assert granted is not None
    gate.settle(granted, DONE, 0.01)
    assert gate.inflight == 0


def test_who_has_waited_too_long_is_passed_over() -> None:
    """The permit goes to one who can still use it; the late one leaves with nothing."""
    gate = Bulkhead(BulkheadRule(limit=1, queue=2, max_wait=1.0))
    ticket, late, fresh = enter(gate), queue(gate, 0.0, Call("shop", deadline=0.3)), queue(gate, 0.2)
    gate.settle(ticket, DONE, 0.5)
    assert (late.over, fresh.over) == (False, True)
    assert gate.withdraw(late, 0.5) is None
    refusal = gate.late(late, 0.5)
    assert isinstance(refusal, BulkheadFull)
    assert "waited 0.500 s behind 1 in flight" in str(refusal)
    assert gate.rejected == 1


def test_line_that_does_not_drain_gives_newcomers_a_moment() -> None:
    """Fail at Scale: 100 ms to absorb a burst; a line not empty for so long absorbs none, and 5 ms are enough."""
    gate = Bulkhead(BulkheadRule(limit=1, queue=9))
    enter(gate)
    places = [queue(gate, at) for at in (0.0, 0.05, 0.1)]
    assert [place.until for place in places] == pytest.approx([0.1, 0.15, 0.105])


def test_newest_is_served_first_in_a_line_that_does_not_drain() -> None:
    """Its caller surely still waits; who came first has waited in vain already."""
    gate = Bulkhead(BulkheadRule(limit=1, queue=9))
    ticket, first, second, third = enter(gate), queue(gate, 0.0), queue(gate, 0.05), queue(gate, 0.1)
    gate.settle(ticket, DONE, 0.1)
    assert [place.over for place in (first, second, third)] == [False, False, True]
    gate.settle(ticket, DONE, 0.1)
    assert [place.over for place in (first, second, third)] == [False, True, True]


def test_line_that_was_empty_absorbs_a_burst_again() -> None:
    """How long it was not empty is counted from when somebody came to the empty line."""
    gate = Bulkhead(BulkheadRule(limit=1, queue=9))
    ticket, place = enter(gate), queue(gate, 0.0)
    gate.settle(ticket, DONE, 0.1)
    assert gate.withdraw(place, 0.1) == ticket
    first, second = queue(gate, 0.11), queue(gate, 0.12)
    assert (first.until, second.until) == pytest.approx((0.21, 0.22))
    gate.settle(ticket, DONE, 0.13)
    assert (first.over, second.over) == (True, False)


def test_target_past_the_maximum_wait_counts_for_nothing() -> None:
    """So the moment can be switched off, and is never longer than the wait that was asked for."""
    gate = Bulkhead(BulkheadRule(limit=1, queue=9, max_wait=0.002, target=9.0))
    enter(gate)
    queue(gate, 0.0)
    assert queue(gate, 0.5).until == 0.502


def test_higher_limit_lets_the_line_in_at_once() -> None:
    """A reload must not wait for somebody to leave."""
    gate, woken = Bulkhead(BulkheadRule(limit=1, queue=3)), list[int]()
    enter(gate)
    places = [queue(gate) for _ in range(3)]
    for number, place in enumerate(places):
        place.wake = lambda number=number: woken.append(number)
    gate.rule = BulkheadRule(limit=3, queue=3)
    assert ([place.over for place in places], woken) == ([True, True, False], [0, 1])
    assert (gate.inflight, gate.limit) == (3, 3)


def test_lower_limit_keeps_permits_and_lets_nobody_in_until_it_is_met() -> None:
    """Those inside finish; the limit holds from then on."""
    gate = Bulkhead(BulkheadRule(limit=3))
    tickets = [enter(gate) for _ in range(3)]
    gate.rule = BulkheadRule(limit=1)
    for ticket in tickets[:2]:
        gate.settle(ticket, DONE, 1.0)
        with pytest.raises(BulkheadFull):
            gate.admit(CALL, 1.0)
    gate.settle(tickets[2], DONE, 1.0)
    enter(gate)


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"queue": -1}, {"max_wait": 0.0}, {"target": 0.0}, {"limit": 1.5}])
def test_rule_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    """A limit of nothing would refuse everything."""
    with pytest.raises(RuleError, match=next(iter(wrong))):
        BulkheadRule(**wrong)  # type: ignore[arg-type]


def test_grant_and_withdrawal_race_in_every_order_of_lines() -> None:
    """Two leave, two wait, one of these gives up: in any order every permit comes back."""

    def scene() -> Scene:
        gate = Bulkhead(BulkheadRule(limit=2, queue=2))
        inside = [enter(gate), enter(gate)]
        waiting = [queue(gate), queue(gate)]

        def leave() -> None:
            gate.settle(inside.pop(), DONE, 0.01)

        def give_up() -> None:
            granted = gate.withdraw(waiting[0], 0.01)
            if granted is not None:
                gate.settle(granted, DONE, 0.01)

        def outcome() -> object:
            granted = gate.withdraw(waiting[1], 0.02)
            assert granted is not None
            gate.settle(granted, DONE, 0.02)
            return gate.inflight, gate.depth

        return [leave, leave, give_up], outcome

    assert set(outcomes(scene, watch=[bulkhead, _line], seeds=range(20))) == {(0, 0)}


def test_coming_and_leaving_race_in_every_order_of_lines() -> None:
    """Who joins the line while the only permit is put back must not wait beside it."""

    def scene() -> Scene:
        gate = Bulkhead(BulkheadRule(limit=1, queue=2))
        ticket, got = enter(gate), list[int | Waiting[int]]()

        def come() -> None:
            got.append(gate.admit(CALL, 0.0))

        def outcome() -> object:
            held = [each for each in got if not isinstance(each, Waiting) or each.over]
            return len(held), gate.inflight, gate.depth

        return [come, come, lambda: gate.settle(ticket, DONE, 0.0)], outcome

    assert set(outcomes(scene, watch=[bulkhead, _line], seeds=range(60))) == {(1, 1, 1)}


def test_new_limit_races_in_every_order_of_lines() -> None:
    """A limit lowered and raised while calls come and go leaves as many permits as it says."""

    def scene() -> Scene:
        gate = Bulkhead(BulkheadRule(limit=2, queue=1))
        tickets, got = [enter(gate), enter(gate)], list[int | Waiting[int]]()

        def come() -> None:
            try:
                got.append(gate.admit(CALL, 0.0))
            except BulkheadFull:
                pass

        def leave() -> None:
            gate.settle(tickets.pop(), DONE, 0.0)

        def reload() -> None:
            gate.rule = BulkheadRule(limit=1, queue=1)

        def outcome() -> object:
            held = sum(not isinstance(each, Waiting) or each.over for each in got)
            found = gate.inflight == held <= 1 and (held == 1 or not gate.depth)
            for each in got:
                ticket = gate.withdraw(each, 0.0) if isinstance(each, Waiting) else each
                if ticket is not None:
                    gate.settle(ticket, DONE, 0.0)
            enter(gate)
            place = queue(gate)
            return found, gate.limit, gate.inflight, place.over

        return [leave, leave, come, reload], outcome

    assert set(outcomes(scene, watch=[bulkhead, _line], seeds=range(60))) == {(True, 1, 1, False)}


class Walk(RuleBasedStateMachine):
    """A bulkhead against two plain lists: who is inside, and who stands in line until when."""

    @initialize(limit=st.integers(1, 3), length=st.integers(0, 3))
    def begin(self, limit: int, length: int) -> None:
        """Draw the rule."""
        self.now = 0
        self.since = 0  # when somebody came to the empty line
        self.inside: list[int] = []
        self.line: list[Waiting[int]] = []
        self.late: list[Waiting[int]] = []
        self.granted: list[Waiting[int]] = []
        self.gate = Bulkhead(self.ruled(limit, length))

    def ruled(self, limit: int, length: int) -> BulkheadRule:
        """Note the rule in the model, and make it."""
        self.limit, self.length = limit, length
        return BulkheadRule(limit=limit, queue=length, max_wait=4.0, target=2.0)

    @property
    def standing(self) -> bool:
        """Whether the model's line does not drain."""
        return bool(self.line) and self.now - self.since >= 4

    def serve(self) -> None:
        """Hand the model's free permits down its line."""
        at = -1 if self.standing else 0
        while self.line and len(self.inside) + len(self.granted) < self.limit:
            turn = self.line.pop(at)
            (self.granted if self.now <= turn.until else self.late).append(turn)

    @rule()
    def come(self) -> None:
        """One more at the door."""
        busy = len(self.inside) + len(self.granted)
        if busy < self.limit:
            self.inside.append(enter(self.gate, self.now))
        elif len(self.line) < self.length:
            self.since = self.since if self.line else self.now
            place = queue(self.gate, self.now)
            assert place.until == self.now + (2 if self.standing else 4)
            self.line.append(place)
        else:
            with pytest.raises(BulkheadFull):
                self.gate.admit(CALL, self.now)

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """One of those inside is done."""
        if self.inside:
            self.gate.settle(self.inside.pop(data.draw(st.integers(0, len(self.inside) - 1))), DONE, self.now)
            self.serve()

    @rule(data=st.data())
    def step_out(self, data: st.DataObject) -> None:
        """One leaves the line, served or not: its driver looks."""
        places = [*self.line, *self.granted, *self.late]
        if not places:
            return
        place = data.draw(st.sampled_from(places))
        ticket = self.gate.withdraw(place, self.now)
        assert (ticket is not None) == (place in self.granted)
        for where in (self.line, self.granted, self.late):
            if place in where:
                where.remove(place)
        if ticket is not None:
            self.inside.append(ticket)

    @rule(seconds=st.integers(0, 3))
    def wait(self, seconds: int) -> None:
        """Let time pass."""
        self.now += seconds

    @rule(limit=st.integers(1, 4), length=st.integers(0, 3))
    def reload(self, limit: int, length: int) -> None:
        """Change the rule; a higher limit lets in who came first, without a look at the clock."""
        self.gate.rule = self.ruled(limit, length)
        while self.line and len(self.inside) + len(self.granted) < limit:
            self.granted.append(self.line.pop(0))

    @invariant()
    def agrees(self) -> None:
        """Permits and places are those of the lists."""
        if hasattr(self, "gate"):
            assert self.gate.inflight == len(self.inside) + len(self.granted)
            assert self.gate.depth == len(self.line)
            assert all(place.over for place in self.granted)
            assert not any(place.over for place in (*self.line, *self.late))


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
