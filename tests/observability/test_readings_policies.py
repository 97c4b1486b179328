"""Every policy of ours is shown, under the names and labels of the catalogue."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from msgov.call import IGNORED, OK, TRANSIENT, Call, Outcome
from msgov.config.answer import FallbackRule
from msgov.config.kinds import POLICIES
from msgov.errors import DeadlineExceeded, Rejected
from msgov.event import Observers
from msgov.observability.catalogue import CATALOGUE
from msgov.observability.readings_policies import STATES
from msgov.pipeline import Pipeline
from msgov.policy import Gate
from msgov.resilience import (
    Adaptive,
    AdaptiveRule,
    Breaker,
    BreakerRule,
    Breakers,
    Budget,
    Bulkhead,
    BulkheadRule,
    Cache,
    CacheRule,
    Coalesce,
    Deadline,
    DeadlineRule,
    Fallback,
    Fault,
    FaultRule,
    Hedge,
    HedgeRule,
    Limiter,
    LimiterRule,
    Load,
    Pace,
    PaceRule,
    Quota,
    QuotaRule,
    Retry,
    Shedder,
    ShedRule,
    State,
    Throttle,
    ThrottleRule,
    Tokens,
)
from msgov.resilience.breaker_states import OPEN
from msgov.resilience.freshness import CacheStore
from msgov.resilience.standing import Announced
from msgov.scope import Criticality
from msgov.sync import govern
from tests.observability.reading import Samples, read, watching

LABELS = {metric.name: metric.labels for metric in CATALOGUE}
SHADOW = "msgov_shadow_rejections_total"


def through(gate: Gate[int], outcome: Outcome, now: float) -> None:
    """Let one call through."""
    ticket = gate.admit(Call("payment"), now)
    assert isinstance(ticket, int)
    gate.settle(ticket, outcome, now)


def test_a_breaker_shows_one_state_of_all() -> None:
    """All states are there from the first scrape, so that a panel shows zeros and not "no data"."""
    breaker = Breaker(BreakerRule(minimum_calls=2), name="pay", target="payment")
    found = read(watching(breaker))
    assert found["msgov_breaker_state"] == {("pay", "payment", state): float(state == "closed") for state in STATES}
    assert found["msgov_breaker_calls_total"]["pay", "payment", "failure"] == 0
    assert found["msgov_breaker_failure_ratio_threshold"] == {("pay", "payment"): 0.5}


def test_a_breaker_that_opened_is_shown_open() -> None:
    """The state, the calls and the ratio that did it."""
    breaker = Breaker(BreakerRule(minimum_calls=4, failure_rate=0.5), name="pay", target="payment")
    readings = watching(breaker)
    for outcome in (OK, OK, TRANSIENT):
        through(breaker, Outcome(outcome), 99.0)
    assert read(readings)["msgov_breaker_failure_ratio"] == {("pay", "payment"): pytest.approx(1 / 3)}
    through(breaker, Outcome(TRANSIENT), 99.0)
    with pytest.raises(Rejected):
        breaker.admit(Call("payment"), 99.0)
    found = read(readings)
    assert breaker.state is OPEN
    assert found["msgov_breaker_state"]["pay", "payment", "open"] == 1
    assert found["msgov_breaker_state"]["pay", "payment", "closed"] == 0
    assert found["msgov_breaker_calls_total"]["pay", "payment", "success"] == 2
    assert found["msgov_breaker_calls_total"]["pay", "payment", "failure"] == 2
    assert found["msgov_breaker_calls_total"]["pay", "payment", "rejected"] == 1


def test_every_state_that_a_breaker_has_is_shown() -> None:
    """A new state would otherwise show as none at all."""
    assert {state.value for state in State} == set(STATES)


def test_a_bulkhead_shows_its_room() -> None:
    """Inside, room, in line, refused."""
    bulkhead = Bulkhead(BulkheadRule(limit=2, queue=1), name="pay")
    for _ in range(3):
        bulkhead.admit(Call("payment"), 1.0)
    with pytest.raises(Rejected):
        bulkhead.admit(Call("payment"), 1.0)
    found = read(watching(bulkhead))
    assert found["msgov_bulkhead_inflight"] == {("pay",): 2}
    assert found["msgov_bulkhead_limit"] == {("pay",): 2}
    assert found["msgov_bulkhead_queue_depth"] == {("pay",): 1}
    assert found["msgov_bulkhead_queued_total"] == {("pay",): 1}
    assert found["msgov_bulkhead_rejected_total"] == {("pay",): 1}
    assert "msgov_limiter_limit" not in found


def test_a_limiter_shows_its_decisions() -> None:
    """And the rate that they were taken by."""
    limiter = Limiter(LimiterRule(rate=1, burst=1), name="login")
    limiter.admit(Call("user"), 1.0)
    with pytest.raises(Rejected):
        limiter.admit(Call("user"), 1.0)
    found = read(watching(limiter))
    assert found["msgov_limiter_decisions_total"] == {("login", "admitted"): 1, ("login", "rejected"): 1}
    assert found["msgov_limiter_limit"] == {("login",): 1}
    assert found["msgov_limiter_keys"] == {("login",): 1}
    assert found["msgov_limiter_overflowed_total"] == {("login",): 0}
    assert "msgov_quota_store_lost" not in found


def test_a_pace_shows_its_rate_while_it_has_one() -> None:
    """Under a limiter's names; an infinite limit would flatten every panel that it is on."""
    pace = Pace(PaceRule(max_wait=0), name="pay", target="payment")
    pace.admit(Call("payment"), 99.0)
    pace.settle(99.0, Outcome(OK), 99.0)
    assert "msgov_limiter_limit" not in read(watching(pace))
    pace.settle(99.0, Outcome(TRANSIENT, overloaded=True), 99.1)
    with pytest.raises(Rejected):
        pace.admit(Call("payment"), 99.1)
    found = read(watching(pace))
    assert found["msgov_limiter_limit"] == {("pay",): pytest.approx(1.4)}
    assert found["msgov_limiter_decisions_total"] == {("pay", "admitted"): 1, ("pay", "rejected"): 1}


