"""An ordinary `grpc.aio.Channel` with governance inside: generated stubs work on it unchanged.

Each attempt goes to the instance that its policies picked; deadline, limit, retry and fallback hold the whole call.
Client-streaming calls make one attempt. A channel belongs to the loop of its first call.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, Self

import grpc
import grpc.aio

from msgov.clock import Clock, monotonic

from .aio_calls import StreamStreamCall, StreamUnaryCall, UnaryStreamCall, UnaryUnaryCall
from .aio_method import AioMethod
from .connections import AioConnections
from .method import MOST_METHODS, Metadata, Policies, Serializer


class _Begins:
    """What the four kinds do alike: begin the call at once, and return what is theirs to return."""

    makes: ClassVar[Any]

    def __init__(self, method: AioMethod) -> None:
        self._method = method

    def __call__(
        self, request: Any = None, timeout: float | None = None, metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None, wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:  # fmt: skip
        """Begin the call; takes what a bare multicallable takes."""
        return self.makes(self._method.begin(request, timeout, metadata, credentials, wait_for_ready, compression))


class UnaryUnary(_Begins, grpc.aio.UnaryUnaryMultiCallable):  # type: ignore[type-arg]  # not generic in grpcio 1.71
    """A governed unary-unary method of a stub."""

    makes = UnaryUnaryCall


class UnaryStream(_Begins, grpc.aio.UnaryStreamMultiCallable):  # type: ignore[type-arg]  # not generic in grpcio 1.71
    """A governed unary-stream method of a stub."""

    makes = UnaryStreamCall


class StreamUnary(_Begins, grpc.aio.StreamUnaryMultiCallable):  # type: ignore[type-arg]  # not generic in grpcio 1.71
    """A governed stream-unary method of a stub."""

    makes = StreamUnaryCall


class StreamStream(_Begins, grpc.aio.StreamStreamMultiCallable):  # type: ignore[type-arg]  # not generic in grpcio 1.71
    """A governed stream-stream method of a stub."""

    makes = StreamStreamCall


class Channel(grpc.aio.Channel):
    """A channel to a service, not to an address.

    `policies` gives those of a method path ("/shop.v1.Order/Place"), the same tuple until their shape changes; a `Pick`
    among them chooses the instance of each attempt (without one the target itself is dialled). `connections` may be
    shared by the channels of one loop; whoever made them closes them, the channel does not.
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
        self.connections = AioConnections() if connections is None else connections
        self._shared = connections is not None
        self._methods: dict[tuple[object, ...], Any] = {}
        self.home: asyncio.AbstractEventLoop | None = None
        self._shut = asyncio.Event()

    def settle(self) -> None:
        """Belong to the running loop.

        Raises RuntimeError when another one has the channel, and grpc.aio.UsageError when it is closed.
        """
        running = asyncio.get_running_loop()
        if self.home is not running or self.closed:
            if self.closed:
                raise grpc.aio.UsageError(f"the channel to {self.target} is closed")
            if self.home is not None and not self.home.is_closed():
                raise RuntimeError(f"the channel to {self.target} belongs to another event loop: make one for each")
            self.connections.bind(running)
            self.home = running

    def _made(self, made: Any, kind: str, path: str, encode: Serializer, decode: Serializer, registered: object) -> Any:
        # Stubs are made by the request in some programs: what a method keeps must not be made anew for each.
        key = (kind, path, encode, decode, bool(registered))
        found = self._methods.get(key)
        if found is None:
            if len(self._methods) >= MOST_METHODS:
                self._methods.clear()
            method = AioMethod(self, kind, path, encode, decode, registered=bool(registered))
            found = self._methods[key] = made(method)
        return found

    def unary_unary(
        self, method: str, request_serializer: Serializer = None, response_deserializer: Serializer = None,
        _registered_method: bool | None = False,
    ) -> Any:  # fmt: skip
        """Make a unary-unary method, as generated stubs do."""
        how = (request_serializer, response_deserializer, _registered_method)
        return self._made(UnaryUnary, "unary_unary", method, *how)

    def unary_stream(
        self, method: str, request_serializer: Serializer = None, response_deserializer: Serializer = None,
        _registered_method: bool | None = False,
    ) -> Any:  # fmt: skip
        """Make a unary-stream method, as generated stubs do."""
        how = (request_serializer, response_deserializer, _registered_method)
        return self._made(UnaryStream, "unary_stream", method, *how)

    def stream_unary(
        self, method: str, request_serializer: Serializer = None, response_deserializer: Serializer = None,
        _registered_method: bool | None = False,
    ) -> Any:  # fmt: skip
        """Make a stream-unary method, as generated stubs do."""
        how = (request_serializer, response_deserializer, _registered_method)
        return self._made(StreamUnary, "stream_unary", method, *how)

    def stream_stream(
        self, method: str, request_serializer: Serializer = None, response_deserializer: Serializer = None,
        _registered_method: bool | None = False,
    ) -> Any:  # fmt: skip
        """Make a stream-stream method, as generated stubs do."""
        how = (request_serializer, response_deserializer, _registered_method)
        return self._made(StreamStream, "stream_stream", method, *how)

    async def close(self, grace: float | None = None) -> None:
        """Take no more calls; close its own connections, calls under way having `grace` seconds to end."""
        self.closed = True
        self._shut.set()
        if not self._shared:
            await self.connections.aclose(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Say READY until it is closed: the instances behind are connected to one by one, as calls need them."""
        return grpc.ChannelConnectivity.SHUTDOWN if self.closed else grpc.ChannelConnectivity.READY

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait while the state is the one last seen: for ever, as long as nobody closes the channel."""
        if self.get_state() is last_observed_state:
            await self._shut.wait()

    async def channel_ready(self) -> None:
        """Return at once."""

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close it."""
        await self.close()
