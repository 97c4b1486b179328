"""One call sets all of it up, and leaves nothing behind when it is taken down."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.registry import CollectorRegistry

from msgov import aio
from msgov.call import TRANSIENT, Call, Outcome
from msgov.errors import RuleError
from msgov.event import Event, Observers
from msgov.observability.edges import GRPC_CLIENT, GRPC_SERVER
from msgov.observability.logs import get_logger, installed, levels
from msgov.observability.setup import Observability, observability
from msgov.pipeline import Pipeline
from msgov.resilience.breaker import Breaker, BreakerRule
from msgov.resilience.retry import Retry
from msgov.scope import Scope, current
from msgov.testing import ScriptedHandler, run
from tests.observability.reading import Paper


def both(order: Observability, payment: Observability) -> object:
    """Serve a call of order that calls payment, which fails once."""
    charge = ScriptedHandler(ConnectionResetError, "charged")
    client = Pipeline([*order.gates(GRPC_CLIENT), Retry(), *order.attempts(GRPC_CLIENT), *payment.gates(GRPC_SERVER)])
    send = aio.govern(client, charge.aio)

    async def place(call: Call) -> object:
        token = current.set(Scope(trace=call.trace))
        try:
            return await send(Call("payment", "/shop.Payment/Charge", idempotent=True))
        finally:
            current.reset(token)

    serve = aio.govern(Pipeline(order.gates(GRPC_SERVER)), place)
    return run(serve(Call("order", "/shop.Order/Place")))


def test_lines_metrics_and_spans_tell_of_the_same_call(paper: Paper) -> None:
    """The whole of it, through the real drivers: one trace, one line per request served, one observation each."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with observability("order", version="1.4.0", logs="json", traces=provider, fd=paper.fd) as seen:
        assert both(seen, seen) == "charged"
        kind, page = seen.exposition()
    provider.shutdown()
    assert kind.startswith("text/plain")
    text = page.decode()
    assert 'rpc_status_code="UNKNOWN"' in text
    assert re.search(r'msgov_client_attempts_total\{attempt="2",outcome="ok".*\} 1\.0', text)
    assert 'msgov_build_info{msgov="' in text
    assert "msgov_server_inflight 0.0" in text
    ids = {line["trace_id"] for line in paper.lines()}
    assert len(ids) == 1
    ended = exporter.get_finished_spans()
    assert {format(span.context.trace_id, "032x") for span in ended if span.context} == ids
    assert [line["status"] for line in paper.lines()] == ["UNKNOWN", "OK", "OK"]


def test_a_line_names_the_span_that_it_was_written_in(paper: Paper) -> None:
    """Also a span made by hand, inside ours or in a script."""
    provider = TracerProvider(shutdown_on_exit=False)
    with (
        observability("order", logs="json", traces=provider, fd=paper.fd),
        provider.get_tracer("user").start_as_current_span("script") as span,
    ):
        get_logger("shop").info("x")
    provider.shutdown()
    assert paper.line()["span_id"] == format(span.get_span_context().span_id, "016x")


def test_two_services_of_one_process_share_and_stay_apart(paper: Paper) -> None:
    """Together in one process: one page, one stream of lines, each line under its own service's name."""
    order = observability("order", logs="json", fd=paper.fd)
    payment = observability("payment", logs="json")
    assert order.metrics is payment.metrics
    both(order, payment)
    assert [line["service"] for line in paper.lines()] == ["payment", "payment", "order"]
    order.shutdown()
    get_logger("shop").info("still here")
    payment.shutdown()
    get_logger("shop").debug("gone")
    assert paper.lines()[-1]["event"] == "still here"


def test_everything_is_as_it_was_afterwards(paper: Paper) -> None:
    """No handler, no hook, no level, no thread, no registration is left."""
    registry = CollectorRegistry()
    root = logging.getLogger()
    before = (list(root.handlers), root.level, logging.raiseExceptions, installed(), threading.active_count())
    seen = observability("order", logs="json", level="debug", metrics=registry, fd=paper.fd)
    assert installed() is not before[3]
    assert root.level == logging.DEBUG
    seen.shutdown()
    seen.shutdown()
    after = (list(root.handlers), root.level, logging.raiseExceptions, installed(), threading.active_count())
    assert after == before
    assert levels.of("shop") == "info"
    assert not list(registry.collect())


def test_a_breaker_is_seen_on_the_page_and_in_the_lines(paper: Paper) -> None:
    """Handed the observer, and watched."""
    with observability("order", logs="json", fd=paper.fd) as seen:
        breaker = Breaker(
            BreakerRule(minimum_calls=1), name="pay", target="payment", observers=Observers(seen.observer)
        )
        assert seen.metrics is not None
        seen.metrics.readings.watch(breaker)
        breaker.settle(breaker.admit(Call("payment"), 1.0), Outcome(TRANSIENT), 1.0)
        page = seen.exposition()[1].decode()
    assert paper.line()["event"] == "breaker.opened"
    assert 'msgov_breaker_state{breaker="pay",state="open",target="payment"} 1.0' in page
    assert 'to="open"' in page


