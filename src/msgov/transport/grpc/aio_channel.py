"""An ordinary `grpc.aio.Channel` with governance inside: generated stubs work on it unchanged.

Each attempt goes to the instance that its policies picked; deadline, limit, retry and fallback hold the whole call.
Client-streaming calls make one attempt. A channel belongs to the loop of its first call.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Self

import grpc
import grpc.aio

from msgov import scope, wire
from msgov.call import Call
from msgov.clock import Clock, monotonic
from msgov.pipeline import Pipeline, Policy
from msgov.policy import Plan

from . import status
from .aio_calls import Native, StreamStreamCall, StreamUnaryCall, UnaryStreamCall, UnaryUnaryCall
from .connections import AioConnections, address
from .flight import Flight, Timer
from .method import Serializer, idempotent, split

Metadata = Iterable[tuple[str, str | bytes]]


class _Port:
    """Lends a flight the running loop."""

    __slots__ = ("_connections", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, connections: AioConnections) -> None:
        self._loop = loop
        self._connections = connections

    def later(self, seconds: float, act: Callable[[], None]) -> Timer:
        return self._loop.call_later(seconds, act)

    def soon(self, act: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop was closed: nobody waits there any more
            self._loop.call_soon_threadsafe(act)

    def lock(self) -> AbstractContextManager[object]:
        return _NO_LOCK  # one loop, one thread

    def watch(self, native: Native, landed: Callable[[Native], None]) -> None:
        native.add_done_callback(landed)

    def ended(self, native: Native) -> tuple[grpc.StatusCode, status.Pairs, BaseException | None]:
        code: grpc.StatusCode = _now(native.code())
        if code is grpc.StatusCode.OK:
            return code, (), None
        trailing = _now(native.trailing_metadata())
        pairs = tuple(trailing or ())
        if native.cancelled() and code is grpc.StatusCode.CANCELLED and _locally(native):
            return code, pairs, asyncio.CancelledError()
        initial = _now(native.initial_metadata())
        return code, pairs, grpc.aio.AioRpcError(code, initial, trailing, _now(native.details()))

    def ready(self, call: Call) -> bool:
        instance = call.instance
        return instance is None or self._connections.up(address(instance))

    def stop(self, native: Native) -> None:
        native.cancel()

    def answer(self, reply: object, done: Callable[[object, BaseException | None], None]) -> None:
        if not inspect.isawaitable(reply):
            done(reply, None)
            return
        task = asyncio.ensure_future(reply)

        def told(ended: asyncio.Future[object]) -> None:
            if ended.cancelled():
                done(None, asyncio.CancelledError())
            else:
                error = ended.exception()
                done(None if error else ended.result(), error)

        task.add_done_callback(told)

    def cancelled(self) -> BaseException:
        return asyncio.CancelledError()


_NO_LOCK: AbstractContextManager[object] = nullcontext()


def _now(answer: Any) -> Any:
    """Read what a native call that is over would give at once: by public API, without suspending."""
    try:
        answer.send(None)
    except StopIteration as stop:
        return stop.value
    answer.close()
    return None


def _locally(native: Native) -> bool:
    return bool(_now(native.details()) == "Locally cancelled by application!")


class _Method:
    """One method of a channel: what is wrapped once and used for every call of it."""

    __slots__ = (
        "_channel",
        "_extra",
        "_generation",
        "_kind",
        "_natives",
        "_once",
        "_pipeline",
        "_policies",
        "idempotent",
        "path",
        "service",
        "verb",
    )

    def __init__(
        self, channel: Channel, kind: str, path: str, encode: Serializer, decode: Serializer, registered: bool
    ) -> None:
        self._channel = channel
        self._kind = kind
        self._extra: dict[str, Any] = {"request_serializer": encode, "response_deserializer": decode}
        if registered:
            self._extra["_registered_method"] = True
        self._natives: dict[str, Any] = {}
        self._pipeline = Pipeline()
        self._policies: tuple[Policy, ...] | None = None
        self._generation = -1
        self._once = kind.startswith("stream")
        self.path = path
        self.service, self.verb = split(path)
        self.idempotent = idempotent(path)

    def pipeline(self) -> Pipeline:
        """Return the pipeline for the next call; a request stream is sent once, so it has no plan."""
        policies = self._channel.policies(self.path)
        if policies is not self._policies:
            kept = [policy for policy in policies if not (self._once and isinstance(policy, Plan))]
            self._pipeline = Pipeline(kept, classify=status.judge)
            self._policies = policies
        return self._pipeline

    def native(self, where: str) -> Any:
        """Return the native multicallable to an address."""
        connections = self._channel.connections
        if self._generation != connections.generation:
            self._natives.clear()
            self._generation = connections.generation
        found = self._natives.get(where)
        if found is None:
            found = self._natives[where] = getattr(connections.to(where), self._kind)(self.path, **self._extra)
        return found

    def call(
        self,
        request: Any = None,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Flight[Native]:
        """Begin a call."""
        channel = self._channel
        loop = channel.loop()
        around = scope.current.get()
        deadline = around.deadline if timeout is None else scope.sooner(around.deadline, channel.clock() + timeout)
        call = Call(
            channel.target,
            self.path,
            request,
            deadline=deadline,
            idempotent=self.idempotent,
            key=around.key,
            attempts_left=around.attempts_left,
        )
        call.trace = around.trace
        given = tuple(metadata) if metadata is not None else ()
        payload = () if self._once and request is None else (request,)

        def launch(call: Call, left: float | None) -> Native:
            instance = call.instance
            where = channel.target if instance is None else address(instance)
            return self.native(where)(
                *payload,
                timeout=left,
                metadata=given + tuple(wire.outgoing(call, 0.0, deadline=False)),
                credentials=credentials,
                wait_for_ready=wait_for_ready,
                compression=compression,
            )

        flight = Flight(self.pipeline(), call, launch, channel.port(loop), channel.clock)
        flight.begin()
        return flight


class UnaryUnary(grpc.aio.UnaryUnaryMultiCallable[Any, Any]):
    """A governed unary-unary method of a stub."""

    def __init__(self, method: _Method) -> None:
        self._method = method

    def __call__(self, request: Any, **options: Any) -> UnaryUnaryCall:
        """Begin the call at once; takes what a bare multicallable takes."""
        return UnaryUnaryCall(self._method.call(request, **options), asyncio.get_running_loop())


class UnaryStream(grpc.aio.UnaryStreamMultiCallable[Any, Any]):
    """A governed unary-stream method of a stub."""

    def __init__(self, method: _Method) -> None:
        self._method = method

    def __call__(self, request: Any, **options: Any) -> UnaryStreamCall:
        """Begin the call at once; takes what a bare multicallable takes."""
        return UnaryStreamCall(self._method.call(request, **options), asyncio.get_running_loop())


class StreamUnary(grpc.aio.StreamUnaryMultiCallable[Any, Any]):
    """A governed stream-unary method of a stub."""

    def __init__(self, method: _Method) -> None:
        self._method = method

    def __call__(
        self, request_iterator: AsyncIterable[Any] | Iterable[Any] | None = None, *more: Any, **options: Any
    ) -> StreamUnaryCall:
        """Begin the call at once; takes what a bare multicallable takes."""
        return StreamUnaryCall(self._method.call(request_iterator, *more, **options), asyncio.get_running_loop())


class StreamStream(grpc.aio.StreamStreamMultiCallable[Any, Any]):
    """A governed stream-stream method of a stub."""

    def __init__(self, method: _Method) -> None:
        self._method = method

    def __call__(
        self, request_iterator: AsyncIterable[Any] | Iterable[Any] | None = None, *more: Any, **options: Any
    ) -> StreamStreamCall:
        """Begin the call at once; takes what a bare multicallable takes."""
        return StreamStreamCall(self._method.call(request_iterator, *more, **options), asyncio.get_running_loop())


class Channel(grpc.aio.Channel):
    """A channel to a service, not to an address.

    `policies` gives those of a method path ("/shop.v1.Order/Place"), the same tuple until their shape
    changes; a `Pick` among them chooses the instance
    of each attempt (without one the target itself is dialled). `connections` may be shared by channels of one loop.
    """

    def __init__(
        self,
        target: str,
        policies: Callable[[str], tuple[Policy, ...]],
        *,
        connections: AioConnections | None = None,
        clock: Clock = monotonic,
    ) -> None:
        self.target = target
        self.policies = policies
        self.connections = connections or AioConnections()
        self.clock = clock
        self._ports: _Port | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop of the first call; raises RuntimeError for a call from another one."""
        running = asyncio.get_running_loop()
        if self._loop is not running:
            if self._loop is not None and not self._loop.is_closed():
                raise RuntimeError(f"the channel to {self.target} belongs to another event loop: make one per loop")
            self._loop, self._ports = running, None
        return running

    def port(self, loop: asyncio.AbstractEventLoop) -> _Port:
        """Return what lends flights this loop."""
        port = self._ports
        if port is None:
            port = self._ports = _Port(loop, self.connections)
        return port

    def unary_unary(
        self, method: str, request_serializer: Serializer = None, response_deserializer: Serializer = None,
        _registered_method: bool | None = False,
    ) -> UnaryUnary:  # fmt: skip
        """Make a unary-unary method, as generated stubs do."""
        return UnaryUnary(
            _Method(self, "unary_unary", method, request_serializer, response_deserializer, bool(_registered_method))
        )

    def unary_stream(
        self, method: str, request_serializer: Serializer = None, response_deserializer: Serializer = None,
        _registered_method: bool | None = False,
    ) -> UnaryStream:  # fmt: skip
        """Make a unary-stream method, as generated stubs do."""
        return UnaryStream(
            _Method(self, "unary_stream", method, request_serializer, response_deserializer, bool(_registered_method))
        )

    def stream_unary(
        self, method: str, request_serializer: Serializer = None, response_deserializer: Serializer = None,
        _registered_method: bool | None = False,
    ) -> StreamUnary:  # fmt: skip
        """Make a stream-unary method, as generated stubs do."""
        return StreamUnary(
            _Method(self, "stream_unary", method, request_serializer, response_deserializer, bool(_registered_method))
        )

    def stream_stream(
        self, method: str, request_serializer: Serializer = None, response_deserializer: Serializer = None,
        _registered_method: bool | None = False,
    ) -> StreamStream:  # fmt: skip
        """Make a stream-stream method, as generated stubs do."""
        return StreamStream(
            _Method(self, "stream_stream", method, request_serializer, response_deserializer, bool(_registered_method))
        )

    async def close(self, grace: float | None = None) -> None:
        """Close every connection; calls under way get `grace` seconds."""
        await self.connections.aclose(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Say READY: the instances behind are connected to one by one, as calls need them."""
        return grpc.ChannelConnectivity.READY

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait for ever: the state of this channel does not change."""
        await asyncio.get_running_loop().create_future()

    async def channel_ready(self) -> None:
        """Return at once."""

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close it."""
        await self.close()
