"""The environment is a layer whose mistakes are told by the variable's name."""

from __future__ import annotations

import pytest

from msgov.config.env import Env
from msgov.errors import RuleError


def tree(**environ: str) -> object:
    """Read an environment."""
    return Env(environ=environ).now()


def test_two_underscores_part_the_keys() -> None:
    """One underscore is part of a name."""
    assert tree(MSGOV_PAY__MAX_WAIT="0.5", MSGOV_NAME="order", PATH="/bin") == {
        "pay": {"max_wait": 0.5},
        "name": "order",
    }


def test_origin_is_the_variable() -> None:
    """Who reads "pay.timeout" in a message must find what to change."""
    assert Env(environ={}).origin(("pay", "max_wait")) == "MSGOV_PAY__MAX_WAIT"


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"MSGOV_A": "nan"}, "MSGOV_A = nan: a finite number"),
        ({"MSGOV_A": "99999999999999999999"}, "MSGOV_A = 99999999999999999999: an integer of at most 64 bits"),
        ({"MSGOV_A____B": "1"}, "MSGOV_A____B = .*not empty"),
        ({"MSGOV___B": "1"}, "MSGOV___B = .*not empty"),
        ({"MSGOV_A": "1", "MSGOV_A__B": "2"}, "MSGOV_A__B = 2: not beneath a value"),
        ({"MSGOV_A": "1", "MSGOV_a": "2"}, "MSGOV_a = 2: set only once"),
        ({"MSGOV_A": "x" * 70_000}, "MSGOV_A = '70000 characters': at most 65536 bytes"),
        ({"MSGOV_A__" + "B" * 201: "1"}, "a key of 1 to 200"),
        ({"MSGOV_" + "A__" * 33 + "B": "1"}, "at most 32 tables"),
        ({"MSGOV_A": "\udcff"}, "MSGOV_A = .*lone surrogates"),
    ],
)
def test_wrong_variable_is_named(environ: dict[str, str], says: str) -> None:
    """It stands in a deployment file that nobody is looking at."""
    with pytest.raises(RuleError, match=says):
        Env(environ=environ).now()


def test_all_wrong_variables_are_told_at_once() -> None:
    """Each with its own line."""
    with pytest.raises(RuleError) as refusal:
        tree(MSGOV_A="inf", MSGOV_B="nan", MSGOV_C="1")
    assert [problem.path for problem in refusal.value.problems] == ["MSGOV_A", "MSGOV_B"]


def test_another_prefix_by_url() -> None:
    """Two services in one container need not share their variables."""
    assert Env.from_url("env:SHOP_").prefix == "SHOP_"
    assert Env.from_url("env:").prefix == "MSGOV_"