def test_the_page_tells_of_lost_lines() -> None:
    """A full disk is seen in the metrics, for it cannot be seen in the logs."""
    reader, writer = os.pipe()
    os.close(reader)
    with observability("order", logs="json", fd=writer) as seen:
        get_logger("shop").info("x")
        page = seen.exposition()[1].decode()
    os.close(writer)
    assert 'msgov_telemetry_dropped_total{reason="write",signal="logs"} 1.0' in page


def test_a_metric_that_overflows_is_told_once(paper: Paper) -> None:
    """Somebody must find out where the label comes from."""
    with observability("order", logs="json", fd=paper.fd) as seen:
        assert seen.metrics is not None
        gate = seen.metrics.attempts(GRPC_CLIENT)
        for number in range(300):
            call = Call(f"t{number}")
            gate.settle(gate.admit(call, 1.0), Outcome(TRANSIENT), 2.0)
    told = [line["metric"] for line in paper.lines() if line["event"] == "metric.overflow"]
    assert sorted(map(str, told)) == ["msgov_client_attempt_duration_seconds", "msgov_client_attempts_total"]


def test_what_is_not_wanted_is_not_there(paper: Paper) -> None:
    """Each of the three can be left out; ids are minted all the same."""
    with observability("order", logs="off", metrics=False, traces=False, fd=paper.fd) as seen:
        assert len(seen.gates(GRPC_SERVER)) == 1
        assert len(seen.attempts(GRPC_CLIENT)) == 1
        seen.observer(Event("breaker.opened", "pay", "payment", 1.0, {}))
        call = Call("order", "/a/B")
        seen.gates(GRPC_SERVER)[0].admit(call, 1.0)
        assert call.trace is not None
        assert seen.exposition()[1] == b""
    assert paper.text() == ""


def test_the_instance_is_named_once_it_is_known(paper: Paper) -> None:
    """A port of 0 is known only after binding."""
    with observability("order", logs="json", fd=paper.fd) as seen:
        get_logger("shop").info("x")
        seen.at("10.0.0.7:50051")
        get_logger("shop").info("y")
    first, second = paper.lines()
    assert str(first["instance"]).endswith(f"-{os.getpid()}")
    assert second["instance"] == "10.0.0.7:50051"


def test_a_file_gets_json_and_a_terminal_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads decides, without being asked."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    leader, follower = pty.openpty()
    try:
        with observability("order", fd=follower):
            get_logger("shop").info("order.placed", order=7)
        assert b"order.placed" in (text := os.read(leader, 10_000))
        assert not text.startswith(b"{")
        assert b"\x1b[" in text
        monkeypatch.setenv("NO_COLOR", "1")
        with observability("order", fd=follower):
            get_logger("shop").info("order.placed", order=7)
        assert b"\x1b[" not in os.read(leader, 10_000)
    finally:
        os.close(leader)
        os.close(follower)
    paper = Paper(tmp_path / "lines")
    with observability("order", fd=paper.fd):
        get_logger("shop").info("order.placed", order=7)
    os.close(paper.fd)
    assert paper.line()["order"] == 7


@pytest.mark.parametrize(
    ("options", "told"),
    [({"logs": "xml"}, "auto, json, console, off"), ({"level": "loud"}, "debug, info, warning, error, critical")],
)
def test_what_cannot_be_is_refused(options: dict[str, str], told: str, paper: Paper) -> None:
    """With what there is, and with nothing left set up."""
    before = installed()
    with pytest.raises(RuleError, match=told):
        observability("order", fd=paper.fd, **options)
    assert installed() is before
    with observability("order", logs="off"):
        pass


def test_a_service_has_a_name() -> None:
    """Lines of nobody help nobody."""
    with pytest.raises(RuleError, match="a name"):
        observability("")


def test_a_second_service_writes_as_the_first(paper: Paper) -> None:
    """There is one standard error."""
    with observability("order", logs="json", fd=paper.fd), pytest.raises(RuleError, match="json"):
        observability("payment", logs="console")


def test_every_line_of_a_process_is_ours() -> None:
    """Ours, foreign ones, warnings: each is JSON with 32 digits, and nothing stands beside them."""
    script = """
        import asyncio, logging, warnings
        from msgov.observability.logs import get_logger
        from msgov.observability.setup import observability

        log = get_logger("shop")
        with observability("order"):
            log.info("started", password="hunter2-Zx91")
            logging.getLogger("lib").warning("slow %s", "Bearer hunter2-Zx91")
            warnings.warn("old")

            async def forgotten():
                raise ValueError("token=hunter2-Zx91")

            async def main():
                task = asyncio.ensure_future(forgotten())
                await asyncio.sleep(0)
                del task

            asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == ""
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["logger"] for line in lines] == ["shop", "lib", "py.warnings", "asyncio"]
    assert all(re.fullmatch(r"[0-9a-f]{32}", line["trace_id"]) for line in lines)
    assert "hunter2" not in done.stderr
