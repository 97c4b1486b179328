"""Every way from one state of a breaker to another stands in one table, which the machine runs on.

A turn that is not in it cannot be made, and the picture in the docs is drawn from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final, NamedTuple


class State(Enum):
    """What a breaker does with a call."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"
    FORCED_CLOSED = "forced_closed"
    DISABLED = "disabled"


CLOSED, OPEN, HALF_OPEN = State.CLOSED, State.OPEN, State.HALF_OPEN
FORCED_OPEN, FORCED_CLOSED, DISABLED = State.FORCED_OPEN, State.FORCED_CLOSED, State.DISABLED

ADMITS: Final = frozenset({CLOSED, FORCED_CLOSED, DISABLED})
COUNTS: Final = frozenset({CLOSED, FORCED_CLOSED})

STATES: Final[Mapping[State, str]] = {
    CLOSED: "calls go through and are counted; after an outage at first a growing share",
    OPEN: "calls are refused, until the open time has passed",
    HALF_OPEN: "a few calls go through as probes, all others are refused",
    FORCED_OPEN: "all calls are refused, until the hand lets go",
    FORCED_CLOSED: "calls go through and are counted, whatever they bring",
    DISABLED: "calls go through uncounted",
}
"""What each state does."""

BY_HAND: Final = "by_hand"

REASONS: Final[Mapping[str, str]] = {
    "failure_rate": "too large a share of the calls in the window failed",
    "slow_rate": "too large a share of them was slow",
    "failure_bound": "few calls, but so many of them failed that chance is no explanation",
    "slow_bound": "the same of slow ones",
    "consecutive_failures": "so many calls failed in a row",
    "pool": "so many calls of all processes together failed, and enough of them see it",
    "waited": "the open time has passed, and a call came",
    "probes_failed": "too many probes failed",
    "probes_slow": "too many probes were slow",
    "probe_hung": "too many probes failed, the last of them by not answering within its lease",
    "probes_passed": "the probes still to come could not change it: enough went well",
    BY_HAND: "somebody said so",
}
"""Why a breaker turns; the words are those of its events, its refusals and its metrics."""


class Turn(NamedTuple):
    """One way from a state to another."""

    before: State
    reason: str
    after: State


TURNS: Final = (
    Turn(CLOSED, "failure_rate", OPEN),
    Turn(CLOSED, "slow_rate", OPEN),
    Turn(CLOSED, "failure_bound", OPEN),
    Turn(CLOSED, "slow_bound", OPEN),
    Turn(CLOSED, "consecutive_failures", OPEN),
    Turn(CLOSED, "pool", OPEN),
    Turn(OPEN, "waited", HALF_OPEN),
    Turn(HALF_OPEN, "probes_failed", OPEN),
    Turn(HALF_OPEN, "probes_slow", OPEN),
    Turn(HALF_OPEN, "probe_hung", OPEN),
    Turn(HALF_OPEN, "probes_passed", CLOSED),
    *(Turn(before, BY_HAND, after) for before in State for after in (FORCED_OPEN, FORCED_CLOSED, DISABLED, CLOSED)),
)
"""All there are."""

AFTER: Final[Mapping[tuple[State, str], State]] = {
    (before, reason): after for before, reason, after in TURNS if reason != BY_HAND
}
"""Where a breaker turns by itself."""

BY_HAND_TO: Final = frozenset(turn.after for turn in TURNS if turn.reason == BY_HAND)
"""Where a hand may turn it, from anywhere."""


def diagram() -> str:
    """Draw the table: a box for each state that a breaker reaches by itself, and the ways out of it."""
    lines: list[str] = []
    wide = max(map(len, REASONS)) + 1
    for state in dict.fromkeys(turn.before for turn in TURNS if turn.reason != BY_HAND):
        lines += _box(state.name, STATES[state])
        ways = [turn for turn in TURNS if turn.before is state and turn.reason != BY_HAND]
        lines += [
            f"   |-- {f'{reason} ':-<{wide}}--> {f'{after.name}':<9}  {REASONS[reason]}" for _, reason, after in ways
        ]
        lines.append("")
    lines += _box("any state", "")
    for state in State:
        if state in BY_HAND_TO:
            lines.append(f"   |-- {f'{BY_HAND} ':-<{wide}}--> {state.name:<13}  {STATES[state]}")
    return "\n".join(lines) + "\n"


def _box(name: str, says: str) -> list[str]:
    edge = f"+{'-' * (len(name) + 2)}+"
    return [edge, f"| {name} |  {says}".rstrip(), edge]
