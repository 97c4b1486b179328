"""One handler, served governed in each way there is: asyncio, threads, and a plain function in an asyncio server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio

from msgov.pipeline import Policy
from msgov.transport.grpc import SERVER_OPTIONS
from msgov.transport.grpc.aio_server import ServerInterceptor
from msgov.transport.grpc.serving import Edge
from msgov.transport.grpc.sync_server import ServerInterceptor as SyncServerInterceptor
from tests.transport.grpc.gates import Count
from tests.transport.grpc.worlds import wait

WAYS = ("aio", "threads", "bridged")
KINDS = {
    "unary_unary": grpc.unary_unary_rpc_method_handler,
    "unary_stream": grpc.unary_stream_rpc_method_handler,
    "stream_unary": grpc.stream_unary_rpc_method_handler,
    "stream_stream": grpc.stream_stream_rpc_method_handler,
}


class Served:
    """A server with one method of each kind that is served, and a bare channel to it."""

    def __init__(self, policies: tuple[Policy, ...], **edge: Any) -> None:
        self.gate = Count()
        self.policies = (self.gate, *policies)
        self.edge = Edge(service="served", policies=lambda path: self.policies, **edge)
        self.port = 0
        self.channel: Any = None
        self.server: Any = None

    def call(self, request: Any = b"ask", *, kind: str = "unary_unary", **options: Any) -> Any:
        """Call it, with a deadline that ends a test that hangs."""
        options = {"timeout": 10, **options}
        method = getattr(self.channel, kind)(f"/t.T/{kind}")
        return method(iter(request) if kind.startswith("stream") else request, **options)

    def fails(self, request: Any = b"ask", *, kind: str = "unary_unary", **options: Any) -> Any:
        """Call it, and return the error that it must end with."""
        try:
            found = self.call(request, kind=kind, **options)
            found = list(found) if kind.endswith("stream") else found
        except grpc.RpcError as error:
            return error
        raise AssertionError(found)

    def outcome(self) -> tuple[str, str]:
        """Wait for the one outcome; return verdict and status."""
        wait(lambda: len(self.gate.outcomes) == 1 and self.gate.inside == 0)
        return self.gate.outcomes[0].verdict.name, self.gate.outcomes[0].status


@contextmanager
def served(
    way: str, handlers: dict[str, Any] | Callable[..., Any], *policies: Policy, pool: int = 4,
    decode: Any = None, encode: Any = None, **edge: Any,
) -> Iterator[Served]:  # fmt: skip
    """Serve handlers by kind, or a single one that answers a request with a reply."""
    by_kind = handlers if isinstance(handlers, dict) else {"unary_unary": handlers}
    methods = {kind: KINDS[kind](function, decode, encode) for kind, function in by_kind.items()}
    generic = grpc.method_handlers_generic_handler("t.T", methods)
    with futures.ThreadPoolExecutor(pool) as threads:
        if way == "bridged":
            edge["pool"] = threads
        made = Served(policies, **edge)
        with (_threaded if way == "threads" else _looped)(made, generic, threads):
            with grpc.insecure_channel(f"127.0.0.1:{made.port}") as made.channel:
                yield made


@contextmanager
def _threaded(made: Served, generic: Any, threads: futures.Executor) -> Iterator[None]:
    made.server = grpc.server(threads, interceptors=[SyncServerInterceptor(made.edge)], options=SERVER_OPTIONS)
    made.server.add_generic_rpc_handlers((generic,))
    made.port = made.server.add_insecure_port("127.0.0.1:0")
    made.server.start()
    try:
        yield
    finally:
        made.server.stop(0).wait(5)


@contextmanager
def _looped(made: Served, generic: Any, threads: futures.Executor) -> Iterator[None]:
    """Run a loop of its own for the server, in a thread."""
    up, down = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        made.server = grpc.aio.server(interceptors=[ServerInterceptor(made.edge)], options=SERVER_OPTIONS)
        made.server.add_generic_rpc_handlers((generic,))
        made.port = made.server.add_insecure_port("127.0.0.1:0")
        await made.server.start()
        up.set()
        await down.wait()
        await made.server.stop(0)
        for _ in range(500):
            if len(asyncio.all_tasks()) == 1:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(asyncio.all_tasks())

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    assert up.wait(5)
    try:
        yield
    finally:
        loops[0].call_soon_threadsafe(down.set)
        thread.join(10)
        assert not thread.is_alive()
