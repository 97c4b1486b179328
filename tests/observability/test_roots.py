"""Work in the background has a trace of its own, and nothing of whoever started it."""

from __future__ import annotations

import asyncio

import pytest

from msgov.observability.roots import task, trace_root
from msgov.scope import Scope, Trace, current
from msgov.testing import run


def test_each_turn_is_a_trace_of_its_own() -> None:
    """A loop that runs for weeks must not be one trace."""
    seen = set()
    for _ in range(3):
        with trace_root("sweep") as trace:
            assert current.get().trace is trace
            assert task.get() == "sweep"
            seen.add(trace.trace_id)
    assert len(seen) == 3
    assert all(len(each) == 32 for each in seen)


def test_nothing_of_the_scope_around_is_inherited() -> None:
    """The deadline of the request that started a loop would end the loop."""
    token = current.set(Scope(deadline=5.0, attempts_left=2, trace=Trace("a" * 32, "b" * 16)))
    try:
        with trace_root("sweep") as trace:
            assert current.get().deadline is None
            assert current.get().attempts_left is None
            assert trace.trace_id != "a" * 32
        assert current.get().deadline == 5.0
    finally:
        current.reset(token)


def test_it_ends_when_the_work_fails() -> None:
    """What comes after is not part of it."""
    with pytest.raises(ZeroDivisionError), trace_root("sweep"):
        raise ZeroDivisionError
    assert current.get().trace is None
    assert task.get() == ""


def test_tasks_started_in_it_belong_to_it() -> None:
    """And those beside it do not."""

    async def main() -> tuple[str, str]:
        async def name() -> str:
            await asyncio.sleep(1)
            return task.get()

        with trace_root("sweep"):
            inside = asyncio.create_task(name())
        return await inside, await asyncio.create_task(name())

    assert run(main()) == ("sweep", "")
