"""What counts for itself is shown as it stands at the moment of the scrape."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from msgov.call import Call
from msgov.latest import Latest
from msgov.observability import catalogue
from msgov.observability.readings import Readings
from msgov.observability.sink import Sink
from msgov.resilience.breaker import Breaker, State
from msgov.resilience.budget import Budget
from msgov.resilience.bulkhead import Bulkhead, BulkheadRule
from msgov.resilience.limiter import Limiter
from msgov.resilience.retry import Retry
from msgov.testing import ManualClock
from tests.observability.reading import read, watching


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
    assert "msgov_limiter_limit" in read(readings)
    assert "msgov_bulkhead_limit" not in read(readings)


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


def test_of_two_of_one_name_the_worse_ratio_is_shown() -> None:
    """A budget that is empty must not hide behind one that is full."""
    full, spent = (Budget(target="payment") for _ in range(2))
    assert spent.withdraw(99.0)
    found = read(watching(Retry(budget=spent, target="payment"), Retry(budget=full, target="payment")))
    assert found["msgov_retry_budget_remaining_ratio"] == {("payment",): 0}


def test_series_are_bounded_and_what_is_beyond_is_put_together() -> None:
    """A rule book of ten thousand methods must not fill a Prometheus."""
    told: list[tuple[str, str]] = []
    readings = Readings(most_series=3, overflowed=lambda metric, label: told.append((metric, label)))
    bulkheads = [Bulkhead(BulkheadRule(limit=10), name=f"b{n}") for n in range(5)]
    readings.watch(*bulkheads)
    limits = read(readings)["msgov_bulkhead_limit"]
    assert limits == {("b0",): 10, ("b1",): 10, ("b2",): 10, ("_OTHER",): 20}
    assert told.count(("msgov_bulkhead_limit", "")) == 1


def test_what_is_followed_is_known_again() -> None:
    """A thousand gates are looked over once, not at each scrape; one that took another's place is looked at."""

    class Counted(SimpleNamespace):
        looks = 0

        @property
        def allowed(self) -> bool:
            type(self).looks += 1
            return False

    things: list[object] = [Counted(name="n", target="t", delayed=0, failed=0, hung=0)]
    readings = Readings()
    readings.follow(lambda: things)
    read(readings)
    first = Counted.looks
    read(readings)
    assert Counted.looks == first + 1
    things[:] = [Limiter(name="login")]
    assert "msgov_limiter_limit" in read(readings)
