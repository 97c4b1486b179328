"""Each call adds to its series exactly once, and nothing that is counted can break a call."""

from __future__ import annotations

import random
import string

import pytest

from msgov import aio, sync
from msgov.call import IGNORED, OK, PERMANENT, TRANSIENT, Call, Outcome
from msgov.errors import BreakerOpen, DeadlineExceeded, DeadlineSpent
from msgov.observability.catalogue import CATALOGUE
from msgov.observability.edges import FUNCTION, GRPC_CLIENT, GRPC_SERVER, HTTP_SERVER, Messages
from msgov.observability.metrics import Metrics
from msgov.pipeline import Pipeline
from msgov.policy import Gate, classify
from msgov.resilience.bulkhead import Bulkhead, BulkheadRule
from msgov.resilience.retry import Retry, RetryRule
from msgov.testing import ScriptedHandler, run
from tests.observability.reading import sample, samples

GRPC = {"rpc_system_name": "grpc", "rpc_method": "shop.Order/Place"}
PLACE = "/shop.Order/Place"


def settled(gate: Gate[object], call: Call, outcome: Outcome, *, seconds: float = 0.25) -> None:
    """Let one call through a gate."""
    gate.settle(gate.admit(call, 10.0), outcome, 10.0 + seconds)


def test_a_served_call_is_one_observation(metrics: Metrics) -> None:
    """Count and sum are what rates and means are made of."""
    gate = metrics.calls(GRPC_SERVER)
    settled(gate, Call("order", PLACE), Outcome(OK))
    settled(gate, Call("order", PLACE), Outcome(OK), seconds=0.5)
    labels = {**GRPC, "rpc_status_code": "OK", "error_type": ""}
    assert sample(metrics, "rpc_server_call_duration_seconds_count", **labels) == 2
    assert sample(metrics, "rpc_server_call_duration_seconds_sum", **labels) == 0.75


def test_a_client_is_told_by_the_service_it_called(metrics: Metrics) -> None:
    """An address per instance would be a series per instance and restart."""
    settled(metrics.calls(GRPC_CLIENT), Call("order", PLACE), Outcome(TRANSIENT, status="UNAVAILABLE"))
    labels = {**GRPC, "rpc_status_code": "UNAVAILABLE", "error_type": "UNAVAILABLE", "server_address": "order"}
    assert sample(metrics, "rpc_client_call_duration_seconds_count", **labels) == 1


def test_the_time_of_a_call_holds_its_retries_and_waits(metrics: Metrics) -> None:
    """It is timed from the door to the exit, not by the last attempt."""
    settled(metrics.calls(GRPC_CLIENT), Call("order", PLACE), Outcome(OK, seconds=0.01), seconds=2.0)
    labels = {**GRPC, "rpc_status_code": "OK", "error_type": "", "server_address": "order"}
    assert sample(metrics, "rpc_client_call_duration_seconds_sum", **labels) == 2.0


def test_a_local_refusal_is_counted_under_its_reason(metrics: Metrics) -> None:
    """Dashboards leave it out of the mean: it takes no time."""
    refused = classify(Call("order"), BreakerOpen("open"))
    settled(metrics.calls(GRPC_CLIENT), Call("order", PLACE), refused)
    labels = {**GRPC, "rpc_status_code": "", "error_type": "breaker_open", "server_address": "order"}
    assert sample(metrics, "rpc_client_call_duration_seconds_count", **labels) == 1


def test_a_route_that_is_found_later_counts(metrics: Metrics) -> None:
    """An ASGI edge learns the route from the application's router, after the gates let the request in."""
    gate, call = metrics.calls(HTTP_SERVER), Call("order", "GET")
    ticket = gate.admit(call, 1.0)
    call.method = "GET /orders/{id}"
    gate.settle(ticket, Outcome(OK, status="201"), 1.5)
    labels = {"http_request_method": "GET", "http_route": "/orders/{id}", "error_type": ""}
    found = sample(metrics, "http_server_request_duration_seconds_sum", http_response_status_code="201", **labels)
    assert found == 0.5


