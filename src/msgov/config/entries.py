"""An entry of a rules file says which policies govern the calls that its name fits; what nobody says has a default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from msgov.config.answer import FallbackRule
from msgov.resilience.adaptive_rule import AdaptiveRule
from msgov.resilience.breaker import BreakerRule
from msgov.resilience.budget import BudgetRule
from msgov.resilience.bulkhead import BulkheadRule
from msgov.resilience.deadline import DeadlineRule
from msgov.resilience.fault import FaultRule
from msgov.resilience.flights import CoalesceRule
from msgov.resilience.freshness import CacheRule
from msgov.resilience.hedge import HedgeRule
from msgov.resilience.limiter import LimiterRule
from msgov.resilience.pace import PaceRule
from msgov.resilience.quota_rule import QuotaRule
from msgov.resilience.retry import RetryRule
from msgov.resilience.shed_rule import ShedRule
from msgov.resilience.throttle import ThrottleRule
from msgov.rule import field, rule


@rule
class Incoming:
    """The policies of calls that come in, each off where it is None."""

    deadline: DeadlineRule | None = field(None, why="how long handling may take, whatever the caller allows")
    shed: ShedRule | None = field(None, why="at which readings what matters least is turned away")
    limiter: LimiterRule | None = field(None, why="how many a second")
    quota: QuotaRule | None = field(None, why="how many a second all processes let in together")
    bulkhead: BulkheadRule | None = field(None, why="how many at once")
    adaptive: AdaptiveRule | None = field(None, why="as many at once as this process bears; instead of bulkhead")
    service_breaker: BreakerRule | None = field(None, why="the same for all that its entry names together")
    breaker: BreakerRule | None = field(None, why="one refusal at once in place of failure after failure")
    fault: FaultRule | None = field(None, why="which calls fail on purpose; nothing happens unless MSGOV_FAULTS=1")


@rule
class Outgoing:
    """The policies of calls that go out, and of guarded functions and consumers, each off where it is None."""

    fallback: FallbackRule | None = field(None, why="what a guarded function answers when it cannot")
    deadline: DeadlineRule | None = field(None, why="how long a call may take with all its attempts and waits")
    cache: CacheRule | None = field(None, why="how long an answer serves again")
    coalesce: CoalesceRule | None = field(None, why="whether those who ask the same at the same time share one call")
    limiter: LimiterRule | None = field(None, why="how many calls a second")
    quota: QuotaRule | None = field(None, why="how many calls a second all processes make together")
    throttle: ThrottleRule | None = field(None, why="how much the callee may refuse before calls are held back here")
    pace: PaceRule | None = field(None, why='how many calls a second, once the callee has said "slow down"')
    retry: RetryRule | None = field(None, why="when another attempt starts")
    hedge: HedgeRule | None = field(None, why="when another attempt joins the one under way; takes over from retry")
    budget: BudgetRule | None = field(
        None, why="how many attempts more the traffic pays for; without retry or hedge unused"
    )
    bulkhead: BulkheadRule | None = field(None, why="how many attempts at once")
    adaptive: AdaptiveRule | None = field(None, why="as many attempts at once as the callee bears; instead of bulkhead")
    service_breaker: BreakerRule | None = field(None, why="when to stop calling a service, whatever its methods")
    method_breaker: BreakerRule | None = field(None, why="when to stop calling a method, whatever the instances")
    breaker: BreakerRule | None = field(None, why="when to stop calling what is down, instance by instance")
    attempt_deadline: DeadlineRule | None = field(None, why="how long one attempt may take")
    fault: FaultRule | None = field(None, why="which attempts fail on purpose; nothing happens unless MSGOV_FAULTS=1")


Entry: TypeAlias = "Incoming | Outgoing"

ENTRIES: Final[Mapping[str, type[Entry]]] = {
    "call": Outgoing,
    "server": Incoming,
    "function": Outgoing,
    "consumer": Outgoing,
}

DEFAULTS: Final[Mapping[str, Mapping[str, Mapping[str, object]]]] = {
    # Fifteen seconds bound what nobody thought about; a good value is a few times the callee's own p99.
    "call": {"*": {"deadline": {"seconds": 15.0}, "retry": True, "budget": True, "breaker": True}},
    # Whatever the caller allows, nobody waits for longer; a shorter one of the caller stays. Expired work is refused,
    # but at most a fifth of all: callers whose budgets are wrong must not empty a service (Finagle).
    "server": {"*": {"deadline": {"seconds": 60.0, "refuse_at_most": 0.2}}},
    # No retry: nothing says that running a function twice does no harm.
    "function": {"*": {"deadline": {"seconds": 15.0}, "breaker": True}},
    # The bus delivers again by itself: a retry in front of it would multiply.
    "consumer": {"*": {"deadline": {"seconds": 60.0}}},
}
"""The lowest layer: what holds where nothing is configured."""
