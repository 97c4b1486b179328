"""An ASGI application behind a real server is governed, and every ticket comes back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware as Installed
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from msgov import scope
from msgov.errors import (
    BulkheadFull,
    CallFailed,
    RateLimited,
)
from msgov.resilience.breaker import Breaker, BreakerRule
from msgov.resilience.fallback import Fallback
from msgov.resilience.limiter import Limiter, LimiterRule
from msgov.transport.asgi import HttpEdge, Middleware
from tests.transport.shop import Shop
from tests.transport.web import (
    TRACE,
    TRACEPARENT,
    No,
    Seen,
    Server,
    connection,
    get,
    governed,
    http,
    raw,
    run,
    serving,
    silent,
    until,
)

# What passes.


@run
async def test_a_reply_passes_unchanged() -> None:
    """Governing must not be seen by a caller who is served."""
    seen = Seen()
    async with serving(governed(Shop().app, seen)) as port:
        answer = await raw(port, get("/hello/ann"))
    assert (answer.status, answer.body) == (200, b"hello ann")
    assert sorted(answer.headers) == ["connection", "content-length", "content-type"]
    assert (seen.inside, seen.ends) == (0, [("OK", "200")])


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer each part of a body as it comes."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    more = True
    while more:
        message = await receive()
        more = message.get("more_body", False)
        await send({"type": "http.response.body", "body": message.get("body", b"").upper(), "more_body": more})


@run
async def test_bodies_stream_both_ways_and_hold_the_ticket() -> None:
    """A stream is under way until its last byte: a bulkhead must count it so long."""
    seen = Seen()
    async with serving(governed(echo, seen)) as port, connection(port) as (reader, writer):
        writer.write(b"POST /echo HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await reader.readuntil(b"ABC\r\n")
        assert seen.inside == 1
        await asyncio.sleep(0.15)  # past the tick from which the request is watched: what comes is read ahead
        writer.write(b"3\r\ndef\r\n")
        await reader.readuntil(b"DEF\r\n")
        assert seen.inside == 1
        writer.write(b"0\r\n\r\n")
        await reader.readuntil(b"0\r\n\r\n")
        await until(lambda: seen.inside == 0)
    assert seen.ends == [("OK", "200")]


@run
async def test_lifespan_passes() -> None:
    """An application's own start and stop run under the middleware."""
    told: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, str]]:
        told.append("start")
        yield {"made": "at start"}
        told.append("stop")

    async def state(request: Request) -> Response:
        return PlainTextResponse(request.state.made)

    app = Starlette(routes=[Route("/", state)], lifespan=lifespan)
    async with serving(governed(app), lifespan="on") as port:
        assert (await raw(port, get("/"))).body == b"at start"
    assert told == ["start", "stop"]


@run
async def test_nothing_is_read_ahead_of_a_quick_application() -> None:
    """The watcher is armed only for what is older than a tick: a task for each request would cost more than it does."""
    server = Server()
    await governed(Shop().app)(http("/hello/ann"), server.receive, server.send)
    assert (server.status, server.asked) == (200, 0)


# What is refused at the door.


@run
async def test_a_refusal_is_a_problem_with_a_time_to_come_back() -> None:
    """RFC 9457 and Retry-After: a program can read why, a person is told something kind, a caller may go elsewhere."""
    shop = Shop()
    refuse = No(RateLimited("10 a second", retry_after=1.2))
    async with serving(governed(shop.app, refuse)) as port:
        answer = await raw(port, get("/slow", TRACEPARENT))
    assert answer.status == 429
    assert answer.problem == {
        "type": "about:blank",
        "title": "Too Many Requests",
        "status": 429,
        "detail": "Too many requests. Please slow down.",
        "code": "rate_limited",
        "retry_after": 1.2,
        "trace_id": TRACE,
        "why": {"safe_to_retry": True, "policy": "no"},
    }
    assert answer.headers["retry-after"] == "2"
    assert answer.headers["msgov-sent"] == "no"
    assert answer.headers["msgov-reason"] == "rate_limited"
    assert answer.headers["x-trace-id"] == TRACE
    assert shop.ended == []


