"""A rule refuses what cannot be, all of it at once, with path, value and range."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from msgov.errors import Problem, RuleError
from msgov.rule import as_mapping, field, names, parse, rule, schema


@rule
class Inner:
    """A part."""

    seconds: float = field(1.0, why="a second is enough", unit="s", gt=0, le=60)


@rule
class Outer:
    """A whole."""

    name: str = field(why="it must be called something", max_length=8)
    share: float = field(0.5, why="half", ge=0, le=1)
    inner: Inner | None = field(None, why="off")

    def lint(self) -> Iterable[Problem]:
        """Refuse a contradiction."""
        if self.share == 1 and self.inner is None:
            yield Problem("share", self.share, "below 1 without inner")


def test_a_wrong_field_names_value_range_unit_and_default() -> None:
    """Whoever reads the error can mend the file without looking anything up."""
    with pytest.raises(RuleError) as caught:
        Inner(seconds=-2.0)
    assert (caught.value.path, caught.value.value) == ("seconds", -2.0)
    assert "> 0 and <= 60 s" in caught.value.allowed
    assert "default 1.0" in caught.value.allowed


def test_all_problems_are_told_at_once() -> None:
    """Mending one at a time is a waste of deploys."""
    with pytest.raises(RuleError) as caught:
        parse(Outer, {"share": float("nan"), "inner": {"seconds": 99, "x": 1}}, where="rules.toml", prefix="call.a")
    found = {problem.path: problem.allowed for problem in caught.value.problems}
    assert set(found) == {"call.a.name", "call.a.share", "call.a.inner.seconds", "call.a.inner.x"}
    assert "<= 60 s" in found["call.a.inner.seconds"]
    assert "known: seconds" in found["call.a.inner.x"]
    assert str(caught.value).startswith("rules.toml: ")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1", True, None, 1e308])
def test_numbers_are_finite_numbers(value: object) -> None:
    """NaN compares with nothing, and would pass every range."""
    with pytest.raises(RuleError):
        parse(Inner, {"seconds": value})


def test_contradictions_are_refused_in_code_and_in_files() -> None:
    """What no single field can see is checked too."""
    with pytest.raises(RuleError, match="without inner"):
        Outer(name="a", share=1.0)
    with pytest.raises(RuleError, match="without inner"):
        parse(Outer, {"name": "a", "share": 1.0})
    assert Outer(name="a", share=1.0, inner=Inner()).share == 1.0


def test_a_rule_is_frozen_and_goes_round() -> None:
    """A rule is a value: equal when equal, and the same after a file."""
    made = Outer(name="a", inner=Inner(seconds=2.0))
    with pytest.raises(AttributeError):
        made.name = "b"  # type: ignore[misc]  # that is the point
    assert parse(Outer, as_mapping(made)) == made


def test_the_schema_carries_units_and_reasons() -> None:
    """Editors and docs are made from it."""
    found = schema(Inner)
    assert found["properties"] == {
        "seconds": {
            "default": 1.0,
            "description": "a second is enough",
            "exclusiveMinimum": 0,
            "maximum": 60,
            "title": "Seconds",
            "type": "number",
            "unit": "s",
        }
    }
    assert names(Outer, ("inner",)) == ["seconds"]
