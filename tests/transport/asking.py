"""Clients of httpx and httpx2, of both colours, asked in one way: a test runs for all four."""

from __future__ import annotations

import asyncio
import importlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeAlias

import pytest

from msgov.pipeline import Policy
from msgov.resilience.retry import Retry, RetryRule
from msgov.testing import LoadedDice
from msgov.transport.http import AsyncTransport, ClientEdge, Transport
from tests.transport.grpc.gates import Pick
from tests.transport.web import (
    Seen,
    serving,
)

KINDS = [(library, colour) for library in ("httpx", "httpx2") for colour in ("asyncio", "blocking")]


class Shop:
    """A plain ASGI application: answers, fails so many times first, drips, or says nothing."""

    def __init__(self) -> None:
        self.fails = 0
        self.asked: list[dict[str, Any]] = []
        self.left = 0
        self.refusal: list[tuple[bytes, bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.asked.append(headers | {"method": scope["method"], "path": scope["path"], "body": body.decode()})
        path = scope["path"]
        if self.fails:
            self.fails -= 1
            await self.say(send, 503, b"not now", *self.refusal)
        elif path.startswith("/status/"):
            await self.say(send, int(path[8:]), b"as asked", (b"retry-after", b"7"))
        elif path == "/silent":
            await self.gone(receive)
        elif path in ("/drip", "/breaks"):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"drop", "more_body": True})
            if path == "/breaks":
                raise ConnectionAbortedError
            await self.drip(receive, send)
        else:
            await self.say(send, 201 if path == "/made" else 200, b"yes")

    @staticmethod
    async def say(send: Any, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
        head = [(b"content-length", str(len(body)).encode()), *headers]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": body})

    async def gone(self, receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.left += 1

    async def drip(self, receive: Any, send: Any) -> None:
        left = asyncio.create_task(self.gone(receive))
        try:
            while not left.done():
                await send({"type": "http.response.body", "body": b"drop", "more_body": True})
                await asyncio.wait([left], timeout=0.02)
        finally:
            left.cancel()


class Asking:
    """A client of either colour, asked from a loop: the blocking one works in a thread."""

    def __init__(self, library: str, colour: str, edge: ClientEdge, inner: Any = None) -> None:
        self.library: Any = importlib.import_module(library)
        self.aio = colour == "asyncio"
        lib, one = self.library, self.library.Limits(max_connections=1)
        if self.aio:
            self.transport: Any = AsyncTransport(inner or lib.AsyncHTTPTransport(limits=one), edge)
            self.client: Any = lib.AsyncClient(transport=self.transport, base_url=f"http://{edge.target}", timeout=5)
        else:
            self.transport = Transport(inner or lib.HTTPTransport(limits=one), edge)
            self.client = lib.Client(transport=self.transport, base_url=f"http://{edge.target}", timeout=5)

    async def run(self, name: str, of: Any, *args: Any, **kwargs: Any) -> Any:
        if self.aio:
            return await getattr(of, {"read": "aread", "close": "aclose"}.get(name, name))(*args, **kwargs)
        return await asyncio.to_thread(getattr(of, name), *args, **kwargs)

    async def ask(self, method: str, path: str, **kwargs: Any) -> Any:
        return await self.run("request", self.client, method, path, **kwargs)

    async def open(self, method: str, path: str, **kwargs: Any) -> Any:
        return await self.run("send", self.client, self.client.build_request(method, path, **kwargs), stream=True)

    async def read(self, response: Any) -> bytes:
        found: bytes = await self.run("read", response)
        return found

    async def close(self, response: Any) -> None:
        await self.run("close", response)

    def stream(self, *parts: bytes) -> Any:
        """Make a body that can be had only once."""

        async def later() -> AsyncIterator[bytes]:
            for part in parts:
                yield part

        return later() if self.aio else iter(parts)


@dataclass
class World:
    """A shop behind a client, and what stands between."""

    shop: Shop
    asking: Asking
    port: int
    outer: Seen
    inner: Seen

    def settled(self) -> None:
        assert (self.outer.inside, self.inner.inside) == (0, 0)


Test: TypeAlias = Callable[[World], Coroutine[Any, Any, None]]
Policies: TypeAlias = Callable[[World], tuple[Policy, ...]]


def usual(w: World) -> tuple[Policy, ...]:
    """Attempts and a pick, with something that looks on at both sides of the seam."""
    retry = Retry(RetryRule(base=0.001, overloaded_base=0.001, patience=0.0), dice=LoadedDice(0.0, cycle=True))
    return w.outer, retry, Pick(w.port), w.inner


def on(policies: Policies = usual) -> Callable[[Test], Callable[[str, str], None]]:
    """Run a test for both libraries and both colours, behind these policies."""

    def decorate(test: Test) -> Callable[[str, str], None]:
        @pytest.mark.parametrize(("library", "colour"), KINDS)
        def runner(library: str, colour: str) -> None:
            async def main() -> None:
                shop = Shop()
                async with serving(shop) as port:
                    chosen: list[tuple[Policy, ...]] = []
                    edge = ClientEdge(target="catalog", policies=lambda _: chosen[0])
                    w = World(shop, Asking(library, colour, edge), port, Seen(), Seen())
                    chosen.append(policies(w))
                    try:
                        await test(w)
                    finally:
                        await w.asking.run("close", w.asking.client)
                    w.settled()

            asyncio.run(asyncio.wait_for(main(), 20))

        runner.__doc__ = test.__doc__
        runner.__name__ = test.__name__
        return runner

    return decorate


def closed_port() -> int:
    """Find a port at which nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
