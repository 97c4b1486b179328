"""A pure ASGI middleware: HTTP, lifespan, WebSocket and streams both ways pass through one pipeline.

What an application fails at becomes one friendly refusal; what is refused at the door never reaches it. Limits on
headers and bodies, a receive deadline, the caller's deadline and disconnect are kept here, for ASGI servers keep none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, cast

from msgov import aio, wire
from msgov import scope as scopes
from msgov.call import Call, Outcome
from msgov.clock import Clock, monotonic
from msgov.errors import CallFailed
from msgov.pipeline import Pipeline, Policy
from msgov.policy import AsyncHandler, classify

from .problem import Refusal, judged, outcome, refusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_log = logging.getLogger("msgov.asgi")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a request may be: headers in bytes and number, body in bytes, and seconds for the body to arrive."""

    header_bytes: int = 16 * 1024
    headers: int = 100
    body_bytes: int = 1024 * 1024
    body_seconds: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpEdge:
    """How an ASGI application is governed.

    `policies` gives those of "VERB /path", the same tuple until their shape changes. A request without a deadline gets
    `default_deadline` seconds, one with a longer one is cut to `longest_deadline`. `trusted` tells by the peer's
    address whose attempt allowance is believed.
    """

    service: str
    policies: Callable[[str], tuple[Policy, ...]]
    default_deadline: float = 15.0
    longest_deadline: float = 60.0
    limits: Limits = field(default_factory=Limits)
    trusted: Callable[[str], bool] = field(default=lambda peer: False)
    clock: Clock = monotonic


class Middleware:
    """Governs an ASGI application; `Middleware(app, edge)` is an ASGI application itself."""

    def __init__(self, app: App, edge: HttpEdge) -> None:
        self.app = app
        self.edge = edge
        self._policies: dict[tuple[Policy, ...], AsyncHandler] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        kind = scope["type"]
        if kind == "http":
            await self._http(scope, receive, send)
        elif kind == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        edge, pairs = self.edge, scope["headers"]
        if len(pairs) > edge.limits.headers or sum(len(n) + len(v) for n, v in pairs) > edge.limits.header_bytes:
            await _refuse(send, Refusal("headers_too_large"))
            return
        call, around = _received(edge, scope, f"{scope['method']} {scope['path']}")
        bodied = "content-length" in call.metadata or "transfer-encoding" in call.metadata
        exchange = _Exchange(edge, scope, receive, send, bodied=bodied)
        call.context = exchange
        token = scopes.current.set(around)
        try:
            await self._handler(call.method)(call)
        except _Replied:
            pass  # the application's own reply went out: its status has been learnt from
        except asyncio.CancelledError:
            if not exchange.gone:
                raise
            cast("asyncio.Task[object]", asyncio.current_task()).uncancel()
        except Exception as error:
            if exchange.started:
                raise  # half a reply is out: only the server can break it off
            trace_id = call.trace.trace_id if call.trace else ""
            answer = refusal(error, began=exchange.began, trace_id=trace_id)
            if isinstance(error, _BodyRefused):
                answer = Refusal(error.reason, trace_id=trace_id)
            elif answer.status == 500:
                _log.error("%s failed", call.method, exc_info=error)
            await _refuse(send, answer)
        finally:
            exchange.close()
            scopes.current.reset(token)

    def _handler(self, operation: str) -> AsyncHandler:
        policies = self.edge.policies(operation)
        handler = self._policies.get(policies)
        if handler is None:
            if len(self._policies) > 1000:  # shapes change with the rules: old ones are let go
                self._policies.clear()
            pipeline = Pipeline(policies, classify=_judge)
            handler = self._policies[policies] = aio.govern(pipeline, self._run, clock=self.edge.clock)
        return handler

    async def _run(self, call: Call) -> None:
        """Run the application for one request."""
        exchange = cast("_Exchange", call.context)
        exchange.began = True
        _enter_trace(call)
        await aio.bounded(exchange.serve(self.app), call, self.edge.clock)
        call.method = _routed(exchange.scope, call.method)
        status = exchange.status
        call.status = str(status)
        if status >= 400:
            raise _Replied(status)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hold the tickets of a WebSocket for as long as it is open; no deadline ends it."""
        call, around = _received(self.edge, scope, f"GET {scope['path']}")
        call.deadline = None
        began = False

        async def run(call: Call) -> None:
            nonlocal began
            began = True
            _enter_trace(call)
            await self.app(scope, receive, send)
            call.method = _routed(scope, call.method)

        token = scopes.current.set(scopes.Scope(trace=around.trace, key=around.key))
        try:
            pipeline = Pipeline(self.edge.policies(call.method), classify=_judge)
            await aio.govern(pipeline, run, clock=self.edge.clock, native=True)(call)
        except Exception as error:
            if began:
                raise
            await receive()  # websocket.connect comes first
            await send(
                {"type": "websocket.close", "code": 1013, "reason": refusal(error, began=False, trace_id="").reason}
            )
        finally:
            scopes.current.reset(token)


class _Replied(CallFailed):
    """The application answered with an error status; the reply is out, this only tells the policies."""

    def __init__(self, status: int) -> None:
        found = outcome(status, {}, None)
        super().__init__(f"answered {status}", status=str(status), verdict=found.verdict, overloaded=found.overloaded)


class _BodyRefused(Exception):  # noqa: N818  says what happened
    """A request body that is too large or too slow."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _judge(call: Call, error: BaseException) -> Outcome:
    if isinstance(error, _Replied):
        return judged(call, error)
    found = classify(call, error)
    if isinstance(error, Exception) and not hasattr(error, "verdict"):
        found.status = str(refusal(error, began=True, trace_id="").status)
    return found


