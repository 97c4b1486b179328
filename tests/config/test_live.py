"""A changed rule reaches every policy where it stands, and none of what it has learnt or handed out is lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from msgov.call import IGNORED, OK, TRANSIENT, Call, Outcome
from msgov.config.instances import InstanceBreakers
from msgov.config.kinds import ORDERS, PICK, POLICIES
from msgov.config.policies import Policies
from msgov.config.rules import RuleBook
from msgov.errors import CallFailed, DeadlineExceeded, RateLimited
from msgov.pipeline import Policy
from msgov.policy import classify
from msgov.testing.dice import LoadedDice

TIMED_OUT = Outcome(TRANSIENT, error=DeadlineExceeded("late"))
REFUSED = Outcome(TRANSIENT, overloaded=True)


@dataclass(frozen=True)
class Case:
    """A rule before and after, what makes the policy know something, and how to ask what it knows."""

    before: Mapping[str, object]
    after: Mapping[str, object]
    use: Callable[[Any], None]
    ask: Callable[[Any], object]
    kind: str = "call"


def call() -> Call:
    """Make a call that may be made twice."""
    return Call("a", "X", b"same", idempotent=True)


def enter(times: int) -> Callable[[Any], None]:
    """Let calls in, and leave them under way."""
    return lambda gate: [gate.admit(call(), 1.0) for _ in range(times)] and None


def pass_through(outcome: Outcome, times: int) -> Callable[[Any], None]:
    """Let calls in, and end them."""
    return lambda gate: [gate.settle(gate.admit(call(), 1.0), outcome, 1.5) for _ in range(times)] and None


def is_refused(gate: Any) -> bool:
    """Ask whether the next call is one too many."""
    try:
        gate.settle(gate.admit(call(), 1.0), Outcome(IGNORED), 1.0)
    except RateLimited:
        return True
    return False


def answer_once(cache: Any) -> None:
    """Put an answer into a cache."""
    assert cache.sync(lambda call: "first", classify, lambda: 1.0)(call()) == "first"


def answer_again(cache: Any) -> object:
    """Ask a cache, with a callee that would say something else."""
    return cache.sync(lambda call: "second", classify, lambda: 1.1)(call())


def fail_on_purpose(gate: Any) -> None:
    """Meet an injected fault."""
    with pytest.raises(CallFailed):
        gate.admit(call(), 1.0)


def learn_times(hedge: Any) -> None:
    """Let a hedge see enough calls to know their p95."""
    for number in range(200):
        hedge.learn(Outcome(OK, seconds=0.1 + number / 10_000), 1.0)
    assert hedge.next(call(), 1, None, 1.5) is not None


def spend(retry: Any) -> None:
    """Pay for one more attempt."""
    assert retry.budget.withdraw(1.0)


def try_again(retry: Any) -> None:
    """Let a failed attempt be followed."""
    assert retry.next(call(), 1, Outcome(TRANSIENT), 1.0) is not None


def one(gates: InstanceBreakers) -> object:
    """Return the breaker of the one instance."""
    (breaker,) = gates.breakers.values()
    return breaker.counts["failure"], breaker.state


RULES: Mapping[str, Case] = {
    "deadline": Case({"seconds": 5}, {"seconds": 6}, pass_through(TIMED_OUT, 2), lambda gate: gate.exceeded),
    "cache": Case({"ttl": 5}, {"ttl": 9}, answer_once, answer_again, "function"),
    "coalesce": Case({"keys_max": 5}, {"keys_max": 6}, lambda gate: None, id, "function"),
    "shed": Case({"cpu": 0.8}, {"cpu": 0.7}, enter(3), lambda gate: gate.inflight, "server"),
    "limiter": Case({"rate": 1, "burst": 3}, {"rate": 2, "burst": 3}, enter(3), is_refused),
    "quota": Case({"rate": "10/minute"}, {"rate": "10/minute", "patience": 1}, enter(3), lambda gate: gate.admitted),
    "throttle": Case({"multiplier": 2}, {"multiplier": 3}, pass_through(REFUSED, 3), lambda gate: gate.refused),
    "pace": Case({"beta": 0.7}, {"beta": 0.6}, pass_through(REFUSED, 1), lambda gate: gate.limit),
    "retry": Case({"attempts": 3}, {"attempts": 4}, try_again, lambda plan: plan.retries),
    "hedge": Case({"samples": 100}, {"samples": 50}, learn_times, lambda plan: plan.next(call(), 1, None, 9.0)),
    "bulkhead": Case({"limit": 5}, {"limit": 7}, enter(3), lambda gate: gate.inflight),
    "adaptive": Case({"max_limit": 50}, {"max_limit": 60}, enter(3), lambda gate: gate.inflight),
    "service_breaker": Case(
        {"minimum_calls": 9}, {"minimum_calls": 8}, pass_through(TIMED_OUT, 3), lambda gate: gate.counts["failure"]
    ),
    "method_breaker": Case(
        {"minimum_calls": 3}, {"minimum_calls": 4}, pass_through(TIMED_OUT, 3), lambda gate: gate.state
    ),
    "breaker": Case({"minimum_calls": 3}, {"minimum_calls": 4}, pass_through(TIMED_OUT, 3), one),
    "attempt_deadline": Case({"seconds": 1}, {"seconds": 2}, pass_through(TIMED_OUT, 2), lambda gate: gate.exceeded),
    "fault": Case(
        {"share": 1.0, "status": "503"}, {"share": 0.5, "status": "503"}, fail_on_purpose, lambda gate: gate.failed
    ),
}


@pytest.fixture(autouse=True)
def _faults_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a fault is none."""
    monkeypatch.setenv("MSGOV_FAULTS", "1")


