"""What the machines tell is found in the logs and on the page."""

from __future__ import annotations

import logging

import pytest

from msgov.call import TRANSIENT, Call, Outcome
from msgov.event import Event, Observers
from msgov.observability.events import LOGGER, Events
from msgov.observability.levels import Voice
from msgov.observability.metrics import Metrics
from msgov.resilience.breaker import Breaker, BreakerRule
from msgov.testing import ManualClock
from tests.observability.reading import Written, sample


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