def test_a_retry_shows_what_it_did_not_do_and_what_its_budget_has_left() -> None:
    """An empty budget is why a failure was not tried again."""
    budget = Budget(target="payment")
    retry = Retry(budget=budget, target="payment")
    retry.next(Call("payment"), 1, Outcome(TRANSIENT), 100.0)
    retry.next(Call("payment", idempotent=True), 1, None, 100.0)
    found = read(watching(retry))
    assert found["msgov_retry_suppressed_total"]["payment", "not_idempotent"] == 1
    assert found["msgov_retry_suppressed_total"]["payment", "budget"] == 0
    assert found["msgov_retry_budget_remaining_ratio"] == {("payment",): 1}


NEEDED = {"fault": FaultRule(share=0.5, status="503"), "fallback": FallbackRule(answer="later")}
"""Rules that have no default."""


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_of_the_rules_file_is_shown(policy: str) -> None:
    """A policy that nobody can see is found out about in an outage."""
    kind = POLICIES[policy]
    for side in ("call", "function"):
        rule = NEEDED.get(policy) or kind.rule()
        made = kind.make(rule, kind=side, name="payment/Charge", target="payment", dice=None, observers=Observers())
        found = read(watching(made))
        assert found
        for metric, samples in found.items():
            assert all(len(labels) == len(LABELS[metric]) for labels in samples), metric


@pytest.mark.parametrize(
    ("rule", "shown"),
    [
        (BreakerRule(), (True, False)),
        (BreakerRule(failure_rate=0), (False, False)),
        (BreakerRule(slow_seconds=1, slow_rate=0.25), (True, True)),
        (BreakerRule(failure_rate=0, slow_seconds=1), (False, True)),
    ],
)
def test_a_criterion_that_is_off_draws_no_line(rule: BreakerRule, shown: tuple[bool, bool]) -> None:
    """A threshold of 0 on a panel reads as "opens at the first failure"."""
    found = read(watching(Breaker(rule, name="pay", target="payment")))
    failure, slow = (f"msgov_breaker_{kind}_ratio_threshold" for kind in ("failure", "slow"))
    assert (failure in found, slow in found) == shown
    if shown == (True, True):
        assert found[slow] == {("pay", "payment"): 0.25}
    assert found["msgov_breaker_slow_ratio"] == {("pay", "payment"): 0}


