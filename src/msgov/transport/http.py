"""A governed transport for HTTP clients: httpx and httpx2 alike, both colours, and it imports neither.

It wraps the client's own transport, so pools, TLS and HTTP/2 stay the library's. The host of a URL names a service;
each attempt goes to the instance that its policies picked. A reply with an error status is returned as it came, after
the policies have learnt from it; an attempt is settled when its reply's headers are there.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from msgov import aio, scope, sync, wire
from msgov.call import MAYBE, NO, TRANSIENT, Call, Outcome
from msgov.clock import Clock, monotonic
from msgov.errors import CallFailed, DeadlineSpent, MissingExtra
from msgov.pipeline import Pipeline, Policy
from msgov.policy import AsyncHandler, SyncHandler, classify

from .problem import judged, outcome

SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""The methods that RFC 9110 calls idempotent."""

_UNSENT = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientEdge:
    """How a client's requests are governed: the service they go to, and the policies of "VERB /path"."""

    target: str
    policies: Callable[[str], tuple[Policy, ...]]
    clock: Clock = monotonic


class _Refused(CallFailed):
    """A reply with an error status; carries the reply itself."""

    def __init__(self, response: Any) -> None:
        headers = wire.lowered(response.headers.multi_items())
        found = outcome(response.status_code, headers, None)
        super().__init__(
            f"answered {response.status_code}",
            status=found.status,
            verdict=found.verdict,
            sent=found.sent,
            overloaded=found.overloaded,
            retry_after=found.retry_after,
        )
        self.response = response


def _judge(call: Call, error: BaseException) -> Outcome:
    if isinstance(error, _Refused):
        return judged(call, error)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "TransportError" in kinds:
        sent = NO if kinds & _UNSENT else MAYBE
        return Outcome(TRANSIENT, error=error, status=type(error).__name__, sent=sent)
    return classify(call, error)


class _Governed:
    """What both colours do alike with a request."""

    def __init__(self, inner: Any, edge: ClientEdge) -> None:
        self.inner = inner
        self.edge = edge
        self._handlers: dict[tuple[Policy, ...], Any] = {}

    def call(self, request: Any) -> Call:
        """Make the `Call` of a request."""
        verb = request.method
        around = scope.current.get()
        call = Call(
            self.edge.target,
            f"{verb} {request.url.path}",
            request,
            deadline=around.deadline,
            idempotent=(verb in SAFE or wire.IDEMPOTENCY_KEY in request.headers) and _replayable(request),
            key=around.key,
            attempts_left=around.attempts_left,
        )
        call.trace = around.trace
        call.context = request.url
        return call

    def attempt(self, call: Call) -> Any:
        """Prepare the request for one attempt: where it goes, what it carries, how long it may take."""
        request: Any = call.request
        url: Any = call.context
        instance: Any = call.instance
        if instance is not None:
            request.headers.setdefault("host", url.netloc.decode("ascii"))
            request.url = url.copy_with(host=instance.host, port=instance.port)
        now = self.edge.clock()
        for name, value in wire.outgoing(call, now, deadline=True):
            request.headers[name] = value
        if call.deadline is not None:
            left = call.deadline - now
            if left <= 0:
                raise DeadlineSpent("no time is left for the request", seconds=left)
            given = request.extensions.get("timeout", {})
            request.extensions["timeout"] = {
                phase: min(left, given.get(phase) or left) for phase in ("connect", "read", "write", "pool")
            }
        return request

    def pipeline(self, policies: tuple[Policy, ...]) -> Pipeline:
        """Make the pipeline of a shape of policies; old shapes are let go."""
        if len(self._handlers) > 1000:
            self._handlers.clear()
        return Pipeline(policies, classify=_judge)


def _replayable(request: Any) -> bool:
    """Whether the body can be sent again: one drawn from an iterator cannot."""
    try:
        request.content  # noqa: B018  raises for a body that is a stream
    except Exception:  # noqa: BLE001  RequestNotRead, of either library
        return False
    return True


class AsyncTransport(_Governed):
    """Governs an asyncio client: `httpx.AsyncClient(transport=AsyncTransport(inner, edge))`."""

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request through the policies; raises `Rejected`, or the library's own errors."""
        call = self.call(request)
        policies = self.edge.policies(call.method)
        handler: AsyncHandler | None = self._handlers.get(policies)
        if handler is None:
            handler = self._handlers[policies] = aio.govern(self.pipeline(policies), self._send, clock=self.edge.clock)
        try:
            return await handler(call)
        except _Refused as refused:
            return refused.response
        finally:
            request.url = call.context

    async def _send(self, call: Call) -> object:
        previous = call.status
        response = await self.inner.handle_async_request(self.attempt(call))
        call.status = str(response.status_code)
        if response.status_code >= 400:
            if previous or call.idempotent:
                await response.aread()  # another attempt may follow: the connection goes back to the pool
            raise _Refused(response)
        return response

    async def aclose(self) -> None:
        """Close the transport beneath."""
        await self.inner.aclose()

    async def __aenter__(self) -> Self:
        """Open the transport beneath."""
        await self.inner.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close the transport beneath."""
        await self.inner.__aexit__(*exc)


class Transport(_Governed):
    """Governs a blocking client: `httpx.Client(transport=Transport(inner, edge))`."""

    def handle_request(self, request: Any) -> Any:
        """Send a request through the policies; raises `Rejected`, or the library's own errors."""
        call = self.call(request)
        policies = self.edge.policies(call.method)
        handler: SyncHandler | None = self._handlers.get(policies)
        if handler is None:
            handler = self._handlers[policies] = sync.govern(self.pipeline(policies), self._send, clock=self.edge.clock)
        try:
            return handler(call)
        except _Refused as refused:
            return refused.response
        finally:
            request.url = call.context

    def _send(self, call: Call) -> object:
        response = self.inner.handle_request(self.attempt(call))
        call.status = str(response.status_code)
        if response.status_code >= 400:
            if call.idempotent:
                response.read()  # another attempt may follow: the connection goes back to the pool
            raise _Refused(response)
        return response

    def close(self) -> None:
        """Close the transport beneath."""
        self.inner.close()

    def __enter__(self) -> Self:
        """Open the transport beneath."""
        self.inner.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the transport beneath."""
        self.inner.__exit__(*exc)


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
    return found.AsyncClient(transport=AsyncTransport(inner, edge), base_url=f"http://{edge.target}", trust_env=False)


def client(edge: ClientEdge) -> Any:
    """Make a `Client` of the installed library whose base URL is the service; proxy variables are ignored."""
    found = library()
    inner = found.HTTPTransport(trust_env=False)
    return found.Client(transport=Transport(inner, edge), base_url=f"http://{edge.target}", trust_env=False)
