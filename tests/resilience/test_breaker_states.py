"""The table of turns is the machine: every turn in it happens, no other can, and the docs show its picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from msgov.event import Event
from msgov.resilience import Breaker, State
from msgov.resilience.breaker_states import AFTER, BY_HAND, BY_HAND_TO, REASONS, STATES, TURNS, Turn, diagram
from tests.resilience.breaking import CALL, calls, opened, refused, small, state


def _probed(script: str) -> Breaker:
    gate = opened(probes=2, slow_seconds=1.0)
    calls(gate, script, now=2.0)
    return gate


def _hung() -> Breaker:
    gate = opened(probe_lease=3.0)
    gate.admit(CALL, 2.0)
    refused(gate, 5.0)
    return gate


def _waited() -> Breaker:
    gate = opened()
    gate.admit(CALL, 2.0)
    return gate


def _tripped() -> Breaker:
    gate = small()
    gate.trip({"calls": 9}, now=1.0)
    return gate


def _closed(script: str, **changed: object) -> Breaker:
    gate = small(**changed)
    calls(gate, script)
    return gate


SCENES: dict[str, Callable[[], Breaker]] = {
    "failure_rate": lambda: _closed("FFFF"),
    "slow_rate": lambda: _closed("ssss", slow_seconds=1.0),
    "failure_bound": lambda: _closed("FFFFF", minimum_calls=20, wilson_calls=5),
    "slow_bound": lambda: _closed("sssss", minimum_calls=20, wilson_calls=5, slow_seconds=1.0, slow_rate=0.5),
    "consecutive_failures": lambda: _closed("FF", consecutive_failures=2),
    "pool": _tripped,
    "waited": _waited,
    "probes_failed": lambda: _probed("F"),
    "probes_slow": lambda: _probed("ss"),
    "probe_hung": _hung,
    "probes_passed": lambda: _probed("SS"),
}


def _told(gate: Breaker) -> tuple[State, object]:
    return state(gate), gate.snapshot(5.0)["reason"]


@pytest.mark.parametrize("turn", [turn for turn in TURNS if turn.reason != BY_HAND], ids=lambda turn: turn.reason)
def test_every_turn_that_it_makes_by_itself_happens(turn: Turn) -> None:
    """A row of the table that no run of the machine reaches would be a lie in the docs."""
    assert _told(SCENES[turn.reason]()) == (turn.after, turn.reason)


@pytest.mark.parametrize("before", list(State))
@pytest.mark.parametrize("after", sorted(BY_HAND_TO, key=str))
def test_every_turn_by_hand_happens(before: State, after: State) -> None:
    """From anywhere, with what it was before in the event."""
    gate = small()
    if before in BY_HAND_TO:
        gate.force(before, now=0.0)
    else:
        gate = opened() if before is State.OPEN else _waited()
    told: list[Event] = []
    gate.observers.add(told.append)
    assert Turn(before, BY_HAND, after) in TURNS
    gate.force(after, now=3.0)
    assert _told(gate) == (after, BY_HAND)
    assert [(event.facts["before"], event.facts["after"]) for event in told] == [(before.value, after.value)]


def test_table_says_one_thing_of_each_state_and_reason() -> None:
    """By itself a breaker never has a choice of where to turn; what it turns by is explained; all states are."""
    alone = [(turn.before, turn.reason) for turn in TURNS if turn.reason != BY_HAND]
    assert len(alone) == len(set(alone)) == len(AFTER)
    assert {turn.reason for turn in TURNS} == set(REASONS)
    assert set(STATES) == set(State)


def test_docs_show_the_picture_of_the_machine() -> None:
    """Drawn from the table: print `diagram()` into docs/why/breaker.md when this fails."""
    page = Path(__file__).parents[2].joinpath("docs/why/breaker.md").read_text(encoding="utf-8")
    assert f"```text\n{diagram()}```\n" in page


def test_picture_has_every_turn() -> None:
    """Nothing of the table is left out of it."""
    drawn = diagram()
    for _, reason, after in TURNS:
        assert any(reason in line and after.name in line for line in drawn.splitlines())
    for current, says in STATES.items():
        assert current.name in drawn
        assert says in drawn
