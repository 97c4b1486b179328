"""A pipeline made in code is held to the same order, and to the same arithmetic, as the rules file."""

from __future__ import annotations

import itertools

import pytest

from msgov.config.instances import InstanceBreakers
from msgov.config.kinds import ORDER, ORDERS, PICK, POLICIES
from msgov.config.lint import Finding, Traffic, lint
from msgov.config.policies import Policies
from msgov.config.rules import RuleBook, default_rules
from msgov.pipeline import Pipeline, Policy
from msgov.resilience.breaker import Breaker, BreakerRule
from msgov.resilience.budget import Budget, BudgetRule
from msgov.resilience.bulkhead import Bulkhead, BulkheadRule
from msgov.resilience.cache import Cache
from msgov.resilience.deadline import Deadline
from msgov.resilience.fallback import Fallback
from msgov.resilience.limiter import Limiter
from msgov.resilience.pace import Pace
from msgov.resilience.retry import Retry
from msgov.resilience.throttle import Throttle


def retry() -> Retry:
    """Make one that is paid for."""
    return Retry(budget=Budget())


def found(*policies: Policy) -> list[Finding]:
    """Lint a pipeline."""
    return list(lint(Pipeline(policies)))


def order(*policies: Policy) -> list[tuple[str, str]]:
    """Say what is misplaced, and how bad it is."""
    return [(each.path, each.severity) for each in found(*policies) if each.check == "order"]


def test_a_breaker_outside_the_retry_is_an_error() -> None:
    """What the retry mends it never sees; what the retry could not, it sees once."""
    (finding,) = found(Breaker(), retry())
    assert (finding.check, finding.path, finding.severity) == ("order", "policies[0]", "error")
    assert "outermost first: retry, breaker" in finding.do
    assert order(InstanceBreakers(BreakerRule()), retry()) == [("policies[0]", "error")]
    assert not order(retry(), Breaker())


def test_a_retry_outside_a_fallback_is_an_error() -> None:
    """Nothing is tried again of what was answered."""
    assert order(retry(), Fallback(None)) == [("policies[0]", "error")]
    assert not order(Fallback(None), retry())


@pytest.mark.parametrize("policies", [
    (Breaker(), Bulkhead()), (retry(), Limiter()), (Bulkhead(), retry()), (retry(), Throttle()), (retry(), Cache()),
    (retry(), Pace()), (Limiter(), Deadline(1)), (Deadline(1), Cache()),
])  # fmt: skip
def test_what_may_be_meant_is_a_warning(policies: tuple[Policy, ...]) -> None:
    """There are reasons for each, and they are rare."""
    assert order(*policies) == [("policies[0]", "warning")]


def test_a_deadline_has_two_places() -> None:
    """Outside the seam it is the call's, inside it the attempt's."""
    assert not found(Deadline(2), retry(), Breaker(), Deadline(1))
    (finding,) = found(Deadline(1), retry(), Deadline(2))
    assert (finding.check, finding.path) == ("inner-timeout", "policies[2].seconds")
    assert "policies[0] = 1 s" in finding.why


def test_a_cache_inside_the_deadline_is_told_what_it_loses() -> None:
    """Its old answers, exactly when the callee hangs."""
    (finding,) = found(Deadline(1), Cache())
    assert "the old answer at hand does not serve" in finding.why
    assert not found(Cache(), Deadline(1))


def test_one_policy_is_told_of_once_and_of_the_worst() -> None:
    """A breaker at the front is outside everything."""
    findings = [each for each in found(Breaker(), Limiter(), retry(), Bulkhead()) if each.check == "order"]
    assert [(each.path, each.severity) for each in findings] == [("policies[0]", "error")]
    assert "outside the retry" in findings[0].why


def test_what_a_user_adds_stands_where_it_likes() -> None:
    """A layer is nobody's business but its own."""
    assert not found(lambda handler: handler, retry(), Breaker())


def test_a_pipeline_is_held_to_what_the_file_is_held_to() -> None:
    """Budgets, minimum calls, waits."""
    assert [each.check for each in found(Retry())] == ["retry-budget"]
    sparse = [Breaker(BreakerRule(minimum_calls=100, wilson_calls=0, consecutive_failures=0))]
    assert [each.severity for each in lint(sparse, Traffic(calls_per_second=1))] == ["error"]
    rich = Retry(budget=Budget(BudgetRule(minimum=100)))
    (finding,) = lint([rich], Traffic(workers=10, capacity=10))
    assert finding.path == "policies[0].budget.minimum"
    (finding,) = found(Deadline(1), Bulkhead(BulkheadRule(queue=5, max_wait=2)))
    assert finding.path == "policies[1].max_wait"


def test_what_the_rule_book_makes_is_in_order() -> None:
    """For every kind, with every policy that it has a place for."""
    for kind, places in ORDERS.items():
        on = {policy: True for policy in places if policy not in (PICK, "fault", "hedge", "adaptive", "fallback")}
        policies = Policies(RuleBook.of({kind: {"*": {**on, "budget": True} if "retry" in on else on}}))
        chain = {
            "call": lambda p: p.for_call("a", "X"), "server": lambda p: p.for_server("/a"),
            "function": lambda p: p.for_function("f"), "consumer": lambda p: p.for_consumer("t"),
        }[kind](policies)  # fmt: skip
        assert not [each for each in lint(chain) if each.check == "order"], kind
    assert lint(Policies(default_rules()).for_call("a", "X")) == ()


def test_any_two_policies_the_wrong_way_round_are_found() -> None:
    """The order is one: whatever pair is turned round is told of."""
    names = [each for each in ORDER if each not in (PICK, "fallback", "fault", "hedge", "adaptive", "attempt_deadline")]
    made = {name: POLICIES[name].gate(POLICIES[name].rule()) for name in names if not name.endswith("_breaker")}
    for first, second in itertools.combinations(made, 2):
        policies: list[Policy] = [made[second], made[first]]  # type: ignore[list-item]
        if second == "retry" and first == "deadline":
            continue  # a deadline inside is an attempt's
        assert [each.value for each in lint(policies) if each.check == "order"] == [second]
