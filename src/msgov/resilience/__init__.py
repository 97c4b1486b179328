"""Every policy alone is a machine; together they are a pipeline."""

from msgov.resilience.adaptive import Adaptive, AdaptiveRule
from msgov.resilience.breaker import Breaker, BreakerRule, State
from msgov.resilience.breaker_hystrix import HystrixRule
from msgov.resilience.breaker_keyed import Breakers
from msgov.resilience.budget import Budget, BudgetRule
from msgov.resilience.bulkhead import Bulkhead, BulkheadRule
from msgov.resilience.cache import Cache
from msgov.resilience.coalesce import Coalesce
from msgov.resilience.deadline import Deadline, DeadlineRule
from msgov.resilience.decorate import policies
from msgov.resilience.fallback import Fallback
from msgov.resilience.fault import Fault, FaultRule
from msgov.resilience.flights import CoalesceRule
from msgov.resilience.freshness import CacheRule
from msgov.resilience.futures import futures
from msgov.resilience.hedge import Hedge, HedgeRule
from msgov.resilience.limiter import Limiter, LimiterRule
from msgov.resilience.load import Load
from msgov.resilience.pace import Pace, Paced, PaceRule
from msgov.resilience.pool import Pool, PoolRule
from msgov.resilience.quota import Quota, QuotaRule
from msgov.resilience.replies import FailedReply
from msgov.resilience.retry import Retry, RetryRule
from msgov.resilience.shed import Shedder, ShedRule
from msgov.resilience.throttle import Throttle, Throttled, ThrottleRule
from msgov.resilience.tokens import Tokens, TokensRule

__all__ = [
    "Adaptive",
    "AdaptiveRule",
    "Breaker",
    "BreakerRule",
    "Breakers",
    "Budget",
    "BudgetRule",
    "Bulkhead",
    "BulkheadRule",
    "Cache",
    "CacheRule",
    "Coalesce",
    "CoalesceRule",
    "Deadline",
    "DeadlineRule",
    "FailedReply",
    "Fallback",
    "Fault",
    "FaultRule",
    "Hedge",
    "HedgeRule",
    "HystrixRule",
    "Limiter",
    "LimiterRule",
    "Load",
    "Pace",
    "PaceRule",
    "Paced",
    "Pool",
    "PoolRule",
    "Quota",
    "QuotaRule",
    "Retry",
    "RetryRule",
    "ShedRule",
    "Shedder",
    "State",
    "Throttle",
    "ThrottleRule",
    "Throttled",
    "Tokens",
    "TokensRule",
    "futures",
    "policies",
]
