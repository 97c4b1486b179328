"""Whatever an application and its caller do to each other, a request is settled once and answered at most once."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from msgov import scope
from msgov.testing import run
from msgov.transport.asgi import HttpEdge, Limits, Middleware
from tests.transport.web import Seen, http, silent

SECONDS = st.sampled_from([0.0, 0.01, 0.06, 0.2, 1.0, 3.0])
ACTS = st.one_of(
    st.just(("receive", 0)),
    st.just(("listen", 0)),
    st.tuples(st.just("start"), st.sampled_from([200, 404, 500, 503])),
    st.just(("body", 1)),
    st.just(("body", 0)),
    st.tuples(st.just("sleep"), SECONDS),
    st.just(("stubborn", 1)),
    st.just(("raise", 0)),
    st.just(("cancel", 0)),
)
TOLD = st.one_of(
    st.tuples(st.just("wait"), SECONDS),
    st.tuples(st.just("part"), st.sampled_from([0, 1, 60])),
    st.just(("whole", 1)),
    st.just(("leave", 0)),
)


class Wire:
    """A server that keeps the rules of ASGI, and whose caller follows a script."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.left = False
        self.whole = False

    async def caller(self, script: list[tuple[str, float]]) -> None:
        for act, much in script:
            if act == "wait":
                await asyncio.sleep(much)
            elif act == "leave":
                self.leave()
            elif not self.whole and not self.left:
                self.whole = act == "whole"
                self.messages.put_nowait(
                    {"type": "http.request", "body": b"a" * int(much), "more_body": not self.whole}
                )

    def leave(self) -> None:
        if not self.left:
            self.left = True
            self.messages.put_nowait({"type": "http.disconnect"})

    async def receive(self) -> dict[str, Any]:
        if self.left and self.messages.empty():
            return {"type": "http.disconnect"}
        return await self.messages.get()

    async def send(self, message: Any) -> None:
        if self.left:
            return
        begun = any(each["type"] == "http.response.start" for each in self.sent)
        assert begun == (message["type"] != "http.response.start")
        assert not self.ended
        self.sent.append(message)
        if self.ended:
            self.messages.put_nowait({"type": "http.disconnect"})  # as uvicorn says once a reply is complete

    @property
    def ended(self) -> bool:
        return bool(self.sent) and self.sent[-1].get("more_body") is False

    @property
    def answered(self) -> bool:
        """Whether there is a whole reply."""
        return self.ended or bool(self.sent and self.sent[-1].get("body") and "more_body" not in self.sent[-1])


async def act(script: list[tuple[str, float]], receive: Any, send: Any) -> None:
    """Do what an application may do; what ASGI forbids it does not try."""
    begun = ended = False
    for what, much in script:
        if what == "receive":
            await receive()
        elif what == "listen":
            while (await receive())["type"] != "http.disconnect":
                pass
        elif what == "start" and not begun:
            begun = True
            await send({"type": "http.response.start", "status": int(much), "headers": []})
        elif what == "body" and begun and not ended:
            ended = not much
            await send({"type": "http.response.body", "body": b"x", "more_body": bool(much)})
        elif what == "sleep":
            await asyncio.sleep(much)
        elif what == "stubborn":
            try:
                await asyncio.sleep(much)
            except asyncio.CancelledError:
                pass
        elif what == "raise":
            raise ValueError("a bug")
        elif what == "cancel":
            raise asyncio.CancelledError


@settings(max_examples=300, deadline=None)
@given(
    app=st.lists(ACTS, max_size=8),
    caller=st.lists(TOLD, max_size=6),
    bodied=st.booleans(),
    told=st.sampled_from([None, b"500"]),
)
def test_settled_once_and_answered_at_most_once(
    app: list[tuple[str, float]], caller: list[tuple[str, float]], bodied: bool, told: bytes | None
) -> None:
    """No ticket is lost, no reply is doubled, no task stays cancelled, no scope stays behind."""

    async def scene() -> None:
        loop, wire, seen = asyncio.get_running_loop(), Wire(), Seen()
        headers = ((b"transfer-encoding", b"chunked"),) if bodied else ()
        if not bodied:
            wire.messages.put_nowait({"type": "http.request", "body": b"", "more_body": False})
            wire.whole = True
        if told is not None:
            headers = (*headers, (b"msgov-deadline-ms", told))
        edge = HttpEdge(
            service="shop",
            policies=lambda _: (seen,),
            default_deadline=2.0,
            limits=Limits(body_bytes=100, body_seconds=1.0),
            clock=loop.time,
        )

        async def application(scope: Any, receive: Any, send: Any) -> None:
            await act(app, receive, send)

        async def serve() -> tuple[BaseException | None, int]:
            raised: BaseException | None = None
            try:
                await Middleware(application, edge)(http(headers=headers), wire.receive, wire.send)
            except BaseException as error:
                raised = error
            assert scope.current.get() is scope.EMPTY
            task = asyncio.current_task()
            assert task is not None
            return raised, task.cancelling()

        calls = asyncio.create_task(wire.caller(caller))
        task = asyncio.create_task(serve())
        raised, cancelling = await asyncio.wait_for(task, 60)
        await calls
        assert cancelling == 0
        assert (seen.inside, len(seen.outcomes)) == (0, 1)
        started = bool(wire.sent)
        if isinstance(raised, asyncio.CancelledError):
            assert ("cancel", 0) in app
        elif raised is not None:
            assert started or wire.left
            assert not wire.ended or isinstance(raised, ValueError)
        elif not wire.left:
            assert wire.answered
        if seen.outcomes[0].verdict.name == "OK":
            assert started or wire.left

    with silent("msgov.asgi"):
        run(scene())