def gate(policies: Policies, case: Case, policy: str) -> Policy:
    """Return the gate of one policy."""
    chains = {"call": lambda: policies.for_call("a", "X"), "server": lambda: policies.for_server("/a/X")}
    chain = chains.get(case.kind, lambda: policies.for_function("a"))()
    (found,) = [each for each in chain if getattr(each, "policy", "") == policy]
    return found


def book(case: Case, policy: str, rule: Mapping[str, object], **others: object) -> RuleBook:
    """Make rules of one policy, and of others beside it."""
    return RuleBook.of({case.kind: {"*": {policy: rule, **others}}})


def test_every_policy_has_a_case_here() -> None:
    """A new policy that loses its state on a change would not be met."""
    placed = {policy for order in ORDERS.values() for policy in order} - {PICK}
    assert placed - set(RULES) <= {"fallback"}  # it has no state: the next call has the new answer
    assert set(POLICIES) - placed == {"budget"}  # which has a test of its own below


@pytest.mark.parametrize("policy", RULES)
def test_a_new_rule_is_in_force_and_nothing_known_is_lost(policy: str) -> None:
    """The same gate, the new rule, the old window and permits."""
    case = RULES[policy]
    policies = Policies(book(case, policy, case.before), dice=LoadedDice(0.5, cycle=True))
    before: Any = gate(policies, case, policy)
    case.use(before)
    known = case.ask(before)
    policies.update(book(case, policy, case.after))
    after: Any = gate(policies, case, policy)
    assert after is before
    assert after.rule == getattr(policies.book.entries[case.kind]["*"].rules, policy)
    assert all(getattr(after.rule, name) == value for name, value in case.after.items())
    assert case.ask(after) == known
    fresh: Any = gate(Policies(book(case, policy, case.after)), case, policy)
    assert policy in ("coalesce", "breaker") or case.ask(fresh) != known  # or the case asks nothing


@pytest.mark.parametrize("policy", RULES)
def test_a_policy_switched_on_beside_it_loses_nothing_either(policy: str) -> None:
    """The shape of the pipeline changes, and each gate is taken over into the new one."""
    case = RULES[policy]
    policies = Policies(book(case, policy, case.before), dice=LoadedDice(0.5, cycle=True))
    before: Any = gate(policies, case, policy)
    case.use(before)
    known = case.ask(before)
    other = "deadline" if policy != "deadline" else "limiter"
    policies.update(book(case, policy, case.before, **{other: True}))
    assert gate(policies, case, policy) is before
    assert case.ask(before) == known


def test_a_budget_keeps_what_was_spent() -> None:
    """It has no place of its own: the retry pays from it, and goes on with the same purse."""
    case = RULES["retry"]
    policies = Policies(book(case, "retry", {"attempts": 2}, budget={"minimum": 1, "ttl": 10}))
    retry: Any = gate(policies, case, "retry")
    spend(retry)
    policies.update(book(case, "retry", {"attempts": 2}, budget={"minimum": 2, "ttl": 10}))
    after: Any = gate(policies, case, "retry")
    assert after.budget is retry.budget
    assert after.budget.rule.minimum == 2
    assert after.budget.balance(1.0) == pytest.approx(19)  # of twenty, one is spent