def test_calls_being_served_are_shown(metrics: Metrics) -> None:
    """Little's law needs them; a client's own calls are not among them."""
    server, client = metrics.calls(GRPC_SERVER), metrics.calls(GRPC_CLIENT)
    tickets = [server.admit(Call("order", PLACE), 1.0) for _ in range(3)]
    client.admit(Call("payment", "/x"), 1.0)
    assert sample(metrics, "msgov_server_inflight") == 3
    server.settle(tickets[0], Outcome(OK), 2.0)
    assert sample(metrics, "msgov_server_inflight") == 2


def test_what_callers_leave_us_is_measured(metrics: Metrics) -> None:
    """Near nothing means that a caller's deadline is too tight."""
    settled(metrics.calls(GRPC_SERVER), Call("order", PLACE, deadline=10.8), Outcome(OK))
    settled(metrics.calls(GRPC_SERVER), Call("order", PLACE), Outcome(OK))
    assert sample(metrics, "msgov_deadline_remaining_seconds_count", entry="shop.Order/Place") == 1
    assert sample(metrics, "msgov_deadline_remaining_seconds_sum", entry="shop.Order/Place") == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("edge", "outcome", "where"),
    [
        (GRPC_SERVER, classify(Call(""), DeadlineExceeded("x")), "inbound"),
        (GRPC_CLIENT, classify(Call(""), DeadlineExceeded("x")), "outbound"),
        (GRPC_CLIENT, Outcome(TRANSIENT, status="DEADLINE_EXCEEDED"), "outbound"),
        (GRPC_CLIENT, classify(Call(""), DeadlineSpent("x")), "queue"),
        (HTTP_SERVER, Outcome(IGNORED, error=DeadlineSpent("x"), status="504"), "inbound"),
    ],
)
def test_time_that_ran_out_is_counted_where_it_did(
    metrics: Metrics, edge: object, outcome: Outcome, where: str
) -> None:
    """Served, made, or spent before it was sent."""
    settled(metrics.calls(edge), Call("order", PLACE), outcome)
    assert sample(metrics, "msgov_deadline_exceeded_total", where=where) == 1


def test_attempts_are_told_apart(metrics: Metrics) -> None:
    """Retry amplification is attempts but the first, over all."""
    gate = metrics.attempts(GRPC_CLIENT)
    for attempt, outcome in [(1, Outcome(TRANSIENT)), (2, Outcome(TRANSIENT)), (3, Outcome(OK)), (4, Outcome(OK))]:
        call = Call("order", PLACE)
        call.attempt = attempt
        settled(gate, call, outcome)
    call.attempt = 5
    settled(gate, call, Outcome(OK))
    labels = {"target": "order", "rpc_method": "shop.Order/Place"}
    found = {
        (attempt, outcome): sample(metrics, "msgov_client_attempts_total", attempt=attempt, outcome=outcome, **labels)
        for attempt, outcome in [("1", "transient"), ("2", "transient"), ("3", "ok"), ("4+", "ok")]
    }
    assert list(found.values()) == [1, 1, 1, 2]
    assert sample(metrics, "msgov_client_attempt_duration_seconds_sum", target="order", outcome="ok") == 0.75


def test_a_refused_attempt_is_counted_but_not_timed(metrics: Metrics) -> None:
    """It was never sent: its time would only lower the mean."""
    settled(metrics.attempts(GRPC_CLIENT), Call("order", PLACE), classify(Call(""), BreakerOpen("x")))
    labels = {"target": "order", "rpc_method": "shop.Order/Place", "attempt": "1", "outcome": "rejected"}
    assert sample(metrics, "msgov_client_attempts_total", **labels) == 1
    assert sample(metrics, "msgov_client_attempt_duration_seconds_count", target="order", outcome="rejected") is None


