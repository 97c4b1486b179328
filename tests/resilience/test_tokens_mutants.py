"""Tokens are thousandths, and half of them is the line: what only a changed line of it showed."""

from __future__ import annotations

from msgov.call import Call
from msgov.resilience import Tokens, TokensRule


def test_allowed_and_refused_are_counted_apart() -> None:
    """One says that retries go on, the other that they are silenced."""
    purse = Tokens(TokensRule(maximum=4))
    assert [purse.withdraw(0.0), purse.withdraw(0.0)] == [True, True]
    purse.fail()
    purse.fail()
    assert not purse.withdraw(0.0)
    assert (purse.spent, purse.refused) == (2, 1)


def test_one_thousandth_above_half_is_enough() -> None:
    """A6: retries are allowed above half of the maximum, not from it on."""
    purse = Tokens(TokensRule(maximum=10, ratio=0.001))
    for _ in range(5):
        purse.fail()
    assert not purse.withdraw(0.0)
    purse.succeed()
    assert (purse.left, purse.withdraw(0.0)) == (5.001, True)


def test_replacement_stays_in_thousandths() -> None:
    """As in gRPC's core, so that sums stay exact: two of three are 4.666 of seven."""
    purse = Tokens(TokensRule(maximum=3))
    purse.fail()
    purse.rule = TokensRule(maximum=7)
    assert purse.left == 4.666


def test_its_gate_has_a_ticket() -> None:
    """None would be no ticket."""
    assert Tokens().gate.admit(Call("shop"), 0.0) is not None
