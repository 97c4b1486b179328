"""Every call has its place in one trace, with an SDK and without."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator, Sequence

import pytest
from opentelemetry import trace as api
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler
from opentelemetry.trace import SpanKind, StatusCode

from msgov import aio, scope, wire
from msgov.call import IGNORED, OK, PERMANENT, TRANSIENT, Call, Outcome
from msgov.errors import BreakerOpen
from msgov.observability.edges import GRPC_CLIENT, GRPC_SERVER, HTTP_CLIENT, HTTP_SERVER, Messages
from msgov.observability.spans import Dropped, attached
from msgov.observability.tracing import Tracing
from msgov.pipeline import Pipeline
from msgov.policy import Gate, classify
from msgov.resilience.retry import Retry, RetryRule
from msgov.scope import Scope, Trace
from msgov.testing import ManualClock, ScriptedHandler, run

REMOTE = Trace("a" * 32, "b" * 16, sampled=True, state="vendor=1")
UNSAMPLED = Trace("c" * 32, "d" * 16)
CHARGE = "/shop.Payment/Charge"


class Spans:
    """An SDK that keeps its spans."""

    def __init__(self, sampler: Sampler | None = None) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler or ParentBased(ALWAYS_ON), shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracing = Tracing(self.provider)

    def ended(self) -> Sequence[ReadableSpan]:
        """Return the spans that ended, first ended first."""
        return self.exporter.get_finished_spans()

    def one(self) -> ReadableSpan:
        """Return the only one."""
        (span,) = self.ended()
        return span


@pytest.fixture
def spans() -> Iterator[Spans]:
    """An SDK with its default sampler."""
    made = Spans()
    yield made
    made.provider.shutdown()


@pytest.fixture
def incoming() -> Iterator[Scope]:
    """The scope of a request that came with a sampled trace."""
    found = wire.incoming({"traceparent": wire.write_traceparent(REMOTE), "tracestate": "vendor=1"}, 0.0)
    token = scope.current.set(found)
    yield found
    scope.current.reset(token)


def ids(span: ReadableSpan) -> tuple[str, str]:
    """Return the ids of a span as they are written on the wire."""
    assert span.context is not None
    return format(span.context.trace_id, "032x"), format(span.context.span_id, "016x")


def parent(span: ReadableSpan) -> str:
    """Return the id of a span's parent."""
    return "" if span.parent is None else format(span.parent.span_id, "016x")


def settled(gate: Gate[object], call: Call, outcome: Outcome) -> None:
    """Let one call through."""
    gate.settle(gate.admit(call, 10.0), outcome, 11.0)


# Without an SDK.


def test_without_an_sdk_ids_are_minted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs and the wire carry W3C ids all the same."""
    monkeypatch.setattr(api, "_TRACER_PROVIDER", None)
    call = Call("payment", CHARGE)
    settled(Tracing().calls(GRPC_CLIENT), call, Outcome(OK))
    assert call.trace is not None
    assert re.fullmatch(r"[0-9a-f]{32}", call.trace.trace_id)
    assert re.fullmatch(r"[0-9a-f]{16}", call.trace.span_id)
    assert not call.trace.sampled


@pytest.mark.usefixtures("incoming")
def test_without_an_sdk_a_trace_that_came_in_goes_on() -> None:
    """Its decision and its state travel on, with a span id of this hop."""
    call = Call("payment", CHARGE)
    Tracing(on=False).calls(GRPC_CLIENT).admit(call, 1.0)
    sent = dict(wire.outgoing(call, 1.0, deadline=False))
    version, trace_id, span_id, flags = sent["traceparent"].split("-")
    assert (version, trace_id, flags, sent["tracestate"]) == ("00", "a" * 32, "01", "vendor=1")
    assert span_id != "b" * 16


def test_a_second_attempt_has_an_id_of_its_own_without_an_sdk() -> None:
    """The server's lines tell the attempts apart; afterwards the call has its own place back."""
    tracing, call = Tracing(on=False), Call("payment", CHARGE)
    tracing.calls(GRPC_CLIENT).admit(call, 1.0)
    own, gate = call.trace, tracing.attempts(GRPC_CLIENT)
    first = gate.admit(call, 1.0)
    assert call.trace is own
    gate.settle(first, Outcome(TRANSIENT), 2.0)
    call.attempt = 2
    second = gate.admit(call, 3.0)
    assert call.trace is not None
    assert own is not None
    assert call.trace.trace_id == own.trace_id
    assert call.trace.span_id != own.span_id
    gate.settle(second, Outcome(OK), 4.0)
    assert call.trace is own


