"""Channels that people already have are governed by plain interceptors."""

from __future__ import annotations

import asyncio
from concurrent import futures
from typing import Any

import grpc
import grpc.aio
import pytest

from msgov.transport.grpc.interceptors import ClientEdge, SyncInterceptor, aio_interceptors
from tests.transport.grpc import echo_pb2, echo_pb2_grpc
from tests.transport.grpc.echo import AioEcho, Log, SyncEcho
from tests.transport.grpc.gates import Again, Count

Ask = echo_pb2.Ask


def test_asyncio_channel_with_our_interceptors() -> None:
    """All four kinds, retries, errors and a cancellation."""

    async def main() -> None:
        log, gate = Log(), Count()
        policies = (gate, Again())
        server = grpc.aio.server()
        echo_pb2_grpc.add_EchoServicer_to_server(AioEcho(log), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        edge = ClientEdge(target="echo", policies=lambda path: policies)

        async def asks() -> Any:
            for text in "xyz":
                yield Ask(text=text)

        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", interceptors=aio_interceptors(edge)) as channel:
            stub = echo_pb2_grpc.EchoStub(channel)
            assert (await stub.Unary(Ask(text="a", fail="UNAVAILABLE", fail_first=2))).attempt == 3
            assert [m.text async for m in stub.Down(Ask(text="a", count=2))] == ["a0", "a1"]
            assert (await stub.Up(asks())).text == "x+y+z"
            assert [m.text async for m in stub.Both(asks())] == ["x", "y", "z"]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Once(Ask(text="a", fail="UNAVAILABLE"))
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await stub.Unary(Ask(text="z", sleep=30))
            await log.until("cancelled")
        await server.stop(0)
        assert gate.inside == 0
        assert gate.verdicts == ["OK", "OK", "OK", "OK", "TRANSIENT", "IGNORED"]

    asyncio.run(main())


def test_blocking_channel_with_our_interceptor() -> None:
    """All four kinds, retries and errors."""
    log, gate = Log(), Count()
    policies = (gate, Again())
    with futures.ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        echo_pb2_grpc.add_EchoServicer_to_server(SyncEcho(log), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        edge = ClientEdge(target="echo", policies=lambda path: policies)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as bare:
            stub = echo_pb2_grpc.EchoStub(grpc.intercept_channel(bare, SyncInterceptor(edge)))
            asks = [Ask(text=text) for text in "xyz"]
            assert stub.Unary(Ask(text="a", fail="UNAVAILABLE", fail_first=2)).attempt == 3
            assert [m.text for m in stub.Down(Ask(text="a", count=2))] == ["a0", "a1"]
            assert stub.Up(iter(asks)).text == "x+y+z"
            assert [m.text for m in stub.Both(iter(asks))] == ["x", "y", "z"]
            with pytest.raises(grpc.RpcError) as caught:
                stub.Once(Ask(text="a", fail="UNAVAILABLE"))
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        server.stop(0).wait(5)
    assert gate.inside == 0
    assert gate.verdicts == ["OK", "OK", "OK", "OK", "TRANSIENT"]
