"""Work that nobody waits for is refused before it begins, but for the share that a policy lets in."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from msgov import scope
from msgov.resilience.deadline import Deadline, DeadlineRule
from tests.transport.grpc.served import WAYS, served
from tests.transport.web import get, governed, raw, run, serving

SPENT = (("msgov-deadline-ms", "0"),)
SHARE = DeadlineRule(seconds=5.0, refuse_at_most=0.2)


class Handler:
    """Remembers what time it was given."""

    def __init__(self) -> None:
        self.left: list[float | None] = []

    def plain(self, request: Any, context: Any) -> bytes:
        self.left.append(scope.remaining())
        return b"done"

    async def aio(self, request: Any, context: Any) -> bytes:
        return self.plain(request, context)

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        self.plain(None, None)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"yes"})


@pytest.mark.parametrize("way", WAYS)
def test_grpc_refuses_what_came_too_late(way: str) -> None:
    """Its caller's deadline has passed: the handler would work for nobody."""
    handler = Handler()
    with served(way, handler.aio if way == "aio" else handler.plain) as s:
        error = s.fails(metadata=SPENT)
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert dict(error.trailing_metadata())["msgov-sent"] == "no"
    assert handler.left == []


@run
async def test_http_refuses_what_came_too_late() -> None:
    """The same."""
    handler = Handler()
    async with serving(governed(handler.asgi)) as port:
        answer = await raw(port, get("/a", "msgov-deadline-ms: 0"))
    assert (answer.status, answer.headers["msgov-sent"], handler.left) == (504, "no", [])


@pytest.mark.parametrize("way", WAYS)
def test_a_caller_with_wrong_deadlines_cannot_take_a_server_down(way: str) -> None:
    """At most a fifth is refused (Finagle's DeadlineFilter); the rest has the time of a call that named none."""
    handler, deadline = Handler(), Deadline(SHARE)
    with served(way, handler.aio if way == "aio" else handler.plain, deadline) as s:
        for _ in range(8):
            s.call()
        ends = []
        for _ in range(8):
            try:
                ends.append(s.call(metadata=SPENT))
            except grpc.RpcError as error:
                ends.append(error.code())  # type: ignore[attr-defined]  # as every ended call
    refused = ends.count(grpc.StatusCode.DEADLINE_EXCEEDED)
    assert (refused, refused + ends.count(b"done"), deadline.refused) == (3, 8, 3)
    assert all(left is not None and 4 < left <= 5 for left in handler.left)


@run
async def test_nor_can_it_over_http() -> None:
    """The same."""
    handler, deadline = Handler(), Deadline(SHARE)
    async with serving(governed(handler.asgi, deadline)) as port:
        for _ in range(8):
            await raw(port, get("/a"))
        found = [(await raw(port, get("/a", "msgov-deadline-ms: 0"))).status for _ in range(8)]
    assert (found.count(504), found.count(200), deadline.refused) == (3, 5, 3)
    assert all(left is not None and 4 < left <= 5 for left in handler.left)
