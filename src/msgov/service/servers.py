"""Three kinds of server are started, told to stop and waited for in one way each."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any, Protocol

from msgov.errors import MissingExtra, RuleError


class Served(Protocol):
    """A server in our hands: it listens when `start` returns, and lets what is under way finish in `stop`."""

    protocol: str

    async def start(self, host: str, port: int) -> int:
        """Bind and serve; return the port. Raises OSError when the address is taken."""
        ...

    async def leaving(self) -> None:
        """Say that no more work is wanted, to those who ask the server itself."""
        ...

    async def stop(self, grace: float) -> None:
        """Take nothing new, finish what is under way within `grace` seconds, stop."""
        ...


def served(server: Any) -> Served:
    """Take a server in hand; raises `RuleError` for a kind that is not known."""
    kinds = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(server).__mro__}
    if any(name.startswith("grpc.aio.") for name in kinds):
        return AioGrpc(server)
    if any(name.startswith("grpc.") and name.endswith("Server") for name in kinds):
        return ThreadGrpc(server)
    if any(name.startswith("uvicorn.") for name in kinds):
        return Uvicorn(server)
    raise RuleError.at("server", type(server).__name__, "a grpc.aio.Server, a grpc.Server or a uvicorn.Server")


def taken(host: str, port: int, cause: BaseException | None = None) -> OSError:
    """Make the error of an address that cannot be bound."""
    why = cause.strerror if isinstance(cause, OSError) and cause.strerror else "is it taken?"
    return OSError(f"cannot listen on {host}:{port}: {why}")


def listening(host: str, port: int) -> socket.socket:
    """Bind a socket; raises OSError that names the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named, or asyncio does not switch Nagle off on what is accepted: 40 ms for each small answer.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
    except OSError as error:
        made.close()
        raise taken(host, port, error) from error
    return made


class AioGrpc:
    """A `grpc.aio.Server`, with the standard health service."""

    protocol = "grpc"

    def __init__(self, server: Any) -> None:
        from grpc_health.v1 import health, health_pb2, health_pb2_grpc

        self._server = server
        self._status = health_pb2.HealthCheckResponse
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)

    async def start(self, host: str, port: int) -> int:
        """Bind, serve, say SERVING."""
        listening(host, port).close()  # grpc shares a port that is taken, by SO_REUSEPORT: ask the kernel first
        try:
            bound = self._server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except RuntimeError as error:
            raise taken(host, port, error) from error
        await self._server.start()
        await self._health.set("", self._status.SERVING)
        return int(bound)

    async def leaving(self) -> None:
        """Say NOT_SERVING."""
        await self._health.set("", self._status.NOT_SERVING)

    async def stop(self, grace: float) -> None:
        """Let calls under way end."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace)


class ThreadGrpc:
    """A `grpc.Server`, with the standard health service."""

    protocol = "grpc"

    def __init__(self, server: Any) -> None:
        from grpc_health.v1 import health, health_pb2, health_pb2_grpc

        self._server = server
        self._status = health_pb2.HealthCheckResponse
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)

    async def start(self, host: str, port: int) -> int:
        """Bind, serve, say SERVING."""
        listening(host, port).close()  # as above
        try:
            bound = self._server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except RuntimeError as error:
            raise taken(host, port, error) from error
        self._server.start()
        self._health.set("", self._status.SERVING)
        return int(bound)

    async def leaving(self) -> None:
        """Say NOT_SERVING."""
        self._health.set("", self._status.NOT_SERVING)

    async def stop(self, grace: float) -> None:
        """Let calls under way end."""
        self._health.enter_graceful_shutdown()
        await asyncio.to_thread(self._server.stop(grace).wait)


class Uvicorn:
    """A `uvicorn.Server`; signals stay with whoever owns `main`."""

    protocol = "http"

    def __init__(self, server: Any) -> None:
        self._server = server
        self._task: asyncio.Task[None] | None = None
        self._socket: socket.socket | None = None

    async def start(self, host: str, port: int) -> int:
        """Bind, serve, say SERVING."""
        self._socket = listening(host, port)
        self._server.capture_signals = contextlib.nullcontext
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]), name="uvicorn")
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise OSError(f"the application did not start on {host}:{port}")
            await asyncio.sleep(0.005)
        return int(self._socket.getsockname()[1])

    async def leaving(self) -> None:
        """Nothing to say: /readyz says it."""

    async def stop(self, grace: float) -> None:
        """Let calls under way end."""
        if self._task is not None:
            self._server.should_exit = True
            _, pending = await asyncio.wait([self._task], timeout=grace)
            if pending:
                self._server.force_exit = True
                await asyncio.wait([self._task], timeout=1.0)
                self._task.cancel()
                await asyncio.wait([self._task])
        if self._socket is not None:
            self._socket.close()


def uvicorn_server(app: Any) -> Any:
    """Make a quiet uvicorn server for our own small endpoints; raises `MissingExtra` without uvicorn."""
    try:
        import uvicorn

        from msgov.transport.uvicorn import Protocol
    except ModuleNotFoundError as missing:
        raise MissingExtra(missing.name or "uvicorn", extra="serve") from missing
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            http=Protocol,
            proxy_headers=False,
            ws="none",
            server_header=False,
        )
    )
