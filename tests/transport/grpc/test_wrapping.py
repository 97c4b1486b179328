"""A handler is wrapped once."""

from __future__ import annotations

from typing import Any

import grpc

from msgov.transport.grpc.wrapping import MOST_HANDLERS, Wrapped


def made(function: Any) -> Any:
    return grpc.unary_unary_rpc_method_handler(function)


def test_generic_handlers_that_are_made_for_each_call() -> None:
    """What stays is the function inside."""
    wrapped: list[str] = []
    keeps = Wrapped(lambda path, handler: wrapped.append(path))

    def function(request: Any, context: Any) -> Any: ...

    for _ in range(3):
        keeps.of("/a/b", made(function))
    assert wrapped == ["/a/b"]
    keeps.of("/a/b", made(lambda request, context: None))
    assert len(wrapped) == 2


def test_names_that_callers_make_up_fill_no_memory() -> None:
    """A proxy's handler answers to any."""
    keeps = Wrapped(lambda path, handler: handler)

    def function(request: Any, context: Any) -> Any: ...

    for number in range(MOST_HANDLERS + 5):
        keeps.of(f"/a/{number}", made(function))
    assert len(keeps._all) <= MOST_HANDLERS