def test_a_provider_set_later_is_found(monkeypatch: pytest.MonkeyPatch, spans: Spans) -> None:
    """Libraries are imported, and services made, before an application sets OpenTelemetry up."""
    monkeypatch.setattr(api, "_TRACER_PROVIDER", None)
    tracing = Tracing()
    assert tracing.tracer(10.0) is None
    monkeypatch.setattr(api, "_TRACER_PROVIDER", spans.provider)
    assert tracing.tracer(10.5) is None
    assert tracing.tracer(11.0) is not None
    monkeypatch.setattr(api, "_TRACER_PROVIDER", None)
    assert tracing.tracer(11.1) is not None


def test_a_provider_that_makes_nothing_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenTelemetry can be switched off; its spans have no ids."""
    monkeypatch.setattr(api, "_TRACER_PROVIDER", api.NoOpTracerProvider())
    assert Tracing().tracer(1.0) is None


def test_switched_off_it_never_looks(monkeypatch: pytest.MonkeyPatch, spans: Spans) -> None:
    """Who does not want spans from us gets none."""
    monkeypatch.setattr(api, "_TRACER_PROVIDER", spans.provider)
    assert Tracing(on=False).tracer(1.0) is None
    assert Tracing(spans.provider, on=False).tracer(1.0) is None


# With an SDK: names, kinds, attributes, status.


@pytest.mark.usefixtures("incoming")
def test_a_served_call_is_a_span_below_its_caller(spans: Spans) -> None:
    """The trace goes on across the wire."""
    call = Call("payment", CHARGE)
    settled(spans.tracing.calls(GRPC_SERVER), call, Outcome(OK))
    span = spans.one()
    assert (span.name, span.kind) == ("shop.Payment/Charge", SpanKind.SERVER)
    assert ids(span)[0] == "a" * 32
    assert parent(span) == "b" * 16
    assert span.parent is not None
    assert span.parent.is_remote
    assert dict(span.attributes or {}) == {
        "rpc.system.name": "grpc",
        "rpc.method": "shop.Payment/Charge",
        "rpc.status_code": "OK",
    }
    assert span.status.status_code is StatusCode.UNSET
    assert call.trace is not None
    assert (call.trace.trace_id, call.trace.span_id) == ids(span)
    assert call.trace.sampled
    assert call.trace.state == "vendor=1"


def test_a_call_made_is_a_span_of_the_whole_call(spans: Spans) -> None:
    """One per logical call; attempts and outcome stand on it."""
    call = Call("payment", CHARGE)
    settled(spans.tracing.calls(GRPC_CLIENT), call, Outcome(TRANSIENT, status="UNAVAILABLE"))
    span = spans.one()
    assert span.kind is SpanKind.CLIENT
    assert dict(span.attributes or {}) == {
        "rpc.system.name": "grpc",
        "rpc.method": "shop.Payment/Charge",
        "server.address": "payment",
        "service.peer.name": "payment",
        "msgov.attempts": 1,
        "msgov.outcome": "transient",
        "rpc.status_code": "UNAVAILABLE",
        "error.type": "UNAVAILABLE",
    }
    assert span.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize(
    ("status", "faulty"), [("NOT_FOUND", False), ("RESOURCE_EXHAUSTED", False), ("INTERNAL", True)]
)
def test_only_a_servers_own_fault_is_an_error(spans: Spans, status: str, faulty: bool) -> None:
    """Six statuses; the others are answers."""
    settled(spans.tracing.calls(GRPC_SERVER), Call("payment", CHARGE), Outcome(PERMANENT, status=status))
    assert (spans.one().status.status_code is StatusCode.ERROR) == faulty


def test_a_handler_that_raises_is_an_error(spans: Spans) -> None:
    """OpenTelemetry's own instrumentation calls it OK; the text of the exception stays out of the span."""
    outcome = classify(Call(""), ValueError("card 4111 is bad"))
    settled(spans.tracing.calls(GRPC_SERVER), Call("payment", CHARGE), outcome)
    span = spans.one()
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["rpc.status_code"] == "UNKNOWN"
    assert "4111" not in span.to_json()
    assert not span.events


