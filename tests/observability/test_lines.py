"""One line per request, at its end, whatever its end was."""

from __future__ import annotations

import pytest

from msgov import aio
from msgov.call import IGNORED, OK, PERMANENT, TRANSIENT, Call, Outcome
from msgov.errors import BreakerOpen
from msgov.observability.edges import GRPC_CLIENT, GRPC_SERVER, HTTP_SERVER, Messages
from msgov.observability.lines import Lines
from msgov.observability.logs import levels
from msgov.pipeline import Pipeline
from msgov.policy import classify
from msgov.resilience.limiter import Limiter, LimiterRule
from msgov.scope import Trace
from msgov.testing import ScriptedHandler, run
from tests.observability.reading import Written

PLANTED = "hunter2-Zx91"


def settled(lines: Lines, call: Call, outcome: Outcome, *, seconds: float = 0.25) -> None:
    """Let one call through."""
    lines.settle(lines.admit(call, 10.0), outcome, 10.0 + seconds)


def test_a_served_call_leaves_one_line(written: Written) -> None:
    """With all that the reader of one line wants to know."""
    call = Call("order", "/shop.Order/Place", deadline=11.0, metadata={"x-request-id": "r-1"})
    call.trace = Trace("a" * 32, "b" * 16)
    settled(Lines(GRPC_SERVER), call, Outcome(OK))
    line = written.line()
    assert line.pop("timestamp")
    assert line == {
        "level": "info",
        "event": "rpc.server.completed",
        "logger": "msgov.calls.server",
        "service": "order",
        "version": "1.4.0",
        "instance": "order-1",
        "trace_id": "a" * 32,
        "span_id": "b" * 16,
        "request_id": "r-1",
        "rpc_method": "shop.Order/Place",
        "status": "OK",
        "duration_s": 0.25,
        "deadline_left_s": 0.75,
    }


def test_a_call_without_a_trace_belongs_to_the_process(written: Written) -> None:
    """Every line has 32 digits."""
    settled(Lines(GRPC_SERVER), Call("order", "/a/B"), Outcome(OK))
    assert written.line()["trace_id"] == written.logs.root.trace_id


def test_a_failure_is_told_with_its_kind_and_text(written: Written) -> None:
    """The text is scrubbed; a server's traceback is its edge's to tell."""
    outcome = classify(Call(""), ConnectionError(f"postgres://app:{PLANTED}@db refused"))
    settled(Lines(GRPC_SERVER), Call("order", "/a/B"), outcome)
    line = written.line()
    assert line["level"] == "error"
    assert line["status"] == "UNKNOWN"
    assert line["error"] == {"type": "ConnectionError", "message": "postgres://**********@db refused"}
    assert "exception" not in line


def test_a_refusal_is_told_by_its_reason(written: Written) -> None:
    """The reason is what dashboards and people call it."""
    settled(Lines(GRPC_SERVER), Call("order", "/a/B"), classify(Call(""), BreakerOpen("payment: breaker open")))
    assert written.line()["level"] == "warning"
    assert written.line()["error"] == {"type": "breaker_open", "message": "payment: breaker open"}


def test_a_consumer_tells_why_a_message_is_lost(written: Written) -> None:
    """Nobody else prints that traceback."""
    try:
        raise TypeError("no such field")
    except TypeError as error:
        outcome = classify(Call(""), error)
    settled(Lines(Messages("consumer", system="embedded")), Call("audit", "order.placed"), outcome)
    line = written.line()
    assert (line["event"], line["destination"], line["status"]) == ("message.processed", "order.placed", "permanent")
    assert str(line["exception"]).endswith("TypeError: no such field")


def test_a_clients_success_is_silent_until_asked_for(written: Written) -> None:
    """The server's line tells more; the client's adds what it took to get there."""
    lines, call = Lines(GRPC_CLIENT), Call("payment", "/shop.Payment/Charge")
    call.attempt = 2
    settled(lines, call, Outcome(OK))
    assert written.text() == ""
    levels.set("debug", logger="msgov.calls.client")
    try:
        settled(lines, call, Outcome(OK))
    finally:
        levels.restore()
    assert (written.line()["target"], written.line()["attempts"]) == ("payment", 2)


def test_a_slow_call_is_marked_and_never_silent(written: Written) -> None:
    """That is the line one looks for when the mean rises and no errors do."""
    lines = Lines(GRPC_CLIENT, slow=1.0)
    settled(lines, Call("payment", "/a/B"), Outcome(OK), seconds=0.999)
    assert written.text() == ""
    settled(lines, Call("payment", "/a/B"), Outcome(OK), seconds=1.0)
    assert written.line()["slow"] is True
    assert written.line()["level"] == "info"


