"""The lines that a gate lends to the written walk come to what its methods come to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msgov import sync
from msgov._straight import _opening, _step
from msgov.call import Call
from msgov.errors import CallFailed, Rejected
from msgov.pipeline import Pipeline
from msgov.policy import Gate, Shortcut
from msgov.resilience import (
    Breaker,
    BreakerRule,
    Budget,
    Bulkhead,
    BulkheadRule,
    Deadline,
    DeadlineRule,
    Retry,
    RetryRule,
)
from msgov.testing import LoadedDice, ManualClock

RULE = BreakerRule(minimum_calls=3, window=4.0, open_seconds=1.0, open_cap=1.0, probes=2, ramp_seconds=0)


class CalledBreaker(Breaker):
    """An heir has no shortcut: its methods are called."""


class CalledBulkhead(Bulkhead):
    """As above."""


class CalledDeadline(Deadline):
    """As above."""


class CalledRetry(Retry):
    """As above."""


def _dice() -> LoadedDice:
    return LoadedDice(0.5, cycle=True)


def _lent() -> tuple[Any, ...]:
    budget = Budget()
    deadline = Deadline(DeadlineRule(seconds=2.0, floor=0.5))
    retry = Retry(RetryRule(attempts=2), budget=budget, dice=_dice())
    return deadline, retry, Bulkhead(BulkheadRule(limit=2)), Breaker(RULE, dice=_dice())


def _called() -> tuple[Any, ...]:
    budget = Budget()
    deadline = CalledDeadline(DeadlineRule(seconds=2.0, floor=0.5))
    retry = CalledRetry(RetryRule(attempts=2), budget=budget, dice=_dice())
    return deadline, retry, CalledBulkhead(BulkheadRule(limit=2)), CalledBreaker(RULE, dice=_dice())


def _story(policies: tuple[Any, ...], steps: list[tuple[str, float, float | None, int]]) -> list[object]:
    """Play calls through the policies, some inside others, and write down all that can be seen."""
    clock = ManualClock()
    deadline, retry, bulkhead, breaker = policies
    seen: list[object] = []
    script = iter(steps)

    def handler(call: Call) -> str:
        what, seconds, _, depth = step
        clock.advance(seconds)
        seen.append((call.deadline, bulkhead.inflight))
        if depth:
            play(depth - 1)
        if what == "refused":
            raise CallFailed("no", status="UNAVAILABLE")
        if what == "gone":
            raise KeyboardInterrupt
        return "done"

    governed: Callable[[Call], object] = sync.govern(Pipeline(policies), handler, clock=clock, sleep=clock.advance)

    def play(depth: int) -> None:
        nonlocal step
        try:
            step = next(script)
        except StopIteration:
            return
        call = Call("shop", deadline=None if step[2] is None else clock() + step[2], idempotent=True)
        before = call.deadline
        try:
            seen.append(governed(call))
        except (CallFailed, Rejected, KeyboardInterrupt) as error:
            seen.append((type(error).__name__, str(error)))
        seen.append(
            (call.deadline == before, dict(breaker.counts), breaker.state, bulkhead.inflight, bulkhead.rejected)
        )
        seen.append((deadline.refused, retry.retries, dict(retry.suppressed), retry.budget.balance(clock())))

    step = steps[0]
    for _ in steps:
        play(0)
    for _ in range(8):  # what the window forgets, and when: each success lies at its own time
        clock.advance(0.5)
        seen.append(breaker.failure_rate(clock()))
    return seen


STEPS = st.tuples(
    st.sampled_from(["done", "done", "refused", "gone"]),
    st.sampled_from([0.0, 0.1, 0.7, 3.0]),
    st.sampled_from([None, None, 0.1, 1.0, 10.0]),
    st.integers(0, 3),
)


@given(steps=st.lists(STEPS, min_size=1, max_size=40))
def test_lent_lines_come_to_what_the_methods_come_to(steps: list[tuple[str, float, float | None, int]]) -> None:
    """Whatever calls come, well or badly, one inside the other: nobody can tell which of the two ran."""
    assert _story(_lent(), steps) == _story(_called(), steps)


@pytest.mark.parametrize("gate", [g for g in _lent() if isinstance(g, Gate)], ids=lambda gate: type(gate).__name__)
def test_class_that_lends_lines_is_taken_at_its_word(gate: Gate[Any]) -> None:
    """Or the property above would compare the methods with themselves."""
    assert isinstance(_step(gate).shortcut, Shortcut)
    assert _opening(_lent()[1]) is not None


def test_heir_and_replaced_method_are_called() -> None:
    """Their methods may do more than the lines say."""
    assert all(_step(gate).shortcut is None for gate in _called() if isinstance(gate, Gate))
    assert _opening(_called()[1]) is None
    breaker = Breaker()
    breaker.admit = breaker.admit.__func__.__get__(breaker)  # type: ignore[attr-defined, method-assign]
    assert _step(breaker).shortcut is not None
    breaker.admit = lambda call, now: 1  # type: ignore[method-assign]
    assert _step(breaker).shortcut is None
