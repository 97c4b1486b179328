"""An ASGI application behind a real server is governed, and every ticket comes back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware as Installed
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from msgov import scope
from msgov.call import Call
from msgov.errors import BreakerOpen, BulkheadFull, CallFailed, RateLimited, RuleError
from msgov.policy import AsyncHandler
from msgov.resilience.breaker import Breaker, BreakerRule
from msgov.resilience.bulkhead import Bulkhead, BulkheadRule
from msgov.resilience.deadline import Deadline
from msgov.resilience.fallback import Fallback
from msgov.resilience.limiter import Limiter, LimiterRule
from msgov.transport.asgi import HttpEdge, Limits, Middleware
from tests.transport.web import (
    TRACE,
    TRACEPARENT,
    Answer,
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


class Shop:
    """An application whose routes show what became of a request."""

    def __init__(self) -> None:
        self.running = 0
        self.ended: list[str] = []
        self.seen: list[scope.Scope] = []
        self.release = asyncio.Event()
        routes = [
            Route("/hello/{name}", self.hello),
            Route("/count", self.count, methods=["POST"]),
            Route("/slow", self.slow, methods=["GET", "POST"]),
            Route("/late", self.late, methods=["GET", "POST"]),
            Route("/stream", self.stream),
            Route("/events", self.events),
            Route("/boom", self.boom),
            Route("/down", self.down),
            Route("/nested", self.nested),
            Route("/status/{status:int}", self.status),
            Route("/scope", self.scope),
            Route("/after", self.after),
        ]
        self.app = Starlette(routes=routes)

    @contextlib.contextmanager
    def inside(self, name: str) -> Any:
        self.running += 1
        try:
            yield
        except asyncio.CancelledError:
            self.ended.append(f"{name} cancelled")
            raise
        else:
            self.ended.append(f"{name} done")
        finally:
            self.running -= 1

    async def hello(self, request: Request) -> Response:
        return PlainTextResponse(f"hello {request.path_params['name']}")

    async def count(self, request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    async def slow(self, request: Request) -> Response:
        with self.inside("slow"):
            await self.release.wait()
        return PlainTextResponse("slow")

    async def late(self, request: Request) -> Response:
        await request.body()
        return await self.slow(request)

    async def stream(self, request: Request) -> Response:
        async def parts() -> AsyncIterator[str]:
            with self.inside("stream"):
                yield "begin "
                await self.release.wait()
                yield "end"

        return StreamingResponse(parts(), media_type=request.query_params.get("as", "text/plain"))

    async def events(self, request: Request) -> Response:
        return await self.stream(request)

    async def boom(self, request: Request) -> Response:
        raise ValueError("secret=hunter2")

    async def down(self, request: Request) -> Response:
        raise BreakerOpen("payment is open", retry_after=2.5)

    async def nested(self, request: Request) -> Response:
        raise CallFailed("payment said no", status="503", retry_after=3.0)

    async def status(self, request: Request) -> Response:
        return PlainTextResponse("so be it", status_code=request.path_params["status"])

    async def scope(self, request: Request) -> Response:
        found = scope.current.get()
        self.seen.append(found)
        left = scope.remaining()
        trace = found.trace.trace_id if found.trace else ""
        return JSONResponse({"left": left, "trace": trace, "key": found.key, "attempts": found.attempts_left})

    async def after(self, request: Request) -> Response:
        async def work() -> None:
            with self.inside("after"):
                await self.release.wait()

        return PlainTextResponse("first", background=BackgroundTask(work))


def post(path: str, body: bytes = b"", *headers: str, length: int | None = None) -> bytes:
    """Write a POST that ends its connection."""
    head = [f"content-length: {len(body) if length is None else length}", "connection: close", *headers]
    return "\r\n".join([f"POST {path} HTTP/1.1", "host: shop", *head]).encode() + b"\r\n\r\n" + body


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


# The caller who goes away.


async def leaves(middleware: Middleware, request: bytes, shop: Shop) -> float:
    """Send a request, go away once the application runs and is watched; return how long it took to notice."""
    async with serving(middleware) as port:
        async with connection(port) as (_, writer):
            writer.write(request)
            await until(lambda: shop.running)
            await asyncio.sleep(0.12)
        left = asyncio.get_running_loop().time()
        await until(lambda: not shop.running)
        return asyncio.get_running_loop().time() - left


@pytest.mark.parametrize("request_", [get("/slow"), post("/slow", b"unread"), post("/late", b"read")])
def test_a_caller_who_leaves_ends_the_work(request_: bytes) -> None:
    """Work for nobody is load: cancelled within 150 ms, whether or not the application reads."""

    async def main() -> None:
        shop, seen = Shop(), Seen()
        assert await leaves(governed(shop.app, seen), request_, shop) < 0.15
        assert shop.ended == ["slow cancelled"]
        assert (seen.inside, seen.ends) == (0, [("IGNORED", "499")])

    asyncio.run(main())


@run
async def test_a_caller_who_leaves_early_is_noticed_at_the_first_look() -> None:
    """Gone within the first tick, before anybody watched."""
    shop, seen = Shop(), Seen()
    async with serving(governed(shop.app, seen)) as port:
        async with connection(port) as (_, writer):
            writer.write(get("/slow"))
            await until(lambda: shop.running)
        left = asyncio.get_running_loop().time()
        await until(lambda: not shop.running)
        assert asyncio.get_running_loop().time() - left < 0.15
    assert seen.ends == [("IGNORED", "499")]


@run
async def test_a_caller_who_leaves_a_stream_ends_it() -> None:
    """Starlette listens by itself while it streams, and is told."""
    shop, seen = Shop(), Seen()
    assert await leaves(governed(shop.app, seen), get("/stream"), shop) < 0.15
    assert shop.ended == ["stream cancelled"]
    assert seen.ends == [("IGNORED", "499")]


@run
async def test_a_caller_who_leaves_in_the_middle_of_a_body_says_nothing_of_the_application() -> None:
    """Else whoever breaks off uploads could open the breaker for all."""
    seen = Seen()
    async with serving(governed(Shop().app, seen)) as port:
        async with connection(port) as (_, writer):
            writer.write(post("/count", b"half", length=100))
            await until(lambda: seen.inside)
        await until(lambda: seen.outcomes)
    assert seen.ends == [("IGNORED", "499")]


@run
async def test_a_caller_who_leaves_a_line_gives_up_the_place() -> None:
    """Nobody must be let in for a caller who is gone."""
    shop, seen = Shop(), Seen()
    bulkhead = Bulkhead(BulkheadRule(limit=1, queue=5, max_wait=10))
    async with serving(governed(shop.app, seen, bulkhead)) as port, connection(port) as (reader, writer):
        writer.write(get("/slow"))
        await until(lambda: shop.running)
        async with connection(port) as (_, second):
            second.write(get("/slow"))
            await until(lambda: bulkhead.depth)
        await until(lambda: not bulkhead.depth, seconds=0.5)
        assert seen.ends == [("IGNORED", "499")]
        shop.release.set()
        assert Answer(await reader.read()).status == 200
    assert (bulkhead.inflight, seen.inside) == (0, 0)


@run
async def test_an_application_that_listens_is_told_and_not_cancelled() -> None:
    """It has taken the matter into its own hands, as ASGI means it."""
    told: list[str] = []

    async def poll(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        told.append((await receive())["type"])
        told.append((await receive())["type"])

    seen = Seen()
    async with serving(governed(poll, seen)) as port:
        async with connection(port) as (_, writer):
            writer.write(get("/"))
            await until(lambda: seen.inside)
            await asyncio.sleep(0.12)
        await until(lambda: seen.outcomes)
    assert told == ["http.disconnect", "http.disconnect"]
    assert seen.ends == [("IGNORED", "499")]


@run
async def test_an_application_that_swallows_the_cancellation_still_ends_well() -> None:
    """Its task must not stay cancelled: the server has work to do in it."""
    left: list[int] = []

    async def stubborn(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            pass

    server, seen = Server(), Seen()
    middleware = governed(stubborn, seen)

    async def serve() -> None:
        await middleware(http(), server.receive, server.send)
        task = asyncio.current_task()
        assert task is not None
        left.append(task.cancelling())

    task = asyncio.create_task(serve())
    await asyncio.sleep(0.12)
    server.told.put_nowait({"type": "http.disconnect"})
    await task
    assert (left, server.sent, seen.ends) == ([0], [], [("IGNORED", "499")])


@run
async def test_a_cancellation_from_outside_passes() -> None:
    """A server that stops must be obeyed, also when the caller has just left."""
    shop, server, seen = Shop(), Server(), Seen()
    task = asyncio.create_task(governed(shop.app, seen)(http("/slow"), server.receive, server.send))  # type: ignore[arg-type]
    await until(lambda: shop.running)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (seen.inside, [verdict for verdict, _ in seen.ends], server.sent) == (0, ["IGNORED"], [])


@run
async def test_work_after_the_reply_is_neither_watched_nor_timed() -> None:
    """Background tasks are for later: servers say "disconnect" after each reply, and it means nothing."""
    shop, seen = Shop(), Seen()
    async with serving(governed(shop.app, seen, default_deadline=0.15)) as port:
        assert (await raw(port, get("/after"))).body == b"first"
        await asyncio.sleep(0.3)
        assert (shop.running, seen.inside) == (1, 1)
        shop.release.set()
        await until(lambda: not seen.inside)
    assert shop.ended == ["after done"]
    assert seen.ends == [("OK", "200")]


# Deadlines.


@pytest.mark.parametrize(
    "header", ["msgov-deadline-ms: 200", "x-envoy-expected-rq-timeout-ms: 200", "grpc-timeout: 200m"]
)
def test_a_callers_deadline_ends_the_work(header: str) -> None:
    """Whoever says how long to wait is answered in time, and nothing goes on behind their back."""

    async def main() -> None:
        shop, seen = Shop(), Seen()
        async with serving(governed(shop.app, seen)) as port:
            began = asyncio.get_running_loop().time()
            answer = await raw(port, get("/slow", header))
            took = asyncio.get_running_loop().time() - began
        assert (answer.status, answer.problem["code"]) == (504, "deadline_exceeded")
        assert "msgov-sent" not in answer.headers
        assert 0.19 < took < 0.5
        assert shop.ended == ["slow cancelled"]
        assert (seen.inside, seen.ends) == (0, [("TRANSIENT", "504")])

    asyncio.run(main())


@run
async def test_a_deadline_only_shrinks_and_is_clamped() -> None:
    """Nobody can ask for more time than the edge gives; without a word the default holds (S3)."""
    shop = Shop()
    async with serving(governed(shop.app, default_deadline=3.0, longest_deadline=5.0)) as port:
        await raw(port, get("/scope"))
        await raw(port, get("/scope", "msgov-deadline-ms: 999999999"))
        await raw(port, get("/scope", "msgov-deadline-ms: 4000", "grpc-timeout: 2S"))
        await raw(port, get("/scope", "msgov-deadline-ms: -1", "grpc-timeout: abc"))
    now = asyncio.get_running_loop().time()
    left = [round(seen.deadline - now) for seen in shop.seen if seen.deadline is not None]
    assert left == [3, 5, 2, 3]


@run
async def test_a_spent_deadline_is_refused_before_the_work() -> None:
    """Nothing was done, and the caller may know it."""
    shop, seen = Shop(), Seen()
    async with serving(governed(shop.app, seen)) as port:
        answer = await raw(port, get("/scope", "msgov-deadline-ms: 0"))
    assert (answer.status, answer.problem["code"]) == (504, "deadline_exhausted")
    assert answer.headers["msgov-sent"] == "no"
    assert (shop.seen, seen.ends) == ([], [("IGNORED", "504")])


@run
async def test_a_half_sent_reply_is_broken_off_at_the_deadline() -> None:
    """It must not look whole: the connection ends without the last chunk."""
    shop, seen = Shop(), Seen()
    with silent("uvicorn.error"):
        async with serving(governed(shop.app, seen)) as port:
            answer = await raw(port, get("/stream", "msgov-deadline-ms: 200"))
    assert answer.status == 200
    assert answer.body.startswith(b"6\r\nbegin \r\n")
    assert b"0\r\n\r\n" not in answer.body
    assert seen.ends == [("TRANSIENT", "504")]


@run
async def test_a_half_sent_reply_is_the_servers_to_break_off() -> None:
    """A server is told by the error; a return would look like an end to some."""

    async def half(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError("a bug")

    server, seen = Server(), Seen()
    with silent("msgov.asgi"), pytest.raises(ValueError, match="a bug"):
        await governed(half, seen)(http(), server.receive, server.send)
    assert ([message["type"] for message in server.sent], seen.ends) == (
        ["http.response.start"],
        [("TRANSIENT", "500")],
    )


@run
async def test_an_event_stream_outlives_the_default_deadline_but_not_the_callers() -> None:
    """It has no end by design; a default would cut every one of them."""
    shop, seen = Shop(), Seen()
    with silent("uvicorn.error"):
        async with serving(governed(shop.app, seen, default_deadline=0.15)) as port, connection(port) as (_, writer):
            writer.write(get("/events?as=text/event-stream"))
            await until(lambda: shop.running)
            await asyncio.sleep(0.35)
            assert seen.inside == 1
            await raw(port, get("/events?as=text/event-stream", "msgov-deadline-ms: 200"))
            assert seen.ends == [("TRANSIENT", "504")]
            shop.release.set()
            await until(lambda: not seen.inside)
    assert seen.ends[1:] == [("OK", "200")]


@run
async def test_a_policys_deadline_shortens_the_edges() -> None:
    """A rule for one route is tighter than what holds for all."""
    shop, seen = Shop(), Seen()
    async with serving(governed(shop.app, seen, Deadline(0.15))) as port:
        answer = await raw(port, get("/slow"))
    assert (answer.status, shop.ended, seen.ends) == (504, ["slow cancelled"], [("TRANSIENT", "504")])


@run
async def test_a_layer_may_run_the_application_in_a_task_of_its_own() -> None:
    """What is cancelled at the deadline is the task that the application runs in."""
    shop, seen = Shop(), Seen()

    def apart(handler: AsyncHandler) -> AsyncHandler:
        async def layered(call: Call) -> object:
            task = asyncio.ensure_future(handler(call))
            await asyncio.wait([task])
            return task.result()

        return layered

    async with serving(governed(shop.app, seen, apart)) as port:
        answer = await raw(port, get("/slow", "msgov-deadline-ms: 150"))
    assert (answer.status, shop.ended, seen.ends) == (504, ["slow cancelled"], [("TRANSIENT", "504")])


# Limits: what a hostile peer sends.


@pytest.mark.parametrize(("size", "status"), [(-1, 200), (0, 200), (1, 431)])
def test_headers_are_bounded_in_size(size: int, status: int) -> None:
    """One byte less, as many, one more (S9, S41)."""

    async def main() -> None:
        limits = Limits(header_bytes=1000)
        used = len("hostshop") + len("connectionclose") + len("x-large")
        async with serving(governed(Shop().app, limits=limits)) as port:
            answer = await raw(port, get("/hello/ann", "x-large: " + "a" * (1000 - used + size)))
        assert answer.status == status
        if status != 200:
            assert answer.problem["code"] == "headers_too_large"
            assert answer.headers["connection"] == "close"

    asyncio.run(main())


@pytest.mark.parametrize(("more", "status"), [(-1, 200), (0, 200), (1, 431)])
def test_headers_are_bounded_in_number(more: int, status: int) -> None:
    """Five thousand small ones cost more than one large one."""

    async def main() -> None:
        async with serving(governed(Shop().app, limits=Limits(headers=10))) as port:
            answer = await raw(port, get("/hello/ann", *(f"x-{n}: a" for n in range(8 + more))))
        assert answer.status == status

    asyncio.run(main())


@pytest.mark.parametrize(("size", "status"), [(99, 200), (100, 200), (101, 413)])
def test_a_declared_body_is_bounded(size: int, status: int) -> None:
    """It is refused before a byte of it is read."""

    async def main() -> None:
        seen = Seen()
        async with serving(governed(Shop().app, seen, limits=Limits(body_bytes=100))) as port:
            answer = await raw(port, post("/count", b"a" * size))
        assert answer.status == status
        if status == 413:
            assert answer.headers["connection"] == "close"
            assert seen.calls == []

    asyncio.run(main())


@pytest.mark.parametrize(("size", "status"), [(99, 200), (100, 200), (101, 413)])
def test_a_streamed_body_is_counted_as_it_comes(size: int, status: int) -> None:
    """A chunked body declares nothing; Starlette's own handler of errors must not turn it into a 500."""

    async def main() -> None:
        seen = Seen()
        chunks = b"%x\r\n%s\r\n" % (50, b"a" * 50) + b"%x\r\n%s\r\n" % (size - 50, b"a" * (size - 50))
        head = b"POST /count HTTP/1.1\r\nhost: shop\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        async with serving(governed(Shop().app, seen, limits=Limits(body_bytes=100))) as port:
            answer = await raw(port, head + chunks + b"0\r\n\r\n")
        assert answer.status == status
        assert seen.ends == ([("OK", "200")] if status == 200 else [("IGNORED", "413")])

    asyncio.run(main())


