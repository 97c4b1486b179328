"""Servers are made so that a burst of ours does them no harm."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest

import msgov.transport.grpc
from msgov.transport.grpc import SERVER_OPTIONS
from msgov.transport.grpc.options import CHANNEL_OPTIONS


async def _burst(calls: int, options: tuple[tuple[str, str | int], ...]) -> list[str]:
    async def echo(request: bytes, context: object) -> bytes:
        return request

    methods = {"M": grpc.unary_unary_rpc_method_handler(echo)}
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    # Streams on one connection wait their turn; many connections are what many callers are.
    own = (*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=own) for _ in range(8)]
    asked = [channels[number % 8].unary_unary("/t.T/M")(b"x") for number in range(calls)]
    codes = await asyncio.gather(*(call.code() for call in asked))
    await asyncio.gather(*(channel.close() for channel in channels))
    await server.stop(0)
    return [code.name for code in codes]


@pytest.mark.slow
def test_a_burst_is_served_whole() -> None:
    """By default grpc's core cancels a part of it, before any handler or interceptor could count it."""
    assert set(asyncio.run(_burst(3000, SERVER_OPTIONS))) == {"OK"}


def test_options_need_no_grpc_to_be_named() -> None:
    """No `__init__` imports an adapter."""
    assert msgov.transport.grpc.__all__ == ["SERVER_OPTIONS"]
    assert all(isinstance(name, str) and isinstance(value, int) for name, value in SERVER_OPTIONS + CHANNEL_OPTIONS)
