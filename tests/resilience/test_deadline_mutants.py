"""What only a changed line of the deadline showed."""

from __future__ import annotations

from msgov.call import OK, TRANSIENT, Call, Outcome
from msgov.errors import DeadlineExceeded, DeadlineSpent
from msgov.resilience import Deadline, DeadlineRule

SHARE = DeadlineRule(refuse_at_most=0.2)


def refused(deadline: Deadline, now: float) -> bool:
    """Ask for work whose time is over."""
    try:
        deadline.admit(Call("shop", deadline=now), now)
    except DeadlineSpent:
        return True
    return False


def test_only_what_ran_out_of_time_is_counted() -> None:
    """Not what failed otherwise, nor what went well."""
    deadline = Deadline(1)
    for error in (DeadlineExceeded("late"), DeadlineExceeded("late"), ConnectionError("lost"), None):
        deadline.settle(deadline.admit(Call("shop"), 0.0), Outcome(TRANSIENT if error else OK, error=error), 1.0)
    assert deadline.exceeded == 2


def test_share_of_a_new_rule_counts_live_work_from_then_on() -> None:
    """A rule that comes with a share needs to know of what."""
    deadline = Deadline(1)
    deadline.rule = SHARE
    for _ in range(4):
        deadline.admit(Call("shop"), 0.0)
    assert refused(deadline, 0.0)
    assert not refused(deadline, 0.0)


def test_live_work_on_the_edge_of_a_slice_counts_as_long_as_the_next_one() -> None:
    """A slice is a second: what begins at its end is not forgotten with it."""
    deadline = Deadline(SHARE)
    deadline.admit(Call("shop"), 0.0)
    for _ in range(4):
        deadline.admit(Call("shop"), 1.0)
    assert refused(deadline, 10.0)
