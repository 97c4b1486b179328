"""An ordinary `grpc.Channel` with governance inside, for threads: generated stubs work on it unchanged.

The twin of `aio_channel`. A plain call runs by the blocking driver in the caller's thread; `future` and response
streams are flights on grpc's own threads. Client-streaming calls make one attempt.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Self

import grpc

from msgov import scope, sync, wire
from msgov.call import Call
from msgov.clock import Clock, monotonic
from msgov.errors import DeadlineSpent
from msgov.pipeline import Pipeline, Policy
from msgov.policy import Plan, SyncHandler

from . import status
from .connections import SyncConnections, address
from .flight import Flight, Timer, thread_lock
from .method import Serializer, idempotent, split
from .sync_calls import FutureCall, Native, StreamCall
from .timers import timers

Metadata = Iterable[tuple[str, str | bytes]]


class _Port:
    """Lends a flight threads: grpc's own for landings, the shared one for timers."""

    __slots__ = ()

    def later(self, seconds: float, act: Callable[[], None]) -> Timer:
        return timers.later(seconds, act)

    def soon(self, act: Callable[[], object]) -> None:
        timers.later(0.0, lambda: (act(), None)[1])

    def lock(self) -> AbstractContextManager[object]:
        return thread_lock()

    def watch(self, native: Native, landed: Callable[[Native], None]) -> None:
        native.add_done_callback(landed)

    def ended(self, native: Native) -> tuple[grpc.StatusCode, status.Pairs, BaseException | None]:
        code: grpc.StatusCode = native.code()
        if code is grpc.StatusCode.OK:
            return code, (), None
        error = native if isinstance(native, BaseException) else None
        return code, tuple(native.trailing_metadata() or ()), error

    def ready(self, call: Call) -> bool:
        return True

    def stop(self, native: Native) -> None:
        native.cancel()

    def answer(self, reply: object, done: Callable[[object, BaseException | None], None]) -> None:
        if inspect.iscoroutine(reply):
            reply.close()
            done(None, TypeError("an async fallback cannot answer a blocking call"))
        else:
            done(reply, None)

    def cancelled(self) -> BaseException:
        return grpc.FutureCancelledError()


_PORT = _Port()


class _Method:
    """One method of a channel: what is wrapped once and used for every call of it."""

    def __init__(
        self, channel: Channel, kind: str, path: str, encode: Serializer, decode: Serializer, registered: bool
    ) -> None:
        self._channel = channel
        self._kind = kind
        self._extra: dict[str, Any] = {"request_serializer": encode, "response_deserializer": decode}
        if registered:
            self._extra["_registered_method"] = True
        self._natives: dict[str, Any] = {}
        self._generation = -1
        self._policies: tuple[Policy, ...] | None = None
        self._pipeline = Pipeline()
        self._governed: SyncHandler | None = None
        self.path = path
        self.service, self.verb = split(path)
        self.idempotent = idempotent(path)

    def native(self, call: Call) -> Any:
        """Return the native multicallable to where the attempt goes."""
        instance = call.instance
        where = self._channel.target if instance is None else address(instance)
        connections = self._channel.connections
        if self._generation != connections.generation:
            self._generation = connections.generation
            self._natives = {}
        found = self._natives.get(where)
        if found is None:
            found = self._natives[where] = getattr(connections.to(where), self._kind)(self.path, **self._extra)
        return found

    def pipeline(self) -> Pipeline:
        """Return the pipeline for the next call; a request stream is sent once, so it has no plan."""
        policies = self._channel.policies(self.path)
        if policies is not self._policies:
            once = self._kind.startswith("stream")
            kept = [policy for policy in policies if not (once and isinstance(policy, Plan))]
            self._pipeline = Pipeline(kept, classify=status.judge)
            self._governed = None
            self._policies = policies
        return self._pipeline

    def governed(self) -> SyncHandler:
        """Return the handler of plain calls."""
        pipeline = self.pipeline()
        handler = self._governed
        if handler is None:
            handler = self._governed = sync.govern(pipeline, self._send, clock=self._channel.clock)
        return handler

    def _send(self, call: Call) -> object:
        request, options = _sent(call)
        left = None if call.deadline is None else call.deadline - self._channel.clock()
        if left is not None and left <= 0:
            raise DeadlineSpent("no time is left for the call", seconds=left)
        headers = options["metadata"] + tuple(wire.outgoing(call, 0.0, deadline=False))
        return self.native(call).with_call(request, timeout=left, **{**options, "metadata": headers})

    def call(self, request: object, timeout: float | None, metadata: Metadata | None, **options: object) -> Call:
        """Make the call of one use."""
        channel = self._channel
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
        call.context = {"metadata": tuple(metadata or ()), **options}
        return call

    def flight(self, call: Call, way: str) -> Flight[Native]:
        """Begin a call that runs on grpc's threads; `way` is how the native multicallable is used."""
        pipeline = self.pipeline()

        def launch(call: Call, left: float | None) -> Native:
            request, options = _sent(call)
            headers = options["metadata"] + tuple(wire.outgoing(call, 0.0, deadline=False))
            return getattr(self.native(call), way)(request, timeout=left, **{**options, "metadata": headers})

        flight = Flight(pipeline, call, launch, _PORT, self._channel.clock)
        flight.begin()
        return flight


