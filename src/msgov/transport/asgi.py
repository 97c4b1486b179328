"""A pure ASGI middleware: HTTP, lifespan, WebSocket and streams both ways pass through one pipeline.

What is refused at the door never reaches the application; what the application fails at becomes one friendly refusal.
Its tickets are held until the reply has ended, broken off, or lost its reader.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from msgov import aio, friendly
from msgov import scope as scopes
from msgov.call import IGNORED, TRANSIENT, Call, Outcome
from msgov.errors import DeadlineExceeded, MsgovError
from msgov.pipeline import Pipeline, Policy
from msgov.policy import AsyncHandler, Gate, classify
from msgov.resilience.standing import Announced, Metered, Standing
from msgov.transport.exchange import BodyRefused, Exchange, Replied
from msgov.transport.incoming import HttpEdge, received
from msgov.transport.limits import App, Limits, Receive, Scope, Send, oversized, wrong
from msgov.transport.problem import Refusal, refusal
from msgov.transport.rounds import Round
from msgov.transport.routes import Routes
from msgov.transport.socket import Socket

__all__ = ["App", "HttpEdge", "Limits", "Middleware"]

_log = logging.getLogger("msgov.asgi")
_SHAPES = 1000  # handlers kept: shapes change with the rules, and old ones are let go


class Middleware:
    """Governs an ASGI application, and is one: `Middleware(app, edge)`, or `app.add_middleware(Middleware, edge=edge)`.

    A substitute among the policies (a fallback) answers with an ASGI application, such as a Starlette response.
    """

    def __init__(self, app: App, edge: HttpEdge) -> None:
        self.app = app
        self.edge = edge
        self._handlers: dict[tuple[Policy, ...], AsyncHandler] = {}
        self._routes = Routes()
        self._round: Round | None = None

    @property
    def routes(self) -> Sequence[object]:
        """The routes inside, for a framework that looks for them in what it mounts."""
        found: Sequence[object] = getattr(self.app, "routes", ())
        return found

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
        edge = self.edge
        if oversized(scope, edge.limits):
            await _answer(send, Refusal("headers_too_large", close=_closable(scope)))
            return
        headers = dict(reversed(scope["headers"]))
        call, around, told = received(edge, scope, scope["method"], headers)
        refused = wrong(headers, scope, edge.limits)
        if refused:
            await _answer(send, Refusal(refused, trace=call.trace, close=_closable(scope)))
            return
        bodied = b"content-length" in headers or b"transfer-encoding" in headers
        loop = asyncio.get_running_loop()
        if self._round is None or self._round.loop is not loop:
            self._round = Round(loop)
        exchange = Exchange(
            call,
            scope,
            receive,
            send,
            edge.limits,
            self._round,
            edge.clock,
            bodied=bodied,
            told=told,
            around=edge.around,
        )
        call.context = exchange
        token = scopes.current.set(around)
        exchange.begin()
        try:
            reply = await self._handler(f"{scope['method']} {scope['path']}")(call)
            if reply is not exchange:
                await _replied(exchange, reply)
        except Replied:
            await exchange.flush()
        except asyncio.CancelledError:
            if exchange.end() or not exchange.gone:
                raise
        except Exception as error:  # noqa: BLE001  every error becomes a reply
            await _failed(exchange, call, error, send)
        finally:
            exchange.end()
            scopes.current.reset(token)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hold the tickets of a WebSocket for as long as it is open; no deadline ends it."""
        edge = self.edge
        call, around, _ = received(edge, scope, "GET", dict(reversed(scope["headers"])))
        socket = call.context = Socket(call, scope, receive, send)
        if oversized(scope, edge.limits):
            await socket.deny(Refusal("headers_too_large"))
            return
        around = scopes.Scope(
            trace=around.trace,
            attempts_left=around.attempts_left,
            key=call.key,
            criticality=around.criticality,
        )
        call.deadline = None
        token = scopes.current.set(around)
        try:
            await self._handler(f"GET {scope['path']}", endless=True)(call)
        except Exception as error:
            if socket.gone:
                return
            answer = refusal(error, began=socket.began, trace=call.trace)
            if answer.status == 500:
                _log.error("%s failed", call.method, exc_info=error, extra={"http_route": call.method})
            if socket.answered:
                raise  # only the server can break it off
            await socket.deny(answer)
        finally:
            scopes.current.reset(token)

    def _handler(self, operation: str, *, endless: bool = False) -> AsyncHandler:
        policies = self.edge.policies(operation)
        if endless:  # a deadline has no place round what stays open
            policies = tuple(policy for policy in policies if not getattr(policy, "narrows", False))
        handler = self._handlers.get(policies)
        if handler is None:
            if len(self._handlers) >= _SHAPES:
                self._handlers.clear()
            steps = tuple(_announced(policy) for policy in policies) if self.edge.standing else policies
            pipeline = Pipeline(steps, classify=judge)
            # The exchange watches the deadline itself; a layer, a second attempt or a substitute needs the driver's.
            alone = all(isinstance(policy, Gate) for policy in policies)
            run = self._run if alone else self._run_anywhere
            handler = self._handlers[policies] = aio.govern(pipeline, run, clock=self.edge.clock, native=alone)
        return handler

    async def _run_anywhere(self, call: Call) -> object:
        """Run the application in whatever task a layer has made for it."""
        if isinstance(call.context, Exchange):
            call.context.here()
        return await self._run(call)

    async def _run(self, call: Call) -> object:
        """Run the application; name the call by its route, whatever came of it."""
        under: Exchange | Socket = call.context  # type: ignore[assignment]  # set by both entrances above
        around, deadline = scopes.current.get(), call.deadline
        if deadline is not None and around.deadline is not None and around.deadline < deadline:
            # Spent, and a policy let it in all the same: what it calls has that time too.
            around = scopes.Scope(
                deadline, around.trace, around.attempts_left, around.key, around.baggage, around.criticality
            )
        scopes.current.set(around.by(deadline, call.trace))  # the middleware sets it back
        try:
            await under.run(self.app)
        finally:
            call.method = f"{call.method.partition(' ')[0]} {self._routes.name(under.scope)}"
        call.status = str(under.status)
        return under


