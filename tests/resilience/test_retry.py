"""Another attempt starts only where it may help, may be afforded, and can finish."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msgov.call import IGNORED, MAYBE, NO, OK, PERMANENT, TRANSIENT, YES, Call, Outcome, Sent, Verdict
from msgov.errors import (
    BreakerOpen,
    BudgetSpent,
    BulkheadFull,
    DeadlineSpent,
    NoInstance,
    RateLimited,
    Rejected,
    RuleError,
    Shed,
)
from msgov.policy import classify
from msgov.resilience import Budget, BudgetRule, Retry, RetryRule
from msgov.testing import LoadedDice

FAILED = Outcome(TRANSIENT, error=ConnectionError())
HALF = LoadedDice(0.5, cycle=True)


class Place:
    """Where a call goes."""

    id = "shop-1"


def safe(**about: object) -> Call:
    """Make a call that may be repeated."""
    call = Call("shop", idempotent=True)
    for name, value in about.items():
        setattr(call, name, value)
    return call


def test_transient_failure_of_a_safe_call_is_tried_again() -> None:
    """The one case in which it helps and does no harm."""
    retry = Retry(dice=HALF)
    assert retry.next(safe(), 1, FAILED, 0.0) == 0.025
    assert retry.retries == 1


@pytest.mark.parametrize("verdict", [OK, PERMANENT, IGNORED])
def test_nothing_else_is(verdict: Verdict) -> None:
    """A success is done, a permanent failure is an answer, a cancellation is an order."""
    assert Retry(dice=HALF).next(safe(), 1, Outcome(verdict, error=ValueError()), 0.0) is None


@pytest.mark.parametrize(("sent", "again"), [(NO, True), (MAYBE, False), (YES, False)])
def test_unsafe_call_is_tried_again_only_if_it_was_never_sent(sent: Sent, again: bool) -> None:
    """A second execution would do harm; one that never began is no second."""
    retry = Retry(dice=HALF)
    delay = retry.next(Call("shop"), 1, Outcome(TRANSIENT, error=ConnectionError(), sent=sent), 0.0)
    assert (delay is not None) is again
    assert retry.suppressed["not_idempotent"] == (not again)


def test_a6_backoff_before_jitter() -> None:
    """gRFC A6: from 0.1 s, doubled, at most 1 s: 0.1 0.2 0.4 0.8 1.0 as ceilings of the draw."""
    retry = Retry(RetryRule(attempts=5, base=0.1, factor=2, cap=1), dice=LoadedDice(0.5, cycle=True))
    assert [retry.next(safe(), tries, FAILED, 0.0) for tries in (1, 2, 3, 4)] == [0.05, 0.1, 0.2, 0.4]
    wide = RetryRule(attempts=5, base=0.6, factor=2, cap=1)
    assert Retry(wide, dice=HALF).next(safe(), 4, FAILED, 0.0) == 0.5


def test_full_jitter_draws_from_zero() -> None:
    """A crowd of clients is spread best by an even draw (AWS Architecture Blog, 2015)."""
    retry = Retry(RetryRule(base=1.0), dice=LoadedDice(0.0, 0.999))
    assert [retry.next(safe(), 1, FAILED, 0.0) for _ in range(2)] == [0.0, 0.999]


@pytest.mark.parametrize(
    ("jitter", "waits"), [("full", [0.5, 1.0]), ("equal", [0.75, 1.5]), ("decorrelated", [0.8974, 1.093])]
)
def test_jitter_is_chosen_by_rule(jitter: Literal["full", "equal", "decorrelated"], waits: list[float]) -> None:
    """Three schools: the widest spread, never at once, and Polly's smooth curve."""
    retry = Retry(RetryRule(base=1.0, jitter=jitter), dice=HALF)
    assert [retry.next(safe(), tries, FAILED, 0.0) for tries in (1, 2)] == pytest.approx(waits, abs=1e-4)


@pytest.mark.parametrize("wrong", [{"jitter": "none"}, {"jitter": "decorrelated", "factor": 1.2}])
def test_jitter_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    """An unknown one, and one whose waits would shrink to nothing."""
    with pytest.raises(RuleError, match=r"jitter|factor"):
        RetryRule(**wrong)


@pytest.mark.parametrize(
    ("outcome", "again"),
    [
        (Outcome(OK), None),
        (Outcome(PERMANENT, error=ValueError(), status="INVALID_ARGUMENT"), None),
        (Outcome(TRANSIENT, error=ConnectionError(), status="UNAVAILABLE"), 0.025),
        (Outcome(TRANSIENT, error=ConnectionError(), retry_after=-0.001), None),
        (Outcome(TRANSIENT, error=ConnectionError(), retry_after=0.7), 0.7),
    ],
    ids=["ok", "fatal", "retryable", "pushback: do not", "pushback: 700 ms"],
)
def test_a6_five_outcomes(outcome: Outcome, again: float | None) -> None:
    """gRFC A6, the table of what a retry policy does with each of the five ways an attempt can end."""
    assert Retry(dice=HALF).next(safe(), 1, outcome, 0.0) == (None if again is None else pytest.approx(again))


