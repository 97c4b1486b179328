"""A server interceptor for `grpc.aio`: each handler is wrapped once, and its tickets are held until its stream ends."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, cast

import grpc
import grpc.aio

from msgov import aio
from msgov.call import Call

from . import bridge
from .ending import Chosen, aborted, answer_to, answered, ended
from .serving import Edge, Serving, begin, receive
from .wrapping import Handlers, Wrapped, behaviour, reading, remade

Behaviour = Callable[..., Any]


class ServerInterceptor(grpc.aio.ServerInterceptor):
    """Governs every handler of a server. Make one per server, and put it first."""

    def __init__(self, edge: Edge) -> None:
        self._wrapped = Wrapped(partial(wrap, edge))

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Return the governed handler of a method, wrapped at its first call."""
        handler = await continuation(handler_call_details)
        return None if handler is None else self._wrapped.of(handler_call_details.method, handler)


def wrap(edge: Edge, path: str, handler: Any) -> Any:
    """Wrap one handler; plain functions run in threads."""
    inside, decode, messages = behaviour(handler), reading(handler.request_deserializer), None
    if handler.request_streaming:
        decode, messages = None, decode  # grpc deserialises for `context.read`
    if inspect.isasyncgenfunction(inside):
        governed = _streaming(edge, path, inside, decode)
    elif inspect.iscoroutinefunction(inside):
        governed = _awaiting(edge, path, inside, decode)
    elif handler.response_streaming:
        governed = _streaming(edge, path, bridge.stepping(edge.pool, inside), decode)
    else:
        governed = _awaiting(edge, path, bridge.calling(edge.pool, inside), decode)
    return remade(handler, governed, request_deserializer=messages)


def _awaiting(edge: Edge, path: str, inside: Behaviour, decode: Any) -> Behaviour:
    """Govern a coroutine handler: a reply, or messages written through the context."""

    async def handle(call: Call) -> object:
        with edge.around(call):
            return await inside(call.request, call.context)

    async def run(call: Call) -> object:
        serving = cast("Serving", call)
        begin(serving)
        reply = await (aio.bounded(handle, call, edge.clock) if serving.unguarded else handle(call))
        code = ended(serving)
        if code is not None:
            raise Chosen(code, reply)
        return reply

    # `native`: `run` bounds the handler itself, and only where the transport does not.
    handlers = Handlers(edge, path, lambda pipeline: aio.govern(pipeline, run, clock=edge.clock, native=True))

    async def serve(request: object, context: Any) -> object:
        serving = receive(edge, path, request, context, decode)
        try:
            reply = await handlers()(serving)
        except Chosen as outcome:
            return outcome.reply
        except BaseException as error:  # noqa: BLE001  every error becomes a status
            await _answer(serving, error)
            return None
        answered(serving)
        return reply

    return serve


def _streaming(edge: Edge, path: str, inside: Behaviour, decode: Any) -> Behaviour:
    """Govern an async generator handler."""

    async def run(call: Call) -> AsyncIterator[object]:
        serving = cast("Serving", call)
        begin(serving)
        messages = inside(call.request, call.context)
        try:
            async for message in messages:
                yield message
        finally:
            await messages.aclose()
        code = ended(serving)
        if code is not None:
            raise Chosen(code)

    handlers = Handlers(edge, path, lambda pipeline: aio.stream(pipeline, run, clock=edge.clock))

    async def serve(request: object, context: Any) -> AsyncIterator[object]:
        serving = receive(edge, path, request, context, decode)
        if not serving.clamped:
            serving.deadline, serving.endless = None, True  # the transport's own deadline cancels this task
        try:
            async with handlers()(serving) as messages:
                async for message in messages:
                    yield message
        except (GeneratorExit, Chosen):
            return
        except BaseException as error:  # noqa: BLE001  every error becomes a status
            await _answer(serving, error)

    return serve


async def _answer(serving: Serving, error: BaseException) -> None:
    """Answer an error with a status; what the handler chose itself, and a cancellation, pass as they are."""
    context: Any = serving.context
    if not isinstance(error, Exception) or aborted(context, error) is not None:
        raise error
    answer = answer_to(serving, error)
    with suppress(grpc.aio.UsageError):  # the caller was told already, by an abort that was cut short
        await context.abort(answer.code, answer.details, (*(context.trailing_metadata() or ()), *answer.trailing))
