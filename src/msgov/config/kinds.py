"""Every policy that a rules file can set, in one table: its rule, its gate, its short form, what shares its state.

The one order in which they stand is here too; `docs/why/order.md` says why it is this one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Final

from msgov.clock import Dice
from msgov.config.answer import FallbackRule, StaticAnswer
from msgov.config.instances import InstanceBreakers
from msgov.event import Observers
from msgov.resilience.adaptive import Adaptive
from msgov.resilience.adaptive_rule import AdaptiveRule
from msgov.resilience.breaker import Breaker, BreakerRule
from msgov.resilience.budget import Budget, BudgetRule
from msgov.resilience.bulkhead import Bulkhead, BulkheadRule
from msgov.resilience.cache import Cache
from msgov.resilience.coalesce import Coalesce
from msgov.resilience.deadline import Deadline, DeadlineRule
from msgov.resilience.fault import Fault, FaultRule
from msgov.resilience.flights import CoalesceRule
from msgov.resilience.freshness import CacheRule
from msgov.resilience.hedge import Hedge, HedgeRule
from msgov.resilience.limiter import Limiter, LimiterRule
from msgov.resilience.pace import Pace, PaceRule
from msgov.resilience.quota import Quota
from msgov.resilience.quota_rule import QuotaRule
from msgov.resilience.retry import Retry, RetryRule
from msgov.resilience.shed import Shedder
from msgov.resilience.shed_rule import ShedRule
from msgov.resilience.throttle import Throttle, ThrottleRule

PICK: Final = "pick"  # where the instance is chosen: a place in the order, and no policy of the rules file


@dataclass(frozen=True, slots=True)
class PolicyKind:
    """How one policy of the rules file is read and made.

    `short` is the field that a value which is no table sets: `deadline = 2`. `shared` says that one state serves all
    that its entry names; else each name has its own. `gate` is made as `gate(rule, name=, target=)`, with `dice`,
    `observers`, `allowed` and `scope` where its constructor takes them; `by_instance` takes its place for calls that go
    to instances.
    """

    rule: type[object]
    gate: Callable[..., object]
    short: str = ""
    shared: bool = False
    by_instance: Callable[..., object] | None = None

    def make(
        self,
        rule: object,
        *,
        kind: str,
        name: str,
        target: str,
        dice: Dice | None,
        observers: Observers,
        faults: bool | None = None,
        service: str = "",
    ) -> object:
        """Make the gate of a name; `faults` says whether any may be injected, `service` whose quotas these are."""
        gate = self.by_instance if self.by_instance is not None and kind == "call" else self.gate
        given = {"dice": dice, "observers": observers, "allowed": faults, "scope": f"{service}/{kind}/"}
        taken = _taken(gate)
        return gate(rule, name=name, target=target, **{each: it for each, it in given.items() if each in taken})


@cache
def _taken(gate: Callable[..., object]) -> frozenset[str]:
    return frozenset(inspect.signature(gate).parameters)


POLICIES: Final[Mapping[str, PolicyKind]] = {
    "fallback": PolicyKind(FallbackRule, StaticAnswer),
    "cache": PolicyKind(CacheRule, Cache, "ttl"),
    "deadline": PolicyKind(DeadlineRule, Deadline, "seconds"),
    "coalesce": PolicyKind(CoalesceRule, Coalesce),
    "shed": PolicyKind(ShedRule, Shedder, shared=True),
    "limiter": PolicyKind(LimiterRule, Limiter, "rate", shared=True),
    "quota": PolicyKind(QuotaRule, Quota, "rate", shared=True),
    "throttle": PolicyKind(ThrottleRule, Throttle, "multiplier", shared=True),
    "pace": PolicyKind(PaceRule, Pace, shared=True),
    "retry": PolicyKind(RetryRule, Retry, "attempts"),
    "hedge": PolicyKind(HedgeRule, Hedge, "percentile"),
    "budget": PolicyKind(BudgetRule, Budget, "ratio", shared=True),
    "bulkhead": PolicyKind(BulkheadRule, Bulkhead, "limit", shared=True),
    "adaptive": PolicyKind(AdaptiveRule, Adaptive, "algorithm", shared=True),
    "breaker": PolicyKind(BreakerRule, Breaker, by_instance=InstanceBreakers),
    # By its key a retry knows that another instance would not help.
    "method_breaker": PolicyKind(BreakerRule, partial(Breaker, key="every instance")),
    "service_breaker": PolicyKind(BreakerRule, partial(Breaker, key="every method"), shared=True),
    "attempt_deadline": PolicyKind(DeadlineRule, Deadline, "seconds"),
    "fault": PolicyKind(FaultRule, Fault, "share"),
}

SEAM: Final = ("retry", "hedge")  # a plan: what stands before it acts once per call, what stands after it per attempt
BUDGET: Final = "budget"  # no step of its own: the plan spends from it

ORDER: Final = (
    *("fallback", "cache", "deadline", "coalesce", "shed", "limiter", "quota", "throttle", "pace"),
    *SEAM,
    *(PICK, "bulkhead", "adaptive", "service_breaker", "method_breaker", "breaker", "attempt_deadline", "fault"),
)
"""The one order, outermost first."""

_NOT: Final[Mapping[str, frozenset[str]]] = {
    # What answers in the callee's place must know what is asked and what a reply is: a request of a wire is its edge's.
    "call": frozenset({"fallback", "cache", "coalesce", "shed"}),
    # Nobody chooses where a call that came in goes, nor tries it again: that is for its caller to do.
    "server": frozenset(
        {"fallback", "cache", "coalesce", "throttle", "pace", *SEAM, PICK, "method_breaker", "attempt_deadline"}
    ),
    "function": frozenset({"shed", PICK, "service_breaker", "method_breaker"}),
    "consumer": frozenset(
        {"fallback", "cache", "coalesce", "hedge", "shed", "pace", PICK, "service_breaker", "method_breaker"}
    ),
}

ORDERS: Final[Mapping[str, tuple[str, ...]]] = {
    kind: tuple(policy for policy in ORDER if policy not in out and policy in {*POLICIES, PICK})
    for kind, out in _NOT.items()
}
"""What may stand before calls that go out and come in, guarded functions and messages."""
KINDS: Final = tuple(ORDERS)

SPOKEN: Final[Mapping[str, tuple[str, ...]]] = {
    kind: tuple(
        policy for policy in POLICIES if policy in order or (policy == BUDGET and any(plan in order for plan in SEAM))
    )
    for kind, order in ORDERS.items()
}
"""What an entry of each kind may speak of: the policies in its order, and the budget where there is who spends it."""

EXCLUSIVE: Final[tuple[tuple[str, str, str], ...]] = (
    ("retry", "hedge", "a hedge tries again after a failure too"),
    ("bulkhead", "adaptive", "an adaptive limit is a bulkhead that finds its size"),
)
"""Pairs of which a call has only one, and why: the second takes over from the first."""
