"""An ordinary `grpc.aio.Channel` with governance inside: generated stubs work on it unchanged.

Each attempt goes to the instance that its policies picked; deadline, limit, retry and fallback hold the whole call.
Client-streaming calls make one attempt. A channel belongs to the loop of its first call.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from functools import partial
from typing import Any, Self

import grpc
import grpc.aio

from msgov import wire
from msgov.call import Call
from msgov.clock import Clock, monotonic

from . import status
from .aio_calls import Native, StreamStreamCall, StreamUnaryCall, UnaryStreamCall, UnaryUnaryCall
from .connections import AioConnection, AioConnections, Heard, address
from .flight import Flight
from .method import Given, Metadata, Method, Policies, Serializer
from .port import Off


class _Method(Method):
    """One method of a channel, and what it lends its flights."""

    def __init__(
        self, channel: Channel, kind: str, path: str, encode: Serializer, decode: Serializer, registered: bool
    ) -> None:
        super().__init__(channel.target, channel.policies, channel.clock, kind, path, encode, decode, registered)
        self._channel = channel
        self._connections = channel.connections

    def begin(
        self,
        request: Any,
        timeout: float | None,
        metadata: Metadata | None,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> Flight[Native]:
        """Begin a call."""
        self._channel.loop()
        governed = self.governed()
        call = self.call(request, timeout)
        if self.once or not (metadata is credentials is wait_for_ready is compression is None):
            call.context = Given(metadata, credentials, wait_for_ready, compression)
        flight: Flight[Native] = Flight(self, governed.pipeline, governed.segment, call)
        flight.begin()
        return flight

    def later(self, seconds: float, act: Callable[[], object]) -> Off:
        return self._channel.loop().call_later(seconds, act)

    def soon(self, act: Callable[[], object]) -> bool:
        try:
            self._channel.home.call_soon_threadsafe(act)
        except RuntimeError:  # the loop is closed
            return False
        return True

    def enter(self, call: Call, flight: object) -> AioConnection:
        instance = call.instance
        if instance is None:
            return self._connections.enter(self.target, flight, pinned=True)
        return self._connections.enter(address(instance), flight)

    def leave(self, connection: AioConnection, flight: object) -> None:
        self._connections.leave(connection, flight)

    def reach(self, connection: AioConnection, call: Call, heard: Heard) -> bool | None:
        given = call.context
        if isinstance(given, Given) and given.wait_for_ready:
            return True  # the transport waits
        return self._connections.reach(connection, heard)

    def launch(self, connection: AioConnection, call: Call, seconds: float | None) -> Native:
        native, given = self.native(connection), call.context
        headers = wire.outgoing(call, 0.0, deadline=False)
        if not isinstance(given, Given):
            return native(self.encode(call.request), timeout=seconds, metadata=grpc.aio.Metadata(*headers))
        payload: tuple[object, ...] = ()
        if not self.once:
            payload = (self.encode(call.request),)
        elif call.request is not None:
            payload = (_encoded(call.request, self.encode, given),)
        return native(
            *payload,
            timeout=seconds,
            metadata=grpc.aio.Metadata(*given.metadata, *headers),
            credentials=given.credentials,
            wait_for_ready=given.wait_for_ready,
            compression=given.compression,
        )

    def watch(self, native: Native, landed: Callable[[Native], None]) -> None:
        native.add_done_callback(landed)

    def ended(self, native: Native) -> tuple[grpc.StatusCode, status.Pairs, BaseException | None]:
        code: grpc.StatusCode = _now(native.code())
        if code is grpc.StatusCode.OK:
            return code, (), None
        trailing = _now(native.trailing_metadata())
        text = _now(native.debug_error_string())
        if code is grpc.StatusCode.CANCELLED and text is None:  # grpc explains every status but its own cancellation
            return code, (), asyncio.CancelledError()
        error = grpc.aio.AioRpcError(
            code, _now(native.initial_metadata()), trailing, _now(native.details()), debug_error_string=text
        )
        return code, tuple(trailing or ()), error

    def stop(self, native: Native) -> None:
        native.cancel()

    def unreached(self, connection: AioConnection, code: grpc.StatusCode) -> BaseException:
        trailing = grpc.aio.Metadata((wire.SENT, "no"))
        return grpc.aio.AioRpcError(
            code, grpc.aio.Metadata(), trailing, f"{connection.address}: no connection", debug_error_string=""
        )

    def answer(self, make: Callable[[], object], done: Callable[[object, BaseException | None], None]) -> Off | None:
        try:
            reply = make()
            if not inspect.isawaitable(reply):
                done(reply, None)
                return None
            task = asyncio.ensure_future(reply)
        except Exception as error:  # noqa: BLE001  the answer failed too
            done(None, error)
            return None
        task.add_done_callback(partial(_answered, done))
        return task

    def cancelled(self) -> BaseException:
        return asyncio.CancelledError()


def _answered(done: Callable[[object, BaseException | None], None], task: asyncio.Future[object]) -> None:
    if task.cancelled():
        done(None, asyncio.CancelledError())
    else:
        error = task.exception()
        done(None if error else task.result(), error)


def _now(answer: Any) -> Any:
    """Read what a native call that is over would give at once: by public API, without suspending."""
    try:
        answer.send(None)
    except StopIteration as stop:
        return stop.value
    answer.close()
    return None


async def _encoded(
    requests: AsyncIterable[Any] | Iterable[Any], encode: Callable[[Any], Any], given: Given
) -> AsyncIterator[Any]:
    """Serialise a request stream; what its iterator raises is kept, for grpc only cancels the call for it."""
    try:
        if isinstance(requests, AsyncIterable):
            async for request in requests:
                yield encode(request)
        else:
            for request in requests:
                yield encode(request)
    except Exception as fault:
        given.fault = fault
        raise


class UnaryUnary(grpc.aio.UnaryUnaryMultiCallable[Any, Any]):
    """A governed unary-unary method of a stub."""

    def __init__(self, method: _Method) -> None:
        self._method = method

    def __call__(
        self, request: Any, *, timeout: float | None = None, metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None, wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> UnaryUnaryCall:  # fmt: skip
        """Begin the call at once; takes what a bare multicallable takes."""
        return UnaryUnaryCall(
            self._method.begin(request, timeout, metadata, credentials, wait_for_ready, compression)
        )


class UnaryStream(grpc.aio.UnaryStreamMultiCallable[Any, Any]):
    """A governed unary-stream method of a stub."""

    def __init__(self, method: _Method) -> None:
        self._method = method

    def __call__(
        self, request: Any, *, timeout: float | None = None, metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None, wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> UnaryStreamCall:  # fmt: skip
        """Begin the call at once; takes what a bare multicallable takes."""
        return UnaryStreamCall(
            self._method.begin(request, timeout, metadata, credentials, wait_for_ready, compression)
        )


class StreamUnary(grpc.aio.StreamUnaryMultiCallable[Any, Any]):
    """A governed stream-unary method of a stub."""

    def __init__(self, method: _Method) -> None:
        self._method = method

    def __call__(
        self, request_iterator: AsyncIterable[Any] | Iterable[Any] | None = None, timeout: float | None = None,
        metadata: Metadata | None = None, credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None, compression: grpc.Compression | None = None,
    ) -> StreamUnaryCall:  # fmt: skip
        """Begin the call at once; takes what a bare multicallable takes."""
        return StreamUnaryCall(
            self._method.begin(request_iterator, timeout, metadata, credentials, wait_for_ready, compression)
        )


class StreamStream(grpc.aio.StreamStreamMultiCallable[Any, Any]):
    """A governed stream-stream method of a stub."""

    def __init__(self, method: _Method) -> None:
        self._method = method

    def __call__(
        self, request_iterator: AsyncIterable[Any] | Iterable[Any] | None = None, timeout: float | None = None,
        metadata: Metadata | None = None, credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None, compression: grpc.Compression | None = None,
    ) -> StreamStreamCall:  # fmt: skip
        """Begin the call at once; takes what a bare multicallable takes."""
        return StreamStreamCall(
            self._method.begin(request_iterator, timeout, metadata, credentials, wait_for_ready, compression)
        )


class Channel(grpc.aio.Channel):
    """A channel to a service, not to an address.

    `policies` gives those of a method path ("/shop.v1.Order/Place"), the same tuple until their shape changes; a `Pick`
    among them chooses the instance of each attempt (without one the target itself is dialled). `connections` may be
    shared by the channels of one loop; they are then closed by whoever made them, and not with the channel.
    """

    def __init__(
        self,
        target: str,
        policies: Policies,
        *,
        connections: AioConnections | None = None,
        clock: Clock = monotonic,
    ) -> None:
        self.target = target
        self.policies = policies
        self.clock = clock
        self.closed = False
        self.connections = connections or AioConnections()
        self._own = connections is None
        self._methods: Kept[Any] = Kept()
        self._home: asyncio.AbstractEventLoop | None = None

    @property
    def home(self) -> asyncio.AbstractEventLoop:
        """The loop that this channel belongs to: that of its first call. Raises RuntimeError before."""
        if self._home is None:
            raise RuntimeError(f"the channel to {self.target} was not used yet")
        return self._home

    def settle(self) -> None:
        """Belong to the running loop.

        Raises RuntimeError when another one has the channel, and grpc.aio.UsageError when it is closed.
        """
        running = asyncio.get_running_loop()
        if self._home is not running or self.closed:
            if self.closed:
                raise grpc.aio.UsageError(f"the channel to {self.target} is closed")
            if self._home is not None and not self._home.is_closed():
                raise RuntimeError(f"the channel to {self.target} belongs to another event loop: make one for each")
            self.connections.bind(running)
            self._home = running

    def unary_unary(
        self, method: str, request_serializer: Serializer = None, response_deserializer: Serializer = None,
        _registered_method: bool | None = False,
    ) -> UnaryUnary:  # fmt: skip
        """Make a unary-unary method, as generated stubs do."""
        return self._made(UnaryUnary, "unary_unary", method, request_serializer, response_deserializer, _registered_method)

    def unary_stream(
        self, method: str, request_serializer: Serializer = None, response_deserializer: Serializer = None,
        _registered_method: bool | None = False,
    ) -> UnaryStream:  # fmt: skip
        """Make a unary-stream method, as generated stubs do."""
        return self._made(UnaryStream, "unary_stream", method, request_serializer, response_deserializer, _registered_method)
