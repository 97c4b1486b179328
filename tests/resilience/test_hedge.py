"""A hedge starts where it may help, may be afforded, and can finish; it costs what it promised."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msgov.call import IGNORED, MAYBE, NO, OK, PERMANENT, TRANSIENT, YES, Call, Outcome, Sent, Verdict
from msgov.errors import BreakerOpen, BulkheadFull, RateLimited, Rejected, RuleError
from msgov.policy import classify
from msgov.resilience import Budget, BudgetRule, Hedge, HedgeRule

FAILED = Outcome(TRANSIENT, error=ConnectionError())
FREE = HedgeRule(initial=0.5, load=4)
GENEROUS = HedgeRule(load=4)


class Place:
    """Where a call goes."""

    id = "shop-1"


def safe(**about: object) -> Call:
    """Make a call that may run twice."""
    call = Call("shop", idempotent=True)
    for name, value in about.items():
        setattr(call, name, value)
    return call


def taught(*lengths: float, rule: HedgeRule = GENEROUS, at: float = 0.0) -> Hedge:
    """Make a hedge that has seen some successes."""
    hedge = Hedge(rule)
    for length in lengths:
        hedge.learn(Outcome(OK, seconds=length), at)
    return hedge


def begun() -> Hedge:
    """Make a hedge that may spend, a first call having begun."""
    hedge = Hedge(FREE)
    hedge.next(safe(), 1, None, 0.0)
    return hedge


HUNDRED = [n / 1000 for n in range(1, 101)]


def test_delay_is_the_live_p95() -> None:
    """The Tail at Scale: to hedge what is slower than nineteen in twenty costs five per cent at most."""
    hedge = taught(*HUNDRED)
    assert hedge.next(safe(), 1, None, 0.0) == 0.095
    assert hedge.delay == 0.095


def test_nothing_is_hedged_until_enough_is_known() -> None:
    """A p95 of 99 calls is a guess; the rule may name a delay of its own for that time."""
    assert taught(*HUNDRED[:99]).next(safe(), 1, None, 0.0) is None
    assert taught(*HUNDRED[:99], rule=FREE).next(safe(), 1, None, 0.0) == 0.5


def test_delay_is_at_least_a_millisecond() -> None:
    """Finagle's floor: below it a timer is as slow as the callee."""
    assert taught(*[1e-5] * 100).next(safe(), 1, None, 0.0) == 0.001


def test_percentile_is_looked_at_every_three_seconds() -> None:
    """Sorting a thousand numbers for each call would cost more than most calls."""
    hedge = taught(*HUNDRED)
    assert hedge.next(safe(), 1, None, 0.0) == 0.095
    for _ in range(900):
        hedge.learn(Outcome(OK, seconds=1.0), 1.0)
    assert hedge.next(safe(), 1, None, 2.9) == 0.095
    assert hedge.next(safe(), 1, None, 3.0) == 1.0


def test_what_was_learnt_an_age_ago_is_forgotten() -> None:
    """After a minute of silence the callee may be another."""
    hedge = taught(*HUNDRED)
    assert hedge.next(safe(), 1, None, 60.0) == 0.095
    assert hedge.next(safe(), 1, None, 63.1) is None


def test_failures_teach_nothing() -> None:
    """A fast failure would make hedges hasty, at the worst of times."""
    hedge = taught(*HUNDRED)
    for verdict in (TRANSIENT, PERMANENT):
        for _ in range(500):
            hedge.learn(Outcome(verdict, error=OSError(), seconds=0.0), 0.0)
    assert hedge.next(safe(), 1, None, 0.0) == 0.095


def test_loser_counts_as_having_taken_as_long_as_it_had() -> None:
    """To leave it out would make each hedge shorten the delay of the next."""
    hedge = taught(*HUNDRED)
    assert hedge.next(safe(), 1, None, 0.0) == 0.095
    for _ in range(20):
        hedge.learn(Outcome(IGNORED, seconds=0.2), 0.0)
    assert hedge.next(safe(), 1, None, 3.0) == 0.2


def test_loser_that_had_exactly_the_delay_counts() -> None:
    """It is cancelled no sooner."""
    hedge = taught(*HUNDRED)
    hedge.next(safe(), 1, None, 0.0)
    for _ in range(900):
        hedge.learn(Outcome(IGNORED, seconds=0.095), 0.0)
    hedge.rule = HedgeRule(percentile=0.5)
    assert hedge.next(safe(), 1, None, 0.0) == 0.095


def test_loser_that_had_no_time_teaches_nothing() -> None:
    """A hedge that was cancelled after a millisecond might have taken a second."""
    hedge = taught(*HUNDRED)
    hedge.next(safe(), 1, None, 0.0)
    for _ in range(500):
        hedge.learn(Outcome(IGNORED, seconds=0.001), 0.0)
    assert hedge.next(safe(), 1, None, 3.0) == 0.095


def test_unsafe_call_is_never_hedged() -> None:
    """Two executions would do harm, and a hedge means two."""
    assert Hedge(FREE).next(Call("shop"), 1, None, 0.0) is None