def _sent(call: Call) -> tuple[object, dict[str, Any]]:
    options = call.context
    assert isinstance(options, dict)  # noqa: S101  made by _Method.call
    return call.request, options


class _Plain:
    """What the two kinds with one reply share."""

    def __init__(self, method: _Method) -> None:
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
        call = method.call(
            request, timeout, metadata, credentials=credentials, wait_for_ready=wait_for_ready, compression=compression
        )
        reply = method.governed()(call)
        return reply if isinstance(reply, tuple) else (reply, None)

    def future(
        self, request: Any, timeout: float | None = None, metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None, wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:  # fmt: skip
        """Begin the call at once and return its future."""
        method = self._method
        call = method.call(
            request, timeout, metadata, credentials=credentials, wait_for_ready=wait_for_ready, compression=compression
        )
        return FutureCall(method.flight(call, "future"))


class UnaryUnary(_Plain, grpc.UnaryUnaryMultiCallable):  # type: ignore[type-arg]  # generic in its types only
    """A governed unary-unary method of a stub."""


class StreamUnary(_Plain, grpc.StreamUnaryMultiCallable):  # type: ignore[type-arg]  # generic in its types only
    """A governed stream-unary method of a stub."""


class _Streams:
    """What the two kinds with a response stream share."""

    def __init__(self, method: _Method) -> None:
        self._method = method

    def __call__(
        self, request: Any, timeout: float | None = None, metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None, wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:  # fmt: skip
        """Begin the call at once and return its stream; takes what a bare multicallable takes."""
        method = self._method
        call = method.call(
            request, timeout, metadata, credentials=credentials, wait_for_ready=wait_for_ready, compression=compression
        )
        return StreamCall(method.flight(call, "__call__"))


class UnaryStream(_Streams, grpc.UnaryStreamMultiCallable):  # type: ignore[type-arg]  # generic in its types only
    """A governed unary-stream method of a stub."""


class StreamStream(_Streams, grpc.StreamStreamMultiCallable):  # type: ignore[type-arg]  # generic in its types only
    """A governed stream-stream method of a stub."""


class Channel(grpc.Channel):
    """A channel to a service, not to an address; shared by threads.

    `policies` gives those of a method path ("/shop.v1.Order/Place"), the same tuple until their shape changes; a `Pick`
    among them chooses the instance of each attempt (without one the target itself is dialled).
    """

    def __init__(
        self,
        target: str,
        policies: Callable[[str], tuple[Policy, ...]],
        *,
        connections: SyncConnections | None = None,
        clock: Clock = monotonic,
    ) -> None:
        self.target = target
        self.policies = policies
        self.connections = connections or SyncConnections()
        self.clock = clock
        self._methods: dict[tuple[object, ...], Any] = {}

    def _once(self, made: Callable[[_Method], Any], kind: str, path: str, *how: Any) -> Any:
        # grpc.intercept_channel asks for the multicallable anew on every call: keep one per signature.
        key = (kind, path, *how)
        found = self._methods.get(key)
        if found is None:
            found = self._methods[key] = made(_Method(self, kind, path, how[0], how[1], bool(how[2])))
        return found

    def unary_unary(
        self, method: str, request_serializer: Serializer = None, response_deserializer: Serializer = None,
        _registered_method: bool | None = False,
    ) -> Any:  # fmt: skip
        """Make a unary-unary method, as generated stubs do."""
        return self._once(
            UnaryUnary, "unary_unary", method, request_serializer, response_deserializer, _registered_method
        )

    def unary_stream(
        self, method: str, request_serializer: Serializer = None, response_deserializer: Serializer = None,
        _registered_method: bool | None = False,
    ) -> Any:  # fmt: skip
        """Make a unary-stream method, as generated stubs do."""
        return self._once(
            UnaryStream, "unary_stream", method, request_serializer, response_deserializer, _registered_method
        )

    def stream_unary(
        self, method: str, request_serializer: Serializer = None, response_deserializer: Serializer = None,
        _registered_method: bool | None = False,
    ) -> Any:  # fmt: skip
        """Make a stream-unary method, as generated stubs do."""
        return self._once(
            StreamUnary, "stream_unary", method, request_serializer, response_deserializer, _registered_method
        )

    def stream_stream(
        self, method: str, request_serializer: Serializer = None, response_deserializer: Serializer = None,
        _registered_method: bool | None = False,
    ) -> Any:  # fmt: skip
        """Make a stream-stream method, as generated stubs do."""
        return self._once(
            StreamStream, "stream_stream", method, request_serializer, response_deserializer, _registered_method
        )

    def subscribe(self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool = False) -> None:
        """Tell READY once: the instances behind are connected to one by one, as calls need them."""
        callback(grpc.ChannelConnectivity.READY)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """Forget a callback: there is nothing to forget."""

    def close(self) -> None:
        """Close every connection; calls under way are cancelled, as grpc does."""
        self.connections.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close it."""
        self.close()