@run
async def test_a_limiter_counts_by_peer() -> None:
    """The key is the socket's peer: rotating X-Forwarded-For frees nobody (S12)."""
    limiter = Limiter(LimiterRule(rate="1/h", burst=2))
    async with serving(governed(Shop().app, limiter)) as port:
        found = [(await raw(port, get("/hello/ann", f"x-forwarded-for: 6.6.6.{turn}"))).status for turn in range(4)]
    assert found == [200, 200, 429, 429]


@run
async def test_what_fails_at_the_door_is_never_named_by_its_path() -> None:
    """Clients make paths up: each would be a series of its own."""
    seen = Seen()
    async with serving(governed(Shop().app, seen, No(BulkheadFull("full")))) as port:
        await raw(port, get("/hello/ann"))
    assert seen.methods == ["GET _OTHER"]


# What fails inside.


@run
async def test_an_error_is_answered_without_its_text_and_logged_with_its_trace() -> None:
    """What an exception says may be a secret; whoever runs the service finds it under the trace that the caller has."""
    told: list[tuple[str, str]] = []

    class Listen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            trace = scope.current.get().trace
            told.append((record.getMessage(), trace.trace_id if trace else ""))

    log, listen = logging.getLogger("msgov.asgi"), Listen()
    log.addHandler(listen)
    log.propagate = False
    seen = Seen()
    try:
        async with serving(governed(Shop().app, seen)) as port:
            answer = await raw(port, get("/boom", TRACEPARENT))
    finally:
        log.removeHandler(listen)
        log.propagate = True
    assert answer.status == 500
    assert (answer.problem["code"], answer.problem["trace_id"]) == ("internal", TRACE)
    assert b"hunter2" not in answer.body
    assert told == [("GET /boom failed", TRACE)]
    assert seen.ends == [("TRANSIENT", "500")]
    assert "msgov-sent" not in answer.headers


@pytest.mark.parametrize("error", [TypeError("a bug"), ValueError("a bug"), CallFailed("no", status="404")])
def test_any_error_teaches_the_breaker(error: Exception) -> None:
    """To a caller a bug of ours is an application that is down."""
    if isinstance(error, CallFailed):
        error = KeyError("a bug")

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise error

    async def main() -> list[tuple[str, str]]:
        seen, server = Seen(), Server()
        await governed(broken, seen)(http(), server.receive, server.send)
        assert server.status == 500
        return seen.ends

    with silent("msgov.asgi"):
        assert asyncio.run(main()) == [("TRANSIENT", "500")]


@run
async def test_a_refusal_of_something_inside_becomes_the_reply() -> None:
    """A framework would say 500; the caller is told when to come back, but not that nothing was done."""
    seen = Seen()
    async with serving(governed(Shop().app, seen)) as port:
        answer = await raw(port, get("/down"))
        other = await raw(port, get("/nested"))
    assert (answer.status, answer.problem["code"], answer.headers["retry-after"]) == (503, "breaker_open", "3")
    assert answer.headers["msgov-overloaded"] == "1"
    assert "msgov-sent" not in answer.headers
    assert (other.status, other.problem["code"], other.headers["retry-after"]) == (503, "call_failed", "3")
    assert seen.ends == [("IGNORED", "503"), ("TRANSIENT", "503")]


@run
async def test_an_applications_own_words_for_its_errors_stand() -> None:
    """Whoever wrote a page for failures wants it shown."""

    async def sorry(request: Request, error: Exception) -> Response:
        return PlainTextResponse("sorry, from the shop", status_code=500)

    async def boom(request: Request) -> Response:
        raise ValueError("secret")

    seen = Seen()
    app = Starlette(routes=[Route("/", boom)], exception_handlers={Exception: sorry})
    with silent("msgov.asgi"):
        async with serving(governed(app, seen)) as port:
            answer = await raw(port, get("/"))
    assert (answer.status, answer.body) == (500, b"sorry, from the shop")
    assert seen.ends == [("TRANSIENT", "500")]


