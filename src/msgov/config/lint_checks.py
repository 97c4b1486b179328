"""What can be wrong between the policies of one call: each check is a function of their rules and of the traffic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from msgov.config.findings import Finding, Severity, Stack, Traffic
from msgov.config.kinds import SEAM
from msgov.errors import Fact
from msgov.resilience.breaker import BreakerRule
from msgov.resilience.budget import BudgetRule
from msgov.resilience.bulkhead import BulkheadRule
from msgov.resilience.deadline import DeadlineRule
from msgov.resilience.hedge import HedgeRule
from msgov.resilience.limiter import LimiterRule
from msgov.resilience.quota_rule import QuotaRule
from msgov.resilience.retry import RetryRule
from msgov.resilience.throttle import ThrottleRule

Check: TypeAlias = Callable[[Stack, Traffic], Iterator[Finding]]
BREAKERS: Final = ("service_breaker", "method_breaker", "breaker")


def _inner_timeouts(stack: Stack, traffic: Traffic) -> Iterator[Finding]:
    """A time inside another one that is not longer never comes."""
    whole, attempt = stack.rule("deadline", DeadlineRule), stack.rule("attempt_deadline", DeadlineRule)
    found = _finding("inner-timeout", stack)
    if whole is not None and attempt is not None:
        where = f"{stack.place('deadline')} = {whole.seconds:g} s"
        do = "give an attempt a part of the call's time, or leave attempt_deadline out"
        if attempt.seconds > whole.seconds:
            yield found("attempt_deadline", "seconds", f"an attempt may take longer than the whole call ({where})", do)
        elif attempt.seconds == whole.seconds and stack.rule("retry", RetryRule) is not None:
            why = f"the first attempt may take all the time of the call ({where}): no other one follows a slow one"
            yield found("attempt_deadline", "seconds", why, do, "warning")
    bulkhead = stack.rule("bulkhead", BulkheadRule)
    if whole is not None and bulkhead is not None and bulkhead.queue and bulkhead.max_wait >= whole.seconds:
        why = f"a call may wait in line for all its time ({stack.place('deadline')} = {whole.seconds:g} s)"
        yield found("bulkhead", "max_wait", why, "wait for a small part of the call's time", "warning")
    for each in BREAKERS:
        breaker = stack.rule(each, BreakerRule)
        bounds = [(name, rule.seconds) for name, rule in (("deadline", whole), ("attempt_deadline", attempt)) if rule]
        name, bound = min(bounds, key=lambda bound: bound[1], default=("", 0.0))
        if breaker is not None and name and breaker.slow_seconds >= bound:
            why = f"no call is ever slow: it is ended before ({stack.place(name)} = {bound:g} s)"
            yield found(
                each, "slow_seconds", why, "call slow what takes longer than it should, well below the deadline"
            )


def _minimum_calls(stack: Stack, traffic: Traffic) -> Iterator[Finding]:
    """A rate that is never taken opens nothing."""
    rates = [] if traffic.calls_per_second is None else [(traffic.calls_per_second, "calls a second")]
    limiter = stack.rule("limiter", LimiterRule)
    if limiter is not None and not limiter.shadow:
        rates.append((limiter.per_second, f"a second let in by {stack.place('limiter')}"))
    rate, whence = min(rates, default=(0.0, ""))
    if not rates:
        return
    for each in BREAKERS:
        breaker = stack.rule(each, BreakerRule)
        if breaker is None or breaker.last_calls or not (breaker.failure_rate or breaker.slow_seconds):
            continue
        calls = rate * breaker.window
        if calls >= breaker.minimum_calls:
            continue
        others = []
        if breaker.wilson_calls and calls >= breaker.wilson_calls:
            others.append(f"a share of failures that {breaker.wilson_calls} calls prove")
        if breaker.consecutive_failures:
            others.append(f"{breaker.consecutive_failures} failures in a row")
        why = f"{rate:g} {whence}, {calls:g} in its window of {breaker.window:g} s: the rate is never taken"
        yield _finding("minimum-calls", stack)(
            each,
            "minimum_calls",
            f"{why}; what opens it is {' or '.join(others)}" if others else f"{why}, and it never opens",
            f"minimum_calls of {max(1, int(calls / 2))} or less, a longer window, or last_calls",
            "warning" if others else "error",
        )


def _hedge(stack: Stack, traffic: Traffic) -> Iterator[Finding]:
    """A hedge is for the slow few: not for every other call, and not for those that are over."""
    hedge = stack.rule("hedge", HedgeRule)
    if hedge is None:
        return
    found = _finding("hedge", stack)
    if hedge.percentile < 0.75:
        why = f"{1 - hedge.percentile:.0%} of all calls are slow enough for a hedge, and {hedge.load:.0%} may have one"
        yield found("hedge", "percentile", why, "0.9 or more: what helps is to hedge the slowest", "warning")
    if hedge.initial is None:
        return
    if traffic.p50 is not None and hedge.initial < traffic.p50:
        why = f"below the median of {traffic.p50:g} s: more than half of all calls would be hedged"
        yield found("hedge", "initial", why, "about the p95, or leave it out: then it is learnt")
    for name in ("attempt_deadline", "deadline"):
        bound = stack.rule(name, DeadlineRule)
        if bound is not None and hedge.initial >= bound.seconds:
            why = f"a call is over before its hedge begins ({stack.place(name)} = {bound.seconds:g} s)"
            yield found("hedge", "initial", why, "about the p95, or leave it out: then it is learnt")
            return


def _throttle_traffic(stack: Stack, traffic: Traffic) -> Iterator[Finding]:
    """A throttle that is off below so much traffic does nothing with less."""
    throttle, rate = stack.rule("throttle", ThrottleRule), traffic.calls_per_second
    if throttle is not None and rate is not None and rate < throttle.minimum_rate:
        yield _finding("minimum-calls", stack)(
            "throttle", "minimum_rate", f"with {rate:g} calls a second it never holds back", "lower it", "warning"
        )


def _budget(stack: Stack, traffic: Traffic) -> Iterator[Finding]:
    """What is paid for whatever the traffic must be little beside what the callee can do."""
    budget, retry = stack.rule("budget", BudgetRule), stack.rule("retry", RetryRule)
    found = _finding("retry-budget", stack)
    if budget is None:
        if retry is not None and retry.attempts > 1 and "budget" not in stack.rules:
            why = f"without a budget an outage makes {retry.attempts} attempts of each call"
            yield found("retry", "attempts", why, "budget = true beside it", "warning")
        return
    limiter, quota = stack.rule("limiter", LimiterRule), stack.rule("quota", QuotaRule)
    capacity, whence, sure = traffic.capacity, "the capacity of the callee", True
    if capacity is None and quota is not None:
        capacity, whence = quota.limit.per_second, f"what {stack.place('quota')} lets in"
    elif capacity is None and limiter is not None:
        capacity, whence, sure = (
            limiter.per_second,
            f"{stack.place('limiter')}, if that is what the callee takes",
            False,
        )
    if capacity is None or not any(plan in stack.rules for plan in SEAM):
        return
    floor = budget.minimum * traffic.workers
    said = f"{traffic.workers} x {budget.minimum:g}" if traffic.workers > 1 else f"{budget.minimum:g}"
    found = _finding("budget-floor", stack)
    do = f"a minimum of {capacity * budget.ratio / traffic.workers:.2g} or less for each process"
    if floor > capacity:
        why = f"{said} retries a second are paid for whatever the traffic: above {whence} ({capacity:g}/s)"
        yield found("budget", "minimum", why, do, "error" if sure else "warning")
    elif sure and floor > capacity * budget.ratio:
        why = f"{said} retries a second whatever the traffic: above its ratio of {whence} ({capacity:g}/s)"
        yield found("budget", "minimum", why, do, "warning")


CHECKS: Final[tuple[Check, ...]] = (_inner_timeouts, _minimum_calls, _hedge, _throttle_traffic, _budget)


def _finding(check: str, stack: Stack) -> Callable[..., Finding]:
    """Return what makes findings of a check: at a field of a policy, with its value."""

    def make(policy: str, field: str, why: str, do: str, severity: Severity = "error") -> Finding:
        value: Fact = getattr(stack.rules[policy], field)
        return Finding(
            check=check, path=f"{stack.place(policy)}.{field}", value=value, why=why, do=do, severity=severity
        )

    return make
