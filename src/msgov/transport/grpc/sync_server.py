"""A server interceptor for threaded grpc servers: each handler is wrapped once, and holds its tickets to the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn, cast

import grpc

from msgov import sync
from msgov.call import Call

from .ending import Chosen, aborted, answer_to, answered, ended
from .serving import Edge, Serving, begin, receive
from .wrapping import Handlers, Wrapped, behaviour, reading, remade

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
    inside, decode = behaviour(handler), _decoder(handler)

    def run(call: Call) -> object:
        serving = cast("Serving", call)
        begin(serving)
        with edge.around(call):
            reply = inside(call.request, call.context)
        code = _ended(serving)
        if code is not None:
            raise Chosen(code, reply)
        return reply

    handlers = Handlers(edge, path, lambda pipeline: sync.govern(pipeline, run, clock=edge.clock))

    def serve(request: object, context: Any) -> object:
        serving = receive(edge, path, request, context, decode)
        try:
            reply = handlers()(serving)
        except Chosen as outcome:
            return outcome.reply
        except BaseException as error:  # noqa: BLE001  every error becomes a status
            _answer(serving, error)
        answered(serving)
        return reply

    return serve


def _streaming(edge: Edge, path: str, handler: Any) -> Behaviour:
    inside, decode = behaviour(handler), _decoder(handler)

    def run(call: Call) -> Iterator[object]:
        serving = cast("Serving", call)
        begin(serving)
        yield from inside(call.request, call.context)
        code = _ended(serving)
        if code is not None:
            raise Chosen(code)

    handlers = Handlers(edge, path, lambda pipeline: sync.stream(pipeline, run, clock=edge.clock))

    def serve(request: object, context: Any) -> Iterator[object]:
        serving = receive(edge, path, request, context, decode)
        messages = None
        try:
            messages = handlers()(serving)
            yield from messages
        except (GeneratorExit, Chosen):
            return
        except BaseException as error:  # noqa: BLE001  every error becomes a status
            _answer(serving, error)
        finally:
            if messages is not None:
                messages.close()

    return serve


def _decoder(handler: Any) -> Callable[[Any], Any] | None:
    """Return what makes a handler's request, or request iterator, of what came.

    grpc itself answers a message of a stream that it cannot read, and then trips over the handler's own answer.
    """
    decode = reading(handler.request_deserializer)
    return partial(map, decode) if decode is not None and handler.request_streaming else decode


def _ended(serving: Serving) -> grpc.StatusCode | None:
    """Return the status that a handler ended with: one it set, or the deadline's, which a thread can only notice."""
    code = ended(serving)
    return grpc.StatusCode.DEADLINE_EXCEEDED if code is None and serving.late else code


def _answer(serving: Serving, error: BaseException) -> NoReturn:
    """Answer an error with a status; what the handler chose itself passes as it is."""
    context: Any = serving.context
    if not isinstance(error, Exception) or aborted(context, error) is not None:
        raise error
    answer = answer_to(serving, error)
    context.set_trailing_metadata((*(context.trailing_metadata() or ()), *answer.trailing))
    context.abort(answer.code, answer.details)
    raise error
