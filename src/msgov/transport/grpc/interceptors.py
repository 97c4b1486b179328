"""Client interceptors for channels that people already have: the same policies, without picking an instance.

`aio_interceptors` returns the four that `grpc.aio` wants, `SyncInterceptor` is all four for `grpc.intercept_channel`.
Prefer the msgov channel where you can: it chooses the instance of each attempt, and knows what was never sent.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import grpc
import grpc.aio

from msgov import scope, wire
from msgov.call import Call
from msgov.clock import Clock, monotonic

from .aio_calls import StreamStreamCall, StreamUnaryCall, UnaryStreamCall, UnaryUnaryCall
from .aio_method import Loop
from .coming import Coming
from .flight import Flight
from .hedged import Hedged, SharedHedged
from .method import MOST_METHODS, Governed, Policies, Sending, idempotent, keyed, until
from .port import Off
from .shared import SharedFlight
from .sync_calls import FutureCall, Native, StreamCall
from .sync_method import Threads


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientEdge:
    """How a foreign channel's calls are governed: the service it leads to, and the policies of a method path."""

    target: str
    policies: Policies
    clock: Clock = monotonic


class _Asked(NamedTuple):
    """What grpc hands an interceptor."""

    go_on: Callable[[Any, Any], Any]
    details: Any
    request: Any


class _Details(NamedTuple):
    """What an attempt is sent with: the fields of the blocking colour's ClientCallDetails."""

    method: Any
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: Any
    compression: Any = None


class _Foreign:
    """What flights on someone else's channel are lent, either colour: it is connected, or not, as its owner likes."""

    def __init__(self, edge: ClientEdge, *, once: bool, streams: bool) -> None:
        self.clock = edge.clock
        self.streams = streams
        self._edge = edge
        self._once = once
        self._kept: dict[str, Governed] = {}

    def governed(self, path: str) -> Governed:
        """Return what governs the next call of a method."""
        policies, kept = self._edge.policies(path), self._kept.get(path)
        if kept is None or kept.policies is not policies:
            if len(self._kept) >= MOST_METHODS:
                self._kept.clear()
            kept = self._kept[path] = Governed(policies, once=self._once)
        return kept

    def call(self, path: str, asked: _Asked) -> Call:
        """Make a call in the current scope."""
        around = scope.current.get()
        deadline = until(asked.details.timeout, around.deadline, self.clock())
        request = None if self._once else asked.request
        twice = idempotent(path) or keyed(asked.details.metadata)
        call = Sending(self._edge.target, path, request, deadline, twice, around)
        call.context = asked
        return call

    def enter(self, call: Call, flight: object) -> None:
        """Take the one connection there is."""

    def leave(self, connection: None, flight: object) -> None:
        """Leave it."""

    def up(self, connection: None, call: Call) -> bool:
        """Believe that it is up: when it is not, what was never sent is taken for sent."""
        return True

    def reach(self, connection: None, heard: Callable[[bool], None]) -> bool:
        """Never asked for: a connection that is believed in is always up."""
        raise NotImplementedError

    def unreached(self, connection: None, code: grpc.StatusCode) -> BaseException:
        """Never asked for: as above."""
        raise NotImplementedError

    def encode(self, message: Any) -> Any:
        """Leave a message to the channel's own serialiser."""
        return message


def _path(details: Any) -> str:
    method = details.method
    return method.decode() if isinstance(method, bytes) else str(method)


def _asked(call: Call) -> _Asked:
    assert isinstance(call.context, _Asked)  # noqa: S101  made by _Foreign.call
    return call.context


def _headers(call: Call, details: Any) -> tuple[Any, ...]:
    return (*(details.metadata or ()), *wire.outgoing(call, 0.0, deadline=False))


class _Aio(_Foreign, Loop):
    def launch(self, connection: None, call: Call, seconds: float | None) -> Coming:
        """Go on to the next interceptor, or to the call itself."""
        go_on, details, request = _asked(call)
        sent = grpc.aio.ClientCallDetails(
            details.method,
            seconds,
            grpc.aio.Metadata(*_headers(call, details)),
            details.credentials,
            details.wait_for_ready,
        )
        return Coming(self.home.create_task(go_on(sent, request)))

    def begin(self, go_on: Any, details: Any, request: Any) -> Flight[Coming]:
        """Begin a call."""
        path = _path(details)
        governed = self.governed(path)
        call = self.call(path, _Asked(_loosely(go_on, _dropped) if self.streams else go_on, details, request))
        makes = Hedged if governed.hedged else Flight
        flight: Flight[Coming] = makes(self, governed.pipeline, governed.segment, call)
        flight.begin()
        return flight


