"""The report says what happened, in the same numbers to programs and to people."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from shop.demo.books import Left
from shop.demo.report import NAMES, Run
from shop.demo.tally import Attempt, Tally, Told
from shop.laws import Findings, Law

GOOD = Law(True, ())
BAD = Law(False, ("order o1 is nowhere",))
DONE = Attempt("u", "t", "k", {}, told=Told.PLACED, order_id="o1", state="confirmed")
RUN = Run(
    mode="apart",
    scenario="calm",
    seconds=3.21,
    tally=Tally(attempts=[DONE], waits=[0.01, 0.02], friendly=[0.005]),
    findings=Findings(dict.fromkeys(NAMES, GOOD), {"double_charges": 0}),
    left=Left(0, 0, 0),
    restarts=0,
    breaker=None,
    services=(),
)
SLOW = replace(RUN, scenario="payment-slow", breaker={"opened": 2, "closed_again": True})


def test_json_has_what_was_promised() -> None:
    """Programs read these names."""
    told = json.loads(json.dumps(RUN.as_json()))
    assert told["orders"] == {"placed": 1, "confirmed": 1, "cancelled": 0, "refused": 0, "lost": 0}
    assert told["laws"] == {"L1": True, "L2": True, "L3": True, "L4": True, "L5": True}
    assert told["latency_ms"] == {"p50": 10.0, "p99": 20.0}
    assert "breaker" not in told
    assert "friendly" not in told


def test_json_of_a_slow_payment_tells_of_the_breaker() -> None:
    """How often it opened, and what shoppers heard meanwhile."""
    told = SLOW.as_json()
    assert told["breaker"] == {"opened": 2, "closed_again": True}
    assert told["friendly"] == {"count": 1, "p99_ms": 5.0}
    assert told["double_charges"] == 0


@pytest.mark.parametrize(
    ("run", "good"),
    [
        (RUN, True),
        (replace(RUN, findings=replace(RUN.findings, laws={**RUN.findings.laws, "L3": BAD})), False),
        (replace(RUN, tally=Tally(attempts=[replace(DONE, state="")])), False),
        (SLOW, True),
        (replace(SLOW, breaker={"opened": 0, "closed_again": False}), False),
        (replace(SLOW, breaker={"opened": 1, "closed_again": False}), False),
    ],
)
def test_a_run_is_good_when_nothing_is_wrong(run: Run, good: bool) -> None:
    """One broken law, one lost order, or a breaker that did not do its work is enough."""
    assert run.good is good
    assert ("The books are right." in run.as_text()) is good


def test_people_are_told_what_breaks_a_law() -> None:
    """And what is not at rest."""
    broken = replace(
        RUN, findings=replace(RUN.findings, laws={**RUN.findings.laws, "L3": BAD}), left=Left(1, 2, 3), restarts=4
    )
    text = broken.as_text()
    assert "L3 BROKEN" in text
    assert "order o1 is nowhere" in text
    assert "1 orders open, 2 messages unsent, 3 events not recorded" in text
    assert "4 processes died" in text
