"""Every policy alone is a machine; together they are a pipeline."""

from msgov.resilience.breaker import Breaker, BreakerRule, State
from msgov.resilience.budget import Budget, BudgetRule
from msgov.resilience.bulkhead import Bulkhead, BulkheadRule
from msgov.resilience.deadline import Deadline, DeadlineRule
from msgov.resilience.decorate import policies
from msgov.resilience.fallback import Fallback
from msgov.resilience.limiter import Limiter, LimiterRule
from msgov.resilience.retry import Retry, RetryRule

__all__ = [
    "Breaker",
    "BreakerRule",
    "Budget",
    "BudgetRule",
    "Bulkhead",
    "BulkheadRule",
    "Deadline",
    "DeadlineRule",
    "Fallback",
    "Limiter",
    "LimiterRule",
    "Retry",
    "RetryRule",
    "State",
    "policies",
]