@run
async def test_an_endless_body_ends_at_the_limit() -> None:
    """A chunked body without an end must not fill the memory (S11)."""
    seen = Seen()
    async with serving(governed(Shop().app, seen)) as port, connection(port) as (reader, writer):
        writer.write(b"POST /count HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\n")
        sent = 0

        async def pour() -> None:
            nonlocal sent
            while True:
                writer.write(b"8000\r\n" + b"a" * 0x8000 + b"\r\n")
                await writer.drain()
                sent += 0x8000

        task = asyncio.create_task(pour())
        with contextlib.suppress(OSError):
            assert b" 413 " in await reader.readline()
        await until(lambda: seen.ends == [("IGNORED", "413")])
        task.cancel()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await task
    assert sent < 8 << 20


@pytest.mark.parametrize("path", ["/count", "/late"])
def test_a_body_that_drips_is_given_up(path: str) -> None:
    """Slow is how one peer holds many workers; it says nothing of the application (F28, S11)."""

    async def main() -> None:
        shop, seen = Shop(), Seen()
        limits = Limits(body_seconds=0.3)
        async with serving(governed(shop.app, seen, limits=limits)) as port, connection(port) as (reader, writer):
            began = asyncio.get_running_loop().time()
            writer.write(post(path, b"a", length=1000))
            drip = asyncio.create_task(dripping(writer))
            answer = Answer(await reader.read())
            took = asyncio.get_running_loop().time() - began
            drip.cancel()
        assert (answer.status, answer.problem["code"]) == (408, "body_too_slow")
        assert answer.headers["connection"] == "close"
        assert 0.29 < took < 0.7
        assert seen.ends == [("IGNORED", "408")]

    async def dripping(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"a")
            await asyncio.sleep(0.02)

    asyncio.run(main())


