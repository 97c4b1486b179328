"""An ordinary `grpc.Channel` with governance inside, for threads: generated stubs work on it unchanged.

The twin of `aio_channel`. Client-streaming calls make one attempt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import grpc

from msgov.clock import Clock, monotonic

from .connections import SyncConnections
from .method import MOST_METHODS, Metadata, Policies, Serializer
from .sync_calls import FutureCall, StreamCall
from .sync_method import SyncMethod


class _Plain:
    """What the two kinds with one reply share."""

    def __init__(self, method: SyncMethod) -> None:
        self._method = method

    def __call__(
        self, request: Any, timeout: float | None = None, metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None, wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:  # fmt: skip
        """Call and wait; takes what a bare multicallable takes."""
        return self.with_call(request, timeout, metadata, credentials, wait_for_ready, compression)[0]

    def with_call(
        self, request: Any, timeout: float | None = None, metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None, wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:  # fmt: skip
        """Call and wait; return the reply and its native call (None where a fallback answered)."""
        method = self._method
        reply = method.send(method.made(request, timeout, metadata, credentials, wait_for_ready, compression))
        return reply if isinstance(reply, tuple) else (reply, None)

    def future(
        self, request: Any, timeout: float | None = None, metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None, wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:  # fmt: skip
        """Begin the call at once and return its future."""
        method = self._method
        return FutureCall(
            method.begin(method.made(request, timeout, metadata, credentials, wait_for_ready, compression))
        )


class UnaryUnary(_Plain, grpc.UnaryUnaryMultiCallable):  # type: ignore[type-arg]  # generic in its types only
    """A governed unary-unary method of a stub."""


class StreamUnary(_Plain, grpc.StreamUnaryMultiCallable):  # type: ignore[type-arg]  # generic in its types only
    """A governed stream-unary method of a stub."""


class _Streams:
    """What the two kinds with a response stream share."""

    def __init__(self, method: SyncMethod) -> None:
        self._method = method

    def __call__(
        self, request: Any, timeout: float | None = None, metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None, wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:  # fmt: skip
        """Begin the call at once and return its stream; takes what a bare multicallable takes."""
        method = self._method
        return StreamCall(
            method.begin(method.made(request, timeout, metadata, credentials, wait_for_ready, compression))
        )


class UnaryStream(_Streams, grpc.UnaryStreamMultiCallable):  # type: ignore[type-arg]  # generic in its types only
    """A governed unary-stream method of a stub."""


class StreamStream(_Streams, grpc.StreamStreamMultiCallable):  # type: ignore[type-arg]  # generic in its types only
    """A governed stream-stream method of a stub."""


class Channel(grpc.Channel):
    """A channel to a service, not to an address; shared by threads.

    `policies` gives those of a method path ("/shop.v1.Order/Place"), the same tuple until their shape changes; a `Pick`
    among them chooses the instance of each attempt (without one the target itself is dialled). `connections` may be
    shared by channels; whoever made them closes them, the channel does not.
    """

    def __init__(
        self,
        target: str,
        policies: Policies,
        *,
        connections: SyncConnections | None = None,
        clock: Clock = monotonic,
    ) -> None:
        self.target = target
        self.policies = policies
        self.clock = clock
        self.closed = False
        self.connections = SyncConnections() if connections is None else connections
        self._shared = connections is not None
        self._methods: dict[tuple[object, ...], Any] = {}

    def settle(self) -> None:
        """Be open; raises ValueError, as a bare channel does, once it is closed."""
        if self.closed:
            raise ValueError(f"the channel to {self.target} is closed")

    def _made(self, made: Any, kind: str, path: str, encode: Serializer, decode: Serializer, registered: object) -> Any:
        # grpc.intercept_channel asks for the multicallable anew on every call: keep one per signature.
        key = (kind, path, encode, decode, bool(registered))
        found = self._methods.get(key)
        if found is None:
            if len(self._methods) >= MOST_METHODS:
                self._methods.clear()
            method = SyncMethod(self, kind, path, encode, decode, registered=bool(registered))
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

    def subscribe(self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool = False) -> None:
        """Tell READY once: the instances behind are connected to one by one, as calls need them."""
        callback(grpc.ChannelConnectivity.SHUTDOWN if self.closed else grpc.ChannelConnectivity.READY)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """Forget a callback: there is nothing to forget."""

    def close(self) -> None:
        """Take no more calls; close its own connections, which cancels calls under way, as grpc does."""
        self.closed = True
        if not self._shared:
            self.connections.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close it."""
        self.close()
