"""A server interceptor for `grpc.aio`: each handler is wrapped once, and its tickets are held until its stream ends."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, cast

import grpc
import grpc.aio

from msgov import aio, scope
from msgov.call import Call

from . import status, sync_server
from .serving import Edge, Handlers, Serving, aborted, began, receive, unexpected

Behaviour = Callable[..., Any]


class ServerInterceptor(grpc.aio.ServerInterceptor):
    """Governs every handler of a server. Make one per server, and put it first."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._wrapped: dict[str, tuple[Behaviour, Any]] = {}

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Return the governed handler of a method, wrapped at its first call."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        path = handler_call_details.method
        inside = sync_server.behaviour(handler)
        kept = self._wrapped.get(path)
        if kept is None or kept[0] != inside:  # a generic handler is made per call: what stays is the function inside
            kept = self._wrapped[path] = (inside, wrap(self._edge, path, handler))
        return kept[1]


def wrap(edge: Edge, path: str, handler: Any) -> Any:
    """Wrap one handler; a plain function in an asyncio server runs in grpc's own threads, by the blocking driver."""
    behaviour = sync_server.behaviour(handler)
    if inspect.isasyncgenfunction(behaviour):
        governed: Behaviour = _streaming(edge, path, behaviour)
    elif inspect.iscoroutinefunction(behaviour):
        governed = _awaiting(edge, path, behaviour)
    else:
        return sync_server.wrap(edge, path, handler)
    return sync_server.remade(handler, governed)


def _awaiting(edge: Edge, path: str, behaviour: Behaviour) -> Behaviour:
    """Govern a coroutine handler: a reply, or messages written through the context."""

    async def run(call: Call) -> object:
        serving = cast("Serving", call.context)
        began(serving)
        with edge.around(call):
            return await behaviour(call.request, serving.context)

    handlers = Handlers(edge, path, lambda pipeline: aio.govern(pipeline, run, clock=edge.clock))

    async def serve(request: object, context: Any) -> object:
        serving, around = receive(edge, path, request, context)
        token = scope.current.set(around)
        try:
            handler = handlers()
            return await (aio.bounded(handler, serving.call, edge.clock) if serving.clamped else handler(serving.call))
        except BaseException as error:  # noqa: BLE001  every error becomes a status
            await _answer(serving, error)
        finally:
            scope.current.reset(token)

    return serve


def _streaming(edge: Edge, path: str, behaviour: Behaviour) -> Behaviour:
    """Govern an async generator handler."""

    def run(call: Call) -> AsyncIterator[object]:
        serving = cast("Serving", call.context)
        began(serving)
        return cast("AsyncIterator[object]", behaviour(call.request, serving.context))

    handlers = Handlers(edge, path, lambda pipeline: aio.stream(pipeline, run, clock=edge.clock))

    async def serve(request: object, context: Any) -> AsyncIterator[object]:
        serving, around = receive(edge, path, request, context)
        scope.current.set(around)  # grpc runs each call in a task of its own
        if not serving.clamped:
            serving.call.deadline = None  # the transport's own deadline cancels this task
        try:
            async with handlers()(serving.call) as messages:
                async for message in messages:
                    yield message
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001  every error becomes a status
            await _answer(serving, error)

    return serve


async def _answer(serving: Serving, error: BaseException) -> NoReturn:
    """Answer an error with a status; what the handler chose itself, and a cancellation, pass as they are."""
    context = serving.context
    if isinstance(error, asyncio.CancelledError) or aborted(context, error) is not None:
        raise error
    if not isinstance(error, Exception):
        raise error
    answer = status.refusal(error, began=serving.began, trace_id=serving.trace_id)
    if answer.code is grpc.StatusCode.INTERNAL:
        unexpected(serving, error)
    await context.abort(answer.code, answer.details, answer.trailing)
    raise error
