"""A server interceptor for threaded grpc servers: each handler is wrapped once, and holds its tickets to the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn, cast

import grpc

from msgov import sync
from msgov.call import Call

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


class ServerInterceptor(grpc.ServerInterceptor):
    """Governs every handler of a server. Make one per server, and put it first."""

    def __init__(self, edge: Edge) -> None:
        self._wrapped = Wrapped(partial(wrap, edge))

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        """Return the governed handler of a method, wrapped at its first call."""
        handler = continuation(handler_call_details)
        return None if handler is None else self._wrapped.of(handler_call_details.method, handler)


def wrap(edge: Edge, path: str, handler: Any) -> Any:
    """Wrap one handler."""
    governed = (_streaming if handler.response_streaming else _calling)(edge, path, handler)
    return remade(handler, governed)


def _calling(edge: Edge, path: str, handler: Any) -> Behaviour:
    inside, decode = behaviour(handler), None if handler.request_streaming else handler.request_deserializer

    def run(call: Call) -> object:
        serving = cast("Serving", call.context)
        began(serving)
        with edge.around(call):
            reply = inside(call.request, serving.context)
        code = _ended(serving)
        if code is not None:
            raise Chosen(code, reply)
        return reply

    handlers = Handlers(edge, path, lambda pipeline: sync.govern(pipeline, run, clock=edge.clock))

    def serve(request: object, context: Any) -> object:
        serving = receive(edge, path, request, context, decode)
        try:
            reply = handlers()(serving.call)
        except Chosen as outcome:
            return outcome.reply
        except BaseException as error:  # noqa: BLE001  every error becomes a status
            _answer(serving, error)
        if serving.chosen:  # a substitute answered in the handler's place
            context.set_code(grpc.StatusCode.OK)
            context.set_details("")
        return reply

    return serve


def _streaming(edge: Edge, path: str, handler: Any) -> Behaviour:
    inside, decode = behaviour(handler), None if handler.request_streaming else handler.request_deserializer

    def run(call: Call) -> Iterator[object]:
        serving = cast("Serving", call.context)
        began(serving)
        yield from inside(call.request, serving.context)
        code = _ended(serving)
        if code is not None:
            raise Chosen(code)

    handlers = Handlers(edge, path, lambda pipeline: sync.stream(pipeline, run, clock=edge.clock))

    def serve(request: object, context: Any) -> Iterator[object]:
        serving = receive(edge, path, request, context, decode)
        messages = None
        try:
            messages = handlers()(serving.call)
            yield from messages
        except (GeneratorExit, Chosen):
            return
        except BaseException as error:  # noqa: BLE001  every error becomes a status
            _answer(serving, error)
        finally:
            if messages is not None:
                messages.close()

    return serve


def _ended(serving: Serving) -> grpc.StatusCode | None:
    """Return the status that a handler ended with: one it set, or the deadline's, which a thread can only notice."""
    code = chosen(serving.context)
    if code is None:
        late = serving.deadline is not None and serving.clock() > serving.deadline
        return grpc.StatusCode.DEADLINE_EXCEEDED if late else None
    serving.chosen = True
    return code


def _answer(serving: Serving, error: BaseException) -> NoReturn:
    """Answer an error with a status; what the handler chose itself passes as it is."""
    context = serving.context
    if not isinstance(error, Exception) or aborted(context, error) is not None:
        raise error
    answer = answer_to(serving, error)
    context.set_trailing_metadata((*(context.trailing_metadata() or ()), *answer.trailing))
    context.abort(answer.code, answer.details)
    raise error
