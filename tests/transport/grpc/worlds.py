"""A server of each colour, with what it saw, and a channel to it with gates on both sides."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent import futures
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
import grpc.aio

from msgov.pipeline import Policy
from msgov.transport.grpc import SERVER_OPTIONS
from msgov.transport.grpc.aio_channel import Channel
from msgov.transport.grpc.aio_server import ServerInterceptor
from msgov.transport.grpc.serving import Edge
from msgov.transport.grpc.sync_channel import Channel as SyncChannel
from msgov.transport.grpc.sync_server import ServerInterceptor as SyncServerInterceptor
from tests.transport.grpc import echo_pb2_grpc
from tests.transport.grpc.echo import AioEcho, Log, SyncEcho
from tests.transport.grpc.gates import Again, Count, Pick


class World:
    """A server's log, and the gates on both sides."""

    def __init__(self, servicer: Callable[[Log], Any]) -> None:
        self.log = Log()
        self.outer, self.inner, self.server_gate = Count(), Count(), Count()
        self.policies: tuple[Policy, ...] = ()
        self.server_policies: tuple[Policy, ...] = (self.server_gate,)
        self.servicer = servicer(self.log)
        self.port = 0
        self.channel: Any = None
        self.server: Any = None

    @property
    def held(self) -> tuple[int, ...]:
        """What is in: permits on the client, permits on the server, handlers that run."""
        return self.outer.inside, self.inner.inside, self.server_gate.inside, self.log.running

    @property
    def idle(self) -> bool:
        """Whether nothing is held."""
        return not any(self.held)

    def edge(self, **more: Any) -> Edge:
        """Make the server's edge."""
        return Edge(service="echo", policies=lambda path: self.server_policies, **more)


@asynccontextmanager
async def aio_world(**edge: Any) -> AsyncIterator[tuple[World, Any]]:
    """Serve on asyncio, and give a stub of a governed channel."""
    made = World(AioEcho)
    made.server = grpc.aio.server(interceptors=[ServerInterceptor(made.edge(**edge))], options=SERVER_OPTIONS)
    echo_pb2_grpc.add_EchoServicer_to_server(made.servicer, made.server)
    made.port = made.server.add_insecure_port("127.0.0.1:0")
    await made.server.start()
    made.policies = (made.outer, Again(), Pick(made.port), made.inner)
    try:
        async with Channel("echo", lambda path: made.policies) as made.channel:
            made.servicer.next_stub = stub = echo_pb2_grpc.EchoStub(made.channel)
            yield made, stub
    finally:
        await made.server.stop(0)
        await made.server.wait_for_termination(1)


@contextmanager
def sync_world(**edge: Any) -> Iterator[tuple[World, Any]]:
    """Serve with threads, and give a stub of a governed channel."""
    made = World(SyncEcho)
    with futures.ThreadPoolExecutor(8) as pool:
        interceptor = SyncServerInterceptor(made.edge(**edge))
        made.server = grpc.server(pool, interceptors=[interceptor], options=SERVER_OPTIONS)
        echo_pb2_grpc.add_EchoServicer_to_server(made.servicer, made.server)
        made.port = made.server.add_insecure_port("127.0.0.1:0")
        made.server.start()
        made.policies = (made.outer, Again(), Pick(made.port), made.inner)
        try:
            with SyncChannel("echo", lambda path: made.policies) as made.channel:
                made.servicer.next_stub = stub = echo_pb2_grpc.EchoStub(made.channel)
                yield made, stub
        finally:
            made.server.stop(0).wait(5)


async def until(true: Callable[[], bool], seconds: float = 5.0, about: Callable[[], object] | None = None) -> None:
    """Wait on the loop until something holds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"it never came to hold: {about() if about else '?'}"
        await asyncio.sleep(0.002)


def wait(true: Callable[[], bool], seconds: float = 5.0, about: Callable[[], object] | None = None) -> None:
    """Wait until something holds."""
    end, pause = time.monotonic() + seconds, threading.Event()
    while not true():
        assert time.monotonic() < end, f"it never came to hold: {about() if about else '?'}"
        pause.wait(0.002)


def on_aio(test: Callable[[World, Any], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test in a world of its own; at its end nothing is held, and no task is left."""

    async def main() -> None:
        async with aio_world() as (made, stub):
            await asyncio.wait_for(test(made, stub), 20)
            await until(lambda: made.idle)
        await until(lambda: len(asyncio.all_tasks()) == 1)

    def runner(*self: object) -> None:
        asyncio.run(main())

    runner.__doc__, runner.__name__ = test.__doc__, test.__name__
    return runner


def on_threads(test: Callable[[World, Any], None]) -> Callable[[], None]:
    """Run a test in a world of its own; at its end nothing is held."""

    def runner(*self: object) -> None:
        with sync_world() as (made, stub):
            test(made, stub)
            wait(lambda: made.idle)

    runner.__doc__, runner.__name__ = test.__doc__, test.__name__
    return runner
