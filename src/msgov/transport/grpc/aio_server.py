"""A server interceptor for `grpc.aio`: each handler is wrapped once, and its tickets are held until its stream ends."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, NoReturn, cast

import grpc
import grpc.aio

from msgov import aio
from msgov.call import Call

from . import bridge
from .serving import (
    Chosen,
    Edge,
    Handlers,
    Serving,
    Wrapped,
    aborted,
    answer_to,
    began,
    behaviour,
    chosen,
    receive,
    remade,
)  # fmt: skip

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
    inside = behaviour(handler)
    decode = None if handler.request_streaming else handler.request_deserializer
    if inspect.isasyncgenfunction(inside):
        return remade(handler, _streaming(edge, path, inside, decode))
    if inspect.iscoroutinefunction(inside):
        return remade(handler, _awaiting(edge, path, inside, decode))
    if handler.response_streaming:
        return remade(handler, _streaming(edge, path, bridge.stepping(edge.pool, inside), decode))
    return remade(handler, _awaiting(edge, path, bridge.calling(edge.pool, inside), decode))


def _awaiting(edge: Edge, path: str, inside: Behaviour, decode: Any) -> Behaviour:
    """Govern a coroutine handler: a reply, or messages written through the context."""

    async def run(call: Call) -> object:
        serving = cast("Serving", call.context)
        began(serving)
        with edge.around(call):
            reply = await inside(call.request, serving.context)
        code = chosen(serving.context)
        if code is not None:
            serving.chosen = True
            raise Chosen(code, reply)
        return reply

    handlers = Handlers(edge, path, lambda pipeline: aio.govern(pipeline, run, clock=edge.clock))

    async def serve(request: object, context: Any) -> object:
        serving = receive(edge, path, request, context, decode)
        try:
            handler, call = handlers(), serving.call
            reply = await (aio.bounded(handler, call, edge.clock) if serving.clamped else handler(call))
        except Chosen as outcome:
            return outcome.reply
        except BaseException as error:  # noqa: BLE001  every error becomes a status
            await _answer(serving, error)
        if serving.chosen:  # a substitute answered in the handler's place
            context.set_code(grpc.StatusCode.OK)
            context.set_details("")
        return reply

    return serve


def _streaming(edge: Edge, path: str, inside: Behaviour, decode: Any) -> Behaviour:
    """Govern an async generator handler."""

    async def run(call: Call) -> AsyncIterator[object]:
        serving = cast("Serving", call.context)
        began(serving)
        messages = inside(call.request, serving.context)
        try:
            async for message in messages:
                yield message
        finally:
            await messages.aclose()
        code = chosen(serving.context)
        if code is not None:
            raise Chosen(code)

    handlers = Handlers(edge, path, lambda pipeline: aio.stream(pipeline, run, clock=edge.clock))

    async def serve(request: object, context: Any) -> AsyncIterator[object]:
        serving = receive(edge, path, request, context, decode)
        if not serving.clamped:
            serving.call.deadline = None  # the transport's own deadline cancels this task
        try:
            async with handlers()(serving.call) as messages:
                async for message in messages:
                    yield message
        except (GeneratorExit, Chosen):
            return
        except BaseException as error:  # noqa: BLE001  every error becomes a status
            await _answer(serving, error)

    return serve


async def _answer(serving: Serving, error: BaseException) -> NoReturn:
    """Answer an error with a status; what the handler chose itself, and a cancellation, pass as they are."""
    context = serving.context
    if not isinstance(error, Exception) or aborted(context, error) is not None:
        raise error
    answer = answer_to(serving, error)
    await context.abort(answer.code, answer.details, (*(context.trailing_metadata() or ()), *answer.trailing))
    raise error