@run
async def test_failing_replies_open_the_breaker_which_answers_kindly() -> None:
    """A breaker round an application turns its failures into one friendly refusal."""
    breaker = Breaker(BreakerRule(minimum_calls=3, open_seconds=5, open_cap=5))
    async with serving(governed(Shop().app, breaker)) as port:
        failed = [(await raw(port, get("/status/502"))).status for _ in range(3)]
        answer = await raw(port, get("/hello/ann"))
    assert failed == [502, 502, 502]
    assert (answer.status, answer.problem["code"]) == (503, "breaker_open")
    assert 2 <= int(answer.headers["retry-after"]) <= 5


@run
async def test_an_answer_of_400_is_an_answer() -> None:
    """What the caller did wrong says nothing bad of the application; what it sent passes as it is."""
    seen = Seen()
    async with serving(governed(Shop().app, seen)) as port:
        answer = await raw(port, get("/status/404"))
        await raw(port, get("/status/503"))
    assert (answer.status, answer.body) == (404, b"so be it")
    assert seen.ends == [("PERMANENT", "404"), ("TRANSIENT", "503")]


@run
async def test_no_reply_at_all_is_a_failure() -> None:
    """An application that forgets to answer must not leave its caller waiting."""

    async def mute(scope: Any, receive: Any, send: Any) -> None:
        """Say nothing."""

    seen = Seen()
    with silent("msgov.asgi"):
        async with serving(governed(mute, seen)) as port:
            assert (await raw(port, get("/"))).status == 500
    assert seen.ends == [("TRANSIENT", "500")]


@run
async def test_a_fallback_answers_with_a_response() -> None:
    """For what failed, and for what was refused: the reply that stood before is not sent."""
    seen = Seen()
    spare = Fallback(lambda call, error: JSONResponse({"from": "the shelf"}))
    async with serving(governed(Shop().app, seen, spare)) as port:
        answer = await raw(port, get("/status/503"))
        thrown = await raw(port, get("/down"))
    assert (answer.status, answer.body) == (200, b'{"from":"the shelf"}')
    assert (thrown.status, thrown.body) == (200, b'{"from":"the shelf"}')
    assert [verdict for verdict, _ in seen.ends] == ["OK", "OK"]


@run
async def test_a_fallback_that_is_no_response_is_told_apart() -> None:
    """A value cannot be sent: the caller hears of a fault of ours, the log of what it was."""
    with silent("msgov.asgi"):
        async with serving(governed(Shop().app, Fallback({"from": "the shelf"}), No(BulkheadFull("full")))) as port:
            assert (await raw(port, get("/hello/ann"))).status == 500


# Where it stands.


@run
async def test_it_stands_among_a_frameworks_own_middleware() -> None:
    """Installed inside, or round a mounted application: it governs what it wraps, by the same names."""

    async def item(request: Request) -> Response:
        if request.path_params["item"] == "0":
            raise ValueError("secret")
        return PlainTextResponse("item")

    seen, mounted = Seen(), Seen()
    edge = HttpEdge(service="shop", policies=lambda _: (seen,))
    inner = governed(Starlette(routes=[Route("/{item}", item)]), mounted)
    app = Starlette(
        routes=[Route("/items/{item}", item), Mount("/in", app=inner)],
        middleware=[Installed(Middleware, edge=edge)],
    )
    with silent("msgov.asgi"):
        async with serving(app) as port:
            found = [(await raw(port, get(path))).status for path in ("/items/1", "/items/0", "/in/3")]
    assert found == [200, 500, 200]
    assert seen.methods == ["GET /items/{item}", "GET /items/{item}", "GET /in/{item}"]
    assert seen.ends == [("OK", "200"), ("TRANSIENT", "500"), ("OK", "200")]
    assert mounted.methods == ["GET /in/{item}"]


@run
async def test_policies_are_asked_for_by_verb_and_path() -> None:
    """A rule for one path must reach it before any router has seen the request."""
    asked: list[str] = []

    def policies(operation: str) -> tuple[Any, ...]:
        asked.append(operation)
        return ()

    app = Middleware(Shop().app, HttpEdge(service="shop", policies=policies))
    async with serving(app) as port:
        await raw(port, get("/hello/ann?x=1"))
    assert asked == ["GET /hello/ann"]