def _loosely(asks: Any, gone: Callable[[], Any]) -> Any:
    """Hold what grpc.aio's own wrapper of a stream asks for, without holding the wrapper.

    The wrapper holds us. Were it held by a stream under way, one that its caller has dropped would never end.
    """
    if not isinstance(getattr(getattr(asks, "func", None), "__self__", None), grpc.aio.Call):
        return asks
    method: weakref.WeakMethod[Any] = weakref.WeakMethod(asks.func)
    given, named = asks.args, asks.keywords

    def ask(*more: Any) -> Any:
        bound = method()
        return gone() if bound is None else bound(*given, *more, **named)

    return ask


def _dropped() -> Any:
    raise asyncio.InvalidStateError("the call was dropped")


class _Loose:
    """A stream that is told of without being kept."""

    def add_done_callback(self, callback: Any) -> None:
        """Call back when the outcome is final, unless whoever asked for it is gone."""
        super().add_done_callback(_loosely(callback, lambda: None))  # type: ignore[misc]  # of the call object


class _Down(_Loose, UnaryStreamCall):
    """A governed response stream."""


class _Both(_Loose, StreamStreamCall):
    """A governed call with streams both ways."""


def aio_interceptors(edge: ClientEdge) -> list[grpc.aio.ClientInterceptor]:
    """Return the interceptors to open a `grpc.aio` channel with."""
    return [_UnaryUnary(edge), _UnaryStream(edge), _StreamUnary(edge), _StreamStream(edge)]


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, edge: ClientEdge) -> None:
        self._port = _Aio(edge, once=False, streams=False)

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return UnaryUnaryCall(self._port.begin(continuation, client_call_details, request))


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, edge: ClientEdge) -> None:
        self._port = _Aio(edge, once=False, streams=True)

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return _Down(self._port.begin(continuation, client_call_details, request))


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    def __init__(self, edge: ClientEdge) -> None:
        self._port = _Aio(edge, once=True, streams=False)

    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return StreamUnaryCall(self._port.begin(continuation, client_call_details, request_iterator))


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    def __init__(self, edge: ClientEdge) -> None:
        self._port = _Aio(edge, once=True, streams=True)

    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return _Both(self._port.begin(continuation, client_call_details, request_iterator))


class _Sync(_Foreign, Threads):
    def later(self, seconds: float, act: Callable[[], object]) -> Off:
        """Act in a thread of its own: going on waits for the reply where the caller waits too."""
        return super().later(seconds, lambda: threading.Thread(target=act, name="msgov-attempt", daemon=True).start())

    def launch(self, connection: None, call: Call, seconds: float | None) -> Native:
        """Go on to the next interceptor, or to the call itself."""
        go_on, details, request = _asked(call)
        compression = getattr(details, "compression", None)
        sent = _Details(
            details.method,
            seconds,
            _headers(call, details),
            details.credentials,
            details.wait_for_ready,
            compression,
        )
        return go_on(sent, request)

    def begin(self, go_on: Any, details: Any, request: Any) -> Flight[Native]:
        """Begin a call."""
        path = _path(details)
        governed = self.governed(path)
        call = self.call(path, _Asked(go_on, details, request))
        makes = SharedHedged if governed.hedged else SharedFlight
        flight: Flight[Native] = makes(self, governed.pipeline, governed.segment, call)
        flight.begin()
        return flight


class SyncInterceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Governs every call of a channel: `grpc.intercept_channel(channel, SyncInterceptor(edge))`."""

    def __init__(self, edge: ClientEdge) -> None:
        self._unary = _Sync(edge, once=False, streams=False)
        self._down = _Sync(edge, once=False, streams=True)
        self._up = _Sync(edge, once=True, streams=False)
        self._both = _Sync(edge, once=True, streams=True)

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Govern a unary call."""
        return FutureCall(self._unary.begin(continuation, client_call_details, request))

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Govern a server-streaming call."""
        return StreamCall(self._down.begin(continuation, client_call_details, request))

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """Govern a client-streaming call: one attempt."""
        return FutureCall(self._up.begin(continuation, client_call_details, request_iterator))

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """Govern a call with streams both ways: one attempt."""
        return StreamCall(self._both.begin(continuation, client_call_details, request_iterator))
