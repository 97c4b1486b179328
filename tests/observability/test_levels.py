"""Levels change while the program runs, and go back."""

from __future__ import annotations

import logging

import pytest

from msgov.errors import RuleError
from msgov.observability.levels import Levels, name_of


def test_info_is_the_default() -> None:
    """Debug lines are asked for, not found out."""
    assert Levels().voice("shop").level == logging.INFO


def test_a_level_is_for_all_below_a_name() -> None:
    """The longest name that was given one decides."""
    levels = Levels()
    try:
        levels.set("warning")
        levels.set("debug", logger="shop.orders")
        assert levels.of("shop") == "warning"
        assert levels.of("shop.orders") == "debug"
        assert levels.of("shop.orders.db") == "debug"
        assert levels.of("shop.ordersdb") == "warning"
    finally:
        levels.restore()


def test_loggers_that_exist_follow() -> None:
    """structlog's own cached loggers do not."""
    levels = Levels()
    voice = levels.voice("shop.orders")
    assert voice is levels.voice("shop.orders")
    try:
        levels.set("error", logger="shop")
        assert voice.level == logging.ERROR
    finally:
        levels.restore()
    assert voice.level == logging.INFO


def test_the_standard_librarys_loggers_follow() -> None:
    """A library's debug lines are switched on by the same call."""
    levels, foreign = Levels(), logging.getLogger("a.library")
    foreign.setLevel(logging.ERROR)
    levels.set("debug", logger="a.library")
    assert foreign.isEnabledFor(logging.DEBUG)
    levels.set("info", logger="a.library")
    levels.restore()
    assert foreign.level == logging.ERROR


@pytest.mark.parametrize("level", ["loud", "", "10", "warn"])
def test_an_unknown_level_is_refused(level: str) -> None:
    """With the names that there are."""
    with pytest.raises(RuleError, match="debug, info, warning, error, critical"):
        Levels().set(level)


@pytest.mark.parametrize(
    ("number", "name"), [(0, "debug"), (10, "debug"), (25, "info"), (30, "warning"), (99, "critical")]
)
def test_numbers_between_belong_below(number: int, name: str) -> None:
    """Libraries make levels of their own."""
    assert name_of(number) == name
