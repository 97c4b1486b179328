"""Client interceptors for channels that people already have: the same policies, without picking an instance.

`aio_interceptors` returns the four that `grpc.aio` wants, `SyncInterceptor` is all four for `grpc.intercept_channel`.
Prefer the msgov channel where you can: it starts calls at once and chooses the instance of each attempt.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import grpc
import grpc.aio

from msgov import aio, scope, sync, wire
from msgov.call import Call
from msgov.clock import Clock, monotonic
from msgov.pipeline import Pipeline, Policy
from msgov.policy import Plan

from . import status
from .method import idempotent


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientEdge:
    """How a foreign channel's calls are governed: the service it leads to, and the policies of a method path."""

    target: str
    policies: Callable[[str], tuple[Policy, ...]]
    clock: Clock = monotonic


class _Details(NamedTuple):
    """What an attempt is sent with: the fields of both colours' ClientCallDetails."""

    method: Any
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: Any
    compression: Any = None


class _Governed:
    """One pipeline per method, made again when its policies change shape."""

    def __init__(self, edge: ClientEdge) -> None:
        self._edge = edge
        self._kept: dict[tuple[str, bool], tuple[tuple[Policy, ...], Pipeline]] = {}

    def pipeline(self, path: str, *, once: bool) -> Pipeline:
        policies = self._edge.policies(path)
        kept = self._kept.get((path, once))
        if kept is None or kept[0] is not policies:
            left = [policy for policy in policies if not (once and isinstance(policy, Plan))]
            kept = self._kept[path, once] = (policies, Pipeline(left, classify=status.judge))
        return kept[1]

    def call(self, path: str, request: object, timeout: float | None) -> Call:
        around, clock = scope.current.get(), self._edge.clock
        deadline = around.deadline if timeout is None else scope.sooner(around.deadline, clock() + timeout)
        call = Call(
            self._edge.target,
            path,
            request,
            deadline=deadline,
            idempotent=idempotent(path),
            key=around.key,
            attempts_left=around.attempts_left,
        )
        call.trace = around.trace
        return call

    def details(self, details: Any, call: Call) -> Any:
        """Return the details of an attempt: what is left of the deadline, and our headers."""
        left = None if call.deadline is None else call.deadline - self._edge.clock()
        headers = (*(details.metadata or ()), *wire.outgoing(call, 0.0, deadline=False))
        if isinstance(details, grpc.aio.ClientCallDetails):
            sent = grpc.aio.Metadata(*headers)
            return grpc.aio.ClientCallDetails(details.method, left, sent, details.credentials, details.wait_for_ready)
        return _Details(
            details.method, left, headers, details.credentials, details.wait_for_ready,
            getattr(details, "compression", None),
        )  # fmt: skip


def _path(details: Any) -> str:
    method = details.method
    return method.decode() if isinstance(method, bytes) else str(method)


def aio_interceptors(edge: ClientEdge) -> list[grpc.aio.ClientInterceptor]:
    """Return the interceptors to open a `grpc.aio` channel with."""
    governed = _Governed(edge)
    return [_UnaryUnary(governed), _UnaryStream(governed), _StreamUnary(governed), _StreamStream(governed)]


