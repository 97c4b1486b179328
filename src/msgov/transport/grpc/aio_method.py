"""One method of an asyncio channel: begins its flights, lends them loop, connections and grpc.aio's calls."""

from __future__ import annotations

import asyncio
import inspect
from asyncio import get_running_loop
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, Protocol

import grpc
import grpc.aio

from msgov import wire
from msgov.call import Call
from msgov.clock import Clock

from . import status
from .connections import READY, AioConnection, AioConnections, Heard, address
from .flight import Flight
from .hedged import Hedged
from .method import Given, Metadata, Method, Policies, Serializer, keyed, scoped
from .port import Done, Off

Native = Any  # one of the four native call classes: what they share is no public type


OK = grpc.StatusCode.OK  # bound once: a member by attribute costs 75 ns
_WELL = (OK, (), None)


class Owner(Protocol):
    """The channel that a method is of."""

    target: str
    policies: Policies
    clock: Clock
    connections: AioConnections
    closed: bool
    home: asyncio.AbstractEventLoop | None

    def settle(self) -> None:
        """Belong to the running loop."""
        ...


class Loop:
    """What any channel of a loop lends its flights: the loop, and grpc.aio's own calls."""

    @property
    def home(self) -> asyncio.AbstractEventLoop:
        """The loop that the flights live on."""
        return get_running_loop()

    def later(self, seconds: float, act: Callable[[], object]) -> Off:
        """Act on the loop."""
        return self.home.call_later(seconds, act)

    def soon(self, act: Callable[[], object]) -> bool:
        """Act on the loop; False when it is closed."""
        try:
            self.home.call_soon_threadsafe(act)
        except RuntimeError:  # the loop is closed
            return False
        return True

    def ended(self, native: Native) -> tuple[grpc.StatusCode, status.Pairs, BaseException | None]:
        """Read what a call that is over has; its error is what awaiting it raises."""
        code: grpc.StatusCode = _now(native.code())
        if code is OK:
            return _WELL
        trailing = _now(native.trailing_metadata())
        text = _now(native.debug_error_string())
        if code is grpc.StatusCode.CANCELLED and text is None:  # grpc explains every status but its own cancellation
            return code, (), asyncio.CancelledError()
        error = grpc.aio.AioRpcError(
            code, _now(native.initial_metadata()), trailing, _now(native.details()), debug_error_string=text
        )
        return code, tuple(trailing or ()), error

    def answer(self, call: Call, make: Callable[[], object], done: Done) -> Off | None:
        """Answer at once, or by a task."""
        around = scoped(call)
        try:
            reply = around.run(make)
        except Exception as error:  # noqa: BLE001  the answer failed too
            done(None, error)
            return None
        if not inspect.isawaitable(reply):
            done(reply, None)
            return None
        task = self.home.create_task(_waited(reply), context=around)
        task.add_done_callback(partial(_answered, done))
        return task

    def attend(self, native: Native, failed: Callable[[BaseException], None]) -> None:
        """Await it in a task: what grpc cannot begin has no other end."""
        task = self.home.create_task(_waited(native))
        task.add_done_callback(partial(_attended, failed))

    def first(
        self, native: Native, heard: Callable[[list[Any]], None], failed: Callable[[BaseException], None]
    ) -> None:
        """Read it in a task."""

        def read(task: asyncio.Future[object]) -> None:
            if not task.cancelled() and task.exception() is None:
                message = task.result()
                heard([] if message is grpc.aio.EOF else [message])
            elif _attended(failed, task):
                native.cancel()  # what came cannot be read; grpc goes on

        self.home.create_task(native.read()).add_done_callback(read)

    def cancelled(self) -> BaseException:
        """Make what awaiting a cancelled call raises."""
        return asyncio.CancelledError()


class AioMethod(Method, Loop):
    """What is made once and used for every call; it is the port of their flights."""

    def __init__(
        self, channel: Owner, kind: str, path: str, encode: Serializer, decode: Serializer, *, registered: bool
    ) -> None:
        super().__init__(
            channel.target, channel.policies, channel.clock, kind, path, encode, decode, registered=registered
        )
        self._channel = channel
        self._connections = channel.connections
        self.leave = channel.connections.leave

    @property
    def home(self) -> asyncio.AbstractEventLoop:
        """The channel's loop."""
        assert self._channel.home is not None  # noqa: S101  that of its first call, which made a flight
        return self._channel.home

    def begin(
        self,
        request: Any,
        timeout: float | None,
        metadata: Metadata | None,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> Flight[Native]:
        """Begin a call; what it cannot be given is raised where it is awaited."""
        channel = self._channel
        if channel.closed or get_running_loop() is not channel.home:
            channel.settle()
        governed = self.governed()
        call = self.call(request, timeout)
        makes = Hedged if governed.hedged else Flight
        flight: Flight[Native] = makes(self, governed.pipeline, governed.segment, call)
        if self.once or metadata or credentials or wait_for_ready is not None or compression:
            try:
                given = call.context = Given(metadata, credentials, wait_for_ready, compression)
                call.idempotent = call.idempotent or keyed(given.metadata)
            except Exception as error:  # noqa: BLE001  metadata that cannot be sent
                flight.refuse(error)
                return flight
        flight.begin()
        return flight

    def enter(self, call: Call, flight: object) -> AioConnection:
        """Take the connection to the instance picked, or to the target itself."""
        instance = call.instance
        if instance is None:
            return self._connections.enter(self.target, flight, pinned=True)
        return self._connections.enter(address(instance), flight)

    def up(self, connection: AioConnection, call: Call) -> bool:
        """Ask grpc for the state of the connection."""
        given = call.context
        return connection.channel.get_state() is READY or (isinstance(given, Given) and bool(given.wait_for_ready))

    def reach(self, connection: AioConnection, heard: Heard) -> bool | None:
        """Connect."""
        return self._connections.reach(connection, heard)

    def launch(self, connection: AioConnection, call: Call, seconds: float | None) -> Native:
        """Begin grpc's own call."""
        native, given = self.native(connection), call.context
        headers = wire.outgoing(call, 0.0, deadline=False)
        if given is None:
            metadata = grpc.aio.Metadata(*headers) if headers else None
            return native(self.encode(call.request), timeout=seconds, metadata=metadata)
        assert isinstance(given, Given)  # noqa: S101  made by `begin`
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

    def unreached(self, connection: AioConnection, code: grpc.StatusCode) -> BaseException:
        """Make the error of an attempt that found no connection."""
        trailing = grpc.aio.Metadata((wire.SENT, "no"))
        return grpc.aio.AioRpcError(
            code, grpc.aio.Metadata(), trailing, f"{connection.address}: no connection", debug_error_string=""
        )


async def _waited(reply: Awaitable[object]) -> object:
    return await reply


def _attended(failed: Callable[[BaseException], None], task: asyncio.Future[object]) -> bool:
    """Tell of an error that grpc does not tell itself."""
    error = None if task.cancelled() else task.exception()
    if error is None or isinstance(error, grpc.aio.AioRpcError):
        return False
    failed(error)
    return True


def _answered(done: Done, task: asyncio.Future[object]) -> None:
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


async def _encoded(requests: Any, encode: Callable[[Any], Any], given: Given) -> AsyncIterator[Any]:
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