def test_only_calls_that_were_retried_count_as_retried(metrics: Metrics) -> None:
    """As gRPC's own metrics have it: most calls need none, and would hide the rest."""
    gate = metrics.calls(GRPC_CLIENT)
    settled(gate, Call("order", PLACE), Outcome(OK))
    assert sample(metrics, "msgov_client_call_retries_count", target="order", rpc_method="shop.Order/Place") is None
    call = Call("order", PLACE)
    call.attempt = 3
    settled(gate, call, Outcome(OK))
    assert sample(metrics, "msgov_client_call_retries_sum", target="order", rpc_method="shop.Order/Place") == 2


def test_messages_are_counted_on_both_sides(metrics: Metrics) -> None:
    """Sent beside consumed shows what is lost or piles up; one that the broker did not take was not sent."""
    producer = metrics.calls(Messages("producer", system="embedded"))
    consumer = metrics.calls(Messages("consumer", system="embedded"))
    settled(producer, Call("order.placed"), Outcome(OK))
    settled(producer, Call("order.placed"), Outcome(TRANSIENT))
    settled(consumer, Call("audit", "order.placed"), Outcome(OK), seconds=40)
    sent = {
        "messaging_system": "embedded",
        "messaging_operation_name": "send",
        "messaging_destination_name": "order.placed",
        "messaging_consumer_group_name": "",
        "error_type": "",
    }
    processed = {**sent, "messaging_operation_name": "process", "messaging_consumer_group_name": "audit"}
    assert sample(metrics, "messaging_client_sent_messages_total", **sent) == 1
    assert sample(metrics, "messaging_client_operation_duration_seconds_count", **sent) == 1
    assert (
        sample(metrics, "messaging_client_operation_duration_seconds_count", **{**sent, "error_type": "transient"}) == 1
    )
    assert sample(metrics, "messaging_client_consumed_messages_total", **processed) == 1
    assert sample(metrics, "messaging_process_duration_seconds_bucket", le="60.0", **processed) == 1


def test_ten_thousand_strangers_make_few_series() -> None:
    """Whatever they send: methods, targets, statuses, classes of errors."""
    told: list[tuple[str, str]] = []
    metrics = Metrics(overflowed=lambda metric, label: told.append((metric, label)))
    dice = random.Random(3)
    gates = [metrics.calls(edge) for edge in (GRPC_SERVER, GRPC_CLIENT, HTTP_SERVER)]
    attempts = metrics.attempts(GRPC_CLIENT)
    for number in range(10_000):
        word = "".join(dice.choices(string.printable + "\u2028\ud800é", k=dice.randrange(1, 40)))
        call = Call(word, f"{word}/{number}")
        call.attempt = 2
        outcome = Outcome(PERMANENT, status=word)
        for gate in (*gates, attempts):
            settled(gate, call, outcome)
    counted = samples(metrics)
    per_metric = {
        dict(labels)["metric"]: value for (name, labels), value in counted.items() if name == "msgov_metric_series"
    }
    assert max(per_metric.values()) <= 2001
    assert len(counted) < 50_000
    overflow = {dict(labels)["metric"] for name, labels in counted if name == "msgov_metric_label_overflow_total"}
    assert {"rpc_server_call_duration_seconds", "msgov_client_attempts_total"} <= overflow
    assert len(told) == len({metric for metric, _ in told})
    total = sum(v for (n, _), v in counted.items() if n == "rpc_server_call_duration_seconds_count")
    assert total == 10_000


def test_the_counter_of_overflows_may_overflow() -> None:
    """It is bounded as all others are, and does not count itself."""
    metrics = Metrics(most_values=1)
    for target in ("a", "b", "c"):
        settled(metrics.attempts(GRPC_CLIENT), Call(target, target), Outcome(OK))
    labels = {"metric": "msgov_client_attempts_total", "label": "target"}
    assert sample(metrics, "msgov_metric_label_overflow_total", **labels) == 2
    assert sample(metrics, "msgov_metric_series", metric="msgov_client_attempts_total") == 2


