"""The arms of the comparison: what ships, and what people write who have read of retries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from msgov.call import TRANSIENT, Call, Outcome
from msgov.clock import Dice
from msgov.config.policies import Policies
from msgov.config.rules import RuleBook
from msgov.discovery.instance import Instance
from msgov.pipeline import Policy
from msgov.policy import Gate, Plan
from msgov.resilience import Budget, Deadline, Retry, RetryRule
from tests.simulation.scene import Arm

ATTEMPT, CALL = 1.0, 2.5  # seconds: what a user of a callee of 40 ms might write


class Fixed(Plan):
    """Try again so many times, so many seconds apart: what everybody writes first."""

    def __init__(self, attempts: int, apart: float) -> None:
        self.attempts = attempts
        self.apart = apart

    def next(self, call: Call, tries: int, outcome: Outcome | None, now: float) -> float | None:
        """Say when."""
        if outcome is None or outcome.verdict is not TRANSIENT or tries >= self.attempts:
            return None
        return self.apart


class One(Gate[object]):
    """The pick of a service with one instance."""

    instance = Instance("callee", "10.0.0.1", 80)

    def admit(self, call: Call, now: float) -> object:
        """Send it there."""
        call.instance = self.instance
        if call.tried is None:
            call.tried = []
        call.tried.append(self.instance)
        return self

    def settle(self, ticket: object, outcome: Outcome, now: float) -> None:
        """Learn nothing."""


def ours(rules: Mapping[str, Mapping[str, Mapping[str, object]]] | None = None) -> Arm:
    """What ships: the default rules, with the two deadlines that only the user can know."""
    deadlines = {"deadline": CALL, "attempt_deadline": ATTEMPT}
    given: dict[str, Any] = {"call": {"callee": deadlines}}
    book = with_defaults({**given, **(rules or {})})

    def outgoing(dice: Dice) -> Sequence[Policy]:
        return Policies(book, dice=dice).for_call("callee", "Do", pick=cast("Gate[object]", One()))

    def incoming() -> Sequence[Gate[Any]]:
        return cast("Sequence[Gate[Any]]", Policies(book).for_server("/callee/Do"))

    return Arm(outgoing, incoming)


def with_defaults(rules: Mapping[str, Any]) -> RuleBook:
    """Lay rules over those that ship, as the configuration does."""
    from msgov.config.rules import DEFAULTS

    tree: dict[str, dict[str, object]] = {kind: dict(entries) for kind, entries in DEFAULTS.items()}
    for kind, entries in rules.items():
        for name, entry in entries.items():
            tree[kind][name] = {**cast("dict[str, object]", tree[kind].get(name, {})), **entry}
    return RuleBook.of(tree)


NAIVE = Arm(lambda dice: [Fixed(4, 0.1)], patience=ATTEMPT)
JITTER = Arm(lambda dice: [Retry(RetryRule(attempts=4, base=0.1), dice=dice)], patience=ATTEMPT)
BUDGET = Arm(lambda dice: [Retry(RetryRule(attempts=4, base=0.1), budget=Budget(), dice=dice)], patience=ATTEMPT)
EXPIRED = Arm(lambda dice: [Fixed(4, 0.1)], lambda: [Deadline(60.0)], patience=ATTEMPT)
