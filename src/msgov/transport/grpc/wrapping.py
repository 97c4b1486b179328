"""Each handler of a server is wrapped once, and its messages are read and written here."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import grpc

from msgov.call import Call
from msgov.pipeline import Pipeline, Policy

from .ending import judge
from .method import Serializer
from .serving import Edge, Malformed

MOST_HANDLERS = 1024  # methods of one server whose handlers are kept, wrapped: a generic handler may know any name
_log = logging.getLogger("msgov.grpc")


class Handlers:
    """The governed handler of a method, made again when its policies change shape."""

    __slots__ = ("_edge", "_govern", "_kept", "_path")

    def __init__(self, edge: Edge, path: str, govern: Callable[[Pipeline], Callable[[Call], Any]]) -> None:
        self._edge = edge
        self._path = path
        self._govern = govern
        self._kept: tuple[tuple[Policy, ...], Callable[[Call], Any]] | None = None

    def __call__(self) -> Callable[[Call], Any]:
        """Return the handler for the next call."""
        kept, policies = self._kept, self._edge.policies(self._path)
        if kept is None or kept[0] is not policies:  # one store: no thread sees one's policies with another's handler
            kept = self._kept = (policies, self._govern(Pipeline(policies, classify=judge)))
        return kept[1]


class Wrapped:
    """The handlers of a server, each wrapped once."""

    __slots__ = ("_all", "_wrap")

    def __init__(self, wrap: Callable[[str, Any], Any]) -> None:
        self._wrap = wrap
        self._all: dict[str, tuple[Any, Any]] = {}

    def of(self, path: str, handler: Any) -> Any:
        """Return the governed twin of a handler.

        A generic handler is made anew for each call: what stays is the function inside. One that answers to any name
        must not fill our memory with what its callers make up.
        """
        kept = self._all.get(path)
        if kept is None or (kept[0] is not handler and behaviour(kept[0]) != behaviour(handler)):
            if len(self._all) >= MOST_HANDLERS:
                self._all.clear()
            kept = self._all[path] = (handler, self._wrap(path, handler))
        return kept[1]


def behaviour(handler: Any) -> Any:
    """Return the function inside a method handler."""
    return handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream


def remade(handler: Any, governed: Any, *, request_deserializer: Serializer = None) -> Any:
    """Make a handler of the same kind round another function, which gets requests as they are on the wire."""
    made = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[bool(handler.request_streaming), bool(handler.response_streaming)]
    return made(governed, request_deserializer, writing(handler.response_serializer))


def reading(decode: Serializer) -> Serializer:
    """Make a deserialiser that refuses what it cannot read, and keeps to itself why."""
    if decode is None:
        return None

    def read(message: Any) -> Any:
        try:
            return decode(message)
        except Exception as error:
            raise Malformed(f"the request cannot be read: {type(error).__name__}") from error

    return read


def writing(encode: Serializer) -> Serializer:
    """Make a serialiser that says in our own log what it cannot write: grpc.aio would tell the caller."""
    if encode is None:
        return None

    def write(message: Any) -> Any:
        try:
            return encode(message)
        except Exception as error:  # noqa: BLE001  whatever it is
            _log.error("a reply cannot be serialised", exc_info=error)
        raise ValueError("the reply cannot be serialised")

    return write
