"""What one of our own gates refuses is settled once, whatever the plan makes of it."""

from __future__ import annotations

import asyncio

import pytest

from msgov import aio, scope
from msgov.call import IGNORED, Call, Outcome
from msgov.errors import Rejected
from msgov.pipeline import Pipeline
from msgov.policy import AsyncHandler, Waiting
from msgov.resilience import Deadline
from msgov.testing import run
from tests.drivers.stage import COLOURS, Again, Colour, Door, Elsewhere, Journal

pytestmark = pytest.mark.parametrize("colour", COLOURS, ids=lambda colour: colour.name)


class Once(Door):
    """A gate that refuses the first who comes."""

    def admit(self, call: Call, now: float) -> int | Waiting[int]:
        """Refuse, once."""
        refuse, self.refuse = self.refuse, None
        if refuse is not None:
            raise refuse
        return super().admit(call, now)


class Broken(Again):
    """A plan that is at fault when it is asked for another attempt."""

    def next(self, call: Call, tries: int, outcome: Outcome | None, now: float) -> float | None:
        """Raise."""
        if outcome is not None:
            raise ZeroDivisionError("plan")
        return None


def _walk(journal: Journal) -> str:
    return " ".join(f"{what}:{name}" for what, name, *_ in journal)


def test_attempt_after_a_refusal_walks_in_anew(colour: Colour) -> None:
    """What the refused attempt held is given back once, and the next attempt picks and asks for permits again."""
    journal: Journal = []
    inside = Once(journal, "breaker", refuse=Rejected("this instance"))
    played = colour.play([Door(journal, "limit"), Elsewhere(2), Door(journal, "pick"), inside], "done")
    assert played.reply == "done"
    assert played.seconds == 1.0
    assert _walk(journal) == (
        "in:limit in:pick out:pick in:pick in:breaker out:breaker out:pick out:limit"  # the second pick is a new one
    )


def test_plan_at_fault_costs_nobody_a_settle(colour: Colour) -> None:
    """Its error ends the call, and all that was held outside is given back."""
    journal: Journal = []
    outside = Door(journal, "limit")
    inside = Once(journal, "breaker", refuse=Rejected("no"))
    played = colour.play([outside, Broken(2), Door(journal, "pick"), inside], "done")
    assert isinstance(played.error, ZeroDivisionError)
    assert _walk(journal) == "in:limit in:pick out:pick out:limit"


def test_refusal_is_ignored_by_those_outside(colour: Colour) -> None:
    """It says nothing about the callee, whether or not another attempt was made."""
    for plan in (Again(2), Elsewhere(2)):
        outside = Door([], "breaker of the service")
        played = colour.play([plan, outside, Door([], "no", refuse=Rejected("no"))], "done")
        assert isinstance(played.error, Rejected)
        assert set(outside.verdicts) == {IGNORED}


def test_refused_call_leaves_no_alarm_and_no_scope(colour: Colour) -> None:
    """A deadline that was armed before the refusal must ring for nobody, even if the plan is at fault."""

    async def handler(call: Call) -> object:
        return "done"

    async def scene(plan: Again) -> None:
        loop = asyncio.get_running_loop()
        policies = [Deadline(2.5), plan, Door([], "no", refuse=Rejected("no"))]
        governed: AsyncHandler = aio.govern(Pipeline(policies), handler, clock=loop.time)
        with pytest.raises((Rejected, ZeroDivisionError)):
            await governed(Call("shop"))
        assert scope.current.get().deadline is None
        await asyncio.sleep(5)  # where the alarm would cancel this task

    for plan in (Again(1), Elsewhere(2), Broken(2)):
        run(scene(plan))
    before = scope.current.get()
    colour.play([Deadline(0.5), Broken(2), Door([], "no", refuse=Rejected("no"))], "done")
    assert scope.current.get() is before