def _announced(policy: Policy) -> Policy:
    """Let a limiter tell its caller where it stands."""
    return Announced(policy, _stand) if isinstance(policy, Metered) else policy


def _stand(call: Call, standings: Sequence[Standing]) -> None:
    if isinstance(call.context, Exchange):  # a WebSocket's handshake has no headers of ours
        call.context.standings += tuple(standings)


def judge(call: Call, error: BaseException) -> Outcome:
    """Judge what serving a request ended with: a caller who left or dawdled says nothing about the application."""
    under: Exchange | Socket = call.context  # type: ignore[assignment]  # as above
    if under.gone:
        return Outcome(IGNORED, error=error, status="499")
    if isinstance(error, Replied) or not isinstance(error, Exception):
        return classify(call, error)
    if isinstance(error, DeadlineExceeded) and under.starved:
        return Outcome(IGNORED, error=error, status="408")
    status = str(friendly.told(friendly.reason(error)).http)
    if not isinstance(error, MsgovError):
        return Outcome(TRANSIENT, error=error, status=status)
    found = classify(call, error)
    found.status = status
    return found


async def _replied(exchange: Exchange, reply: object) -> None:
    """Let a substitute's answer be the reply, where nothing of the application's own is out already."""
    if exchange.started or exchange.gone:
        return
    if not callable(reply):
        raise TypeError(f"a fallback answers with an ASGI application, such as a response, not {type(reply).__name__}")
    exchange.drop()
    await reply(exchange.scope, exchange.receive, exchange.send)
    await exchange.flush()


async def _failed(exchange: Exchange, call: Call, error: Exception, send: Send) -> None:
    """Answer an error; what is half sent only the server can break off."""
    if exchange.gone:
        _log.debug("%s: the caller left", call.method, exc_info=error)
        return
    if isinstance(error, DeadlineExceeded) and exchange.starved:
        error = BodyRefused("body_too_slow")
    close = isinstance(error, BodyRefused) and _closable(exchange.scope)
    answer = refusal(error, began=exchange.began, trace=call.trace, close=close)
    if answer.status == 500:
        _log.error("%s failed", call.method, exc_info=error, extra={"http_route": call.method})
    if exchange.started:
        raise error
    if answer.status == 500 and exchange.own:
        await exchange.flush()  # the application's own words for an error of its own
        return
    exchange.drop()
    await _answer(send, answer)


def _closable(scope: Scope) -> bool:
    """Whether `connection: close` means something: HTTP/2 and later forbid it."""
    return str(scope.get("http_version", "")).startswith("1")


async def _answer(send: Send, answer: Refusal) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    await send({"type": "http.response.body", "body": answer.body})
