"""A deadline only ever shrinks, and gives back what it took."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msgov.call import OK, TRANSIENT, Call, Outcome
from msgov.errors import DeadlineExceeded, DeadlineSpent, RuleError
from msgov.event import Event, Observers
from msgov.resilience import Deadline, DeadlineRule


def test_deadline_is_so_many_seconds_from_now() -> None:
    """Absolute, on the driver's clock: whoever reads it later needs no start time."""
    call = Call("shop")
    Deadline(2.5).admit(call, 10.0)
    assert call.deadline == 12.5


def test_earlier_deadline_stays() -> None:
    """Nested ones only shorten."""
    call = Call("shop", deadline=11.0)
    Deadline(2.5).admit(call, 10.0)
    assert call.deadline == 11.0


@pytest.mark.parametrize("before", [None, 11.0, 99.0])
def test_settle_gives_the_earlier_one_back(before: float | None) -> None:
    """The next attempt has what is left of the call's own deadline, not of the last attempt's."""
    call, deadline = Call("shop", deadline=before), Deadline(2.5)
    deadline.settle(deadline.admit(call, 10.0), Outcome(OK), 12.0)
    assert call.deadline == before


@pytest.mark.parametrize("left", [0.0, -1.0])
def test_nothing_left_is_refused_before_it_begins(left: float) -> None:
    """Work for nobody is not begun, and the call is left as it was."""
    call, deadline = Call("shop", "buy", deadline=10.0 + left), Deadline(2.5)
    with pytest.raises(DeadlineSpent) as refused:
        deadline.admit(call, 10.0)
    assert refused.value.facts == {"left": 0.0, "floor": 0.0}
    assert (call.deadline, deadline.refused) == (10.0 + left, 1)


def test_less_than_the_floor_is_refused() -> None:
    """A call that cannot be answered in what is left is not worth sending."""
    deadline = Deadline(DeadlineRule(seconds=2.5, floor=0.25))
    deadline.admit(Call("shop", deadline=10.3), 10.0)
    with pytest.raises(DeadlineSpent, match=r"0\.250 s left, more than 0\.250 s needed"):
        deadline.admit(Call("shop", deadline=10.25), 10.0)


def test_what_ran_out_of_time_is_counted() -> None:
    """Apart from other failures: it is the number that says the deadline is too short, or the callee too slow."""
    deadline = Deadline(1)
    for error in (DeadlineExceeded("late"), ConnectionError("lost"), DeadlineExceeded("late")):
        deadline.settle(deadline.admit(Call("shop"), 0.0), Outcome(TRANSIENT, error=error), 1.0)
    assert deadline.exceeded == 2


def test_new_rule_is_one_store() -> None:
    """A reload takes effect with the next call, without touching those under way."""
    deadline, call = Deadline(1), Call("shop")
    ticket = deadline.admit(call, 0.0)
    deadline.rule = DeadlineRule(seconds=5)
    assert call.deadline == 1.0
    deadline.settle(ticket, Outcome(OK), 0.5)
    deadline.admit(call, 1.0)
    assert call.deadline == 6.0


@pytest.mark.parametrize("seconds", [0, -1, 3601, float("inf"), float("nan")])
def test_absurd_seconds_are_refused(seconds: float) -> None:
    """With the field and its range."""
    with pytest.raises(RuleError, match="seconds"):
        Deadline(seconds)


def spent(now: float) -> Call:
    """Make work whose time has run out."""
    return Call("shop", "buy", deadline=now)


def refused(deadline: Deadline, now: float) -> bool:
    """Ask for spent work."""
    try:
        deadline.admit(spent(now), now)
    except DeadlineSpent:
        return True
    return False


def test_finagle_refuses_at_most_its_share() -> None:
    """DeadlineFilter: with a share of 20 %, one of five calls is refused however many are spent, the others run."""
    deadline = Deadline(DeadlineRule(refuse_at_most=0.2))
    assert sum(refused(deadline, 0.0) for _ in range(100)) == 20
    assert (deadline.refused, deadline.let_through) == (20, 80)


def test_finagle_spent_work_among_live_work_is_all_refused() -> None:
    """The share is of all work: as long as four in five have time, every spent one is refused."""
    deadline = Deadline(DeadlineRule(refuse_at_most=0.2))
    for _ in range(50):
        for _ in range(4):
            deadline.admit(Call("shop"), 0.0)
        assert refused(deadline, 0.0)
    assert deadline.let_through == 0