def test_a_refusal_says_which_facts_decided(spans: Spans) -> None:
    """A trace alone explains why nothing was sent."""
    outcome = classify(Call(""), BreakerOpen("x", reason="failure_rate", failures=10, calls=12, nothing=None))
    settled(spans.tracing.calls(GRPC_CLIENT), Call("payment", CHARGE), outcome)
    attributes = dict(spans.one().attributes or {})
    assert attributes["error.type"] == "breaker_open"
    assert (attributes["msgov.reason"], attributes["msgov.failures"]) == ("failure_rate", 10)
    assert "msgov.nothing" not in attributes
    assert "rpc.status_code" not in attributes


def test_a_request_is_named_by_the_route_found_later(spans: Spans) -> None:
    """Never by the path."""
    gate, call = spans.tracing.calls(HTTP_SERVER), Call("order", "GET")
    ticket = gate.admit(call, 1.0)
    call.method = "GET /orders/{id}"
    gate.settle(ticket, Outcome(OK, status="201"), 2.0)
    span = spans.one()
    assert span.name == "GET /orders/{id}"
    assert (span.attributes or {})["http.route"] == "/orders/{id}"
    assert (span.attributes or {})["http.response.status_code"] == 201


def test_a_client_of_http_is_named_by_its_verb(spans: Spans) -> None:
    """It knows no route, and a path has ids in it."""
    settled(spans.tracing.calls(HTTP_CLIENT), Call("catalog", "GET"), Outcome(OK, status="200"))
    assert spans.one().name == "GET"
    assert "http.route" not in (spans.one().attributes or {})


@pytest.mark.usefixtures("incoming")
def test_a_message_is_processed_below_whoever_sent_it(spans: Spans) -> None:
    """One trace from the request to the last effect of its event, with a link as the conventions ask."""
    settled(spans.tracing.calls(Messages("consumer", system="embedded")), Call("audit", "order.placed"), Outcome(OK))
    span = spans.one()
    assert (span.name, span.kind, parent(span)) == ("process order.placed", SpanKind.CONSUMER, "b" * 16)
    assert [format(link.context.span_id, "016x") for link in span.links] == ["b" * 16]
    assert dict(span.attributes or {}) == {
        "messaging.system": "embedded",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "order.placed",
        "messaging.consumer.group.name": "audit",
    }


def test_a_message_sent_is_a_span_of_its_producer(spans: Spans) -> None:
    """It spans the real sending, with the broker's word for it."""
    settled(spans.tracing.calls(Messages("producer", system="embedded")), Call("order.placed"), Outcome(OK))
    assert (spans.one().name, spans.one().kind) == ("send order.placed", SpanKind.PRODUCER)


def test_a_cancelled_call_ends_its_span(spans: Spans) -> None:
    """OpenTelemetry's own instrumentation loses it."""
    cancelled = classify(Call(""), asyncio.CancelledError())
    settled(spans.tracing.calls(GRPC_CLIENT), Call("payment", CHARGE), cancelled)
    settled(spans.tracing.calls(GRPC_SERVER), Call("payment", CHARGE), Outcome(IGNORED, status="abandoned"))
    client, server = spans.ended()
    assert (client.attributes or {})["rpc.status_code"] == "CANCELLED"
    assert client.status.status_code is StatusCode.ERROR
    assert server.status.status_code is StatusCode.UNSET


# Parents.


