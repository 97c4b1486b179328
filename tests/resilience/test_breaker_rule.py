"""What the docs say of a rule is what the rule says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from msgov.resilience import BreakerRule, PaceRule, ThrottleRule
from msgov.rule import as_mapping, parse, schema


def rows(kind: type[object]) -> list[str]:
    """Write the table of a rule: field, default with unit, range, reason."""
    written = []
    properties = schema(kind)["properties"]
    assert isinstance(properties, dict)
    for name, said in properties.items():
        default, unit = said["default"], f" {said['unit']}" if "unit" in said else ""
        shown = str(default).lower() if isinstance(default, bool) else f"{default:g}{unit}"
        signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
        bounds = ", ".join(f"{sign} {said[key]:g}" for key, sign in signs.items() if key in said)
        written.append(f"| `{name}` | {shown} | {bounds} | {said['description']} |")
    return written


@pytest.mark.parametrize(("kind", "page"), [(BreakerRule, "breaker"), (ThrottleRule, "throttle"), (PaceRule, "pace")])
def test_docs_list_every_field_as_the_rule_has_it(kind: type[object], page: str) -> None:
    """Said once: when this fails, print `rows` into the page."""
    text = Path(__file__).parents[2].joinpath(f"docs/howto/{page}.md").read_text(encoding="utf-8")
    table = [line for line in text.splitlines() if line.startswith("| `")]
    assert table == rows(kind)


@pytest.mark.parametrize("kind", [BreakerRule, ThrottleRule])
def test_rule_is_the_same_after_a_file(kind: type[object]) -> None:
    """All of it can stand in a rules file."""
    assert parse(kind, as_mapping(kind())) == kind()


def test_criteria_that_are_on_by_default() -> None:
    """A rate of enough calls, a bound for few, a row for many; slow ones only when somebody says what slow is."""
    rule = BreakerRule()
    assert (rule.failure_rate, rule.minimum_calls, rule.window) == (0.5, 20, 10.0)
    assert (rule.wilson_calls, rule.consecutive_failures, rule.slow_seconds, rule.last_calls) == (5, 20, 0.0, 0)
    assert (rule.open_seconds, rule.open_growth, rule.open_cap, rule.probes) == (2.0, 1.5, 5.0, 5)
    assert (rule.ramp_seconds, rule.shadow) == (3.0, False)