def test_finagle_share_is_of_the_last_ten_seconds() -> None:
    """Yesterday's good work does not pay for refusing all of today's."""
    deadline = Deadline(DeadlineRule(refuse_at_most=0.2))
    for _ in range(1000):
        deadline.admit(Call("shop"), 0.0)
    assert refused(deadline, 9.0)
    assert not refused(deadline, 20.0)


def test_first_spent_work_is_let_through_under_a_share() -> None:
    """Of one call a fifth is none."""
    assert not refused(Deadline(DeadlineRule(refuse_at_most=0.2)), 0.0)


def test_what_is_let_through_has_the_rules_own_time() -> None:
    """It would be cancelled at once else, and let in for nothing; its caller's word comes back after."""
    deadline, call = Deadline(DeadlineRule(seconds=2, refuse_at_most=0.2)), spent(10.0)
    ticket = deadline.admit(call, 10.0)
    assert call.deadline == 12.0
    deadline.settle(ticket, Outcome(OK), 11.0)
    assert call.deadline == 10.0


def test_shadow_refuses_nothing_and_says_what_it_would() -> None:
    """Finagle begins in the dark, too: one event a second, and a count of all."""
    seen: list[Event] = []
    deadline = Deadline(DeadlineRule(shadow=True), name="all", observers=Observers(seen.append))
    assert [refused(deadline, now) for now in (0.0, 0.5, 1.0)] == [False] * 3
    assert (deadline.refused, deadline.would_reject, deadline.let_through) == (0, 3, 0)
    assert [(event.kind, event.name, event.at) for event in seen] == [
        ("shadow.deadline", "all", 0.0),
        ("shadow.deadline", "all", 1.0),
    ]
    assert seen[0].facts == {"reason": "deadline_exhausted", "left": 0.0, "floor": 0.0}


def test_shadow_of_a_share_counts_only_what_the_share_would_refuse() -> None:
    """Or the trial run would promise more refusals than the real one makes."""
    deadline = Deadline(DeadlineRule(shadow=True, refuse_at_most=0.2))
    for _ in range(4):
        deadline.admit(Call("shop"), 0.0)
    assert not any(refused(deadline, 0.0) for _ in range(2))
    assert deadline.would_reject + deadline.let_through == 2
    assert deadline.would_reject >= 1


def test_new_share_keeps_the_window() -> None:
    """What was refused already still counts."""
    deadline = Deadline(DeadlineRule(refuse_at_most=0.5))
    assert [refused(deadline, 0.0) for _ in range(4)] == [False, True, False, True]
    deadline.rule = DeadlineRule(refuse_at_most=0.2)
    assert deadline.rule.refuse_at_most == 0.2
    assert not any(refused(deadline, 0.0) for _ in range(5))


def test_new_share_counts_from_the_next_call() -> None:
    """A gate that had none begins to count what it lets in."""
    deadline = Deadline(1)
    deadline.rule = DeadlineRule(refuse_at_most=0.2)
    for _ in range(4):
        deadline.admit(Call("shop"), 0.0)
    assert refused(deadline, 0.0)


@given(
    share=st.sampled_from([0.1, 0.2, 0.5, 1.0]),
    steps=st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=80),
)
def test_share_is_never_passed(share: float, steps: list[tuple[int, bool]]) -> None:
    """Against a plain list of what was let in and refused: spent work is refused if and only if the share has room."""
    deadline, quarters = Deadline(DeadlineRule(refuse_at_most=share)), 0
    deadline.admit(Call("shop"), 0.0)
    seen = [(0, False)]  # at which quarter of a slice, and whether it was refused
    for wait, late in steps:
        quarters += wait
        inside = [was for at, was in seen if at // 4 > quarters // 4 - 10] if share < 1 else []
        if late:
            room = sum(inside) + 1 <= share * (len(inside) + 1) + 1e-6
            assert refused(deadline, quarters / 4) == room
            seen.append((quarters, room))
        else:
            deadline.admit(Call("shop"), quarters / 4)
            seen.append((quarters, False))


@pytest.mark.parametrize("wrong", [{"refuse_at_most": 0.0}, {"refuse_at_most": 1.1}, {"seconds": 0.5, "floor": 0.5}])
def test_rule_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    """A share of nothing is the shadow's business; a floor above the whole time lets nobody in."""
    with pytest.raises(RuleError, match=r"refuse_at_most|floor"):
        DeadlineRule(**wrong)  # type: ignore[arg-type]
