"""An application whose routes show what became of a request."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from msgov import scope
from msgov.errors import (
    BreakerOpen,
    CallFailed,
)


class Shop:
    """An application whose routes show what became of a request."""

    def __init__(self) -> None:
        self.running = 0
        self.ended: list[str] = []
        self.seen: list[scope.Scope] = []
        self.release = asyncio.Event()
        routes = [
            Route("/hello/{name}", self.hello),
            Route("/count", self.count, methods=["POST"]),
            Route("/slow", self.slow, methods=["GET", "POST"]),
            Route("/late", self.late, methods=["GET", "POST"]),
            Route("/stream", self.stream),
            Route("/events", self.events),
            Route("/boom", self.boom),
            Route("/down", self.down),
            Route("/nested", self.nested),
            Route("/status/{status:int}", self.status),
            Route("/scope", self.scope),
            Route("/after", self.after),
        ]
        self.app = Starlette(routes=routes)

    @contextlib.contextmanager
    def inside(self, name: str) -> Any:
        self.running += 1
        try:
            yield
        except asyncio.CancelledError:
            self.ended.append(f"{name} cancelled")
            raise
        else:
            self.ended.append(f"{name} done")
        finally:
            self.running -= 1

    async def hello(self, request: Request) -> Response:
        return PlainTextResponse(f"hello {request.path_params['name']}")

    async def count(self, request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    async def slow(self, request: Request) -> Response:
        with self.inside("slow"):
            await self.release.wait()
        return PlainTextResponse("slow")

    async def late(self, request: Request) -> Response:
        await request.body()
        return await self.slow(request)

    async def stream(self, request: Request) -> Response:
        async def parts() -> AsyncIterator[str]:
            with self.inside("stream"):
                yield "begin "
                await self.release.wait()
                yield "end"

        return StreamingResponse(parts(), media_type=request.query_params.get("as", "text/plain"))

    async def events(self, request: Request) -> Response:
        return await self.stream(request)

    async def boom(self, request: Request) -> Response:
        raise ValueError("secret=hunter2")

    async def down(self, request: Request) -> Response:
        raise BreakerOpen("payment is open", retry_after=2.5)

    async def nested(self, request: Request) -> Response:
        raise CallFailed("payment said no", status="503", retry_after=3.0)

    async def status(self, request: Request) -> Response:
        return PlainTextResponse("so be it", status_code=request.path_params["status"])

    async def scope(self, request: Request) -> Response:
        found = scope.current.get()
        self.seen.append(found)
        left = scope.remaining()
        trace = found.trace.trace_id if found.trace else ""
        return JSONResponse({"left": left, "trace": trace, "key": found.key, "attempts": found.attempts_left})

    async def after(self, request: Request) -> Response:
        async def work() -> None:
            with self.inside("after"):
                await self.release.wait()

        return PlainTextResponse("first", background=BackgroundTask(work))


def post(path: str, body: bytes = b"", *headers: str, length: int | None = None) -> bytes:
    """Write a POST that ends its connection."""
    head = [f"content-length: {len(body) if length is None else length}", "connection: close", *headers]
    return "\r\n".join([f"POST {path} HTTP/1.1", "host: shop", *head]).encode() + b"\r\n\r\n" + body
