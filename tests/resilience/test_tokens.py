"""Failures stop retries, successes allow them again: the throttle of gRPC, number by number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msgov.call import IGNORED, OK, PERMANENT, TRANSIENT, Call, Outcome, Verdict
from msgov.errors import RuleError
from msgov.policy import Waiting
from msgov.resilience import Hedge, Retry, RetryRule, Tokens, TokensRule, policies
from msgov.resilience import tokens as module
from msgov.testing import LoadedDice, outcomes


def test_grpc_retry_throttle() -> None:
    """retry_throttle_test.cc, at most 4 tokens and 1.6 a success: the walk from full to spent, and back."""
    purse = Tokens(TokensRule(maximum=4, ratio=1.6))
    walk = [
        ("F", 3.0, True), ("S", 4.0, True), ("F", 3.0, True), ("F", 2.0, False), ("F", 1.0, False), ("F", 0.0, False),
        ("F", 0.0, False), ("S", 1.6, False), ("S", 3.2, True), ("F", 2.2, True), ("F", 1.2, False), ("S", 2.8, True),
        ("F", 1.8, False), ("S", 3.4, True), ("F", 2.4, True),
    ]  # fmt: skip
    for step, (what, left, allowed) in enumerate(walk):
        purse.fail() if what == "F" else purse.succeed()
        assert (purse.left, purse.withdraw(0.0)) == (left, allowed), step


def test_grpc_replacement_keeps_the_fraction() -> None:
    """retry_throttle_test.cc: a new maximum of 10 makes 7.5 of 3 in 4."""
    purse = Tokens(TokensRule(maximum=4, ratio=1.6))
    purse.fail()
    purse.rule = TokensRule(maximum=10, ratio=1.6)
    assert purse.left == 7.5
    assert purse.rule.maximum == 10
    for _ in range(9):
        purse.succeed()
    assert purse.left == 10
    purse.rule = TokensRule(maximum=3)
    purse.fail()
    purse.rule = TokensRule(maximum=10)
    assert purse.left == 6.666  # whole thousandths, downwards


@pytest.mark.parametrize(("verdict", "left"), [(OK, 3.5), (TRANSIENT, 2.0), (PERMANENT, 3.0), (IGNORED, 3.0)])
def test_gate_counts_how_attempts_end(verdict: Verdict, left: float) -> None:
    """An answer is no failure, and a cancellation says nothing."""
    purse = Tokens(TokensRule(maximum=4, ratio=0.5))
    purse.fail()
    ticket = purse.gate.admit(Call("shop"), 0.0)
    assert not isinstance(ticket, Waiting)
    purse.gate.settle(ticket, Outcome(verdict), 0.0)
    assert purse.left == left


def test_retry_asks_it_and_pays_nothing() -> None:
    """The attempt that was allowed is charged when it fails, not before."""
    purse = Tokens(TokensRule(maximum=4))
    retry, call = Retry(budget=purse, dice=LoadedDice(0.5, cycle=True)), Call("shop", idempotent=True)
    retry.next(call, 1, None, 0.0)
    failed = Outcome(TRANSIENT, error=ConnectionError())
    assert retry.next(call, 1, failed, 0.0) is not None
    assert purse.left == 4
    purse.fail()
    purse.fail()
    assert retry.next(call, 1, failed, 0.0) is None
    assert retry.next(call, 1, failed, 0.0) is None
    assert (purse.spent, purse.refused, retry.suppressed["budget"]) == (1, 2, 2)


def test_hedge_asks_it_too() -> None:
    """A6: below half of the tokens nothing is hedged either."""
    purse = Tokens(TokensRule(maximum=2))
    purse.fail()
    hedge = Hedge(budget=purse)
    hedge.load.rule = hedge.load.rule.__class__(ratio=1.0, minimum=0.0)
    call = Call("shop", idempotent=True)
    hedge.next(call, 1, None, 0.0)
    assert not hedge.begins(call, 1, 0.0)
    assert hedge.suppressed["budget"] == 1


@given(st.integers(1, 1000), st.floats(0.001, 1000), st.lists(st.booleans(), max_size=50))
def test_never_below_nothing_nor_above_full(maximum: int, ratio: float, walk: list[bool]) -> None:
    """Whatever happens."""
    purse = Tokens(TokensRule(maximum=maximum, ratio=ratio))
    for well in walk:
        purse.succeed() if well else purse.fail()
        assert 0 <= purse.left <= maximum


def test_threads_lose_no_token() -> None:
    """A failure and a success at once: both count, in either order."""

    def scene() -> tuple[list[object], object]:
        purse = Tokens(TokensRule(maximum=4, ratio=0.5))
        purse.fail()
        return [purse.fail, purse.succeed], lambda: purse.left

    assert set(outcomes(scene, watch=[module], seeds=range(20))) == {2.5}  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"maximum": 0}, {"maximum": 1001}, {"ratio": 0.0}])
def test_rule_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    """gRPC's own ranges: up to a thousand tokens, thousandths of one."""
    with pytest.raises(RuleError, match=next(iter(wrong))):
        TokensRule(**wrong)  # type: ignore[arg-type]


def test_just_more_than_half_lets_one_follow() -> None:
    """Exactly half does not."""
    purse = Tokens(TokensRule(maximum=2, ratio=0.001))
    purse.fail()
    assert not purse.withdraw(0.0)
    purse.succeed()
    assert purse.withdraw(0.0)


def test_success_never_overfills() -> None:
    """Nor does it leave a full purse less than full."""
    purse = Tokens(TokensRule(maximum=2, ratio=1.5))
    purse.fail()
    purse.succeed()
    assert purse.left == 2


def test_in_a_pipeline() -> None:
    """The gate inside the seam counts each attempt, and the retry stops at half."""
    purse = Tokens(TokensRule(maximum=3), name="stock", target="shop")
    begun: list[int] = []

    @policies(Retry(RetryRule(attempts=5, base=1e-6), budget=purse), purse.gate)
    def ask() -> None:
        begun.append(1)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        ask()
    assert (len(begun), purse.left) == (2, 1)
    assert (purse.name, purse.target) == ("stock", "shop")