class _Aio:
    def __init__(self, governed: _Governed) -> None:
        self._governed = governed

    async def _reply(self, continuation: Any, details: Any, request: Any, *, once: bool) -> Any:
        path = _path(details)

        async def send(call: Call) -> object:
            native = await continuation(self._governed.details(details, call), request)
            try:
                return await native
            except asyncio.CancelledError:
                native.cancel()
                raise

        handler = aio.govern(self._governed.pipeline(path, once=once), send, native=True)
        reply = await handler(self._governed.call(path, request, details.timeout))
        return _Replied(reply) if once else reply  # of a streaming call, grpc.aio wants a call back

    async def _stream(self, continuation: Any, details: Any, request: Any, *, once: bool) -> Any:
        path = _path(details)
        began = asyncio.get_running_loop().create_future()

        async def opened(call: Call) -> AsyncIterator[Any]:
            native = await continuation(self._governed.details(details, call), request)
            if not began.done():
                began.set_result(None)
            try:
                async for message in native:
                    yield message
            finally:
                native.cancel()

        call = self._governed.call(path, request, details.timeout)
        messages = aio.stream(self._governed.pipeline(path, once=once), opened)(call)
        # grpc.aio wants the call begun when the interceptor returns: the first message is drawn by a task of its own.
        first = asyncio.ensure_future(anext(messages, _END))
        try:
            await asyncio.wait((first, began), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            first.cancel()
            raise
        if not began.done():
            await first  # refused before anything was sent
        first.add_done_callback(_retrieved)
        return _rest(first, messages)


_END = object()


def _retrieved(first: asyncio.Future[Any]) -> None:
    """Take the error of a first message that nobody drew: the call itself tells of it."""
    if not first.cancelled():
        first.exception()


async def _rest(first: asyncio.Future[Any], messages: aio.Stream[Any]) -> AsyncIterator[Any]:
    try:
        message = await first
        while message is not _END:
            yield message
            message = await anext(messages, _END)
    finally:
        first.cancel()
        await messages.aclose()


class _Replied:
    """A reply that was waited for, where grpc.aio wants a call."""

    def __init__(self, reply: object) -> None:
        self._reply = reply

    def __await__(self) -> Generator[Any, None, Any]:
        return self._reply
        yield  # makes it a generator that ends at once

    def done(self) -> bool:
        return True

    def cancel(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        callback(self)


class _UnaryUnary(_Aio, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._reply(continuation, client_call_details, request, once=False)


class _UnaryStream(_Aio, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._stream(continuation, client_call_details, request, once=False)


class _StreamUnary(_Aio, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._reply(continuation, client_call_details, request_iterator, once=True)


class _StreamStream(_Aio, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._stream(continuation, client_call_details, request_iterator, once=True)


class _Reply(grpc.Future):  # type: ignore[type-arg]  # generic in its types only
    """A reply that a fallback gave, where grpc wants a call that is over."""

    def __init__(self, reply: object) -> None:
        self._reply = reply

    def result(self, timeout: float | None = None) -> Any:
        return self._reply

    def exception(self, timeout: float | None = None) -> None:
        return None

    def traceback(self, timeout: float | None = None) -> None:
        return None

    def cancel(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    def running(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        fn(self)


class SyncInterceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Governs every call of a channel: `grpc.intercept_channel(channel, SyncInterceptor(edge))`.

    A `future()` call waits for its reply here, in the caller's thread: grpc's interceptors cannot tell it apart.
    """

    def __init__(self, edge: ClientEdge) -> None:
        self._governed = _Governed(edge)

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Govern a unary call."""
        return self._reply(continuation, client_call_details, request, once=False)

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """Govern a client-streaming call: one attempt."""
        return self._reply(continuation, client_call_details, request_iterator, once=True)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Govern a server-streaming call."""
        return self._stream(continuation, client_call_details, request, once=False)

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """Govern a call with streams both ways: one attempt."""
        return self._stream(continuation, client_call_details, request_iterator, once=True)

    def _reply(self, continuation: Any, details: Any, request: Any, *, once: bool) -> Any:
        path = _path(details)

        def send(call: Call) -> object:
            native = continuation(self._governed.details(details, call), request)
            native.result()
            return native

        handler = sync.govern(self._governed.pipeline(path, once=once), send)
        reply = handler(self._governed.call(path, request, details.timeout))
        return reply if isinstance(reply, grpc.Future) else _Reply(reply)

    def _stream(self, continuation: Any, details: Any, request: Any, *, once: bool) -> Any:
        path = _path(details)

        def opened(call: Call) -> Iterator[Any]:
            native = continuation(self._governed.details(details, call), request)
            try:
                yield from native
            finally:
                native.cancel()

        call = self._governed.call(path, request, details.timeout)
        return sync.stream(self._governed.pipeline(path, once=once), opened)(call)
