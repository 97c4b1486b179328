"""Retries stay a share of the traffic, with the vectors of those who thought of it first."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from msgov import _rolling
from msgov.errors import RuleError
from msgov.resilience import Budget, BudgetRule, budget
from msgov.testing import outcomes

Scene = tuple[list[Callable[[], object]], Callable[[], Hashable]]


@pytest.mark.parametrize("ratio", [0.0001, 0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.99, 0.999, 0.9999])
@pytest.mark.parametrize("minimum", [0.0, 1.0])
def test_finagle_retries_are_the_share_of_the_calls(ratio: float, minimum: float) -> None:
    """RetryBudgetTest: frozen time, 10,000 deposits with a try to withdraw each: the share and the reserve, +-1."""
    purse = Budget(BudgetRule(ratio=ratio, minimum=minimum, ttl=10))
    spent = 0
    for _ in range(10_000):
        purse.deposit(0.0)
        spent += purse.withdraw(0.0)
    while purse.withdraw(0.0):  # what of the reserve one retry a call could not use up
        spent += 1
    assert abs(spent - (math.floor(10_000 * ratio) + minimum * 10)) <= 1
    assert purse.spent == spent


def test_finagle_share_above_one() -> None:
    """RetryBudgetTest: at 200 %, ten thousand deposits are a balance of twenty thousand."""
    purse = Budget(BudgetRule(ratio=2.0, minimum=0))
    for _ in range(10_000):
        purse.deposit(0.0)
    assert purse.balance(0.0) == 20_000


def test_tower_deposits_are_forgotten() -> None:
    """TpsBudget `leaky`: a deposit does not outlive the ttl."""
    purse = Budget(BudgetRule(ratio=1.0, minimum=0, ttl=1))
    purse.deposit(0.0)
    assert not purse.withdraw(3.0)


def test_tower_slots() -> None:
    """TpsBudget `slots`: two deposits still count after 901 ms, and two that are not of one slot add up."""
    purse = Budget(BudgetRule(ratio=0.5, minimum=0, ttl=1))
    purse.deposit(0.0)
    purse.deposit(0.0)
    assert purse.withdraw(0.901)
    assert not purse.withdraw(0.901)
    purse.deposit(2.901)
    purse.deposit(3.201)
    purse.deposit(4.002)
    assert purse.withdraw(4.002)  # the first is forgotten, the second is not
    assert not purse.withdraw(4.002)


def test_tower_reserve() -> None:
    """TpsBudget `reserve`: a minimum of 5 a second gives exactly five to who never deposited."""
    purse = Budget(BudgetRule(ratio=1.0, minimum=5, ttl=1))
    assert [purse.withdraw(0.0) for _ in range(6)] == [True] * 5 + [False]


def test_envoy_share_and_floor() -> None:
    """Envoy 9069, 20 % and at least 3: of 25 calls five, of two still three (Envoy takes the larger, we add)."""
    of_many, of_few = Budget(BudgetRule(ratio=0.2, minimum=0)), Budget(BudgetRule(ratio=0.2, minimum=0.3, ttl=10))
    for _ in range(25):
        of_many.deposit(0.0)
    for _ in range(2):
        of_few.deposit(0.0)
    assert [sum(purse.withdraw(0.0) for _ in range(9)) for purse in (of_many, of_few)] == [5, 3]


def test_whole_retries_are_whole_whatever_floats_say() -> None:
    """A hundred calls at 0.29 pay for 29 retries, though 100 x 0.29 is 28.999999999999996."""
    purse = Budget(BudgetRule(ratio=0.29, minimum=0))
    for _ in range(100):
        purse.deposit(0.0)
    assert sum(purse.withdraw(0.0) for _ in range(40)) == 29


def test_reserve_comes_back_after_the_ttl() -> None:
    """What was spent is forgotten as what was deposited is: a quiet caller may retry again."""
    purse = Budget(BudgetRule(ratio=0.1, minimum=0.1, ttl=10))
    assert purse.withdraw(0.0)
    assert not purse.withdraw(8.9)
    assert purse.withdraw(10.0)


def test_default_lets_a_quiet_process_retry_once_in_five_seconds() -> None:
    """The floor multiplies by the number of processes, so it is small."""
    purse = Budget()
    assert purse.balance(0.0) == 1.0
    assert [purse.withdraw(0.0), purse.withdraw(0.0)] == [True, False]


def test_new_ratio_counts_at_once_for_what_was_deposited() -> None:
    """A new rule keeps the window: deposits are counted in calls, whatever they were worth."""
    purse = Budget(BudgetRule(ratio=0.1, minimum=0))
    for _ in range(10):
        purse.deposit(0.0)
    assert purse.balance(0.0) == pytest.approx(1)
    purse.rule = BudgetRule(ratio=0.5, minimum=0)
    assert purse.balance(0.0) == pytest.approx(5)
    purse.rule = BudgetRule(ratio=0.5, minimum=0, ttl=20)
    assert purse.balance(15.0) == pytest.approx(5)


def test_remaining_is_the_share_that_is_left() -> None:
    """The gauge that an alert looks at: 1 is full, 0 is spent."""
    purse = Budget(BudgetRule(ratio=0.5, minimum=0))
    assert purse.remaining(0.0) == 0.0
    for _ in range(8):
        purse.deposit(0.0)
    assert purse.remaining(0.0) == 1.0
    purse.withdraw(0.0)
    assert purse.remaining(0.0) == 0.75


def test_ten_threads_spend_no_more_than_there_is() -> None:
    """Deposits take no lock and withdrawals a short one: in any order of lines the sums are right."""

    def scene() -> Scene:
        purse = Budget(BudgetRule(ratio=0.5, minimum=0))
        purse.deposit(0.0)
        purse.deposit(0.0)
        taken: list[bool] = []
        acts = [lambda: taken.append(purse.withdraw(0.0)), lambda: taken.append(purse.withdraw(0.0))]
        return [*acts, lambda: purse.deposit(0.0)], lambda: (sum(taken), purse.balance(0.0))

    found = outcomes(scene, watch=[budget, _rolling], seeds=range(15))
    assert set(found) == {(1, 0.5)}


@pytest.mark.parametrize("wrong", [{"ratio": -0.1}, {"minimum": -1.0}, {"ttl": 0.0}, {"ratio": float("nan")}])
def test_rule_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    """With its field and the allowed range."""
    with pytest.raises(RuleError, match=next(iter(wrong))):
        BudgetRule(**wrong)


def test_budget_says_whose_it_is_and_what_it_did() -> None:
    """For metrics and the console."""
    purse = Budget(BudgetRule(ratio=0, minimum=0.1, ttl=10), name="payment/*", target="payment")
    assert (purse.name, purse.target, purse.spent, purse.refused) == ("payment/*", "payment", 0, 0)
    assert [purse.withdraw(0.0) for _ in range(3)] == [True, False, False]
    assert (purse.spent, purse.refused) == (1, 2)


def test_remaining_of_less_than_one_retry() -> None:
    """A purse that has half of one, and spent none, is full, though it pays for nothing yet."""
    purse = Budget(BudgetRule(ratio=0.5, minimum=0))
    purse.deposit(0.0)
    assert purse.remaining(0.0) == 1.0


class Walk(RuleBasedStateMachine):
    """A budget against a plain list of what was paid in and taken out."""

    @initialize(ratio=st.sampled_from([0.1, 0.5, 1.0, 2.0]), minimum=st.sampled_from([0.0, 0.1, 1.0]))
    def begin(self, ratio: float, minimum: float) -> None:
        """Open the purse at time 0, which is where the first slice begins."""
        self.rule = BudgetRule(ratio=ratio, minimum=minimum, ttl=10)
        self.purse = Budget(self.rule)
        self.quarters = 0
        self.events: list[tuple[int, float]] = []
        self.purse.balance(0.0)

    @property
    def now(self) -> float:
        """Time goes by quarters of a slice, so that no float falls between two slices."""
        return self.quarters / 4

    def model(self) -> float:
        """Sum up what is not forgotten."""
        alive = sum(worth for at, worth in self.events if at // 4 > self.quarters // 4 - 10)
        return alive + self.rule.minimum * 10

    @rule(n=st.integers(1, 30))
    def deposit(self, n: int) -> None:
        """Pay in."""
        for _ in range(n):
            self.purse.deposit(self.now)
            self.events.append((self.quarters, self.rule.ratio))

    @rule()
    def withdraw(self) -> None:
        """Pay for a retry, if there is enough."""
        enough = self.model() >= 1 - 1e-6
        assert self.purse.withdraw(self.now) == enough
        if enough:
            self.events.append((self.quarters, -1.0))

    @precondition(lambda self: hasattr(self, "purse"))
    @rule(quarters=st.integers(0, 60))
    def wait(self, quarters: int) -> None:
        """Let time pass."""
        self.quarters += quarters

    @invariant()
    def agrees(self) -> None:
        """Both see the same balance."""
        if hasattr(self, "purse"):
            assert self.purse.balance(self.now) == pytest.approx(max(0.0, self.model()), abs=1e-6)


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