def test_overloaded_callee_is_given_a_second() -> None:
    """The standard mode of botocore waits 1 s, not 50 ms, where the callee says that it is overloaded."""
    outcome = Outcome(TRANSIENT, error=ConnectionError(), overloaded=True)
    assert Retry(dice=HALF).next(safe(), 1, outcome, 0.0) == 0.5


@pytest.mark.parametrize(
    ("asked", "delay"),
    [(None, 0.025), (0.0, 0.025), (0.01, 0.025), (3.0, 3.0), (5.025, 5.025), (60.0, 5.025)],
)
def test_retry_after_lengthens_the_wait_up_to_five_seconds_more(asked: float | None, delay: float) -> None:
    """botocore: max(t, min(value, t + 5 s)); a hostile value must not hang the caller."""
    outcome = Outcome(TRANSIENT, error=ConnectionError(), retry_after=asked)
    assert Retry(dice=HALF).next(safe(), 1, outcome, 0.0) == pytest.approx(delay)


def test_negative_pushback_stops() -> None:
    """gRFC A6: the server says do not retry."""
    retry = Retry(dice=HALF)
    assert retry.next(safe(), 1, Outcome(TRANSIENT, error=ConnectionError(), retry_after=-1), 0.0) is None
    assert retry.suppressed["pushback"] == 1


def test_retry_after_without_room_in_the_deadline_stops_now() -> None:
    """Coming back earlier than asked would be refused, later would be for nobody."""
    retry = Retry(dice=HALF)
    outcome = Outcome(TRANSIENT, error=ConnectionError(), retry_after=3.0)
    assert retry.next(safe(deadline=2.9), 1, outcome, 0.0) is None
    assert retry.suppressed["deadline"] == 1
    assert retry.next(safe(deadline=3.1), 1, outcome, 0.0) == 3.0


@pytest.mark.parametrize(("deadline", "again"), [(0.025, False), (0.0754, False), (0.0756, True), (None, True)])
def test_attempt_that_cannot_finish_is_not_started(deadline: float | None, again: bool) -> None:
    """What begins must have the minimum left: here 50 ms after a wait of 25 ms."""
    retry = Retry(RetryRule(minimum=0.05), dice=HALF)
    assert (retry.next(safe(deadline=deadline), 1, FAILED, 0.0005) is not None) is again


def test_attempts_include_the_first() -> None:
    """Three attempts are two retries."""
    retry = Retry(RetryRule(attempts=3), dice=HALF)
    assert [retry.next(safe(), tries, FAILED, 0.0) is not None for tries in (1, 2, 3)] == [True, True, False]
    assert retry.suppressed["attempts"] == 1


def test_chain_wide_allowance_is_spent() -> None:
    """Layers must not multiply: what came over the wire is counted down, and ends the retries here too."""
    retry, call = Retry(RetryRule(attempts=5), dice=HALF), safe(attempts_left=1)
    assert retry.next(call, 1, FAILED, 0.0) is not None
    assert call.attempts_left == 0
    assert retry.next(call, 2, FAILED, 0.0) is None
    assert (call.attempts_left, retry.suppressed["allowance"]) == (0, 1)


def test_first_call_pays_in_and_each_retry_takes_out() -> None:
    """The budget is charged when the attempt is scheduled: those who wait count too (Envoy 30205)."""
    budget = Budget(BudgetRule(ratio=0.5, minimum=0))
    retry = Retry(budget=budget, dice=HALF)
    assert retry.next(safe(), 1, None, 0.0) is None
    assert budget.balance(0.0) == 0.5
    assert retry.next(safe(), 1, FAILED, 0.0) is None
    assert retry.suppressed["budget"] == 1
    retry.next(safe(), 1, None, 0.0)
    assert retry.next(safe(), 1, FAILED, 0.0) is not None
    assert budget.balance(0.0) == 0.0


def test_what_another_reason_stops_costs_no_budget() -> None:
    """The purse is for attempts, not for questions."""
    budget = Budget(BudgetRule(ratio=1, minimum=1))
    retry = Retry(RetryRule(attempts=1), budget=budget, dice=HALF)
    before = budget.balance(0.0)
    retry.next(safe(), 1, FAILED, 0.0)
    retry.next(safe(deadline=0.0), 1, FAILED, 0.0)
    assert (budget.balance(0.0), budget.spent, budget.refused) == (before, 0, 0)


def test_two_retries_share_one_purse() -> None:
    """A callee has one budget, whoever retries on it."""
    budget = Budget(BudgetRule(ratio=0, minimum=0.1, ttl=10))
    assert Retry(budget=budget, dice=HALF).next(safe(), 1, FAILED, 0.0) is not None
    assert Retry(budget=budget, dice=HALF).next(safe(), 1, FAILED, 0.0) is None


