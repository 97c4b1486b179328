"""A list of policies becomes frames once, or is refused with the place of what is wrong."""

from __future__ import annotations

import pytest

from msgov.call import OK, Call, Outcome
from msgov.errors import BreakerOpen, RuleError
from msgov.pipeline import Frame, Pipeline, answered, last_error
from msgov.resilience import Breaker, Bulkhead, Deadline, Fallback, Retry
from tests.drivers.stage import Door, Line, Stand


def test_plan_is_the_one_seam() -> None:
    """What stands before it acts per call, what stands after it per attempt."""
    segment = Pipeline([Fallback("x"), Deadline(1), Retry(), Breaker(), Bulkhead()]).flat
    assert repr(segment.outer) == "Frame(Fallback, Deadline)"
    assert repr(segment.inner) == "Frame(Breaker, Bulkhead)"


def test_second_plan_is_refused() -> None:
    """A retry inside a retry multiplies attempts."""
    with pytest.raises(RuleError, match=r"policies\[2\].*one plan per pipeline") as refused:
        Pipeline([Retry(), Breaker(), Retry()])
    assert refused.value.path == "policies[2]"


@pytest.mark.parametrize("thing", [Breaker, 3, None, "breaker"])
def test_what_is_no_policy_is_refused(thing: object) -> None:
    """A class in place of an object is the likeliest slip."""
    with pytest.raises(RuleError, match="a Gate, a Plan, a Substitute or a layer"):
        Pipeline([thing])  # type: ignore[list-item]


def test_layers_cut_the_pipeline_into_segments() -> None:
    """Each side of a layer has frames of its own, and only a pipeline without layers is flat."""
    pipeline = Pipeline([Breaker(), lambda handler: handler, Bulkhead()])
    assert [repr(segment.outer) for segment in pipeline.segments] == ["Frame(Breaker)", "Frame(Bulkhead)"]
    with pytest.raises(RuleError, match="a channel has no handler"):
        _ = pipeline.flat


def test_plan_after_a_layer_is_still_the_only_one() -> None:
    """The layer does not hide the first one."""
    with pytest.raises(RuleError):
        Pipeline([Retry(), lambda handler: handler, Retry()])


def test_pipeline_reads_as_its_policies() -> None:
    """What is printed is what was written."""
    assert repr(Pipeline([Deadline(1), Retry(), Breaker()])) == "Pipeline(Deadline, Retry, Breaker)"


def test_frame_narrows_where_a_deadline_stands_in_it() -> None:
    """Only such a frame needs a timer."""
    assert Frame([Deadline(1)]).narrows
    assert not Frame([Breaker(), Stand(None)]).narrows


def test_walk_goes_on_where_a_line_was_left() -> None:
    """`tickets` is the walk's memory: after the wait it enters the gates that are left."""
    journal: list[tuple[object, ...]] = []
    line = Line(journal, "line")
    frame, call, tickets = Frame([Door(journal, "a"), line, Door(journal, "b")]), Call("x"), list[object]()
    waiting = frame.enter(call, tickets, 0.0)
    assert waiting is line.waiting[0]
    assert frame.gate(tickets) is line
    line.serve()
    tickets.append(frame.gate(tickets).withdraw(waiting, 1.0))
    assert frame.enter(call, tickets, 1.0) is None
    frame.settle(tickets, Outcome(OK), 2.0)
    assert [entry[:2] for entry in journal] == [
        ("in", "a"),
        ("in", "line"),
        ("in", "b"),
        ("out", "b"),
        ("out", "line"),
        ("out", "a"),
    ]
    assert tickets == []


def test_leave_with_success_asks_no_substitute() -> None:
    """Edges that hold a call without a coroutine leave by one door, whatever came of it."""
    stand, door = Stand(lambda call, error: "instead"), Door([], "door")
    frame, tickets = Frame([stand, door]), list[object]()
    frame.enter(Call("x"), tickets, 0.0)
    assert frame.leave(Call("x"), tickets, Outcome(OK), 0.0) is None
    assert (stand.asked, door.verdicts) == ([], [OK])


def test_abandoned_tickets_are_settled_by_the_next_leave_too() -> None:
    """Whoever walks next, in or out of a failure, does the finaliser's work."""
    door = Door([], "door")
    frame, tickets, dropped = Frame([door]), list[object](), list[object]()
    frame.enter(Call("x"), tickets, 0.0)
    frame.enter(Call("x"), dropped, 0.0)
    frame.abandon(dropped)
    frame.abandon([])
    frame.leave(Call("x"), tickets, Outcome(OK), 1.0)
    assert sorted(outcome.status for outcome in door.outcomes) == ["", "abandoned"]


def test_last_error_prefers_the_failure_to_a_later_rejection() -> None:
    """The breaker that opened meanwhile is not what went wrong."""
    real, shut = ConnectionError("real"), BreakerOpen("shut")
    assert last_error(shut, real, 2) is real
    assert last_error(real, shut, 2) is real
    assert last_error(shut, None, 1) is shut


def test_answered_reads_like_any_outcome_of_a_success() -> None:
    """It is the cheap form of the same value: gates cannot tell."""
    cheap, plain = answered("201", 0.5), Outcome(OK, status="201", seconds=0.5)
    for name in Outcome.__slots__:
        assert getattr(cheap, name) == getattr(plain, name)
    assert repr(cheap) == repr(plain)
