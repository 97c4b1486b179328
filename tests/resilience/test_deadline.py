"""A deadline only ever shrinks, and gives back what it took."""

from __future__ import annotations

import pytest

from msgov.call import OK, TRANSIENT, Call, Outcome
from msgov.errors import DeadlineExceeded, DeadlineSpent, RuleError
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
    for error in (DeadlineExceeded("late"), ConnectionError("lost")):
        deadline.settle(deadline.admit(Call("shop"), 0.0), Outcome(TRANSIENT, error=error), 1.0)
    assert deadline.exceeded == 1


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