@pytest.mark.parametrize("kind", [RateLimited, BulkheadFull, BudgetSpent, DeadlineSpent, NoInstance, Shed, Rejected])
def test_own_rejection_is_never_retried(kind: type[Rejected]) -> None:
    """The same gate would refuse again: a retry would only be a spin, whatever the call."""
    retry, call, error = Retry(dice=HALF), safe(instance=Place()), kind("no", retry_after=0.001)
    assert retry.next(call, 1, classify(call, error), 0.0) is None
    assert retry.suppressed["rejected"] == 1


def test_open_breaker_of_an_instance_sends_the_call_to_another_at_once() -> None:
    """Nothing was sent: even a call that is not safe to repeat may go elsewhere, and need not wait."""
    retry, call = Retry(dice=HALF), Call("shop")
    call.instance = Place()
    assert retry.next(call, 1, classify(call, BreakerOpen("open", retry_after=3.0)), 0.0) == 0.0


def test_open_breaker_of_a_service_is_not_retried() -> None:
    """There is nowhere else to go."""
    retry, call = Retry(dice=HALF), safe()
    assert retry.next(call, 1, classify(call, BreakerOpen("open", retry_after=0.01)), 0.0) is None
    assert retry.suppressed["breaker"] == 1


def test_picking_again_is_an_attempt_like_any_other() -> None:
    """Retries and re-picks spend one budget and one number of attempts."""
    budget, call = Budget(BudgetRule(ratio=0, minimum=0.1, ttl=10)), safe(instance=Place())
    refused = classify(call, BreakerOpen("open"))
    retry = Retry(RetryRule(attempts=2), budget=budget, dice=HALF)
    assert retry.next(call, 2, refused, 0.0) is None
    assert retry.next(call, 1, refused, 0.0) == 0.0
    assert retry.next(call, 1, refused, 0.0) is None
    assert (retry.suppressed["attempts"], retry.suppressed["budget"]) == (1, 1)


def test_new_rule_is_one_store() -> None:
    """It counts for the next decision; the counters go on."""
    retry = Retry(dice=HALF)
    retry.next(safe(), 1, FAILED, 0.0)
    retry.rule = RetryRule(attempts=1)
    assert retry.next(safe(), 1, FAILED, 0.0) is None
    assert retry.retries == 1


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"attempts": 6}, {"base": 0.0}, {"factor": 0.5}, {"cap": -1.0}])
def test_rule_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    """Past five attempts a retry is a loop: no rule may ask for it."""
    with pytest.raises(RuleError, match=next(iter(wrong))):
        RetryRule(**wrong)  # type: ignore[arg-type]


@given(
    rule=st.builds(
        RetryRule,
        attempts=st.integers(1, 5),
        base=st.floats(0.001, 60),
        factor=st.floats(1.5, 10),
        cap=st.floats(0.001, 600),
        patience=st.floats(0, 600),
        jitter=st.sampled_from(["full", "equal", "decorrelated"]),
    ),
    tries=st.integers(1, 2000),
    verdict=st.sampled_from(list(Verdict)),
    sent=st.sampled_from(list(Sent)),
    asked=st.none() | st.floats(-10, 1e9),
    overloaded=st.booleans(),
    idempotent=st.booleans(),
    deadline=st.none() | st.floats(0, 100),
    left=st.none() | st.integers(-1, 3),
    rolls=st.tuples(*[st.floats(0, 1, exclude_max=True)] * 2),
)
def test_grpc_retry_state_fuzz(
    rule: RetryRule,
    tries: int,
    verdict: Verdict,
    sent: Sent,
    asked: float | None,
    overloaded: bool,
    idempotent: bool,
    deadline: float | None,
    left: int | None,
    rolls: tuple[float, float],
) -> None:
    """After retry_state_test.cc: who may not is never retried, attempts and waits are bounded, whatever is asked."""
    call = Call("shop", idempotent=idempotent, deadline=deadline, attempts_left=left)
    outcome = Outcome(verdict, error=OSError(), sent=sent, retry_after=asked, overloaded=overloaded)
    delay = Retry(rule, dice=LoadedDice(*rolls)).next(call, tries, outcome, 0.0)
    if delay is None:
        assert call.attempts_left == left
        return
    assert verdict is TRANSIENT
    assert idempotent or sent is NO
    assert asked is None or asked >= 0
    assert tries < rule.attempts
    assert left is None or call.attempts_left == left - 1 >= 0
    assert deadline is None or delay + rule.minimum < deadline
    assert 0 <= delay <= rule.cap + rule.patience


def test_attempt_that_would_end_with_the_deadline_is_not_started() -> None:
    """What has exactly the minimum left cannot finish before it."""
    retry = Retry(RetryRule(minimum=0.25, base=1.0), dice=HALF)
    assert retry.next(safe(deadline=0.75), 1, FAILED, 0.0) is None
    assert retry.next(safe(deadline=0.7501), 1, FAILED, 0.0) == 0.5


def test_retry_says_whose_it_is() -> None:
    """For metrics and the console."""
    retry = Retry(name="payment/Charge", target="payment")
    assert (retry.name, retry.target) == ("payment/Charge", "payment")
