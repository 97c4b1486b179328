"""Stop waiting when the answer would come too late to matter."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from typing import Final

from msgov._rolling import Rolling
from msgov.call import Call, Outcome
from msgov.errors import DeadlineExceeded, DeadlineSpent, Problem
from msgov.event import Observers
from msgov.policy import Gate, Shortcut
from msgov.rule import field, rule

PERIOD: Final = 10.0  # seconds over which the refused share is taken (Finagle's DeadlineFilter)
_SLICES = 10
_EXACT = 1e-9  # one in five is a share of 0.2, whatever floats say
_QUIET = 1.0  # seconds between two events of one gate in shadow
_IN, _REFUSED = 0, 1


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
    refuse_at_most: float = field(
        default=1.0,
        gt=0,
        le=1,
        why="spent work is refused up to this share of the last 10 s; a server takes 0.2, so that a caller's wrong "
        "deadline cannot take it down (Finagle)",
    )
    shadow: bool = field(default=False, why="off; else what would be refused is counted and told, and let in")

    def lint(self) -> Iterable[Problem]:
        """Check what no single field can see."""
        if self.floor >= self.seconds:
            yield Problem("floor", self.floor, f"below seconds ({self.seconds:g} s), or no call ever begins")


_DEFAULT = DeadlineRule()
_Ticket = tuple[Call, float | None]


class Deadline(Gate[_Ticket]):
    """Shorten `call.deadline` to so many seconds from now; an outer, sooner one stays.

    Outside the retry it bounds the whole call with its waits and attempts, inside it each attempt. Raises
    `DeadlineSpent` when nothing is left before the call begins; what the share or the shadow lets in all the same has
    the rule's own seconds, as if its caller had named none. The asyncio driver enforces a deadline by cancelling the
    call and raising `DeadlineExceeded`; the blocking driver bounds waits, attempts and what is sent on, and never
    pretends to interrupt a running function.

    Counters: `refused` before the call began, `let_through` spent, beyond the share, `would_reject` in shadow,
    `exceeded` while it was under way. Events: "shadow.deadline", at most one a second.
    """

    narrows = True
    waits = False
    shortcut = Shortcut(
        admit=(
            "rule, before = {g}._rule, call.deadline",
            "if {g}._counts or before is not None or rule.seconds <= rule.floor:",
            "    {admit}",
            "else:",
            "    call.deadline = {now} + rule.seconds",
            "    {t} = call, before",
        ),
        settle=("call.deadline = {t}[1]",),
    )

    def __init__(
        self,
        rule: DeadlineRule | float = _DEFAULT,
        *,
        name: str = "",
        target: str = "",
        observers: Observers | None = None,
    ) -> None:
        self.name = name
        self.target = target
        self.observers = observers or Observers()
        self.refused = 0
        self.let_through = 0
        self.would_reject = 0
        self.exceeded = 0
        self._lock = threading.Lock()
        self._window = Rolling(2, seconds=PERIOD, buckets=_SLICES)
        self._told = -math.inf
        self._rule = rule if isinstance(rule, DeadlineRule) else DeadlineRule(seconds=rule)
        self._counts = self._rule.refuse_at_most < 1

    @property
    def rule(self) -> DeadlineRule:
        """The rule in force; storing another keeps the deadlines of calls under way, and the share refused."""
        return self._rule

    @rule.setter
    def rule(self, rule: DeadlineRule) -> None:
        self._rule = rule
        self._counts = rule.refuse_at_most < 1

    def admit(self, call: Call, now: float) -> _Ticket:
        """Shorten the deadline; the ticket remembers the one before."""
        rule, before = self._rule, call.deadline
        until = now + rule.seconds
        if before is not None and before < until:
            until = before
        if until - now <= rule.floor:
            self._spent(rule, call, until - now, now)
            until = now + rule.seconds
        elif self._counts:
            if now < self._window.edge:
                self._window.tick()
            else:
                with self._lock:
                    self._window.add(_IN, now)
        call.deadline = until
        return call, before

    def settle(self, ticket: _Ticket, outcome: Outcome, now: float) -> None:
        """Give the call its earlier deadline back: the next attempt has what is left of that one."""
        call, before = ticket
        if outcome.error is not None and isinstance(outcome.error, DeadlineExceeded):
            with self._lock:
                self.exceeded += 1
        call.deadline = before

    def _spent(self, rule: DeadlineRule, call: Call, left: float, now: float) -> None:
        """Refuse a call that has no time left; return for one that is let in all the same."""
        with self._lock:
            self._window.roll(now)
            taken, refused = self._window.totals
            fits = refused + 1 <= rule.refuse_at_most * (taken + refused + 1) + _EXACT
            refuses = fits and not rule.shadow
            self._window.add(_REFUSED if refuses else _IN, now)
            if refuses:
                self.refused += 1
            elif fits:
                self.would_reject += 1
            else:
                self.let_through += 1
            tells = fits and not refuses and now - self._told >= _QUIET
            if tells:
                self._told = now
        left = max(0.0, left)
        if refuses:
            raise DeadlineSpent(
                f"{call.target} {call.method}".rstrip() + f": {left:.3f} s left, more than {rule.floor:.3f} s needed",
                left=left,
                floor=rule.floor,
            )
        if tells:
            told, spent = self.observers.tell, DeadlineSpent.reason
            told("shadow.deadline", self.name, self.target, now, reason=spent, left=left, floor=rule.floor)