@pytest.mark.parametrize("policies", [(), (Deadline(0.2),)])
def test_a_deadline_that_passes_in_a_slow_body_is_the_callers_doing(policies: tuple[Any, ...]) -> None:
    """Else a few peers that send slowly could open the breaker for all."""

    async def main() -> None:
        seen = Seen()
        async with serving(governed(Shop().app, seen, *policies, default_deadline=0.25)) as port:
            answer = await raw(port, post("/count", b"a", length=1000))
        assert (answer.status, answer.problem["code"]) == (408, "body_too_slow")
        assert seen.ends == [("IGNORED", "408")]

    asyncio.run(main())


@run
async def test_a_body_of_two_lengths_is_refused() -> None:
    """One parser takes the one, the next the other: that is how requests are smuggled (S10)."""
    smuggled = b"POST /count HTTP/1.1\r\nhost: shop\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    seen = Seen()
    async with serving(governed(Shop().app, seen)) as port:
        answer = await raw(port, smuggled)
    assert (answer.status, answer.problem["code"], answer.headers["connection"]) == (400, "malformed", "close")
    assert seen.calls == []


@run
async def test_a_request_without_a_host_is_refused() -> None:
    """h11 refuses it by itself, httptools lets it pass (S10)."""
    server = Server()
    given = http("/hello/ann")
    given["headers"] = []
    await governed(Shop().app)(given, server.receive, server.send)
    assert server.status == 400


