"""How each policy of `msgov.resilience` is read: what it counts for itself, under the names of the catalogue."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, TypeAlias

from msgov.clock import Clock
from msgov.observability import catalogue
from msgov.observability.catalogue import Sample
from msgov.observability.shapes_gates import (
    AdaptiveLike,
    BreakerLike,
    BreakerSeen,
    BreakersLike,
    BulkheadLike,
    CircuitGateLike,
    DeadlineLike,
    FaultLike,
    KeyedLike,
    LimiterLike,
    LoadLike,
    Named,
    QueuedLike,
    QuotaLike,
    ShadowLike,
    ShedderLike,
    SlowRated,
    ThrottleLike,
    WrapperLike,
)
from msgov.observability.shapes_plans import (
    BudgetLike,
    CacheLike,
    CoalesceLike,
    FallbackLike,
    HedgeLike,
    RetriedLike,
    RetryLike,
    TokensLike,
)

Reader: TypeAlias = Callable[[float], Iterable[Sample]]

STATES: Final = ("closed", "open", "half_open", "forced_open", "forced_closed", "disabled")
_OUTCOMES: Final = ("success", "failure", "slow", "ignored", "rejected")
_SHUT: Final = frozenset({"open", "forced_open"})


def _called(it: Named) -> str:
    return it.name or it.target


def _policy(it: Named, otherwise: str) -> str:
    """Return what a policy is called in the rules: a deadline may be that of the attempts."""
    return str(getattr(it, "policy", "") or otherwise)


def _shadow(it: Named, policy: str, count: int) -> Iterator[Sample]:
    """Show what a shadow would have refused, from the time that there was one."""
    if count or getattr(getattr(it, "rule", None), "shadow", False):
        yield catalogue.SHADOW, (_policy(it, policy), _called(it)), count


def _shadowed(it: Named, policy: str) -> Iterator[Sample]:
    if isinstance(it, ShadowLike):
        yield from _shadow(it, policy, it.would_reject)


def _state(labels: tuple[str, str], state: str) -> Iterator[Sample]:
    for each in STATES:
        yield catalogue.BREAKER_STATE, (*labels, each), float(each == state)


def _breaker(it: BreakerLike, now: float, at: float, *, name: str = "") -> Iterator[Sample]:
    if not name:  # one that stands alone says for what part of its target: "payment/Charge at every instance"
        key = getattr(it, "key", "")
        name = f"{_called(it)} at {key}" if key else _called(it)
    labels, state, rule = (name, it.target), it.state.value, it.rule
    yield from _state(labels, state)
    counts = it.counts
    for outcome in _OUTCOMES:
        yield catalogue.BREAKER_CALLS, (*labels, outcome), counts.get(outcome, 0)
    yield from _shadow(it, "breaker", counts.get("would_reject", 0))
    yield catalogue.BREAKER_FAILURES, labels, it.failure_rate(now)
    if rule.failure_rate > 0:
        yield catalogue.BREAKER_THRESHOLD, labels, rule.failure_rate
    if isinstance(rule, SlowRated) and rule.slow_seconds > 0:
        yield catalogue.BREAKER_SLOW_THRESHOLD, labels, rule.slow_rate
    if isinstance(it, BreakerSeen):
        seen = it.snapshot(now)
        calls = _number(seen, "window_calls")
        yield catalogue.BREAKER_SLOW, labels, _number(seen, "window_slow") / calls if calls else 0.0
        yield catalogue.BREAKER_ADMITTED, labels, _number(seen, "share")
        if state in _SHUT:
            yield catalogue.BREAKER_OPENED, labels, at - (now - it.since)


def _number(seen: Mapping[str, object], name: str) -> float:
    value = seen.get(name)
    return float(value) if isinstance(value, int | float) else 0.0


def _breakers(it: BreakersLike, now: float, at: float) -> Iterator[Sample]:
    labels = (_called(it), it.target)
    breakers = it.breakers
    if not breakers:  # a panel shows zeros before the first call, and not "no data"
        yield from _state(labels, "closed")
    for outcome in _OUTCOMES:
        yield catalogue.BREAKER_CALLS, (*labels, outcome), 0
    for each in breakers.values():
        yield from _breaker(each, now, at, name=labels[0])
    states = Counter(each.state.value for each in breakers.values())
    for state in STATES:
        yield catalogue.BREAKER_KEYS, (*labels, state), states[state]
    yield catalogue.BREAKER_OVERFLOWED, labels, it.overflowed


def _circuit(it: CircuitGateLike) -> Iterator[Sample]:
    labels = (_called(it), it.target)
    yield from _state(labels, it.breaker.current_state.replace("-", "_"))
    yield catalogue.BREAKER_CALLS, (*labels, "rejected"), it.rejected


def _bulkhead(it: BulkheadLike) -> Iterator[Sample]:
    labels = (_called(it),)
    yield catalogue.BULKHEAD_INFLIGHT, labels, it.inflight
    yield catalogue.BULKHEAD_LIMIT, labels, it.limit
    yield catalogue.BULKHEAD_QUEUE, labels, it.depth
    yield catalogue.BULKHEAD_REJECTED, labels, it.rejected
    if isinstance(it, QueuedLike):
        yield catalogue.BULKHEAD_QUEUED, labels, it.queued


def _adaptive(it: AdaptiveLike) -> Iterator[Sample]:
    name = _called(it)
    yield catalogue.LIMITER_DECISIONS, (name, "queued"), it.queued
    yield catalogue.LIMITER_DECISIONS, (name, "rejected"), it.rejected
    yield catalogue.LIMITER_LIMIT, (name,), it.limit
    yield catalogue.LIMITER_INFLIGHT, (name,), it.inflight
    yield catalogue.LIMITER_QUEUE, (name,), it.depth
    yield catalogue.LIMITER_DROPS, (name,), it.dropped
    for share, inflight in it.inflight_by_share.items():
        yield catalogue.LIMITER_SHARES, (name, share), inflight
    yield from _shadowed(it, "adaptive")


def _limiter(it: LimiterLike) -> Iterator[Sample]:
    name = _called(it)
    yield catalogue.LIMITER_DECISIONS, (name, "admitted"), it.admitted
    yield catalogue.LIMITER_DECISIONS, (name, "rejected"), it.rejected
    if it.limit < math.inf:  # else a pace that is off
        yield catalogue.LIMITER_LIMIT, (name,), it.limit
    if isinstance(it, KeyedLike):
        yield catalogue.LIMITER_KEYS, (name,), it.keys
        yield catalogue.LIMITER_OVERFLOWED, (name,), it.overflowed
    if isinstance(it, QuotaLike):
        yield catalogue.QUOTA_BY_PART, (name,), it.by_part
        yield catalogue.QUOTA_LOST, (name,), float(it.lost)
        yield catalogue.QUOTA_LOSSES, (name,), it.losses
    yield from _shadowed(it, "limiter")


def _throttle(it: ThrottleLike, now: float) -> Iterator[Sample]:
    name = _called(it)
    yield catalogue.THROTTLE_CALLS, (name, "taken"), it.taken
    yield catalogue.THROTTLE_CALLS, (name, "refused"), it.refused
    yield catalogue.THROTTLE_CALLS, (name, "held"), it.held
    yield catalogue.THROTTLE_HELD, (name,), it.chance(now)
    yield from _shadowed(it, "throttle")


def _load(it: LoadLike) -> Iterator[Sample]:
    yield catalogue.LOAD_CPU, (), it.cpu
    yield catalogue.LOAD_LAG, (), it.lag
    yield catalogue.LOAD_DELAY, (), it.delay


def _shedder(it: ShedderLike) -> Iterator[Sample]:
    name = _called(it)
    for reason, count in it.shed.items():
        yield catalogue.SHED, reason, count
    yield catalogue.SHED_INFLIGHT, (name,), it.inflight
    if it.ceiling < math.inf:
        yield catalogue.SHED_CEILING, (name,), it.ceiling
    yield catalogue.SHED_THRESHOLD, (name,), it.threshold
    yield from _load(it)
    yield from _shadowed(it, "shed")


def _deadline(it: DeadlineLike) -> Iterator[Sample]:
    labels = (_called(it), _policy(it, "deadline"))
    yield catalogue.DEADLINE_CALLS, (*labels, "refused"), it.refused
    yield catalogue.DEADLINE_CALLS, (*labels, "let_through"), it.let_through
    yield catalogue.DEADLINE_CALLS, (*labels, "exceeded"), it.exceeded
    yield from _shadowed(it, "deadline")


def _fault(it: FaultLike) -> Iterator[Sample]:
    name = _called(it)
    yield catalogue.FAULT_ALLOWED, (name,), float(it.allowed)
    yield catalogue.FAULTS, (name, "latency"), it.delayed
    yield catalogue.FAULTS, (name, "error"), it.failed
    yield catalogue.FAULTS, (name, "hang"), it.hung


def _plan(it: RetryLike, now: float) -> Iterator[Sample]:
    target = it.target or it.name
    for reason, count in it.suppressed.items():
        yield catalogue.RETRY_SUPPRESSED, (target, reason), count
    if isinstance(it, RetriedLike):
        yield catalogue.RETRIES_MADE, (target,), it.retries
    if isinstance(it, HedgeLike):
        yield catalogue.RETRIES_MADE, (target,), it.retried
        yield catalogue.HEDGES, (target, "started"), it.hedged
        yield catalogue.HEDGES, (target, "won"), it.won
        yield catalogue.HEDGES, (target, "lost"), it.lost
        if it.delay is not None:
            yield catalogue.HEDGE_DELAY, (target,), it.delay
    yield from _purse(getattr(it, "budget", None), now, target)


def _purse(it: object, now: float, target: str = "") -> Iterator[Sample]:
    """Show what is left for more attempts: of tokens, until half of them are gone."""
    if isinstance(it, BudgetLike):
        yield catalogue.RETRY_BUDGET, (it.target or target or it.name,), it.remaining(now)
    elif isinstance(it, TokensLike):
        left = 2 * it.left / it.rule.maximum - 1
        yield catalogue.RETRY_BUDGET, (it.target or target or it.name,), max(0.0, left)


def _fallback(it: FallbackLike) -> Iterator[Sample]:
    labels = (it.target, it.name or "fallback")
    yield catalogue.FALLBACKS, (*labels, "answered"), it.answered
    failed = getattr(it, "failed", None)
    if isinstance(failed, int):  # a plain value cannot fail
        yield catalogue.FALLBACKS, (*labels, "failed"), failed


def _cache(it: CacheLike) -> Iterator[Sample]:
    name, counts = _called(it), it.counts
    for result in ("hit", "miss", "stale", "error"):
        yield catalogue.CACHE_REQUESTS, (name, result), counts.get(result, 0)
    yield catalogue.CACHE_ENTRIES, (name,), len(it)
    yield catalogue.CACHE_EVICTIONS, (name,), counts.get("evicted", 0)


def _coalesce(it: CoalesceLike) -> Iterator[Sample]:
    name = _called(it)
    yield catalogue.COALESCE_CALLS, (name, "led"), it.led
    yield catalogue.COALESCE_CALLS, (name, "joined"), it.joined
    yield catalogue.COALESCE_CALLS, (name, "alone"), it.alone
    yield catalogue.COALESCE_INFLIGHT, (name,), len(it)


def reader(thing: object, at: Clock) -> Reader | None:
    """Return what reads a policy, None for what shows nothing as one; `at` tells the time of day."""
    return _gate(thing, at) or _other(thing)


def _gate(thing: object, at: Clock) -> Reader | None:
    if isinstance(thing, BreakerLike):
        return lambda now: _breaker(thing, now, at())
    if isinstance(thing, BreakersLike):
        return lambda now: _breakers(thing, now, at())
    if isinstance(thing, AdaptiveLike):  # before the bulkhead, and that before the limiter: each also looks like these
        return lambda now: _adaptive(thing)
    if isinstance(thing, BulkheadLike):
        return lambda now: _bulkhead(thing)
    if isinstance(thing, LimiterLike):
        return lambda now: _limiter(thing)
    if isinstance(thing, ThrottleLike):
        return lambda now: _throttle(thing, now)
    if isinstance(thing, ShedderLike):
        return lambda now: _shedder(thing)
    if isinstance(thing, DeadlineLike):
        return lambda now: _deadline(thing)
    if isinstance(thing, FaultLike):
        return lambda now: _fault(thing)
    if isinstance(thing, CircuitGateLike):
        return lambda now: _circuit(thing)
    return None


def _other(thing: object) -> Reader | None:
    if isinstance(thing, RetryLike):
        return lambda now: _plan(thing, now)
    if isinstance(thing, BudgetLike | TokensLike):
        return lambda now: _purse(thing, now)
    if isinstance(thing, CacheLike):
        return lambda now: _cache(thing)
    if isinstance(thing, CoalesceLike):
        return lambda now: _coalesce(thing)
    if isinstance(thing, FallbackLike):
        return lambda now: _fallback(thing)
    if isinstance(thing, LoadLike):
        return lambda now: _load(thing)
    return None


def inside(thing: object) -> object | None:
    """Return the gate that a wrapper stands round, None for what is no wrapper."""
    return thing.gate if isinstance(thing, WrapperLike) else None
