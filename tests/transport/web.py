"""Real servers for the HTTP edges: uvicorn in this loop, or in a thread of its own for blocking clients."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn

from msgov.call import Call, Outcome
from msgov.pipeline import Policy
from msgov.policy import Gate
from msgov.transport.asgi import App, HttpEdge, Limits, Middleware

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"traceparent: 00-{TRACE}-00f067aa0ba902b7-01"
WITHIN = 20.0  # seconds that any test may take


@asynccontextmanager
async def serving(app: App, *, lifespan: str = "off", **options: Any) -> AsyncIterator[int]:
    """Serve an application on a free port; ready by uvicorn's own `started`, gone when the block ends."""
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        **{"http": "h11", "ws": "none", "log_config": None, "access_log": False, "proxy_headers": False, **options},
        lifespan=lifespan,  # type: ignore[arg-type]  # one of its literals
    )
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    assert server.started
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.force_exit = True  # a test that failed may have left connections behind
        for connection in list(server.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.close()
        await server.shutdown()
        if lifespan == "on":
            await server.lifespan.shutdown()
        for each in server.servers:
            await each.wait_closed()


@contextmanager
def serving_aside(app: App, **options: Any) -> Iterator[int]:
    """Serve an application from a thread of its own."""
    ready, stop = threading.Event(), threading.Event()
    found: list[int] = []

    async def main() -> None:
        async with serving(app, **options) as port:
            found.append(port)
            ready.set()
            await asyncio.to_thread(stop.wait, WITHIN)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        assert ready.wait(WITHIN)
        yield found[0]
    finally:
        stop.set()
        thread.join(WITHIN)


def governed(app: App, *policies: Policy, limits: Limits | None = None, **edge: Any) -> Middleware:
    """Put the middleware round an application."""
    return Middleware(app, HttpEdge(service="shop", policies=lambda _: policies, limits=limits or Limits(), **edge))


class No(Gate[int]):
    """Refuses all."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def admit(self, call: Call, now: float) -> int:
        raise self.error

    def settle(self, ticket: int, outcome: Outcome, now: float) -> None:
        """Learn nothing."""


@contextmanager
def silent(name: str) -> Iterator[None]:
    """Keep a logger from filling the test's output with failures that are meant."""
    logger = logging.getLogger(name)
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = False


class Seen(Gate[Call]):
    """Remembers each call, what it was called and how it ended; counts those inside."""

    def __init__(self) -> None:
        self.inside = 0
        self.calls: list[Call] = []
        self.methods: list[str] = []
        self.outcomes: list[Outcome] = []

    def admit(self, call: Call, now: float) -> Call:
        self.inside += 1
        self.calls.append(call)
        return call

    def settle(self, ticket: Call, outcome: Outcome, now: float) -> None:
        self.inside -= 1
        self.methods.append(ticket.method)
        self.outcomes.append(outcome)

    @property
    def ends(self) -> list[tuple[str, str]]:
        """Verdict and status of each."""
        return [(outcome.verdict.name, outcome.status) for outcome in self.outcomes]


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test in a loop of its own."""

    def runner() -> None:
        asyncio.run(asyncio.wait_for(test(), WITHIN))

    runner.__doc__ = test.__doc__
    runner.__name__ = test.__name__
    return runner


async def until(condition: Callable[[], object], *, seconds: float = 5.0) -> None:
    """Wait for something to become true; it is asked every few milliseconds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.003)


class Answer:
    """A reply as it came over the wire."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ")[1])
        self.headers = {n.lower(): v for n, _, v in (line.partition(": ") for line in lines[1:])}

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json"
        found: dict[str, Any] = json.loads(self.body)
        return found


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a raw connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except OSError:
            pass


def http(path: str = "/", *, method: str = "GET", headers: tuple[tuple[bytes, bytes], ...] = ()) -> dict[str, Any]:
    """Make the scope of a request, as uvicorn does."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"shop"), *headers],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 80),
        "state": {},
    }


class Server:
    """The server's side of one connection scope, driven by hand: `told` is what the application is told, in turn."""

    def __init__(self, *told: dict[str, Any]) -> None:
        self.told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        for message in told or ({"type": "http.request", "body": b"", "more_body": False},):
            self.told.put_nowait(message)
        self.asked = 0
        self.sent: list[Any] = []

    async def receive(self) -> dict[str, Any]:
        self.asked += 1
        return await self.told.get()

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        found: int = self.sent[0]["status"]
        return found

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}


async def raw(port: int, *parts: bytes, pause: float = 0.0) -> Answer:
    """Send bytes and read until the server closes; what is sent must ask it to."""
    async with connection(port) as (reader, writer):
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)
        return Answer(await asyncio.wait_for(reader.read(), 10))


def get(path: str, *headers: str) -> bytes:
    """Write a GET that ends its connection."""
    lines = [f"GET {path} HTTP/1.1", "host: shop", "connection: close", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
