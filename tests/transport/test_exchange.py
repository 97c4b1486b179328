"""A caller who leaves, a deadline that passes: the application ends, and its ticket comes back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from msgov.call import Call
from msgov.policy import AsyncHandler
from msgov.resilience.bulkhead import Bulkhead, BulkheadRule
from msgov.resilience.deadline import Deadline
from msgov.transport.asgi import Middleware
from tests.transport.shop import Shop, post
from tests.transport.web import (
    Answer,
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
    """Work for nobody is load: it is cancelled at once, whether or not the application reads."""

    async def main() -> None:
        shop, seen = Shop(), Seen()
        assert await leaves(governed(shop.app, seen), request_, shop) < 2
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
        assert asyncio.get_running_loop().time() - left < 2
    assert seen.ends == [("IGNORED", "499")]


@run
async def test_a_caller_who_leaves_a_stream_ends_it() -> None:
    """Starlette listens by itself while it streams, and is told."""
    shop, seen = Shop(), Seen()
    assert await leaves(governed(shop.app, seen), get("/stream"), shop) < 2
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
    task = asyncio.create_task(governed(shop.app, seen)(http("/slow"), server.receive, server.send))
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
        assert 0.19 < took < 5
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


def test_a_body_that_arrives_while_it_is_read_ahead_does_not_spin() -> None:
    """A reader that is done, but not heard of yet, is waited for without a turn of the loop: once, not for ever."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        arrived: asyncio.Future[dict[str, Any]] = loop.create_future()
        ready = asyncio.Event()
        bodies: list[bytes] = []

        async def receive() -> dict[str, Any]:
            if arrived.done():
                await loop.create_future()
            return await arrived

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await ready.wait()  # meanwhile the watcher reads ahead
            bodies.append((await receive())["body"])
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        async def send(message: Any) -> None:
            """Take it."""

        scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-length", b"1")], "client": None}
        task = asyncio.ensure_future(governed(app, Seen())(scope, receive, send))
        await asyncio.sleep(0.15)
        arrived.set_result({"type": "http.request", "body": b"x"})
        ready.set()  # the application asks in the very turn in which the reader ends
        await asyncio.wait_for(task, 5)
        assert bodies == [b"x"]

    asyncio.run(main())
