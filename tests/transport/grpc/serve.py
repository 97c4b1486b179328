"""An echo server in a process of its own: prints its port, and ends when its input does."""

from __future__ import annotations

import asyncio
import sys

import grpc.aio

from msgov.transport.grpc import SERVER_OPTIONS
from tests.transport.grpc import echo_pb2_grpc
from tests.transport.grpc.echo import AioEcho, Log


async def main() -> None:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    echo_pb2_grpc.add_EchoServicer_to_server(AioEcho(Log()), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(main())