def test_a_request_is_told_by_its_route(written: Written) -> None:
    """As it is known at the end."""
    lines, call = Lines(HTTP_SERVER), Call("order", "GET")
    ticket = lines.admit(call, 1.0)
    call.method = "GET /orders/{id}"
    lines.settle(ticket, Outcome(PERMANENT, status="404"), 1.5)
    line = written.line()
    assert (line["http_route"], line["status"], line["level"]) == ("GET /orders/{id}", "404", "info")


def test_a_service_that_shares_its_process_has_its_own_name(written: Written) -> None:
    """Together in one process, the lines stay apart."""
    settled(Lines(GRPC_SERVER, service="payment"), Call("payment", "/a/B"), Outcome(OK))
    assert written.line()["service"] == "payment"


def test_what_a_caller_sends_forges_nothing(written: Written) -> None:
    """Names and ids come from the wire."""
    call = Call("o\x1b[0m", "/a\n\x9b/\u2028B", metadata={"x-request-id": "\x1b]0;" + "x" * 1000})
    settled(Lines(GRPC_SERVER), call, Outcome(TRANSIENT, status="weird\n"))
    assert len(written.lines()) == 1
    assert "\x1b" not in written.text()
    assert "\u2028" not in written.text()
    assert len(str(written.line()["request_id"])) <= 140


@pytest.mark.parametrize("script", [("done",), (ValueError,)])
def test_each_call_through_a_pipeline_is_one_line(written: Written, script: tuple[object, ...]) -> None:
    """Reply or error, the driver settles it once."""
    pipeline = Pipeline([Lines(GRPC_SERVER)])
    callee = ScriptedHandler(*script)

    async def main() -> None:
        try:
            await aio.govern(pipeline, callee.aio)(Call("order", "/a/B"))
        except ValueError:
            pass

    run(main())
    assert len(written.lines()) == 1


def test_a_call_refused_further_in_has_its_line(written: Written) -> None:
    """It stands outside of whatever may refuse."""
    pipeline = Pipeline([Lines(GRPC_SERVER), Limiter(LimiterRule(rate=1, burst=1))])

    async def main() -> None:
        handler = aio.govern(pipeline, ScriptedHandler("a", cycle=True).aio)
        await handler(Call("order", "/a/B"))
        with pytest.raises(Exception, match="calls/s"):
            await handler(Call("order", "/a/B"))

    run(main())
    first, second = written.lines()
    assert (first["status"], second["status"]) == ("OK", "RESOURCE_EXHAUSTED")


def test_a_stream_closed_early_has_its_line(written: Written) -> None:
    """A caller that went away is no error."""
    settled(Lines(GRPC_SERVER), Call("order", "/a/B"), Outcome(IGNORED, status="closed"))
    assert (written.line()["status"], written.line()["level"]) == ("CANCELLED", "info")


@pytest.mark.parametrize("method", ["/a/100%s", "/a/%(x)s{0}", '/a/"\\', "/a/\ue000", "/a/\ue003é\u2028"])
def test_a_name_cannot_break_the_form_of_its_lines(written: Written, method: str) -> None:
    """Lines of one form are encoded once and filled in: what looks like a blank, or like `%`, stays what it is."""
    lines = Lines(GRPC_SERVER)
    for seconds in (0.25, 0.5):
        call = Call("order", method, deadline=11.0)
        call.trace = Trace("a" * 32, "b" * 16)
        settled(lines, call, Outcome(OK), seconds=seconds)
    first, second = written.lines()
    assert first["rpc_method"] == second["rpc_method"]
    assert (first["duration_s"], first["deadline_left_s"]) == (0.25, 0.75)
    assert (second["duration_s"], second["deadline_left_s"]) == (0.5, 0.5)
    assert second["trace_id"] == "a" * 32


def test_forms_follow_the_name_of_the_process(written: Written) -> None:
    """An instance learns where it listens after its first calls."""
    lines = Lines(GRPC_SERVER)
    for instance in ("order-1", "order-2"):
        written.logs.identity = {**written.logs.identity, "instance": instance}
        call = Call("order", "/a/B")
        call.trace = Trace("a" * 32, "b" * 16)
        settled(lines, call, Outcome(OK))
    assert [line["instance"] for line in written.lines()] == ["order-1", "order-2"]


def test_forms_are_bounded(written: Written) -> None:
    """Whoever calls a thousand methods fills no memory."""
    lines = Lines(GRPC_SERVER)
    for number in range(1200):
        call = Call("order", f"/a/{number}")
        call.trace = Trace("a" * 32, "b" * 16)
        settled(lines, call, Outcome(OK))
    assert len(lines._forms) <= 500