# What travels.


@run
async def test_scope_and_trace_reach_the_application_and_go_with_it() -> None:
    """One keep-alive connection carries many callers: nothing of the first may be left for the second."""
    shop = Shop()
    first = "GET /scope HTTP/1.1\r\nhost: shop\r\nmsgov-deadline-ms: 500\r\nmsgov-attempts-left: 1\r\n"
    app = governed(shop.app, trusted=lambda peer: peer == "127.0.0.1")
    async with serving(app) as port, connection(port) as (reader, writer):
        writer.write((first + TRACEPARENT + "\r\n\r\n").encode())
        head = await reader.readuntil(b"}")
        writer.write(get("/scope"))
        await reader.read()
    assert f"x-trace-id: {TRACE}".encode() in head
    assert f"traceresponse: 00-{TRACE}-00f067aa0ba902b7-01".encode() in head
    one, other = shop.seen
    assert one.trace is not None
    assert (one.trace.trace_id, one.attempts_left, one.key) == (TRACE, 1, "127.0.0.1")
    assert (other.trace, other.attempts_left) == (None, None)
    assert one.deadline is not None
    assert other.deadline is not None
    assert other.deadline - one.deadline > 10


@run
async def test_pipelined_requests_do_not_inherit_each_others_scope() -> None:
    """uvicorn starts the second in the context of the first."""
    shop = Shop()
    first = ("GET /scope HTTP/1.1\r\nhost: shop\r\n" + TRACEPARENT + "\r\n\r\n").encode()
    async with serving(governed(shop.app)) as port:
        await raw(port, first + get("/scope"))
    assert [seen.trace is None for seen in shop.seen] == [False, True]


