"""One table says what a rules file can set, and one order where it stands."""

from __future__ import annotations

from dataclasses import fields

import pytest

from msgov.config.entries import ENTRIES
from msgov.config.kinds import BUDGET, EXCLUSIVE, KINDS, ORDER, ORDERS, PICK, POLICIES, SEAM, SPOKEN
from msgov.pipeline import Pipeline
from msgov.rule import schema


@pytest.mark.parametrize("kind", KINDS)
def test_every_policy_of_an_entry_is_in_the_table_and_in_the_order(kind: str) -> None:
    """A field that no gate stands for would be accepted and do nothing."""
    known = {each.name for each in fields(ENTRIES[kind])}  # type: ignore[arg-type]  # a rule is a dataclass
    assert set(SPOKEN[kind]) <= known
    assert {each for each in ORDERS[kind] if each != PICK} == set(SPOKEN[kind]) - {BUDGET}
    assert [each for each in ORDER if each in ORDERS[kind]] == list(ORDERS[kind])


def test_no_field_of_an_entry_is_left_without_a_place() -> None:
    """Whatever kind can say it."""
    for entry in set(ENTRIES.values()):
        spoken = {policy for kind in KINDS if ENTRIES[kind] is entry for policy in SPOKEN[kind]}
        assert {each.name for each in fields(entry)} == spoken  # type: ignore[arg-type]  # as above


@pytest.mark.parametrize("policy", POLICIES)
def test_the_short_form_is_a_field_of_the_rule(policy: str) -> None:
    """`deadline = 2` must mean something."""
    short = POLICIES[policy].short
    assert not short or short in schema(POLICIES[policy].rule)["properties"]  # type: ignore[operator]


def test_one_seam_has_room_for_one_plan() -> None:
    """Which is why they exclude each other."""
    assert ("retry", "hedge") in [(one, other) for one, other, _ in EXCLUSIVE]
    assert ORDER.index("hedge") == ORDER.index("retry") + 1
    assert set(SEAM) == {"retry", "hedge"}
    assert Pipeline().segments[0].plan is None


def test_what_waits_in_line_stands_before_what_probes() -> None:
    """Or a probe would wait there until its lease has run out."""
    for waits in ("limiter", "bulkhead", "adaptive"):
        assert all(ORDER.index(waits) < ORDER.index(each) for each in ("service_breaker", "method_breaker", "breaker"))


def test_an_old_answer_is_outside_what_ends_calls() -> None:
    """A total time-out cancels what it ends, and what is cancelled is not answered."""
    assert ORDER.index("fallback") < ORDER.index("cache") < ORDER.index("deadline") < ORDER.index("coalesce")
