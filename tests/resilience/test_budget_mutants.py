"""A purse counts to the unit: what only a changed line of it showed."""

from __future__ import annotations

from msgov.resilience import Budget, BudgetRule


def test_every_refusal_is_counted_once() -> None:
    """The counter is how one sees that the budget, not the callee, ends the retries."""
    purse = Budget(BudgetRule(ratio=0, minimum=0.1, ttl=10))
    assert [purse.withdraw(0.0) for _ in range(4)] == [True, False, False, False]
    assert (purse.spent, purse.refused) == (1, 3)


def test_deposit_on_the_edge_of_a_slice_lives_as_long_as_the_next_one() -> None:
    """A slice is a second here: what is paid in at its end is not forgotten with it."""
    purse = Budget(BudgetRule(ratio=1.0, minimum=0, ttl=10))
    purse.deposit(0.0)
    purse.deposit(1.0)
    assert purse.balance(9.9) == 2
    assert purse.balance(10.0) == 1


def test_share_that_remains_is_right_below_one_retry_too() -> None:
    """Half a retry, all of it left, is a full purse."""
    purse = Budget(BudgetRule(ratio=0.5, minimum=0))
    purse.deposit(0.0)
    assert purse.remaining(0.0) == 1.0
