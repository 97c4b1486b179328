"""A governed transport for HTTP clients: httpx and httpx2 alike, both colours, and it imports neither.

It wraps the client's own transport, so pools, TLS and HTTP/2 stay the library's. The host of a URL names a service;
each attempt goes to the instance that its policies picked. A reply with an error status is returned as it came, after
the policies have learnt from it; what an attempt that went well holds, it holds until the body has been read.
"""

from __future__ import annotations

import asyncio
import importlib
from typing import Any, Self, cast

from msgov import aio, sync
from msgov.call import Call
from msgov.errors import MissingExtra
from msgov.pipeline import Pipeline
from msgov.policy import AsyncHandler, SyncHandler
from msgov.transport.asking import Asked, ClientEdge, Governed, Refused, host, judge
from msgov.transport.body import AsyncBody, SyncBody, body, late, timed_out

__all__ = ["AsyncTransport", "ClientEdge", "Transport", "async_client", "client", "library"]


class AsyncTransport(Governed[AsyncHandler]):
    """Governs an asyncio client: `httpx.AsyncClient(transport=AsyncTransport(inner, edge))`.

    The call's deadline bounds it in all, its body included. It belongs to the loop that uses it.
    """

    def __init__(self, inner: Any, edge: ClientEdge) -> None:
        super().__init__(inner, edge)
        self._closing: set[asyncio.Task[None]] = set()

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request through the policies; raises `Rejected`, `DeadlineExceeded`, or the library's own errors."""
        if self.dropped:
            self._collect()
        call = self.call(request)
        asked = cast("Asked", call.context)
        handler = self.handler(request, self._govern)
        try:
            reply = asked.checked(await handler(call))
        except Refused as refused:
            reply = refused.response
        except BaseException:
            await _aclose(asked.unread())
            raise
        await _aclose(asked.unread(reply))
        return reply

    def _govern(self, pipeline: Pipeline) -> AsyncHandler:
        clock = self.edge.clock
        return aio.govern(pipeline, lambda call: aio.bounded(self._send, call, clock), clock=clock, native=True)

    async def _send(self, call: Call) -> object:
        asked = cast("Asked", call.context)
        call.status = ""
        request = self.attempt(call)
        await _aclose(asked.refused())
        response = await self.inner.handle_async_request(request)
        asked.replies.append(response)
        status = self.opened(call, response)
        if status is not None:
            stream, kind = response.stream, body(AsyncBody, response.stream)
            response.stream = kind(
                stream,
                call,
                status,
                clock=self.edge.clock,
                judge=judge,
                dropped=self.dropped,
                collect=self._collect,
            )
        return response

    def _collect(self) -> None:
        """Settle and close what was dropped."""
        for stream in self.dropped.settle(self.edge.clock()):
            task = asyncio.get_running_loop().create_task(stream.aclose())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _collected(self) -> None:
        self._collect()
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def aclose(self) -> None:
        """Close the transport beneath."""
        await self._collected()
        await self.inner.aclose()

    async def __aenter__(self) -> Self:
        """Open the transport beneath."""
        await self.inner.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close the transport beneath."""
        await self._collected()
        await self.inner.__aexit__(*exc)


async def _aclose(replies: list[Any]) -> None:
    for reply in replies:
        await reply.aclose()


class Transport(Governed[SyncHandler]):
    """Governs a blocking client: `httpx.Client(transport=Transport(inner, edge))`.

    The call's deadline bounds each wait for the network, and is looked at between two parts of a body.
    """

    def handle_request(self, request: Any) -> Any:
        """Send a request through the policies; raises `Rejected`, `DeadlineExceeded`, or the library's own errors."""
        if self.dropped:
            self._collect()
        call = self.call(request)
        asked = cast("Asked", call.context)
        handler = self.handler(request, self._govern)
        try:
            reply = asked.checked(handler(call))
        except Refused as refused:
            reply = refused.response
        except BaseException:
            _close(asked.unread())
            raise
        _close(asked.unread(reply))
        return reply

    def _govern(self, pipeline: Pipeline) -> SyncHandler:
        return sync.govern(pipeline, self._send, clock=self.edge.clock)

    def _send(self, call: Call) -> object:
        asked = cast("Asked", call.context)
        call.status = ""
        request = self.attempt(call)
        if call.deadline is not None:
            left = call.deadline - self.edge.clock()
            given = request.extensions.get("timeout", {})
            request.extensions["timeout"] = {
                phase: left if given.get(phase) is None else min(left, given[phase])
                for phase in ("connect", "read", "write", "pool")
            }
        _close(asked.refused())
        try:
            response = self.inner.handle_request(request)
        except Exception as error:
            if timed_out(call, error, self.edge.clock()):
                raise late(call) from error
            raise
        asked.replies.append(response)
        status = self.opened(call, response)
        if status is not None:
            stream, kind = response.stream, body(SyncBody, response.stream)
            response.stream = kind(stream, call, status, clock=self.edge.clock, judge=judge, dropped=self.dropped)
        return response

    def _collect(self) -> None:
        """Settle and close what was dropped."""
        for stream in self.dropped.settle(self.edge.clock()):
            stream.close()

    def close(self) -> None:
        """Close the transport beneath."""
        self._collect()
        self.inner.close()

    def __enter__(self) -> Self:
        """Open the transport beneath."""
        self.inner.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the transport beneath."""
        self._collect()
        self.inner.__exit__(*exc)


def _close(replies: list[Any]) -> None:
    for reply in replies:
        reply.close()


def library() -> Any:
    """Return httpx2, or httpx where only that is installed; raises `MissingExtra` without either."""
    for name in ("httpx2", "httpx"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as missing:
            if missing.name != name:
                raise
    raise MissingExtra("httpx2", extra="http")


def async_client(edge: ClientEdge) -> Any:
    """Make an `AsyncClient` of the installed library whose base URL is the service; proxy variables are ignored."""
    found = library()
    inner = found.AsyncHTTPTransport(trust_env=False)
    return found.AsyncClient(transport=AsyncTransport(inner, edge), base_url=_base(edge), trust_env=False)


def client(edge: ClientEdge) -> Any:
    """Make a `Client` of the installed library whose base URL is the service; proxy variables are ignored."""
    found = library()
    inner = found.HTTPTransport(trust_env=False)
    return found.Client(transport=Transport(inner, edge), base_url=_base(edge), trust_env=False)


def _base(edge: ClientEdge) -> str:
    return f"http://{host(edge.target)}"
