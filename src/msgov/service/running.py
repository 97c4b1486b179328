"""Serving, from bind to drain: registered only while it answers, drained before it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from msgov.discovery.instance import Instance
from msgov.discovery.registrar import Registrar, Registration
from msgov.errors import RuleError
from msgov.service.servers import Served, served, uvicorn_server
from msgov.transport.admin import admin as admin_app

if TYPE_CHECKING:
    from msgov.service.facade import Service

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def split(at: str) -> tuple[str, int]:
    """Split "host:port"; raises `RuleError` for anything else."""
    host, _, port = at.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise RuleError.at("at", at, '"host:port" with a port from 0 to 65535; 0 takes a free one')
    return host.strip("[]"), int(port)


def reachable(host: str) -> str:
    """Return what others can call: the host itself, or this machine's own address where it stands for all of them."""
    if host not in ("0.0.0.0", "::"):  # noqa: S104  compared with, not bound to
        return host
    family = socket.AF_INET6 if host == "::" else socket.AF_INET
    with contextlib.suppress(OSError):  # a host name that resolves to nothing
        for *_, found in socket.getaddrinfo(socket.gethostname(), None, family, socket.SOCK_STREAM):
            address = ipaddress.ip_address(str(found[0]).partition("%")[0])
            if not address.is_link_local:
                return str(address)
    return "::1" if host == "::" else "127.0.0.1"


class Running:
    """A service at work; made by `Service.running`, entered with `async with`.

    `port` and `admin_port` are what was bound. `ready` is whether it should get work. `wait` returns at SIGTERM, at
    SIGINT, or after `stop`.
    """

    def __init__(
        self,
        service: Service,
        server: object,
        *,
        at: str,
        admin: str | None,
        grace: float,
        host: str | None,
        pool: Executor | None,
    ) -> None:
        self._service = service
        self._served: Served | None = None if server is None else served(server)
        self._at = split(at)
        self._admin = None if admin is None else split(admin)
        self._grace = grace
        self._host = host
        self._pool = pool
        self._stack = AsyncExitStack()
        self._stopped = asyncio.Event()
        self._started = False
        self.registration: Registration | None = None
        self.port = 0
        self.admin_port = 0

    @property
    def ready(self) -> bool:
        """Whether this instance should get work."""
        return not self.missing()

    def missing(self) -> list[str]:
        """Name what keeps it from being ready."""
        return ([] if self._started else ["serving"]) + self._service.missing()

    def stop(self) -> None:
        """Let `wait` return."""
        self._stopped.set()

    async def stopped(self) -> None:
        """Return after `stop`."""
        await self._stopped.wait()

    async def wait(self) -> None:
        """Return at SIGTERM, at SIGINT, or after `stop`; the block then drains and leaves. For the main thread."""
        loop = asyncio.get_running_loop()
        for each in _SIGNALS:
            loop.add_signal_handler(each, self.stop)
        try:
            await self.stopped()
        finally:
            for each in _SIGNALS:
                loop.remove_signal_handler(each)

    async def __aenter__(self) -> Self:
        """Open what the service needs, start the server, and register once it answers."""
        try:
            await self._stack.enter_async_context(self._service.opened(pool=self._pool))
            if self._admin is not None:
                await self._start_admin(*self._admin)
            if self._served is not None:
                host, port = self._at
                self.port = await self._served.start(host, port)
                self._stack.push_async_callback(self._served.stop, self._grace)
                await self._register(self._host or reachable(host))
            self._started = True
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drain: not ready, tell the registry and wait until callers know, finish what is under way, stop."""
        self._started = False
        if self._served is not None:
            await self._served.leaving()
        if self.registration is not None:
            await self.registration.drain()
        await self._stack.aclose()

    async def _start_admin(self, host: str, port: int) -> None:
        service = self._service
        app = admin_app(ready=self.missing, metrics=service.observe.exposition, targets=self._targets)
        endpoint = served(uvicorn_server(app))
        self.admin_port = await endpoint.start(host, port)
        self._stack.push_async_callback(endpoint.stop, 1.0)

    async def _register(self, host: str) -> None:
        service, registry = self._service, self._service.registry
        if self._served is None or not isinstance(registry, Registrar):
            return
        metadata = {"admin": f"{host}:{self.admin_port}"} if self.admin_port else {}
        instance = Instance(
            service.name,
            host,
            self.port,
            protocol=self._served.protocol,
            version=service.version,
            zone=service.zone,
            metadata=metadata,
        )
        service.observe.at(instance.id)
        registration = registry.register(instance, clock=service.clock, observers=service.observers)
        self.registration = await self._stack.enter_async_context(registration)
        service.not_ready["registration"] = lambda: not registration.registered

    def _targets(self) -> list[dict[str, object]]:
        """List the instances known, as Prometheus's http_sd wants them."""
        found: list[dict[str, object]] = []
        for name, latest in self._service.targets.known.items():
            for each in latest.value.instances if latest.known else ():
                where = each.metadata.get("admin", f"{each.host}:{each.port}")
                labels = {"job": name, "instance": each.id, "version": each.version, "zone": each.zone, "msgov": "true"}
                found.append({"targets": [where], "labels": labels})
        return found