@pytest.mark.parametrize("path", ["/scope", "/boom", "/nowhere"])
def test_the_scope_ends_with_the_request(path: str) -> None:
    """A server may serve several in one task."""

    async def main() -> None:
        server = Server()
        name, value = TRACEPARENT.split(": ")
        with silent("msgov.asgi"):
            given = http(path, headers=((name.encode(), value.encode()),))
            await governed(Shop().app)(given, server.receive, server.send)
        assert scope.current.get() is scope.EMPTY

    asyncio.run(main())


@run
async def test_an_allowance_is_believed_only_of_a_trusted_hop() -> None:
    """Whoever is outside could ask for more attempts than there are (S14)."""
    shop = Shop()
    async with serving(governed(shop.app)) as port:
        await raw(port, get("/scope", "msgov-attempts-left: 9"))
    assert shop.seen[0].attempts_left is None


@pytest.mark.parametrize(
    ("peer", "hops", "forwarded", "key"),
    [
        ("10.0.0.1", 0, "6.6.6.6", "10.0.0.1"),
        ("10.0.0.1", 1, "6.6.6.6, 8.8.8.8", "8.8.8.8"),
        ("10.0.0.1", 2, "6.6.6.6, 8.8.8.8, 10.0.0.2", "8.8.8.8"),
        ("10.0.0.1", 3, "8.8.8.8", "10.0.0.1"),
        ("9.9.9.9", 1, "6.6.6.6", "9.9.9.9"),
        ("2001:db8::1:2:3:4", 0, "", "2001:db8::/64"),
        ("2001:db8::9:9:9:9", 0, "", "2001:db8::/64"),
        ("fe80::1%eth0", 0, "", "fe80::/64"),
    ],
)
def test_the_key_is_whom_the_outermost_own_proxy_saw(peer: str, hops: int, forwarded: str, key: str) -> None:
    """Counted from the right, for the left is what clients write; an IPv6 host has a whole /64 to itself (S12, S13)."""

    async def main() -> str:
        shop, server = Shop(), Server()
        given = http("/scope", headers=((b"x-forwarded-for", forwarded.encode()),))
        given["client"] = (peer, 1)
        edge = governed(shop.app, hops=hops, trusted=lambda peer: peer.startswith("10."))
        await edge(given, server.receive, server.send)
        return shop.seen[0].key

    assert asyncio.run(main()) == key