def test_a_gates_own_memory_is_bounded(metrics: Metrics) -> None:
    """It remembers where the series of usual calls are, not those of every stranger."""
    gate = metrics.calls(GRPC_SERVER)
    for number in range(5000):
        settled(gate, Call("order", f"/m/{number}"), Outcome(OK))
    assert len(gate._well) + len(gate._entries) == 4096


def test_a_retried_call_adds_up_under_asyncio(metrics: Metrics) -> None:
    """Through the real driver: one call, three attempts, in virtual time."""
    pipeline = Pipeline([metrics.calls(FUNCTION), Retry(RetryRule(attempts=3)), metrics.attempts(FUNCTION)])
    callee = ScriptedHandler(ConnectionResetError, ConnectionResetError, "done")
    assert run(aio.govern(pipeline, callee.aio)(Call("gateway", "charge", idempotent=True))) == "done"
    check_retried(metrics)


def test_a_retried_call_adds_up_in_threads(metrics: Metrics) -> None:
    """The other colour adds up the same."""
    pipeline = Pipeline([metrics.calls(FUNCTION), Retry(RetryRule(attempts=3, base=0.001)), metrics.attempts(FUNCTION)])
    callee = ScriptedHandler(ConnectionResetError, ConnectionResetError, "done")
    assert sync.govern(pipeline, callee.sync)(Call("gateway", "charge", idempotent=True)) == "done"
    check_retried(metrics)


def check_retried(metrics: Metrics) -> None:
    """One call, three attempts, two retries."""
    labels = {"target": "gateway", "rpc_method": "charge"}
    assert sample(metrics, "msgov_client_attempts_total", attempt="1", outcome="transient", **labels) == 1
    assert sample(metrics, "msgov_client_attempts_total", attempt="2", outcome="transient", **labels) == 1
    assert sample(metrics, "msgov_client_attempts_total", attempt="3", outcome="ok", **labels) == 1
    assert sample(metrics, "msgov_client_call_retries_sum", **labels) == 2
    whole = {"rpc_system_name": "function", "rpc_status_code": "OK", "error_type": "", "server_address": "gateway"}
    assert sample(metrics, "rpc_client_call_duration_seconds_count", rpc_method="charge", **whole) == 1


def test_a_lost_call_is_counted_once(metrics: Metrics) -> None:
    """A stream that its caller closed early is no error of the server, but it was a call."""
    settled(metrics.calls(GRPC_SERVER), Call("order", PLACE), Outcome(IGNORED, status="closed"))
    labels = {**GRPC, "rpc_status_code": "CANCELLED", "error_type": ""}
    assert sample(metrics, "rpc_server_call_duration_seconds_count", **labels) == 1


def test_every_counter_of_the_catalogue_can_be_asked_for(metrics: Metrics) -> None:
    """Rooms count by the catalogue, not by names of their own."""
    for metric in CATALOGUE:
        if metric.kind == "counter" and metric.origin == "msgov":
            metrics.counter(metric, *("x" for _ in metric.labels)).inc()


def test_what_is_read_is_bounded_as_what_is_counted() -> None:
    """And it says so, once: whoever misses a series must find why."""
    told: list[tuple[str, str]] = []
    made = Metrics(most_series=8, overflowed=lambda metric, label: told.append((metric, label)))
    made.readings.watch(*(Bulkhead(BulkheadRule(limit=3), name=f"b{n}") for n in range(10)))
    assert sample(made, "msgov_bulkhead_limit", bulkhead="_OTHER") == 6
    assert sample(made, "msgov_metric_label_overflow_total", metric="msgov_bulkhead_limit", label="") == 1
    assert told.count(("msgov_bulkhead_limit", "")) == 1
    made.close()
