"""An outcome has one word per wire and side, whoever asks: metrics, lines and spans agree."""

from __future__ import annotations

import asyncio
import logging

import pytest

from msgov.call import IGNORED, OK, PERMANENT, TRANSIENT, Call, Outcome
from msgov.errors import BreakerOpen, BulkheadFull, DeadlineExceeded, DeadlineSpent, MsgovError, RateLimited
from msgov.observability.edges import (
    FUNCTION,
    GRPC_CLIENT,
    GRPC_SERVER,
    HTTP_CLIENT,
    HTTP_SERVER,
    Messages,
)
from msgov.observability.semconv import GRPC_STATUSES, SERVER_FAULTS
from msgov.policy import classify

CALL = Call("payment", "/shop.Payment/Charge")
CONSUMER = Messages("consumer", system="embedded")
PRODUCER = Messages("producer", system="embedded")


def failed(error: BaseException, *, status: str | None = None) -> Outcome:
    """Judge an error as an edge does that knows no better, or that knows the wire's word."""
    outcome = classify(CALL, error)
    if status is not None:
        outcome.status = status
    return outcome


WELL = Outcome(OK)
REFUSED = failed(BreakerOpen("open"))
CANCELLED = failed(asyncio.CancelledError())
CLOSED = Outcome(IGNORED, status="closed")


@pytest.mark.parametrize("status", GRPC_STATUSES)
def test_a_grpc_client_errs_with_all_but_ok(status: str) -> None:
    """The conventions say so: whatever was not OK, the caller did not get its answer."""
    outcome = Outcome(OK if status == "OK" else TRANSIENT, status=status)
    assert GRPC_CLIENT.status(outcome) == status
    assert GRPC_CLIENT.error_type(outcome) == ("" if status == "OK" else status)


@pytest.mark.parametrize("status", GRPC_STATUSES)
def test_a_grpc_server_errs_with_six(status: str) -> None:
    """NOT_FOUND and a limiter's RESOURCE_EXHAUSTED are answers, not faults of the server."""
    outcome = Outcome(OK if status == "OK" else TRANSIENT, status=status)
    assert GRPC_SERVER.status(outcome) == status
    assert GRPC_SERVER.error_type(outcome) == (status if status in SERVER_FAULTS else "")
    assert len(SERVER_FAULTS) == 6


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (BreakerOpen("x"), "breaker_open"),
        (RateLimited("x"), "rate_limited"),
        (BulkheadFull("x"), "bulkhead_full"),
        (DeadlineSpent("x"), "deadline_exhausted"),
    ],
)
def test_a_local_refusal_is_named_by_its_reason_and_has_no_status(error: MsgovError, reason: str) -> None:
    """Nothing came over the wire, so there is no word of the wire for it."""
    outcome = failed(error)
    for edge in (GRPC_CLIENT, HTTP_CLIENT, FUNCTION):
        assert edge.status(outcome) == ""
        assert edge.error_type(outcome) == reason


def test_a_servers_refusal_is_told_as_it_goes_over_the_wire() -> None:
    """A rate limit is the caller's doing, an open breaker is a fault with a known reason."""
    limited = failed(RateLimited("x"))
    assert (GRPC_SERVER.status(limited), GRPC_SERVER.error_type(limited)) == ("RESOURCE_EXHAUSTED", "")
    assert (HTTP_SERVER.status(limited), HTTP_SERVER.error_type(limited)) == ("429", "")
    assert (GRPC_SERVER.status(REFUSED), GRPC_SERVER.error_type(REFUSED)) == ("UNAVAILABLE", "breaker_open")
    assert (HTTP_SERVER.status(REFUSED), HTTP_SERVER.error_type(REFUSED)) == ("503", "503")


def test_time_that_ran_out_is_a_deadline_on_every_wire() -> None:
    """Whether our own timer rang or the transport's."""
    late = failed(DeadlineExceeded("late"))
    assert GRPC_CLIENT.status(late) == GRPC_CLIENT.error_type(late) == "DEADLINE_EXCEEDED"
    assert GRPC_SERVER.status(late) == GRPC_SERVER.error_type(late) == "DEADLINE_EXCEEDED"
    assert HTTP_SERVER.status(late) == "504"
    assert HTTP_CLIENT.status(late) == ""
    assert HTTP_CLIENT.error_type(late) == "deadline_exceeded"
    assert CONSUMER.error_type(late) == "deadline_exceeded"


@pytest.mark.parametrize("outcome", [CANCELLED, CLOSED, Outcome(IGNORED, status="abandoned")])
def test_a_caller_that_went_away_is_no_fault_of_the_server(outcome: Outcome) -> None:
    """Cancelled, closed before its end, or left to the garbage collector."""
    assert GRPC_SERVER.status(outcome) == "CANCELLED"
    assert GRPC_SERVER.error_type(outcome) == ""
    assert HTTP_SERVER.status(outcome) == "499"
    assert HTTP_SERVER.error_type(outcome) == ""
    assert GRPC_CLIENT.error_type(outcome) == "CANCELLED"
    assert HTTP_CLIENT.error_type(outcome)


def test_an_exception_of_a_handler_is_unknown_and_a_servers_fault() -> None:
    """OpenTelemetry's own instrumentation calls it OK."""
    outcome = failed(ValueError("x"))
    assert GRPC_SERVER.status(outcome) == GRPC_SERVER.error_type(outcome) == "UNKNOWN"
    assert HTTP_SERVER.status(outcome) == HTTP_SERVER.error_type(outcome) == "500"
    assert CONSUMER.error_type(outcome) == "ValueError"


