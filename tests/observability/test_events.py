"""What the machines tell is found in the logs and on the page."""

from __future__ import annotations

import ast
import logging
import re
from pathlib import Path

import pytest

import msgov.resilience
from msgov.call import TRANSIENT, Call, Outcome
from msgov.event import Event, Observers
from msgov.observability.events import LEVELS, LOGGER, Events
from msgov.observability.levels import Voice
from msgov.observability.metrics import Metrics
from msgov.resilience.breaker import Breaker, BreakerRule, State
from msgov.testing import ManualClock
from tests.observability.reading import Written, sample, samples


def test_a_breaker_that_opens_is_told_and_counted(written: Written, metrics: Metrics) -> None:
    """With the numbers that decided, in the trace of the call that did it."""
    events = Events(Voice(LOGGER, logging.INFO), tell=written.logs.tell, count=metrics.counter)
    breaker = Breaker(BreakerRule(minimum_calls=1), name="pay", target="payment", observers=Observers(events))
    ticket = breaker.admit(Call("payment"), 1.0)
    assert isinstance(ticket, int)
    breaker.settle(ticket, Outcome(TRANSIENT), 1.0)
    line = written.line()
    assert (line["event"], line["level"], line["logger"]) == ("breaker.opened", "warning", LOGGER)
    assert (line["name"], line["target"], line["reason"]) == ("pay", "payment", "failure_rate")
    assert (line["before"], line["after"], line["calls"], line["failures"]) == ("closed", "open", 1, 1)
    labels = {"breaker": "pay", "target": "payment", "from": "closed", "to": "open", "reason": "failure_rate"}
    assert sample(metrics, "msgov_breaker_transitions_total", **labels) == 1


def test_reloads_are_counted_and_dated(written: Written, metrics: Metrics) -> None:
    """A refused reload is an alert; the last good one has a date."""
    events = Events(Voice(LOGGER, logging.INFO), tell=written.logs.tell, count=metrics.counter, at=ManualClock(1000.0))
    metrics.readings.add(events.read)
    assert sample(metrics, "msgov_config_last_reload_timestamp_seconds") is None
    events(Event("config.changed", "", "ab12", 1.0, {"leaves": 2}))
    events(Event("config.rejected", "file", "ab12", 2.0, {"path": "pay.timeout"}))
    assert sample(metrics, "msgov_config_reloads_total", outcome="applied") == 1
    assert sample(metrics, "msgov_config_reloads_total", outcome="rejected") == 1
    assert sample(metrics, "msgov_config_last_reload_timestamp_seconds") == 1000
    changed, rejected = written.lines()
    assert (changed["level"], "name" in changed) == ("info", False)
    assert (rejected["level"], rejected["path"]) == ("error", "pay.timeout")


@pytest.mark.parametrize(
    ("kind", "level"), [("registration.lost", "warning"), ("outbox.refused", "error"), ("new.kind", "info")]
)
def test_each_event_is_a_line(written: Written, kind: str, level: str) -> None:
    """One that is not known here too."""
    events = Events(Voice(LOGGER, logging.INFO), tell=written.logs.tell)
    events(Event(kind, "x", "y", 1.0, {"why": "password=hunter2-Zx91", "event": "forged"}))
    assert (written.line()["event"], written.line()["level"]) == (kind, level)
    assert written.line()["_event"] == "forged"
    assert "hunter2" not in written.text()


def test_a_silent_logger_still_counts(written: Written, metrics: Metrics) -> None:
    """Lines and counts are asked for apart."""
    events = Events(Voice(LOGGER, logging.CRITICAL), tell=written.logs.tell, count=metrics.counter)
    events(Event("config.rejected", "file", "", 1.0, {}))
    assert written.text() == ""
    assert sample(metrics, "msgov_config_reloads_total", outcome="rejected") == 1


def kinds(path: Path) -> set[str]:
    """Name the kinds of events in a source that tells some."""
    source = path.read_text()
    if not re.search(r"\.tell\b", source):
        return set()
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            first = node.values[0]
            if isinstance(first, ast.Constant) and re.fullmatch(r"[a-z]+\.", first.value):
                assert first.value == "breaker.", f"{path.name} makes kinds that this test does not know of"
                found |= {f"breaker.{state.value}" for state in State if state is not State.OPEN}
        elif isinstance(node, ast.Constant) and re.fullmatch(r"(?!msgov\.)[a-z]+\.[a-z_]+", str(node.value)):
            found.add(str(node.value))
    return found


def test_every_event_of_a_policy_has_a_level() -> None:
    """Info is a decision too: what nobody thought about is not it."""
    (folder,) = msgov.resilience.__path__
    told = set().union(*map(kinds, Path(folder).glob("*.py")))
    assert {"breaker.opened", "breaker.half_open", "shadow.shed", "quota.lost", "cache.stale", "fault.injected"} <= told
    assert told - set(LEVELS) == set()
    of_policies = {kind for kind in LEVELS if kind.split(".")[0] in {each.split(".")[0] for each in told}}
    assert of_policies == told


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        ("shadow.breaker", "info"),
        ("cache.stale", "info"),
        ("cache.refresh_failed", "warning"),
        ("fallback.answered", "info"),
        ("fallback.failed", "warning"),
        ("fault.injected", "warning"),
        ("quota.lost", "warning"),
        ("quota.found", "info"),
    ],
)
def test_levels_say_whether_somebody_should_look(written: Written, kind: str, level: str) -> None:
    """An old answer is what was asked for; that nobody could get a new one behind it is not."""
    Events(Voice(LOGGER, logging.INFO), tell=written.logs.tell)(Event(kind, "x", "y", 1.0, {}))
    assert written.line()["level"] == level


def test_a_shadow_that_opens_is_no_warning(written: Written, metrics: Metrics) -> None:
    """It refuses nobody; its turns are counted, for its state is shown too."""
    events = Events(Voice(LOGGER, logging.INFO), tell=written.logs.tell, count=metrics.counter)
    rule = BreakerRule(minimum_calls=1, shadow=True)
    breaker = Breaker(rule, name="pay", target="payment", observers=Observers(events))
    for now in (1.0, 1.5):
        ticket = breaker.admit(Call("payment"), now)
        assert isinstance(ticket, int)
        breaker.settle(ticket, Outcome(TRANSIENT), now)
    assert [(line["event"], line["level"]) for line in written.lines()] == [
        ("breaker.opened", "info"),
        ("shadow.breaker", "info"),
    ]
    assert transitions(metrics) == {("closed", "open", "failure_rate"): 1}


def test_a_hand_that_changes_nothing_is_no_transition(written: Written, metrics: Metrics) -> None:
    """Somebody who resets a closed breaker every minute would look like one that flaps."""
    events = Events(Voice(LOGGER, logging.INFO), tell=written.logs.tell, count=metrics.counter)
    breaker = Breaker(name="pay", target="payment", observers=Observers(events))
    breaker.force(State.CLOSED, now=1.0)
    assert transitions(metrics) == {}
    breaker.force(State.FORCED_OPEN, now=2.0)
    assert transitions(metrics) == {("closed", "forced_open", "by_hand"): 1}
    assert len(written.lines()) == 2


def transitions(metrics: Metrics) -> dict[tuple[str, str, str], float]:
    """Return the transitions on the page: from, to, reason."""
    return {
        (found["from"], found["to"], found["reason"]): value
        for (name, labels), value in samples(metrics).items()
        if name == "msgov_breaker_transitions_total"
        for found in (dict(labels),)
    }