def test_slow_calls_are_shown_by_their_share() -> None:
    """Slow answers open it too, so a panel needs what it opened by."""
    breaker = Breaker(BreakerRule(slow_seconds=0.5, minimum_calls=10), name="pay", target="payment")
    for seconds in (0.1, 0.6, 0.9, 0.2):
        through(breaker, Outcome(OK, seconds=seconds), 99.0)
    found = read(watching(breaker))
    assert found["msgov_breaker_slow_ratio"] == {("pay", "payment"): 0.5}
    assert found["msgov_breaker_calls_total"]["pay", "payment", "slow"] == 2


def test_an_open_breaker_shows_since_when_by_the_wall() -> None:
    """So that a panel can say "open for 12 s"; a closed one has no such time."""
    breaker = Breaker(name="pay", target="payment")
    assert "msgov_breaker_opened_timestamp_seconds" not in read(watching(breaker))
    breaker.force(State.FORCED_OPEN, now=88.0)
    found = read(watching(breaker))
    assert found["msgov_breaker_opened_timestamp_seconds"] == {("pay", "payment"): 988}
    assert found["msgov_breaker_admitted_ratio"] == {("pay", "payment"): 0}


def test_a_breaker_that_comes_back_shows_what_share_it_lets_in() -> None:
    """For three seconds some are still refused: without it that reads as a fault of ours."""
    rule = BreakerRule(minimum_calls=1, probes=1, open_jitter=0, ramp_seconds=10)
    breaker = Breaker(rule, name="pay", target="payment")
    through(breaker, Outcome(TRANSIENT), 90.0)
    through(breaker, Outcome(OK), 95.0)
    assert read(watching(breaker))["msgov_breaker_admitted_ratio"] == {("pay", "payment"): 0.5}


def test_breakers_of_many_keys_are_one_breaker_with_a_count_by_state() -> None:
    """Instances come and go, and each would be a series for ever: a key is never a label."""
    breakers = Breakers(BreakerRule(), key=lambda call: call.method, most=3, name="pay", target="payment")
    for method in ("a", "b", "c", "d"):
        breakers.settle(breakers.admit(Call("payment", method), 99.0), Outcome(OK), 99.0)
    breakers.breakers["a"].force(State.FORCED_OPEN, now=98.0)
    breakers.breakers["b"].force(State.FORCED_OPEN, now=97.0)
    found = read(watching(breakers))
    counted = {state: found["msgov_breaker_keys"]["pay", "payment", state] for state in STATES}
    assert counted == {**dict.fromkeys(STATES, 0), "closed": 2, "forced_open": 2}
    assert found["msgov_breaker_state"]["pay", "payment", "forced_open"] == 1
    assert found["msgov_breaker_calls_total"]["pay", "payment", "success"] == 4
    assert found["msgov_breaker_overflowed_total"] == {("pay", "payment"): 1}
    assert found["msgov_breaker_opened_timestamp_seconds"] == {("pay", "payment"): 997}
    assert found["msgov_breaker_admitted_ratio"] == {("pay", "payment"): 0}


def test_breakers_of_keys_that_never_came_are_shown_closed() -> None:
    """The first call to an instance must not be the first that a panel hears of it."""
    found = read(watching(Breakers(BreakerRule(), key=lambda call: call.method, name="pay", target="payment")))
    assert found["msgov_breaker_state"] == {("pay", "payment", state): float(state == "closed") for state in STATES}
    assert found["msgov_breaker_calls_total"]["pay", "payment", "rejected"] == 0
    assert set(found["msgov_breaker_keys"].values()) == {0}


def test_what_a_shadow_would_refuse_is_no_outcome_of_a_call() -> None:
    """It was let in; to count it among the calls would count it twice."""
    breaker = Breaker(BreakerRule(minimum_calls=1, shadow=True), name="pay", target="payment")
    through(breaker, Outcome(TRANSIENT), 99.0)
    through(breaker, Outcome(OK), 99.5)
    found = read(watching(breaker))
    assert found[SHADOW] == {("breaker", "pay"): 1}
    assert {labels[2] for labels in found["msgov_breaker_calls_total"]} == {
        "success", "failure", "slow", "ignored", "rejected",
    }  # fmt: skip
    assert found["msgov_breaker_calls_total"]["pay", "payment", "rejected"] == 0


