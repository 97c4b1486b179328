"""Stop waiting when the answer would come too late to matter."""

from __future__ import annotations

import threading

from msgov.call import Call, Outcome
from msgov.errors import DeadlineExceeded, DeadlineSpent
from msgov.policy import Gate
from msgov.rule import field, rule


@rule
class DeadlineRule:
    """How long a call, or an attempt, may take."""

    seconds: float = field(
        default=1.0,
        gt=0,
        le=3600,
        unit="s",
        why="people leave after a second or two; most calls inside answer in a tenth of it",
    )
    floor: float = field(
        default=0.0,
        ge=0,
        le=60,
        unit="s",
        why="with this little left a call is refused before it begins; 0 refuses only the spent",
    )


_DEFAULT = DeadlineRule()
_Ticket = tuple[Call, float | None]


class Deadline(Gate[_Ticket]):
    """Shorten `call.deadline` to so many seconds from now; an outer, sooner one stays.

    Outside the retry it bounds the whole call with its waits and attempts, inside it each attempt. Raises
    `DeadlineSpent` when nothing is left before the call begins. The asyncio driver enforces it by cancelling the call
    and raising `DeadlineExceeded`; the blocking driver bounds waits, attempts and what is sent on, and never pretends
    to interrupt a running function.

    Counters: `refused` before the call began, `exceeded` while it was under way.
    """

    narrows = True

    def __init__(self, rule: DeadlineRule | float = _DEFAULT, *, name: str = "", target: str = "") -> None:
        self.name = name
        self.target = target
        self.rule = rule if isinstance(rule, DeadlineRule) else DeadlineRule(seconds=rule)
        self.refused = 0
        self.exceeded = 0
        self._lock = threading.Lock()

    def admit(self, call: Call, now: float) -> _Ticket:
        """Shorten the deadline; the ticket remembers the one before."""
        rule, before = self.rule, call.deadline
        until = now + rule.seconds
        if before is not None and before < until:
            until = before
        if until - now <= rule.floor:
            with self._lock:
                self.refused += 1
            left = max(0.0, until - now)
            raise DeadlineSpent(
                f"{call.target} {call.method}".rstrip() + f": {left:.3f} s left, more than {rule.floor:.3f} s needed",
                left=left,
                floor=rule.floor,
            )
        call.deadline = until
        return call, before

    def settle(self, ticket: _Ticket, outcome: Outcome, now: float) -> None:
        """Give the call its earlier deadline back: the next attempt has what is left of that one."""
        call, before = ticket
        if outcome.error is not None and isinstance(outcome.error, DeadlineExceeded):
            with self._lock:
                self.exceeded += 1
        call.deadline = before
