"""What the work under way carries with it reaches all that it calls, and ends with it."""

from __future__ import annotations

import asyncio

import pytest

from msgov import scope
from msgov.call import Call, Criticality
from msgov.resilience import policies
from msgov.scope import Scope


def test_nobody_said_is_critical() -> None:
    """The SRE book's default: what nobody rated must not be the first to go."""
    assert Scope().criticality is Call("shop").criticality is Criticality.CRITICAL
    assert [int(each) for each in Criticality] == [0, 1, 2, 3]
    assert Criticality.SHEDDABLE < Criticality.SHEDDABLE_PLUS < Criticality.CRITICAL < Criticality.CRITICAL_PLUS


def test_criticality_stays_when_something_else_changes() -> None:
    """A shorter deadline makes nothing matter less."""
    rated = Scope(1.0, None, 2, "tenant", "k=v", Criticality.SHEDDABLE)
    for derived in (rated.by(0.5), rated.having(key="other"), rated.having(attempts_left=1)):
        assert derived.criticality is Criticality.SHEDDABLE
    assert rated.having(criticality=Criticality.CRITICAL_PLUS).criticality is Criticality.CRITICAL_PLUS
    assert rated.criticality is Criticality.SHEDDABLE


def test_calls_inherit_how_much_the_work_matters() -> None:
    """Through any depth, past a shorter deadline, and no longer than the block."""
    seen: list[Criticality] = []

    class Seen:
        def __call__(self, handler: object) -> object:
            def seeing(call: Call) -> object:
                seen.append(call.criticality)
                return handler(call)  # type: ignore[operator]

            return seeing

    @policies(Seen())
    def inner() -> str:
        return "done"

    @policies(Seen())
    def outer() -> str:
        with scope.within(1.0):
            return inner()

    with scope.mattering(Criticality.SHEDDABLE) as around:
        assert around.criticality is Criticality.SHEDDABLE
        outer()
    outer()
    assert seen == [Criticality.SHEDDABLE] * 2 + [Criticality.CRITICAL] * 2


def test_tasks_inherit_it_and_do_not_share_it() -> None:
    """A context variable: what one task says is not said for another."""

    async def work(criticality: Criticality) -> list[Criticality]:
        with scope.mattering(criticality):
            await asyncio.sleep(0)
            inner = asyncio.ensure_future(asyncio.sleep(0, scope.current.get().criticality))
            return [await inner, scope.current.get().criticality]

    async def main() -> list[list[Criticality]]:
        return await asyncio.gather(*map(work, Criticality))

    assert asyncio.run(main()) == [[each, each] for each in Criticality]


def test_block_that_fails_ends_too() -> None:
    """Else all that the task does afterwards would be sheddable."""
    with pytest.raises(ValueError, match="broken"), scope.mattering(Criticality.SHEDDABLE):
        raise ValueError("broken")
    assert scope.current.get() is scope.EMPTY


def test_fork_of_a_call_matters_as_much() -> None:
    """A hedge is for the same caller."""
    assert Call("shop", criticality=Criticality.SHEDDABLE).fork().criticality is Criticality.SHEDDABLE