def test_a_call_made_while_serving_hangs_below_it(spans: Spans) -> None:
    """Through the scope, which the edge sets: nothing of OpenTelemetry's is current."""
    served, made = Call("order", "/shop.Order/Place"), Call("payment", CHARGE)
    outer = spans.tracing.calls(GRPC_SERVER)
    ticket = outer.admit(served, 1.0)
    token = scope.current.set(Scope(trace=served.trace))
    settled(spans.tracing.calls(GRPC_CLIENT), made, Outcome(OK))
    scope.current.reset(token)
    outer.settle(ticket, Outcome(OK), 2.0)
    client, server = spans.ended()
    assert parent(client) == ids(server)[1]
    assert ids(client)[0] == ids(server)[0]
    assert api.get_current_span() is api.INVALID_SPAN


def test_a_call_made_in_a_span_of_the_users_hangs_below_that(spans: Spans) -> None:
    """Attached by the edge, OpenTelemetry's own spans and ours make one tree."""
    served, made = Call("order", "/shop.Order/Place"), Call("payment", CHARGE)
    outer = spans.tracing.calls(GRPC_SERVER)
    ticket = outer.admit(served, 1.0)
    token = scope.current.set(Scope(trace=served.trace))
    with attached(served), spans.provider.get_tracer("user").start_as_current_span("work"):
        settled(spans.tracing.calls(GRPC_CLIENT), made, Outcome(OK))
    scope.current.reset(token)
    outer.settle(ticket, Outcome(OK), 2.0)
    client, work, server = spans.ended()
    assert parent(client) == ids(work)[1]
    assert parent(work) == ids(server)[1]
    assert api.get_current_span() is api.INVALID_SPAN


@pytest.mark.usefixtures("incoming")
def test_a_span_of_another_trace_is_no_parent(spans: Spans) -> None:
    """Tasks inherit the context in which a server was started: its start-up span is nobody's caller."""
    with spans.provider.get_tracer("user").start_as_current_span("start-up"):
        settled(spans.tracing.calls(GRPC_SERVER), Call("payment", CHARGE), Outcome(OK))
        settled(spans.tracing.calls(GRPC_CLIENT), Call("payment", CHARGE), Outcome(OK))
    server, client, _ = spans.ended()
    assert parent(server) == parent(client) == "b" * 16


def test_what_comes_in_without_a_trace_begins_one(spans: Spans) -> None:
    """Also under a span that happens to be current."""
    with spans.provider.get_tracer("user").start_as_current_span("start-up"):
        settled(spans.tracing.calls(GRPC_SERVER), Call("payment", CHARGE), Outcome(OK))
    assert spans.ended()[0].parent is None


def test_a_script_with_a_span_of_its_own_is_the_parent_of_its_calls(spans: Spans) -> None:
    """Where there is no scope, the current span is what the work belongs to."""
    with spans.provider.get_tracer("user").start_as_current_span("script"):
        settled(spans.tracing.calls(GRPC_CLIENT), Call("payment", CHARGE), Outcome(OK))
    client, script = spans.ended()
    assert parent(client) == ids(script)[1]


def test_the_place_of_a_line_is_the_innermost_span(spans: Spans) -> None:
    """Logs name the span that they were written in."""
    assert spans.tracing.here() is None
    token = scope.current.set(Scope(trace=REMOTE))
    assert spans.tracing.here() is REMOTE
    scope.current.reset(token)
    with spans.provider.get_tracer("user").start_as_current_span("script") as script:
        here = spans.tracing.here()
    assert here is not None
    assert here.span_id == format(script.get_span_context().span_id, "016x")
    assert Tracing(on=False).here() is None


def test_spans_of_tasks_do_not_mix(spans: Spans) -> None:
    """Two requests at once, each with a call of its own, interleaved in virtual time."""
    server, client = spans.tracing.calls(GRPC_SERVER), spans.tracing.calls(GRPC_CLIENT)
    inner = aio.govern(Pipeline([client]), ScriptedHandler("a", cycle=True).aio)

    async def handle(call: Call) -> object:
        scope.current.set(Scope(trace=call.trace))
        with attached(call):
            await asyncio.sleep(1)
            return await inner(Call("payment", CHARGE))

    outer = aio.govern(Pipeline([server]), handle)

    async def main() -> None:
        await asyncio.gather(*(asyncio.create_task(outer(Call("order", f"/m/{n}"))) for n in range(20)))

    run(main())
    ended = {ids(span)[1]: span for span in spans.ended()}
    clients = [span for span in ended.values() if span.kind is SpanKind.CLIENT]
    assert len(clients) == 20
    assert len({ids(span)[0] for span in clients}) == 20
    for span in clients:
        assert ids(ended[parent(span)])[0] == ids(span)[0]


