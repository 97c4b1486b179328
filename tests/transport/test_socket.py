"""A WebSocket holds its tickets while it is open, and is refused before the handshake."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from msgov import scope
from msgov.errors import RateLimited
from msgov.resilience.deadline import Deadline
from msgov.transport.asgi import Limits
from tests.transport.web import TRACE, TRACEPARENT, No, Seen, Server, governed, http, run, serving, silent, until

CONNECT = {"type": "websocket.connect"}
SENT = {"type": "websocket.receive", "text": "hi"}
GONE = {"type": "websocket.disconnect", "code": 1001}


def socket(path: str = "/talk/7", *, denies: bool = False) -> dict[str, Any]:
    """Make the scope of a WebSocket."""
    name, value = TRACEPARENT.split(": ")
    found = http(path, headers=((name.encode(), value.encode()),)) | {"type": "websocket", "subprotocols": []}
    del found["method"]
    return found | {"extensions": {"websocket.http.response": {}} if denies else {}}


class Talk:
    """Echoes until the peer leaves."""

    def __init__(self) -> None:
        self.traces: list[str] = []
        self.deadlines: list[float | None] = []
        self.app = Starlette(
            routes=[
                WebSocketRoute("/talk/{id}", self.talk),
                WebSocketRoute("/rude/{id}", self.rude),
                WebSocketRoute("/boom", self.boom),
                WebSocketRoute("/boom-inside", self.boom_inside),
                WebSocketRoute("/closed", self.closed),
            ]
        )

    async def talk(self, websocket: WebSocket) -> None:
        here = scope.current.get()
        self.traces.append(here.trace.trace_id if here.trace else "")
        self.deadlines.append(here.deadline)
        await websocket.accept()
        try:
            while True:
                await websocket.send_text((await websocket.receive_text()).upper())
        except WebSocketDisconnect:
            return

    async def rude(self, websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.receive_text()

    async def boom(self, websocket: WebSocket) -> None:
        raise ValueError("secret")

    async def boom_inside(self, websocket: WebSocket) -> None:
        await websocket.accept()
        raise ValueError("secret")

    async def closed(self, websocket: WebSocket) -> None:
        await websocket.close()


@run
async def test_a_ticket_is_held_while_it_is_open() -> None:
    """What is open takes room, however little it says."""
    talk, seen, server = Talk(), Seen(), Server(CONNECT, SENT)
    task = asyncio.create_task(governed(talk.app, seen)(socket(), server.receive, server.send))
    await until(lambda: len(server.sent) == 2)
    assert (seen.inside, server.sent[1]["text"]) == (1, "HI")
    server.told.put_nowait(GONE)
    await task
    assert (seen.inside, seen.ends, seen.methods) == (0, [("OK", "101")], ["GET /talk/{id}"])
    assert talk.traces == [TRACE]


@run
async def test_no_deadline_ends_it() -> None:
    """Neither the edge's default nor a policy's: it is meant to stay."""
    talk, seen, server = Talk(), Seen(), Server(CONNECT)
    app = governed(talk.app, Deadline(0.05), seen, default_deadline=0.05)
    task = asyncio.create_task(app(socket(), server.receive, server.send))
    await asyncio.sleep(0.2)
    server.told.put_nowait(SENT)
    await until(lambda: len(server.sent) == 2)
    server.told.put_nowait(GONE)
    await task
    assert (talk.deadlines, seen.calls[0].deadline, seen.ends) == ([None], None, [("OK", "101")])


@run
async def test_a_refusal_closes_before_the_handshake() -> None:
    """1013 says "try again later"; the application never hears of it."""
    talk, server = Talk(), Server(CONNECT)
    await governed(talk.app, No(RateLimited("full", retry_after=2)))(socket(), server.receive, server.send)
    assert server.sent == [{"type": "websocket.close", "code": 1013, "reason": "rate_limited"}]
    assert (talk.traces, server.asked) == ([], 1)


@run
async def test_a_refusal_is_a_problem_where_the_server_can_send_one() -> None:
    """The same words as for a request, with Retry-After."""
    server = Server(CONNECT)
    refuse = No(RateLimited("full", retry_after=2))
    await governed(Talk().app, refuse)(socket(denies=True), server.receive, server.send)
    assert [message["type"] for message in server.sent] == [
        "websocket.http.response.start",
        "websocket.http.response.body",
    ]
    assert (server.status, server.headers["retry-after"], server.headers["msgov-sent"]) == (429, "2", "no")
    assert json.loads(server.body)["code"] == "rate_limited"


@run
async def test_headers_are_bounded_here_too() -> None:
    """A handshake is a request."""
    server = Server(CONNECT)
    await governed(Talk().app, limits=Limits(headers=1))(socket(denies=True), server.receive, server.send)
    assert server.status == 431


@run
async def test_an_error_before_the_handshake_is_refused_without_its_text() -> None:
    """As for a request."""
    server, seen = Server(CONNECT), Seen()
    with silent("msgov.asgi"):
        await governed(Talk().app, seen)(socket("/boom", denies=True), server.receive, server.send)
    assert (server.status, seen.ends) == (500, [("TRANSIENT", "500")])
    assert b"secret" not in server.body


@run
async def test_an_error_while_it_is_open_goes_to_the_server() -> None:
    """Only the server can break it off."""
    server, seen = Server(CONNECT), Seen()
    with silent("msgov.asgi"), pytest.raises(ValueError, match="secret"):
        await governed(Talk().app, seen)(socket("/boom-inside"), server.receive, server.send)
    assert seen.ends == [("TRANSIENT", "500")]


@run
async def test_a_peer_that_leaves_says_nothing_of_the_application() -> None:
    """Frameworks raise when it does; neither a breaker nor an error log should hear of it."""
    server, seen = Server(CONNECT, GONE), Seen()
    await governed(Talk().app, seen)(socket("/rude/7"), server.receive, server.send)
    assert seen.ends == [("IGNORED", "499")]


@run
async def test_an_application_may_refuse_by_itself() -> None:
    """A close before the handshake goes out as 403."""
    server, seen = Server(CONNECT), Seen()
    await governed(Talk().app, seen)(socket("/closed"), server.receive, server.send)
    assert (server.sent[0]["type"], seen.ends) == ("websocket.close", [("OK", "403")])


@run
async def test_it_works_behind_a_real_server() -> None:
    """Talk, leave, and be refused, over a connection."""
    client = pytest.importorskip("websockets.asyncio.client", reason="no WebSocket library is installed")
    exceptions = pytest.importorskip("websockets.exceptions")
    logging.getLogger("websockets").setLevel(logging.ERROR)
    seen = Seen()
    async with serving(governed(Talk().app, seen), ws="websockets-sansio") as port:
        async with client.connect(f"ws://127.0.0.1:{port}/talk/7", proxy=None) as websocket:
            await websocket.send("hi")
            assert await websocket.recv() == "HI"
            assert seen.inside == 1
        await until(lambda: not seen.inside)
    async with serving(governed(Talk().app, No(RateLimited("full", retry_after=2))), ws="websockets-sansio") as port:
        with pytest.raises(exceptions.InvalidStatus) as caught:
            await client.connect(f"ws://127.0.0.1:{port}/talk/7", proxy=None)
    assert caught.value.response.status_code == 429
    assert caught.value.response.headers["retry-after"] == "2"