def test_grpc_a6_hedging_delay() -> None:
    """gRFC A6: with four attempts each is followed by the next after the delay, and the fourth by none."""
    hedge = Hedge(HedgeRule(attempts=4, initial=0.5, load=4))
    assert [hedge.next(safe(), tries, None, 0.0) for tries in (1, 2, 3, 4)] == [0.5, 0.5, 0.5, None]


@pytest.mark.parametrize(
    ("outcome", "again"),
    [
        (Outcome(OK), None),
        (Outcome(PERMANENT, error=ValueError(), status="INVALID_ARGUMENT"), None),
        (FAILED, 0.0),
        (Outcome(TRANSIENT, error=ConnectionError(), retry_after=-0.001), None),
        (Outcome(TRANSIENT, error=ConnectionError(), retry_after=0.7), 0.7),
    ],
    ids=["ok", "fatal", "non-fatal", "pushback: do not", "pushback: 700 ms"],
)
def test_grpc_a6_five_outcomes(outcome: Outcome, again: float | None) -> None:
    """gRFC A6, the table of what a hedging policy does with each of the five ways an attempt can end."""
    assert begun().next(safe(), 1, outcome, 0.0) == again


def test_hostile_pushback_is_cut() -> None:
    """An hour of the callee's is five seconds of ours, as with a retry."""
    assert begun().next(safe(), 1, Outcome(TRANSIENT, error=OSError(), retry_after=3600), 0.0) == 5.0


def test_overloaded_callee_is_not_asked_at_once() -> None:
    """The next attempt would come without a pause: only the callee may say that it can bear it."""
    hedge = begun()
    said_nothing = Outcome(TRANSIENT, error=OSError(), overloaded=True)
    assert hedge.next(safe(), 1, said_nothing, 0.0) is None
    assert hedge.suppressed["overloaded"] == 1
    assert hedge.next(safe(), 1, Outcome(TRANSIENT, error=OSError(), overloaded=True, retry_after=1), 0.0) == 1


@pytest.mark.parametrize(("sent", "again"), [(NO, True), (MAYBE, False), (YES, False)])
def test_unsafe_call_goes_elsewhere_only_if_it_was_never_sent(sent: Sent, again: bool) -> None:
    """A second execution would do harm; one that never began is no second."""
    outcome = Outcome(TRANSIENT, error=ConnectionError(), sent=sent)
    assert (begun().next(Call("shop"), 1, outcome, 0.0) is not None) is again


def test_hedges_stay_within_their_share() -> None:
    """Two in a hundred calls, with no reserve: the first call of a day is not hedged."""
    hedge = taught(*HUNDRED, rule=HedgeRule())
    begun = 0
    for _ in range(1000):
        hedge.next(safe(), 1, None, 0.0)
        begun += hedge.begins(safe(), 1, 0.0)
    assert begun == hedge.hedged == 20
    assert hedge.suppressed["load"] == 980


def test_hedges_and_retries_spend_one_budget() -> None:
    """A6 asks for it: what the callee bears is one number, whoever spends it."""
    budget = Budget(BudgetRule(ratio=0, minimum=0.2, ttl=10))
    hedge = Hedge(FREE, budget=budget)
    hedge.next(safe(), 1, None, 0.0)
    assert hedge.begins(safe(), 1, 0.0)
    assert hedge.next(safe(), 1, FAILED, 0.0) == 0.0
    assert hedge.next(safe(), 1, FAILED, 0.0) is None
    assert not hedge.begins(safe(), 1, 0.0)
    assert (budget.spent, hedge.suppressed["budget"], hedge.hedged, hedge.retried) == (2, 2, 1, 1)


def test_first_call_pays_into_both() -> None:
    """And each further start into none."""
    budget = Budget(BudgetRule(ratio=0.5, minimum=0))
    hedge = Hedge(FREE, budget=budget)
    hedge.next(safe(), 1, None, 0.0)
    hedge.next(safe(), 2, None, 0.0)
    assert (budget.balance(0.0), hedge.load.balance(0.0)) == (0.5, 4.0)


def test_without_a_shared_budget_its_own_pays_for_all() -> None:
    """A callee that fails every call is not sent two for one."""
    hedge = Hedge(HedgeRule(load=0.02))
    sent = 0
    for _ in range(1000):
        hedge.next(safe(), 1, None, 0.0)
        sent += hedge.next(safe(), 1, FAILED, 0.0) is not None
    assert sent == 20


def test_hedge_refused_by_its_own_share_costs_the_shared_budget_nothing() -> None:
    """Retries need it."""
    budget = Budget(BudgetRule(ratio=1, minimum=1))
    hedge = Hedge(HedgeRule(initial=0.1, load=0), budget=budget)
    hedge.next(safe(), 1, None, 0.0)
    assert not hedge.begins(safe(), 1, 0.0)
    assert budget.spent == 0