# Attempts.


def test_a_retried_call_shows_its_attempts(spans: Spans) -> None:
    """Each that failed and each that followed; the server's spans hang below the attempt that reached it."""
    sent: list[str] = []

    async def callee(call: Call) -> object:
        assert call.trace is not None
        sent.append(call.trace.span_id)
        if len(sent) < 3:
            raise ConnectionResetError
        return "done"

    pipeline = Pipeline(
        [spans.tracing.calls(GRPC_CLIENT), Retry(RetryRule(attempts=3)), spans.tracing.attempts(GRPC_CLIENT)]
    )
    run(aio.govern(pipeline, callee)(Call("payment", CHARGE, idempotent=True)))
    first, second, third, whole = spans.ended()
    assert [span.name for span in (first, second, third)] == ["attempt 1", "attempt 2", "attempt 3"]
    assert {span.kind for span in (first, second, third)} == {SpanKind.INTERNAL}
    assert {parent(span) for span in (first, second, third)} == {ids(whole)[1]}
    assert sent == [ids(whole)[1], ids(second)[1], ids(third)[1]]
    assert (whole.attributes or {})["msgov.attempts"] == 3
    assert (second.attributes or {})["msgov.attempt"] == 2
    assert (second.attributes or {})["error.type"] == "ConnectionResetError"
    assert third.status.status_code is StatusCode.UNSET


def test_a_call_that_went_well_at_once_is_one_span(spans: Spans) -> None:
    """Most calls do, and would cost twice."""
    pipeline = Pipeline([spans.tracing.calls(GRPC_CLIENT), Retry(), spans.tracing.attempts(GRPC_CLIENT)])
    run(aio.govern(pipeline, ScriptedHandler("done").aio)(Call("payment", CHARGE)))
    assert spans.one().kind is SpanKind.CLIENT


def test_a_first_attempt_that_failed_is_shown_as_long_as_it_took(spans: Spans) -> None:
    """Its span is made afterwards, so its times are given."""
    tracing = Tracing(spans.provider, clock=ManualClock(1000.0))
    call = Call("payment", CHARGE)
    outer = tracing.calls(GRPC_CLIENT).admit(call, 5.0)
    gate = tracing.attempts(GRPC_CLIENT)
    gate.settle(gate.admit(call, 5.0), Outcome(TRANSIENT, status="UNAVAILABLE"), 7.5)
    assert outer
    assert spans.one().start_time == 997_500_000_000


def test_an_attempt_tells_where_it_went(spans: Spans) -> None:
    """The call names the service, the attempt the instance."""

    class Place:
        id = "payment-2"
        address = "10.0.0.7:50051"

    call = Call("payment", CHARGE)
    spans.tracing.calls(GRPC_CLIENT).admit(call, 1.0)
    call.attempt = 2
    gate = spans.tracing.attempts(GRPC_CLIENT)
    ticket = gate.admit(call, 1.0)
    call.instance = Place()
    gate.settle(ticket, Outcome(OK), 2.0)
    assert (spans.one().attributes or {})["network.peer.address"] == "10.0.0.7:50051"


# Sampling.


class Asked(ParentBased):
    """A sampler that follows its parents, and is not to be asked about it."""

    def should_sample(self, *args: object, **more: object) -> object:
        """Fail."""
        raise AssertionError("asked")