def refused(gate: Gate[object], *calls: Call, now: float = 99.0) -> int:
    """Bring calls to the door that stay; count those that are refused."""
    count = 0
    for call in calls:
        try:
            gate.admit(call, now)
        except Rejected:
            count += 1
    return count


SHADOWS: dict[str, Callable[[bool], object]] = {
    "breaker": lambda on: Breaker(BreakerRule(shadow=on), name="n"),
    "limiter": lambda on: Limiter(LimiterRule(shadow=on), name="n"),
    "throttle": lambda on: Throttle(ThrottleRule(shadow=on), name="n"),
    "adaptive": lambda on: Adaptive(AdaptiveRule(shadow=on), name="n"),
    "shed": lambda on: Shedder(ShedRule(shadow=on), name="n"),
    "deadline": lambda on: Deadline(DeadlineRule(shadow=on), name="n"),
}


@pytest.mark.parametrize("policy", SHADOWS)
def test_a_shadow_shows_what_it_would_refuse(policy: str) -> None:
    """From the first scrape, so that "none" and "not tried" differ; what never was one shows nothing of it."""
    assert read(watching(SHADOWS[policy](True)))[SHADOW] == {(policy, "n"): 0}
    assert SHADOW not in read(watching(SHADOWS[policy](False)))


def test_what_a_shadow_counted_stays_when_the_rule_bites() -> None:
    """A counter that vanishes is read as a restart."""
    limiter = Limiter(LimiterRule(rate=1, burst=1, shadow=True), name="login")
    assert refused(limiter, *[Call("user")] * 3) == 0
    limiter.rule = LimiterRule(rate=1, burst=1)
    assert read(watching(limiter))[SHADOW] == {("limiter", "login"): 2}


def test_an_adaptive_limit_is_a_limit_that_moves() -> None:
    """The same names as any limiter's, with what is in flight beside it."""
    adaptive = Adaptive(AdaptiveRule(initial=2), name="pay")
    assert refused(adaptive, *[Call("payment")] * 4) == 2
    adaptive.settle(99.0, Outcome(TRANSIENT, overloaded=True), 99.5)
    found = read(watching(adaptive))
    assert found["msgov_limiter_limit"] == {("pay",): 2}
    assert found["msgov_limiter_inflight"] == {("pay",): 1}
    assert found["msgov_limiter_drops_total"] == {("pay",): 1}
    assert "msgov_bulkhead_limit" not in found


def test_an_adaptive_limit_shows_its_line_and_its_shares() -> None:
    """Who waits, who was refused, whose part is used."""
    adaptive = Adaptive(AdaptiveRule(initial=2, queue=1), name="pay")
    assert refused(adaptive, *[Call("payment")] * 4) == 1
    found = read(watching(adaptive))
    assert found["msgov_limiter_decisions_total"] == {("pay", "queued"): 1, ("pay", "rejected"): 1}
    assert found["msgov_limiter_queue_depth"] == {("pay",): 1}
    shared = Adaptive(AdaptiveRule(initial=2, shares={"critical": 0.5, "sheddable": 0.5}), name="pay")
    refused(shared, Call("payment"))
    assert read(watching(shared))["msgov_limiter_share_inflight"] == {("pay", "critical"): 1, ("pay", "sheddable"): 0}


def test_a_quota_shows_whether_its_store_answers() -> None:
    """While it is lost each process decides by itself: that is an alert."""
    quota = Quota(QuotaRule(rate="10/minute"), name="login")
    refused(quota, Call("user"))
    found = read(watching(quota))
    assert found["msgov_quota_store_lost"] == {("login",): 1}
    assert found["msgov_quota_by_part_total"] == {("login",): 1}
    assert found["msgov_limiter_decisions_total"] == {("login", "admitted"): 1, ("login", "rejected"): 0}
    quota.reached(99.0)
    quota.unreachable(99.5)
    quota.reached(100.0)
    found = read(watching(quota))
    assert found["msgov_quota_store_lost"] == {("login",): 0}
    assert found["msgov_quota_store_losses_total"] == {("login",): 1}