def test_chain_wide_allowance_is_spent() -> None:
    """Layers must not multiply: a hedge counts as an attempt like any other."""
    hedge, call = Hedge(FREE), safe(attempts_left=1)
    hedge.next(call, 1, None, 0.0)
    assert hedge.begins(call, 1, 0.0)
    assert not hedge.begins(call, 1, 0.0)
    assert hedge.next(call, 1, FAILED, 0.0) is None
    assert (call.attempts_left, hedge.suppressed["allowance"]) == (0, 2)


def test_attempt_after_a_failure_spends_the_allowance_too() -> None:
    """Once."""
    hedge, call = begun(), safe(attempts_left=3)
    assert hedge.next(call, 1, FAILED, 0.0) == 0.0
    assert call.attempts_left == 2


@pytest.mark.parametrize(("left", "starts"), [(0.04, False), (0.05, False), (0.06, True)])
def test_hedge_that_cannot_finish_is_not_started(left: float, starts: bool) -> None:
    """With less time left than half of the calls take, its answer would be for nobody: here the median is 50 ms."""
    hedge = taught(*HUNDRED)
    hedge.next(safe(), 1, None, 0.0)
    assert hedge.begins(safe(deadline=1.0), 1, 1.0 - left) is starts
    assert (hedge.next(safe(deadline=1.0), 1, FAILED, 1.0 - left) is not None) is starts


def test_pushback_without_room_in_the_deadline_stops_now() -> None:
    """As with a retry."""
    hedge = Hedge(FREE)
    pushed = Outcome(TRANSIENT, error=OSError(), retry_after=3.0)
    assert hedge.next(safe(deadline=3.0), 1, pushed, 0.0) is None
    assert hedge.suppressed["deadline"] == 1


@pytest.mark.parametrize("kind", [RateLimited, BulkheadFull, Rejected])
def test_own_rejection_is_not_tried_again(kind: type[Rejected]) -> None:
    """The same gate would refuse again."""
    hedge, call = Hedge(FREE), safe(instance=Place())
    assert hedge.next(call, 1, classify(call, kind("no")), 0.0) is None
    assert hedge.suppressed["rejected"] == 1


def test_open_breaker_of_an_instance_sends_the_call_to_another_at_once() -> None:
    """A breaker is overloaded by name, but nothing was sent."""
    hedge, call = begun(), safe(instance=Place())
    assert hedge.next(call, 1, classify(call, BreakerOpen("open", retry_after=3.0)), 0.0) == 0.0


def test_new_rule_keeps_what_was_learnt_and_spent() -> None:
    """And counts with the next call."""
    hedge = taught(*HUNDRED, rule=HedgeRule(load=1))
    for _ in range(3):
        hedge.next(safe(), 1, None, 0.0)
    hedge.begins(safe(), 1, 0.0)
    hedge.rule = HedgeRule(percentile=0.5, load=2)
    assert hedge.next(safe(), 1, None, 0.1) == 0.05
    assert hedge.load.balance(0.1) == 4 * 2 - 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 1},
        {"attempts": 6},
        {"percentile": 0.49},
        {"percentile": 1.0},
        {"initial": 0.0},
        {"load": 4.1},
        {"samples": 0},
    ],
)
def test_rule_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    """One attempt is no hedge, and below the median more than half of the calls would be sent twice."""
    with pytest.raises(RuleError, match=next(iter(wrong))):
        HedgeRule(**wrong)  # type: ignore[arg-type]


@given(
    rule=st.builds(
        HedgeRule,
        attempts=st.integers(2, 5),
        initial=st.none() | st.floats(0.001, 60),
        load=st.sampled_from([0.0, 0.5, 4.0]),
    ),
    tries=st.integers(1, 2000),
    verdict=st.sampled_from(list(Verdict)),
    sent=st.sampled_from(list(Sent)),
    asked=st.none() | st.floats(-10, 1e9),
    overloaded=st.booleans(),
    idempotent=st.booleans(),
    deadline=st.none() | st.floats(0, 100),
    left=st.none() | st.integers(-1, 3),
)
def test_grpc_retry_state_fuzz(
    rule: HedgeRule,
    tries: int,
    verdict: Verdict,
    sent: Sent,
    asked: float | None,
    overloaded: bool,
    idempotent: bool,
    deadline: float | None,
    left: int | None,
) -> None:
    """After retry_state_test.cc: who may not is never followed, attempts, waits and costs are bounded."""
    hedge, call = Hedge(rule), Call("shop", idempotent=idempotent, deadline=deadline, attempts_left=left)
    assert hedge.next(call, 1, None, 0.0) == (rule.initial if idempotent else None)
    outcome = Outcome(verdict, error=OSError(), sent=sent, retry_after=asked, overloaded=overloaded)
    delay = hedge.next(call, tries, outcome, 0.0)
    if delay is None:
        assert call.attempts_left == left
        assert hedge.load.spent == 0
        return
    assert verdict is TRANSIENT
    assert idempotent or sent is NO
    assert asked is None or asked >= 0
    assert tries < rule.attempts
    assert left is None or call.attempts_left == left - 1 >= 0
    assert deadline is None or delay < deadline
    assert 0 <= delay <= 5
    assert rule.load >= 1
