"""What a key may hold: exact types, ranges, defaults, and models."""

from __future__ import annotations

import pytest

from msgov.config.typed import Typed
from msgov.errors import RuleError
from msgov.resilience.retry import RetryRule


def test_an_integer_is_a_float() -> None:
    """`timeout = 2` is what people write; it comes out as what was asked for."""
    assert repr(Typed(float).read(2, "pay.timeout")) == "2.0"


@pytest.mark.parametrize(("bounds", "value"), [({"gt": 0}, 0), ({"ge": 1}, 0), ({"lt": 1}, 1), ({"le": 1}, 2)])
def test_each_bound_is_held(bounds: dict[str, float], value: int) -> None:
    """Exclusive and inclusive, on both sides."""
    with pytest.raises(RuleError, match="key = "):
        Typed(int, **bounds).read(value, "key")


@pytest.mark.parametrize(("bounds", "value"), [({"gt": 0}, 1), ({"ge": 1}, 1), ({"lt": 1}, 0), ({"le": 1}, 1)])
def test_what_lies_on_the_right_side_passes(bounds: dict[str, float], value: int) -> None:
    """A bound refuses nothing else."""
    assert Typed(int, **bounds).read(value, "key") == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused(value: float) -> None:
    """NaN passes every comparison that is written the wrong way round."""
    with pytest.raises(RuleError, match="a finite number"):
        Typed(float).read(value, "key")


def test_default_stands_in_for_nothing_only() -> None:
    """A wrong value is refused, not passed over."""
    typed = Typed(float, default=1.5)
    assert typed.read(None, "key") == 1.5
    with pytest.raises(RuleError):
        typed.read("2", "key")


def test_default_out_of_range_is_refused_where_it_is_written() -> None:
    """It would be used on the day the key is deleted."""
    with pytest.raises(RuleError, match="default = 0"):
        Typed(float, default=0, gt=0)


def test_models_are_read_with_the_path_of_their_fields() -> None:
    """One handle for a whole table, and the error still names the line."""
    typed = Typed(RetryRule)
    assert typed.read({"attempts": 2}, "pay.retry") == RetryRule(attempts=2)
    with pytest.raises(RuleError, match=r"pay\.retry\.attempts = 9"):
        typed.read({"attempts": 9}, "pay.retry")


def test_containers_are_read_element_by_element() -> None:
    """A list of text holds text."""
    assert Typed(list[str]).read(["a"], "hosts") == ["a"]
    with pytest.raises(RuleError, match=r"hosts\.1 = 2"):
        Typed(list[str]).read(["a", 2], "hosts")


def test_empty_text_zero_and_false_are_values() -> None:
    """They are not "missing", whatever Python's truth says."""
    assert Typed(str, default="x").read("", "key") == ""
    assert Typed(int, default=1).read(0, "key") == 0
    assert Typed(bool, default=True).read(False, "key") is False


def test_same_means_same_type_range_and_default() -> None:
    """Two places that ask alike may share one handle; others may not."""
    assert Typed(float, gt=0).same(Typed(float, gt=0))
    assert not Typed(float, gt=0).same(Typed(float, ge=0))
    assert not Typed(float, default=1.0).same(Typed(float, default=2.0))