def test_header_lines_of_several_proxies_are_read_as_one() -> None:
    """A proxy may add a line of its own instead of appending."""

    async def main() -> str:
        shop, server = Shop(), Server()
        lines = ((b"x-forwarded-for", b"6.6.6.6"), (b"x-forwarded-for", b"8.8.8.8"))
        await governed(shop.app, hops=1, trusted=lambda _: True)(
            http("/scope", headers=lines), server.receive, server.send
        )
        return shop.seen[0].key

    assert asyncio.run(main()) == "8.8.8.8"


# Where it stands.


@run
async def test_a_call_is_named_by_its_route() -> None:
    """Templates, with what they are mounted under; what no route wants shares one name."""

    async def here(request: Request) -> Response:
        return PlainTextResponse("here")

    inner = Starlette(routes=[Route("/items/{item:int}", here)])
    app = Starlette(
        routes=[
            Route("/orders/{id}", here),
            Mount("/api/{tenant}", routes=[Route("/users/{user}", here), Mount("/deep", app=inner)]),
        ]
    )
    seen = Seen()
    async with serving(governed(app, seen)) as port:
        for path in ("/orders/7", "/api/acme/users/9", "/api/acme/deep/items/3", "/api/acme/nowhere", "/nowhere"):
            await raw(port, get(path))
    assert seen.methods == [
        "GET /orders/{id}",
        "GET /api/{tenant}/users/{user}",
        "GET /api/{tenant}/deep/items/{item}",
        "GET /api/{tenant}/{path}",
        "GET _OTHER",
    ]


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
        middleware=[Installed(Middleware, edge=edge)],  # type: ignore[arg-type]  # starlette's own protocol is narrower
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


@pytest.mark.parametrize(
    ("numbers", "path"),
    [
        ({"default_deadline": 0.0}, "default_deadline"),
        ({"default_deadline": float("nan")}, "default_deadline"),
        ({"default_deadline": 70.0}, "default_deadline"),
        ({"longest_deadline": 601.0}, "default_deadline"),
        ({"hops": -1}, "hops"),
    ],
)
def test_numbers_that_cannot_be_are_refused(numbers: dict[str, Any], path: str) -> None:
    """At start, by name and range."""
    with pytest.raises(RuleError) as caught:
        HttpEdge(service="shop", policies=lambda _: (), **numbers)
    assert caught.value.path == path


def test_limits_are_a_rule() -> None:
    """Each with its range."""
    with pytest.raises(RuleError) as caught:
        Limits(header_bytes=1, body_seconds=0.0)
    assert [problem.path for problem in caught.value.problems] == ["header_bytes", "body_seconds"]