def test_a_limiter_inside_a_wrapper_is_shown() -> None:
    """An edge that announces the standing hands in the wrapper."""
    limiter = Limiter(LimiterRule(rate=7), name="login")
    assert read(watching(Announced(limiter, lambda call, standings: None)))["msgov_limiter_limit"] == {("login",): 7}


def test_a_throttle_shows_what_it_holds_back_and_why() -> None:
    """Held back here, refused there: the first follows the second."""
    throttle = Throttle(ThrottleRule(minimum_rate=0), name="pay", target="payment")
    for _ in range(10):
        throttle.settle(1, Outcome(TRANSIENT, overloaded=True), 99.0)
    throttle.settle(1, Outcome(OK), 99.0)
    held = refused(throttle, *[Call("payment")] * 50)
    found = read(watching(throttle))
    assert held > 0
    assert found["msgov_throttle_calls_total"] == {("pay", "taken"): 1, ("pay", "refused"): 10, ("pay", "held"): held}
    assert found["msgov_throttle_held_ratio"] == {("pay",): throttle.chance(100.0)}
    assert throttle.chance(100.0) > 0.5


def test_what_is_shed_is_shown_by_reason_and_priority() -> None:
    """Batch work for the CPU, or paying customers for the loop: these are two different nights."""
    shedder = Shedder(name="shop")
    for second in range(3):
        for number in range(10):
            at = second + number / 10
            shedder.settle(shedder.admit(Call("shop"), at - 0.5), Outcome(OK), at)
    shedder.sense(cpu=0.93, lag=0.02, delay=0.01)
    count = refused(shedder, *[Call("shop")] * 12, now=3.0)
    shedder.sense(cpu=0.1)
    count += refused(shedder, Call("shop", criticality=Criticality.SHEDDABLE), now=3.1)
    found = read(watching(shedder))
    assert sum(found["msgov_shed_total"].values()) == count == shedder.rejected
    assert found["msgov_shed_total"]["cpu", "critical"] == count - 1
    assert found["msgov_shed_total"]["recent", "sheddable"] == 1
    assert len(found["msgov_shed_total"]) == 16
    assert found["msgov_shed_ceiling"] == {("shop",): 5}
    assert found["msgov_shed_inflight"] == {("shop",): 10}
    assert found["msgov_shed_threshold"] == {("shop",): 0}
    assert found["msgov_load_cpu_ratio"] == {(): 0.1}


def test_a_ceiling_that_is_not_known_is_not_shown() -> None:
    """Infinity would be the only thing to see on the panel."""
    assert "msgov_shed_ceiling" not in read(watching(Shedder(name="shop")))


def test_the_load_of_the_process_is_shown_once() -> None:
    """Two gates that are told the same show the worse, not the sum."""
    load, shedder = Load(()), Shedder(name="shop")
    load.cpu, load.lag, load.delay = 0.5, 0.2, 0.1
    shedder.sense(cpu=0.4, lag=0.3, delay=0.1)
    found = read(watching(load, shedder))
    assert found["msgov_load_cpu_ratio"] == {(): 0.5}
    assert found["msgov_load_loop_lag_seconds"] == {(): 0.3}
    assert found["msgov_load_thread_delay_seconds"] == {(): 0.1}


def test_a_deadline_shows_what_had_no_time() -> None:
    """Refused before it was sent, let in all the same, run out under way: of the call, or of its attempts."""
    deadline = Deadline(DeadlineRule(seconds=1, refuse_at_most=0.5), name="pay")
    deadline.policy = "attempt_deadline"  # type: ignore[attr-defined]  # as the rule book does
    assert refused(deadline, Call("payment", deadline=98.0), Call("payment", deadline=98.0)) == 1
    ticket = deadline.admit(Call("payment"), 99.0)
    assert isinstance(ticket, tuple)
    deadline.settle(ticket, Outcome(TRANSIENT, error=DeadlineExceeded("late")), 100.0)
    assert read(watching(deadline))["msgov_deadline_calls_total"] == {
        ("pay", "attempt_deadline", "refused"): 1,
        ("pay", "attempt_deadline", "let_through"): 1,
        ("pay", "attempt_deadline", "exceeded"): 1,
    }


