"""A rules file can say what is answered while the callee cannot: a plain value, as the file holds it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from msgov import errors
from msgov.call import PERMANENT, TRANSIENT, Call, Outcome
from msgov.event import Observers
from msgov.policy import Answer, Substitute
from msgov.resilience.fallback import Fallback, On
from msgov.rule import field, rule

Failure: TypeAlias = Literal[
    "transient", "permanent", "rejected", "breaker_open", "rate_limited", "bulkhead_full", "no_instance",
    "deadline_exceeded",
]  # fmt: skip
_ON: Final[Mapping[Failure, On]] = {
    "transient": TRANSIENT,
    "permanent": PERMANENT,
    "rejected": errors.Rejected,
    "breaker_open": errors.BreakerOpen,
    "rate_limited": errors.RateLimited,
    "bulkhead_full": errors.BulkheadFull,
    "no_instance": errors.NoInstance,
    "deadline_exceeded": errors.DeadlineExceeded,
}


@rule
class FallbackRule:
    """What is answered in the callee's place, and for which failures."""

    answer: object = field(
        why="a number, a text, true or false, a list or a table; has no default: what helps whom is nobody's guess"
    )
    on: tuple[Failure, ...] = field(
        default=("transient", "rejected"),
        why='failures that say "not now": those that may pass, and our own refusals; a permanent one is an answer',
    )


class StaticAnswer(Substitute):
    """A `Fallback` by a rule: each call that failed gets a copy of the answer, so that nobody changes it for others.

    Counter: `answered`.
    """

    def __init__(
        self, rule: FallbackRule, *, name: str = "", target: str = "", observers: Observers | None = None
    ) -> None:
        self.name = name
        self.target = target
        self._observers = observers
        self._before = 0  # answered by earlier rules
        self._set(rule)

    @property
    def rule(self) -> FallbackRule:
        """The rule in force; the next call that fails gets the new answer."""
        return self._rule

    @rule.setter
    def rule(self, rule: FallbackRule) -> None:
        self._before = self.answered
        self._set(rule)

    @property
    def answered(self) -> int:
        """How many calls it has answered."""
        return self._before + self._fallback.answered

    def instead(self, call: Call, outcome: Outcome, now: float) -> Answer | None:
        """Choose: a copy of the answer for a failure that is ours to answer, None for one that passes."""
        return self._fallback.instead(call, outcome, now)

    def _set(self, rule: FallbackRule) -> None:
        self._rule = rule
        self._fallback = Fallback(
            lambda call, error: copy.deepcopy(rule.answer),
            on=tuple(_ON[each] for each in rule.on),
            name=self.name,
            target=self.target,
            observers=self._observers,
        )