def test_an_unsampled_trace_makes_no_span_and_asks_no_sampler() -> None:
    """What is known to be dropped costs one id."""
    spans = Spans(Asked(ALWAYS_ON))
    token = scope.current.set(Scope(trace=UNSAMPLED))
    call = Call("payment", CHARGE)
    settled(spans.tracing.calls(GRPC_CLIENT), call, Outcome(TRANSIENT))
    settled(spans.tracing.attempts(GRPC_CLIENT), call, Outcome(TRANSIENT))
    scope.current.reset(token)
    spans.provider.shutdown()
    assert not spans.ended()
    assert type(call.trace) is Dropped
    assert call.trace.trace_id == "c" * 32
    assert call.trace.span_id != "d" * 16
    assert not call.trace.sampled


def test_spans_of_the_users_follow_the_decision(spans: Spans) -> None:
    """Else each would begin a trace of its own, sampled or not."""
    token = scope.current.set(Scope(trace=UNSAMPLED))
    call = Call("payment", CHARGE)
    spans.tracing.calls(GRPC_SERVER).admit(call, 1.0)
    with attached(call), spans.provider.get_tracer("user").start_as_current_span("work") as work:
        assert format(work.get_span_context().trace_id, "032x") == "c" * 32
    scope.current.reset(token)
    assert not spans.ended()


def test_a_sampler_that_wants_to_be_asked_is_asked() -> None:
    """One that records everything does not follow its parents."""
    spans = Spans(ALWAYS_ON)
    token = scope.current.set(Scope(trace=UNSAMPLED))
    settled(spans.tracing.calls(GRPC_SERVER), Call("payment", CHARGE), Outcome(OK))
    scope.current.reset(token)
    assert ids(spans.one())[0] == "c" * 32
    spans.provider.shutdown()


def test_a_trace_that_the_sampler_drops_goes_on_unsampled() -> None:
    """The next hop must not sample it."""
    spans = Spans(ParentBased(ALWAYS_OFF))
    call = Call("payment", CHARGE)
    settled(spans.tracing.calls(GRPC_SERVER), call, Outcome(OK))
    assert call.trace is not None
    assert wire.write_traceparent(call.trace).endswith("-00")
    assert not spans.ended()
    spans.provider.shutdown()


# Nothing breaks a call.


class Broken(Sampler):
    """A sampler that fails."""

    def should_sample(self, *args: object, **more: object) -> object:
        """Fail."""
        raise ZeroDivisionError

    def get_description(self) -> str:
        """Name it."""
        return "Broken"


class BrokenProcessor(SpanProcessor):
    """A processor that fails at the end."""

    def on_end(self, span: ReadableSpan) -> None:
        """Fail."""
        raise ZeroDivisionError


def test_a_sampler_that_raises_costs_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is reported, and the call has minted ids."""
    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    spans, call = Spans(Broken()), Call("payment", CHARGE)
    pipeline = Pipeline([spans.tracing.calls(GRPC_CLIENT)])
    assert run(aio.govern(pipeline, ScriptedHandler("done").aio)(call)) == "done"
    assert call.trace is not None
    assert len(told) == 1
    spans.provider.shutdown()


def test_a_processor_that_raises_costs_no_call(monkeypatch: pytest.MonkeyPatch, spans: Spans) -> None:
    """It is reported too."""
    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    spans.provider.add_span_processor(BrokenProcessor())
    pipeline = Pipeline([spans.tracing.calls(GRPC_CLIENT)])
    assert run(aio.govern(pipeline, ScriptedHandler("done").aio)(Call("payment", CHARGE))) == "done"
    assert len(told) == 1


@pytest.mark.parametrize(
    "header",
    ["", "00-" + "0" * 32 + "-" + "b" * 16 + "-01", "zz", "00-" + "g" * 32 + "-" + "b" * 16 + "-01", "x" * 10_000],
)
def test_a_forged_trace_header_begins_a_new_trace(spans: Spans, header: str) -> None:
    """Never a crash, never a strange id."""
    token = scope.current.set(wire.incoming({"traceparent": header, "tracestate": "\x00"}, 0.0))
    settled(spans.tracing.calls(GRPC_SERVER), Call("payment", CHARGE), Outcome(OK))
    scope.current.reset(token)
    assert spans.one().parent is None