def test_faults_are_shown_by_kind_and_so_is_that_they_are_allowed() -> None:
    """A fault that was forgotten in production must be seen."""
    fault = Fault(FaultRule(share=1, status="503"), allowed=True, name="pay")
    with pytest.raises(Exception, match="injected fault 503"):
        fault.admit(Call("payment"), 99.0)
    fault.rule = FaultRule(share=1, latency=0.1)
    fault.admit(Call("payment"), 99.0)
    fault.rule = FaultRule(share=1, hang=True)
    for _ in range(2):
        fault.admit(Call("payment"), 99.0)
    found = read(watching(fault))
    assert found["msgov_faults_injected_total"] == {("pay", "error"): 1, ("pay", "latency"): 1, ("pay", "hang"): 2}
    assert found["msgov_fault_allowed"] == {("pay",): 1}
    off = read(watching(Fault(FaultRule(share=1, status="503"), allowed=False, name="pay")))
    assert off["msgov_fault_allowed"] == {("pay",): 0}


def test_a_breaker_of_pybreaker_is_a_breaker_too() -> None:
    """Who keeps his own breaker keeps no blind spot."""
    pybreaker = pytest.importorskip("pybreaker", reason="pybreaker is not installed: pip install 'msgov[pybreaker]'")
    from msgov.resilience.pybreaker import PyBreaker

    gate = PyBreaker(pybreaker.CircuitBreaker(fail_max=1), name="pay", target="payment")
    gate.breaker.half_open()
    gate.rejected = 3
    found = read(watching(gate))
    assert found["msgov_breaker_state"] == {("pay", "payment", state): float(state == "half_open") for state in STATES}
    assert found["msgov_breaker_calls_total"] == {("pay", "payment", "rejected"): 3}


def test_retries_that_were_made_are_shown() -> None:
    """A retry storm begins here."""
    retry = Retry(target="payment")
    retry.next(Call("payment", idempotent=True), 1, Outcome(TRANSIENT), 100.0)
    assert read(watching(retry))["msgov_retries_total"] == {("payment",): 1}


def test_a_hedge_shows_what_came_of_it() -> None:
    """Hedges that never win are load for nothing."""
    hedge = Hedge(HedgeRule(initial=0.5, load=4), target="payment")
    call = Call("payment", idempotent=True)
    for tries in (1, 2):
        hedge.next(call, tries, None, 99.0)
    assert hedge.begins(call, 1, 99.5)
    assert hedge.begins(call, 1, 99.5)
    assert hedge.next(call, 1, Outcome(TRANSIENT), 99.6) is not None
    hedge.decided(1, won=True)
    hedge.decided(3, won=False)
    found = read(watching(hedge))
    assert found["msgov_hedges_total"] == {("payment", "started"): 2, ("payment", "won"): 1, ("payment", "lost"): 3}
    assert found["msgov_hedge_delay_seconds"] == {("payment",): 0.5}
    assert found["msgov_retries_total"] == {("payment",): 1}
    assert found["msgov_retry_suppressed_total"]["payment", "load"] == 0
    assert "msgov_hedge_delay_seconds" not in read(watching(Hedge(target="payment")))


def test_a_budget_alone_is_shown() -> None:
    """The rule book keeps it beside the retry that spends it: it is the same series, not twice as much."""
    budget = Budget(target="payment")
    found = read(watching(budget, Retry(budget=budget, target="payment")))
    assert found["msgov_retry_budget_remaining_ratio"] == {("payment",): 1}


def test_tokens_are_a_budget_that_is_empty_at_half() -> None:
    """Below half of them nobody retries, so half is nothing left."""
    tokens = Tokens(target="payment")
    assert read(watching(tokens))["msgov_retry_budget_remaining_ratio"] == {("payment",): 1}
    for left in (0.8, 0.6, 0.4, 0.2, 0.0, 0.0):
        tokens.fail()
        retry = Retry(budget=tokens, target="payment")
        found = read(watching(retry))["msgov_retry_budget_remaining_ratio"]
        assert found == {("payment",): pytest.approx(left)}


