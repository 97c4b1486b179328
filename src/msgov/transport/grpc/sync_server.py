"""A server interceptor for threaded grpc servers: each handler is wrapped once, and holds its tickets to the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn, cast

import grpc

from msgov import scope, sync
from msgov.call import Call

from . import status
from .serving import Edge, Handlers, Serving, aborted, began, receive, unexpected

Behaviour = Callable[..., Any]


class ServerInterceptor(grpc.ServerInterceptor):
    """Governs every handler of a server. Make one per server, and put it first."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._wrapped: dict[str, tuple[Behaviour, Any]] = {}

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        """Return the governed handler of a method, wrapped at its first call."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        path = handler_call_details.method
        inside = behaviour(handler)
        kept = self._wrapped.get(path)
        if kept is None or kept[0] != inside:
            kept = self._wrapped[path] = (inside, wrap(self._edge, path, handler))
        return kept[1]


def behaviour(handler: Any) -> Behaviour:
    """Return the function inside a method handler."""
    found = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    return cast("Behaviour", found)


def remade(handler: Any, governed: Behaviour) -> Any:
    """Make a handler of the same kind round another function."""
    made = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[bool(handler.request_streaming), bool(handler.response_streaming)]
    return made(governed, handler.request_deserializer, handler.response_serializer)


def wrap(edge: Edge, path: str, handler: Any) -> Any:
    """Wrap one handler."""
    inside = behaviour(handler)
    return remade(handler, (_streaming if handler.response_streaming else _calling)(edge, path, inside))


def _calling(edge: Edge, path: str, inside: Behaviour) -> Behaviour:
    def run(call: Call) -> object:
        serving = cast("Serving", call.context)
        began(serving)
        with edge.around(call):
            return inside(call.request, serving.context)

    handlers = Handlers(edge, path, lambda pipeline: sync.govern(pipeline, run, clock=edge.clock))

    def serve(request: object, context: Any) -> object:
        serving, around = receive(edge, path, request, context)
        token = scope.current.set(around)
        try:
            return handlers()(serving.call)
        except BaseException as error:  # noqa: BLE001  every error becomes a status
            _answer(serving, error)
        finally:
            scope.current.reset(token)

    return serve


def _streaming(edge: Edge, path: str, inside: Behaviour) -> Behaviour:
    def run(call: Call) -> Iterator[object]:
        serving = cast("Serving", call.context)
        began(serving)
        return iter(inside(call.request, serving.context))

    handlers = Handlers(edge, path, lambda pipeline: sync.stream(pipeline, run, clock=edge.clock))

    def serve(request: object, context: Any) -> Iterator[object]:
        serving, around = receive(edge, path, request, context)
        messages = None
        try:
            # grpc draws messages from a pool of threads: the scope is set round each step, not for the whole.
            token = scope.current.set(around)
            try:
                messages = handlers()(serving.call)
                first = next(messages, _END)
                inner = scope.current.get()
            finally:
                scope.current.reset(token)
            item = first
            while item is not _END:
                yield item
                token = scope.current.set(inner)
                try:
                    item = next(messages, _END)
                finally:
                    scope.current.reset(token)
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001  every error becomes a status
            _answer(serving, error)
        finally:
            if messages is not None:
                messages.close()

    return serve


_END = object()


def _answer(serving: Serving, error: BaseException) -> NoReturn:
    """Answer an error with a status; what the handler chose itself passes as it is."""
    context = serving.context
    if not isinstance(error, Exception) or aborted(context, error) is not None:
        raise error
    answer = status.refusal(error, began=serving.began, trace_id=serving.trace_id)
    if answer.code is grpc.StatusCode.INTERNAL:
        unexpected(serving, error)
    context.set_trailing_metadata(answer.trailing)
    context.abort(answer.code, answer.details)
    raise error