class _Exchange:
    """One request and its reply: counts the body in, notes the status out, watches for the caller going away."""

    __slots__ = (
        "_bodied", "_edge", "_read", "_receive", "_send", "_since", "_task", "_watch", "began", "gone", "scope",
        "started", "status",
    )  # fmt: skip

    def __init__(self, edge: HttpEdge, scope: Scope, receive: Receive, send: Send, *, bodied: bool) -> None:
        self.scope = scope
        self._bodied = bodied
        self.began = self.started = self.gone = False
        self.status = 500
        self._edge = edge
        self._receive = receive
        self._send = send
        self._read = 0
        self._since = edge.clock()
        self._task: asyncio.Task[Any] | None = None
        self._watch: asyncio.TimerHandle | asyncio.Task[None] | None = None

    def serve(self, app: App) -> Callable[[Call], Awaitable[None]]:
        """Return the handler that runs the application over this exchange."""

        async def run(_: Call) -> None:
            self._task = asyncio.current_task()
            await app(self.scope, self.receive, self.send)
            if not self.started:
                raise RuntimeError("the application returned without a reply")

        return run

    async def receive(self) -> Message:
        """Hand the application its next message, within the body's limits."""
        if self._watch is not None:  # the watcher reads now: what is left is the disconnect it waits for
            await asyncio.get_running_loop().create_future()
        message = await (self._in_time() if self._bodied else self._receive())
        if message["type"] == "http.request":
            self._read += len(message.get("body", b""))
            if self._read > self._edge.limits.body_bytes:
                raise _BodyRefused("body_too_large")
            if not message.get("more_body"):
                self._bodied = False  # all of it is here: what follows may take its time
                self._arm()
        elif message["type"] == "http.disconnect":
            self.gone = True
        return message

    async def _in_time(self) -> Message:
        left = self._edge.limits.body_seconds - (self._edge.clock() - self._since)
        try:
            async with asyncio.timeout(max(0.0, left)):
                return await self._receive()
        except TimeoutError:
            raise _BodyRefused("body_too_slow") from None

    async def send(self, message: Message) -> None:
        """Pass the application's reply on."""
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
        await self._send(message)

    def _arm(self) -> None:
        """Watch for the caller going away, from a tick from now: most requests are over by then."""
        self._watch = asyncio.get_running_loop().call_later(0.05, self._look)

    def _look(self) -> None:
        self._watch = asyncio.get_running_loop().create_task(self._disconnect())

    async def _disconnect(self) -> None:
        message = await self._receive()
        if message["type"] == "http.disconnect" and self._task is not None and not self._task.done():
            self.gone = True
            self._task.cancel()

    def close(self) -> None:
        """Stop watching."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None


def _received(edge: HttpEdge, scope: Scope, operation: str) -> tuple[Call, scopes.Scope]:
    """Make the `Call` of a request, and the scope that its deadline and trace give."""
    now = edge.clock()
    headers = wire.lowered(scope["headers"])
    peer = scope["client"][0] if scope.get("client") else ""
    around = wire.incoming(headers, now, trusted=edge.trusted(peer))
    left = edge.default_deadline if around.deadline is None else min(around.deadline - now, edge.longest_deadline)
    around = around.by(now + left).having(key=peer)
    call = Call(edge.service, operation, None, deadline=around.deadline, key=peer, metadata=headers)
    call.trace = around.trace
    return call, around


def _enter_trace(call: Call) -> None:
    around = scopes.current.get()
    if call.trace is not None and call.trace is not around.trace:
        scopes.current.set(around.having(trace=call.trace))


def _routed(scope: Scope, operation: str) -> str:
    """Return verb and route template where the application's router left one; never the path that was asked for."""
    route = getattr(scope.get("route"), "path", None)
    verb = operation.partition(" ")[0]
    return f"{verb} {route}" if isinstance(route, str) else f"{verb} _OTHER"


async def _refuse(send: Send, answer: Refusal) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    await send({"type": "http.response.body", "body": answer.body})