def test_a_fallback_shows_how_often_it_answered_and_failed() -> None:
    """The friendly answer is visible, and so is one that was no help."""

    def copied(call: Call, error: BaseException) -> object:
        raise LookupError

    rungs = Fallback.chain({ConnectionError: copied, OSError: "later"}, target="payment")
    for rung in rungs:
        error = ConnectionError()
        answer = rung.instead(Call("payment"), Outcome(TRANSIENT, error=error), 1.0)
        assert answer is not None
        try:
            answer(Call("payment"), error)
        except LookupError:
            continue
    assert read(watching(*rungs))["msgov_fallbacks_total"] == {
        ("payment", "fallback.ConnectionError", "answered"): 0,
        ("payment", "fallback.ConnectionError", "failed"): 1,
        ("payment", "fallback.OSError", "answered"): 1,
        ("payment", "fallback.OSError", "failed"): 0,
    }


def test_a_fallback_with_no_name_is_of_the_kind_fallback() -> None:
    """A label that is empty is none."""
    fallback = Fallback("later", target="payment")
    answer = fallback.instead(Call("payment"), Outcome(TRANSIENT, error=OSError()), 1.0)
    assert answer is not None
    answer(Call("payment"), OSError())
    assert read(watching(fallback))["msgov_fallbacks_total"] == {
        ("payment", "fallback", "answered"): 1,
        ("payment", "fallback", "failed"): 0,
    }


def test_a_cache_shows_what_it_had() -> None:
    """A hit ratio that falls is why the database is slow."""
    cache = Cache(CacheRule(ttl=10, stale_if_error=20, size=1), name="prices")
    store: CacheStore = cache._store
    for key in ("tea", "milk"):
        _, _, ticket = store.find(key, 0.0)
        store.keep(key, 1, ticket=ticket, asked=0.0)
    store.find("milk", 1.0)
    _, _, ticket = store.find("milk", 11.0)
    assert store.fail("milk", Outcome(TRANSIENT), ticket=ticket, now=11.0) == 1
    store.fail("tea", Outcome(IGNORED), ticket=99, now=11.0)
    found = read(watching(cache))
    results = {result: found["msgov_cache_requests_total"]["prices", result] for result in ("hit", "miss", "stale")}
    assert results == {"hit": 1, "miss": 3, "stale": 1}
    assert found["msgov_cache_requests_total"]["prices", "error"] == 1
    assert found["msgov_cache_entries"] == {("prices",): 1}
    assert found["msgov_cache_evictions_total"] == {("prices",): 1}


def test_calls_that_were_shared_are_shown() -> None:
    """How much it spares, and what is under way."""
    coalesce = Coalesce(name="prices")
    seen: list[dict[str, Samples]] = []

    def handler(call: Call) -> object:
        seen.append(read(watching(coalesce)))
        return 1

    govern(Pipeline((coalesce,)), handler)(Call("shop", idempotent=True))
    assert seen[0]["msgov_coalesce_inflight"] == {("prices",): 1}
    found = read(watching(coalesce))
    counted = {("prices", "led"): 1, ("prices", "joined"): 0, ("prices", "alone"): 0}
    assert found["msgov_coalesce_calls_total"] == counted
    assert found["msgov_coalesce_inflight"] == {("prices",): 0}


def test_a_breaker_of_yours_is_shown_by_what_it_offers() -> None:
    """The class does not matter; what it does not offer is not shown."""
    yours = SimpleNamespace(
        name="pay",
        target="payment",
        state=State.CLOSED,
        counts={"success": 3},
        rule=SimpleNamespace(failure_rate=0.2),
        failure_rate=lambda now: 0.1,
    )
    found = read(watching(yours))
    assert found["msgov_breaker_failure_ratio"] == {("pay", "payment"): 0.1}
    assert found["msgov_breaker_calls_total"]["pay", "payment", "rejected"] == 0
    assert "msgov_breaker_slow_ratio" not in found
    assert SHADOW not in found
