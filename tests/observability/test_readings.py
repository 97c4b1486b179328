"""What counts for itself is shown as it stands at the moment of the scrape."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from msgov.call import OK, TRANSIENT, Call, Outcome
from msgov.errors import Rejected
from msgov.latest import Latest
from msgov.observability import catalogue
from msgov.observability.readings import STATES, Readings
from msgov.observability.sink import Sink
from msgov.policy import Gate
from msgov.resilience.breaker import OPEN, Breaker, BreakerRule, State
from msgov.resilience.budget import Budget
from msgov.resilience.bulkhead import Bulkhead, BulkheadRule
from msgov.resilience.fallback import Fallback
from msgov.resilience.limiter import Limiter, LimiterRule
from msgov.resilience.retry import Retry
from msgov.testing import ManualClock

Samples = dict[tuple[str, ...], float]


def read(readings: Readings) -> dict[str, Samples]:
    """Return the samples by metric."""
    return {metric.name: samples for metric, samples in readings.read()}


def watching(*things: object) -> Readings:
    """Watch things at the time 100, and at 1000 on the wall."""
    readings = Readings(ManualClock(100.0), at=ManualClock(1000.0))
    readings.watch(*things)
    return readings


def through(gate: Gate[int], outcome: Outcome, now: float) -> None:
    """Let one call through."""
    ticket = gate.admit(Call("payment"), now)
    assert isinstance(ticket, int)
    gate.settle(ticket, outcome, now)


def test_a_breaker_shows_one_state_of_all() -> None:
    """All states are there from the first scrape, so that a panel shows zeros and not "no data"."""
    breaker = Breaker(BreakerRule(minimum_calls=2), name="pay", target="payment")
    found = read(watching(breaker))
    assert found["msgov_breaker_state"] == {("pay", "payment", state): float(state == "closed") for state in STATES}
    assert found["msgov_breaker_calls_total"]["pay", "payment", "failure"] == 0
    assert found["msgov_breaker_failure_ratio_threshold"] == {("pay", "payment"): 0.5}


def test_a_breaker_that_opened_is_shown_open() -> None:
    """The state, the calls and the ratio that did it."""
    breaker = Breaker(BreakerRule(minimum_calls=4, failure_rate=0.5), name="pay", target="payment")
    readings = watching(breaker)
    for outcome in (OK, OK, TRANSIENT):
        through(breaker, Outcome(outcome), 99.0)
    assert read(readings)["msgov_breaker_failure_ratio"] == {("pay", "payment"): pytest.approx(1 / 3)}
    through(breaker, Outcome(TRANSIENT), 99.0)
    with pytest.raises(Rejected):
        breaker.admit(Call("payment"), 99.0)
    found = read(readings)
    assert breaker.state is OPEN
    assert found["msgov_breaker_state"]["pay", "payment", "open"] == 1
    assert found["msgov_breaker_state"]["pay", "payment", "closed"] == 0
    assert found["msgov_breaker_calls_total"]["pay", "payment", "success"] == 2
    assert found["msgov_breaker_calls_total"]["pay", "payment", "failure"] == 2
    assert found["msgov_breaker_calls_total"]["pay", "payment", "rejected"] == 1


def test_every_state_that_a_breaker_has_is_shown() -> None:
    """A new state would otherwise show as none at all."""
    assert {state.value for state in State} == set(STATES)


def test_a_bulkhead_shows_its_room() -> None:
    """Inside, room, in line, refused."""
    bulkhead = Bulkhead(BulkheadRule(limit=2, queue=1), name="pay")
    for _ in range(3):
        bulkhead.admit(Call("payment"), 1.0)
    with pytest.raises(Rejected):
        bulkhead.admit(Call("payment"), 1.0)
    found = read(watching(bulkhead))
    assert found["msgov_bulkhead_inflight"] == {("pay",): 2}
    assert found["msgov_bulkhead_limit"] == {("pay",): 2}
    assert found["msgov_bulkhead_queue_depth"] == {("pay",): 1}
    assert found["msgov_bulkhead_rejected_total"] == {("pay",): 1}
    assert "msgov_limiter_limit" not in found


def test_a_limiter_shows_its_decisions() -> None:
    """And the rate that they were taken by."""
    limiter = Limiter(LimiterRule(rate=1, burst=1), name="login")
    limiter.admit(Call("user"), 1.0)
    with pytest.raises(Rejected):
        limiter.admit(Call("user"), 1.0)
    found = read(watching(limiter))
    assert found["msgov_limiter_decisions_total"] == {("login", "admitted"): 1, ("login", "rejected"): 1}
    assert found["msgov_limiter_limit"] == {("login",): 1}


def test_a_retry_shows_what_it_did_not_do_and_what_its_budget_has_left() -> None:
    """An empty budget is why a failure was not tried again."""
    budget = Budget(target="payment")
    retry = Retry(budget=budget, target="payment")
    retry.next(Call("payment"), 1, Outcome(TRANSIENT), 100.0)
    found = read(watching(retry))
    assert found["msgov_retry_suppressed_total"]["payment", "not_idempotent"] == 1
    assert found["msgov_retry_suppressed_total"]["payment", "budget"] == 0
    assert found["msgov_retry_budget_remaining_ratio"] == {("payment",): 1}


def test_a_fallback_shows_how_often_it_answered() -> None:
    """The friendly answer is visible."""
    fallback = Fallback("later", target="payment")
    fallback.instead(Call("payment"), Outcome(TRANSIENT, error=OSError()), 1.0)
    assert read(watching(fallback))["msgov_fallbacks_total"] == {("payment", "fallback", "answered"): 1}


@dataclass
class Place:
    """An instance, as far as metrics care."""

    service: str = "inventory"
    healthy: bool = True
    draining: bool = False


@dataclass
class Places:
    """A snapshot of instances."""

    service: str = "inventory"
    instances: list[Place] = field(default_factory=list)


def test_instances_are_shown_by_state() -> None:
    """None healthy is an alert of its own."""
    latest: Latest[Places] = Latest("instances of inventory")
    latest.put(Places(instances=[Place(), Place(), Place(healthy=False), Place(draining=True)]), 90.0)
    readings = watching(latest)
    found = read(readings)
    assert found["msgov_discovery_instances"] == {
        ("inventory", "healthy"): 2,
        ("inventory", "unhealthy"): 1,
        ("inventory", "draining"): 1,
    }
    assert found["msgov_discovery_last_update_timestamp_seconds"] == {("inventory",): 990}
    assert found["msgov_discovery_serving_stale"] == {("inventory",): 0}
    latest.fail(OSError())
    assert read(readings)["msgov_discovery_serving_stale"] == {("inventory",): 1}


def test_knowledge_that_never_came_is_shown_stale_or_not_at_all() -> None:
    """To look must not raise, although asking for the value does."""
    latest: Latest[Places] = Latest("inventory")
    found = read(watching(latest))
    assert found["msgov_discovery_serving_stale"] == {("inventory",): 0}
    assert "msgov_discovery_instances" not in found


def test_a_registration_is_shown() -> None:
    """An instance that its registry forgot gets no calls, and nobody else says so."""
    registration = SimpleNamespace(registered=True, instance=Place())
    readings = watching(registration)
    assert read(readings)["msgov_discovery_registered"] == {("inventory",): 1}
    registration.registered = False
    assert read(readings)["msgov_discovery_registered"] == {("inventory",): 0}


def test_a_configuration_is_shown_by_its_version() -> None:
    """More than one version in a fleet is drift."""
    config = SimpleNamespace(version="ab12", knowledge={"file": Latest("file"), "centre": Latest("centre")})
    config.knowledge["centre"].fail(OSError())
    found = read(watching(config))
    assert found["msgov_config_info"] == {("", "ab12", "file+centre"): 1}
    assert found["msgov_config_serving_stale"] == {("file",): 0, ("centre",): 1}


def test_an_outbox_is_shown() -> None:
    """A backlog that grows means that the bus is gone."""
    found = read(watching(SimpleNamespace(name="outbox", pending=7, oldest_age=2.5)))
    assert found["msgov_outbox_pending"] == {("outbox",): 7}
    assert found["msgov_outbox_oldest_age_seconds"] == {("outbox",): 2.5}


def test_a_consumer_is_shown() -> None:
    """What waits, what came again, what was given up, what came twice."""
    consumer = SimpleNamespace(topic="order.placed", group="audit", lag=5, processed=9, duplicates=2, failed=3, dead=1)
    found = read(watching(consumer))
    labels = ("order.placed", "audit")
    assert found["msgov_consumer_lag_messages"] == {labels: 5}
    assert found["msgov_redeliveries_total"] == {labels: 3}
    assert found["msgov_dead_letters_total"] == {labels: 1}
    assert found["msgov_dedup_total"] == {("audit", "duplicate"): 2, ("audit", "first"): 7}


def test_things_that_come_and_go_are_followed() -> None:
    """Pipelines are made when they are first asked for."""
    things: list[object] = []
    readings = Readings()
    end = readings.follow(lambda: things)
    assert read(readings) == {}
    things += [Limiter(name="login"), object()]
    assert "msgov_limiter_limit" in read(readings)
    end()
    assert read(readings) == {}


def test_lines_that_were_lost_are_shown() -> None:
    """Telemetry watches itself."""
    sink = Sink()
    sink.dropped = 3
    assert read(watching(sink))["msgov_telemetry_dropped_total"] == {("logs", "write"): 3}


def test_what_shows_nothing_is_passed_over() -> None:
    """A pipeline is handed in whole, with whatever stands in it."""
    assert read(watching(object(), None, lambda: None)) == {}


def test_two_of_one_name_are_put_together() -> None:
    """A sample that stands on the page twice makes Prometheus refuse all of it."""
    one, other = (Bulkhead(BulkheadRule(limit=5), name="pay") for _ in range(2))
    one.admit(Call("payment"), 1.0)
    first, second = Breaker(name="pay", target="payment"), Breaker(name="pay", target="payment")
    second.force(State.FORCED_OPEN, now=1.0)
    found = read(watching(one, other, first, second))
    assert found["msgov_bulkhead_limit"] == {("pay",): 10}
    assert found["msgov_bulkhead_inflight"] == {("pay",): 1}
    assert found["msgov_breaker_state"]["pay", "payment", "forced_open"] == 1
    assert found["msgov_breaker_failure_ratio_threshold"] == {("pay", "payment"): 0.5}


def test_a_thing_can_be_let_go() -> None:
    """What is closed must not be shown for ever."""
    readings = Readings()
    end = readings.watch(Bulkhead(name="pay"))
    readings.watch(Limiter(name="login"))
    end()
    end()
    assert set(read(readings)) == {"msgov_limiter_decisions_total", "msgov_limiter_limit"}


def test_a_reader_of_your_own_is_given_the_time() -> None:
    """What no shape fits is read by a function."""
    readings = Readings(ManualClock(5.0))
    readings.add(lambda now: [(catalogue.CONSUMER_LAG, ("orders", "audit"), now)])
    assert read(readings)["msgov_consumer_lag_messages"] == {("orders", "audit"): 5}


def test_a_broken_reader_costs_its_own_metrics_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page is what tells that something is broken."""
    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)

    def broken(now: float) -> list[object]:
        raise ZeroDivisionError

    readings = Readings()
    readings.add(broken)
    readings.watch(Limiter(name="login"))
    assert "msgov_limiter_limit" in read(readings)
    assert len(told) == 1