def test_a_failure_without_a_word_or_an_error_is_still_one() -> None:
    """Only what was given up is a cancellation."""
    assert GRPC_SERVER.error_type(Outcome(TRANSIENT)) == "UNKNOWN"
    assert HTTP_SERVER.error_type(Outcome(PERMANENT)) == "500"


def test_a_failure_that_met_no_wire_is_named_by_its_class() -> None:
    """A function has no status, nor has a connection that was never made."""
    outcome = failed(ConnectionRefusedError("x"))
    assert FUNCTION.error_type(outcome) == "ConnectionRefusedError"
    assert HTTP_CLIENT.error_type(failed(OSError("x"), status="ConnectError")) == "OSError"


@pytest.mark.parametrize(
    ("status", "server", "client"),
    [("200", "", ""), ("301", "", ""), ("404", "", "404"), ("429", "", "429"), ("500", "500", "500")],
)
def test_http_errs_from_500_on_a_server_and_from_400_on_a_client(status: str, server: str, client: str) -> None:
    """A 404 is the server's good answer and the client's failed request."""
    outcome = Outcome(OK if status < "400" else PERMANENT, status=status)
    assert HTTP_SERVER.error_type(outcome) == server
    assert HTTP_CLIENT.error_type(outcome) == client


def test_a_request_is_told_by_verb_and_route() -> None:
    """Where a server found no route, because there is none or because it was refused before, it is the other one."""
    assert HTTP_SERVER.labels(Call("order", "GET /orders/{id}"), WELL) == ("GET", "/orders/{id}", "200", "")
    assert HTTP_SERVER.labels(Call("order", "GET _OTHER"), WELL)[1] == "_OTHER"
    assert HTTP_SERVER.labels(Call("order", "GET"), REFUSED) == ("GET", "_OTHER", "503", "503")
    assert HTTP_SERVER.span(Call("order", "GET")) == "GET"


def test_a_client_has_a_route_only_where_it_was_told() -> None:
    """Its path has ids in it: each would be a series."""
    assert HTTP_CLIENT.labels(Call("catalog", "GET"), WELL) == ("GET", "", "200", "", "catalog")
    assert HTTP_CLIENT.labels(Call("catalog", "GET /items/{id}"), WELL)[1] == "/items/{id}"


def test_an_unknown_verb_is_other() -> None:
    """Anybody may send any verb."""
    assert HTTP_SERVER.labels(Call("order", "PWN /x"), WELL)[0] == "_OTHER"
    assert HTTP_SERVER.span(Call("order", "PWN _OTHER")) == "_OTHER _OTHER"


def test_a_method_loses_its_slash() -> None:
    """`rpc.method` is "pkg.Service/Method"."""
    assert GRPC_SERVER.labels(CALL, WELL) == ("grpc", "shop.Payment/Charge", "OK", "")
    assert GRPC_CLIENT.labels(CALL, WELL) == ("grpc", "shop.Payment/Charge", "OK", "", "payment")
    assert FUNCTION.labels(Call("gateway"), WELL) == ("function", "gateway", "OK", "", "gateway")


def test_a_message_is_told_by_its_destination() -> None:
    """The group says who processed it."""
    call = Call("audit", "order.placed")
    assert CONSUMER.labels(call, WELL) == ("embedded", "process", "order.placed", "audit", "")
    assert PRODUCER.labels(Call("order.placed"), WELL) == ("embedded", "send", "order.placed", "", "")
    assert CONSUMER.span(call) == "process order.placed"
    assert PRODUCER.span(Call("order.placed")) == "send order.placed"
    assert CONSUMER.error_type(Outcome(TRANSIENT)) == "transient"


@pytest.mark.parametrize("edge", [GRPC_CLIENT, GRPC_SERVER, HTTP_CLIENT, HTTP_SERVER, FUNCTION, CONSUMER, PRODUCER])
def test_labels_fit_the_metric(edge: object) -> None:
    """One label too few would shift all that follow."""
    for outcome in (WELL, REFUSED, CANCELLED, CLOSED, failed(ValueError())):
        assert len(edge.labels(CALL, outcome)) == len(edge.duration.labels)


def test_a_servers_level_follows_the_status() -> None:
    """The tables are go-grpc-middleware's, which people know."""
    levels = {status: GRPC_SERVER.level(Outcome(TRANSIENT, status=status)) for status in GRPC_STATUSES}
    assert {status for status, level in levels.items() if level == logging.ERROR} == {
        "UNKNOWN",
        "UNIMPLEMENTED",
        "INTERNAL",
        "DATA_LOSS",
    }
    assert {status for status, level in levels.items() if level == logging.INFO} == {
        "OK",
        "CANCELLED",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "UNAUTHENTICATED",
    }
    assert HTTP_SERVER.level(Outcome(PERMANENT, status="404")) == logging.INFO
    assert HTTP_SERVER.level(Outcome(TRANSIENT, status="503")) == logging.WARNING
    assert HTTP_SERVER.level(failed(ValueError())) == logging.ERROR


def test_a_clients_success_is_worth_a_debug_line() -> None:
    """The server's own line says more."""
    for edge in (GRPC_CLIENT, HTTP_CLIENT, FUNCTION, PRODUCER):
        assert edge.level(WELL) == logging.DEBUG
    assert GRPC_CLIENT.level(Outcome(TRANSIENT, status="UNAVAILABLE")) == logging.WARNING
    assert GRPC_CLIENT.level(REFUSED) == logging.INFO


def test_a_message_that_comes_again_is_a_warning() -> None:
    """One that does not is an error."""
    assert CONSUMER.level(WELL) == logging.INFO
    assert CONSUMER.level(failed(OSError())) == logging.WARNING
    assert CONSUMER.level(failed(TypeError())) == logging.ERROR
