"""Clients of httpx and of httpx2, of both colours, go through one transport: each test runs for all four."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeAlias

import pytest

from msgov import scope
from msgov.call import Call, Outcome
from msgov.errors import BulkheadFull, DeadlineExceeded, DeadlineSpent, MissingExtra, RateLimited, RuleError
from msgov.pipeline import Policy
from msgov.policy import Plan
from msgov.resilience.breaker import Breaker, BreakerRule
from msgov.resilience.bulkhead import Bulkhead, BulkheadRule
from msgov.resilience.deadline import Deadline
from msgov.resilience.fallback import Fallback
from msgov.resilience.retry import Retry, RetryRule
from msgov.testing import LoadedDice
from msgov.transport import http as transports
from msgov.transport.http import AsyncTransport, ClientEdge, Transport
from tests.transport.grpc.gates import Pick
from tests.transport.web import TRACE, No, Seen, governed, serving, silent, until

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


# Where it goes and what it carries.


@on()
async def test_a_request_goes_to_the_picked_instance_under_the_services_name(w: World) -> None:
    """The URL names a service; the server still sees by which name it was asked."""
    answer = await w.asking.ask("GET", "/orders/7?x=1", headers={"x-own": "kept"})
    assert (answer.status_code, answer.content, str(answer.url)) == (200, b"yes", "http://catalog/orders/7?x=1")
    (asked,) = w.shop.asked
    assert (asked["host"], asked["path"], asked["x-own"]) == ("catalog", "/orders/7", "kept")
    assert w.outer.ends == w.inner.ends == [("OK", "200")]


@on()
async def test_a_reply_of_another_success_is_told_by_its_own_status(w: World) -> None:
    """201 is not 200, in metrics neither."""
    await w.asking.ask("POST", "/made", content=b"a")
    assert w.outer.ends == w.inner.ends == [("OK", "201")]


@on()
async def test_a_call_is_named_by_verb_and_template_never_by_its_path(w: World) -> None:
    """Each path would be a series of its own; a client can only know the template if it is told."""
    await w.asking.ask("GET", "/orders/7")
    await w.asking.ask("GET", "/orders/7", extensions={"route": "/orders/{id}"})
    assert w.outer.methods == ["GET", "GET /orders/{id}"]


@on()
async def test_the_scope_is_sent_and_the_callers_request_stays_as_it_was(w: World) -> None:
    """Trace, deadline, allowance and attempt go with each attempt; whoever sends a request again sends it clean."""
    w.shop.fails = 1
    around = scope.Scope(trace=scope.Trace(TRACE, "00f067aa0ba902b7", sampled=True, state="a=b"), attempts_left=5)
    token = scope.current.set(around)
    try:
        with scope.within(2.0):
            request = w.asking.client.build_request("GET", "/orders/7")
            before = (request.headers.raw, str(request.url), dict(request.extensions))
            await w.asking.run("send", w.asking.client, request)
    finally:
        scope.current.reset(token)
    assert (request.headers.raw, str(request.url), dict(request.extensions)) == before
    first, second = w.shop.asked
    assert first["traceparent"] == second["traceparent"] == f"00-{TRACE}-00f067aa0ba902b7-01"
    assert first["tracestate"] == "a=b"
    assert 1500 < int(second["msgov-deadline-ms"]) <= int(first["msgov-deadline-ms"]) <= 2000
    assert ("msgov-attempt" in first, second["msgov-attempt"]) == (False, "2")
    assert (first["msgov-attempts-left"], second["msgov-attempts-left"]) == ("5", "4")


@pytest.mark.parametrize(("library", "colour"), KINDS)
def test_over_tls_the_certificate_stays_the_services(library: str, colour: str) -> None:
    """The instance's address is in no certificate; the name that was asked for is."""
    sent: list[Any] = []

    async def main() -> None:
        lib: Any = importlib.import_module(library)

        def answer(request: Any) -> Any:
            sent.append(request)
            return lib.Response(200, content=b"yes")

        pick = Pick(1)
        pick.all[0] = type(pick.all[0])("one", "::1", 8443)
        edge = ClientEdge(target="catalog", policies=lambda _: (pick,))
        asking = Asking(library, colour, edge, lib.MockTransport(answer))
        await asking.ask("GET", "https://catalog/a")
        await asking.run("close", asking.client)

    asyncio.run(main())
    assert str(sent[0].url) == "https://[::1]:8443/a"
    assert (sent[0].extensions["sni_hostname"], sent[0].headers["host"]) == ("catalog", "catalog")


@on()
async def test_another_host_is_refused_and_not_asked_again(w: World) -> None:
    """A URL of somebody else must not be sent to an instance of ours; a redirect could bring one."""
    with pytest.raises(RuleError, match="catalog"):
        await w.asking.ask("GET", "http://elsewhere/orders/7")
    assert (w.shop.asked, len(w.inner.calls)) == ([], 1)


@on(lambda w: (w.outer,))
async def test_without_a_pick_a_url_is_taken_as_it_is(w: World) -> None:
    """A gateway outside has an address of its own, and rules all the same."""
    answer = await w.asking.ask("GET", f"http://127.0.0.1:{w.port}/orders/7")
    assert (answer.status_code, w.outer.ends) == (200, [("OK", "200")])


# What fails.


@on()
async def test_an_error_status_is_returned_as_it_came(w: World) -> None:
    """It is the callee's answer; only the policies learn from it."""
    w.shop.fails = 9
    answer = await w.asking.ask("POST", "/orders", content=b"x")
    other = await w.asking.ask("GET", "/status/404")
    assert (answer.status_code, answer.content) == (503, b"not now")
    assert w.inner.ends[0] == ("TRANSIENT", "503")
    w.shop.fails = 0
    other = await w.asking.ask("GET", "/status/404")
    assert (other.status_code, other.content, w.inner.ends[-1]) == (404, b"as asked", ("PERMANENT", "404"))


@on()
async def test_the_body_of_an_error_can_be_streamed(w: World) -> None:
    """It was not read behind the caller's back; its tickets are back already, for the verdict is known."""
    response = await w.asking.open("GET", "/status/500")
    assert (response.is_stream_consumed, response.is_closed) == (False, False)
    w.settled()
    assert await w.asking.read(response) == b"as asked"
    await w.asking.close(response)


@pytest.mark.parametrize(
    ("method", "headers", "tries"),
    [("GET", {}, 3), ("PUT", {}, 3), ("POST", {}, 1), ("POST", {"Idempotency-Key": "a"}, 3)],
)
def test_only_what_does_no_harm_twice_is_sent_again(method: str, headers: dict[str, str], tries: int) -> None:
    """By its method, or because it brings a key by which the callee knows it again."""

    @on()
    async def inside(w: World) -> None:
        w.shop.fails = 9
        answer = await w.asking.ask(method, "/orders", headers=headers, content=b"body" if method != "GET" else None)
        assert (answer.status_code, answer.content) == (503, b"not now")
        assert [asked["body"] for asked in w.shop.asked] == ["body" if method != "GET" else ""] * tries

    for library, colour in KINDS:
        inside(library, colour)


@on()
async def test_a_body_that_can_be_had_only_once_is_not_sent_again(w: World) -> None:
    """Not even when the callee says that nothing was done: the body is gone."""
    w.shop.fails = 9
    w.shop.refusal = [(b"msgov-sent", b"no")]
    answer = await w.asking.ask("PUT", "/orders", content=w.asking.stream(b"bo", b"dy"))
    assert (answer.status_code, len(w.shop.asked), w.shop.asked[0]["body"]) == (503, 1, "body")


@on(lambda w: (w.outer, Retry(RetryRule(base=0.001)), Pick(closed_port(), w.port), w.inner))
async def test_nobody_there_means_not_sent(w: World) -> None:
    """Then even a POST goes to another instance, body and all."""
    answer = await w.asking.ask("POST", "/orders", content=w.asking.stream(b"bo", b"dy"))
    assert (answer.status_code, w.shop.asked[0]["body"]) == (200, "body")
    assert (w.inner.outcomes[0].status, w.inner.outcomes[0].sent.name) == ("ConnectError", "NO")


@on(lambda w: (Retry(RetryRule(base=0.001)), Pick(w.port), w.inner))
async def test_a_refusal_made_at_the_door_means_not_sent(w: World) -> None:
    """As our own servers answer: a POST may go elsewhere."""
    refusing = governed(w.shop, No(BulkheadFull("full")))
    async with serving(refusing) as port:
        w.asking.transport.edge.policies("")[1].all.insert(0, Pick(port).all[0])
        answer = await w.asking.ask("POST", "/orders", content=b"body")
    assert (answer.status_code, [o.sent.name for o in w.inner.outcomes]) == (200, ["NO", "YES"])


class Note(Plan):
    """Notes what it is asked, and never tries again."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def next(self, call: Call, tries: int, outcome: Outcome | None, now: float) -> float | None:
        if outcome is not None:
            self.outcomes.append(outcome)
        return None


def test_what_a_callee_asks_for_reaches_the_plan() -> None:
    """Retry-After in seconds, and 429 as a sign of overload."""
    note = Note()

    @on(lambda w: (note, Pick(w.port)))
    async def inside(w: World) -> None:
        await w.asking.ask("GET", "/status/429")

    for library, colour in KINDS:
        inside(library, colour)
    assert [(o.retry_after, o.overloaded, o.verdict.name) for o in note.outcomes] == [(7.0, True, "TRANSIENT")] * 4


@on()
async def test_retries_leave_no_connection_behind(w: World) -> None:
    """There is one connection in all: a reply that nobody will read must give it back before the next attempt."""
    for _ in range(3):
        w.shop.fails = 2
        assert (await w.asking.ask("GET", "/orders")).status_code == 200
    assert len(w.shop.asked) == 9


@on(lambda w: (w.outer, Retry(RetryRule(base=0.001)), Pick(w.port), Breaker(BreakerRule(minimum_calls=1)), w.inner))
async def test_a_refusal_of_the_second_attempt_does_not_hide_the_first_reply(w: World) -> None:
    """The reply is still open, and can be read."""
    w.shop.fails = 9
    answer = await w.asking.ask("GET", "/orders")
    assert (answer.status_code, answer.content, len(w.shop.asked)) == (503, b"not now", 1)


@on(lambda w: (No(RateLimited("full", retry_after=1.0)),))
async def test_our_own_refusal_is_raised(w: World) -> None:
    """Nothing came over the wire that could be returned."""
    with pytest.raises(RateLimited):
        await w.asking.ask("GET", "/orders")
    assert w.shop.asked == []


@on(lambda w: (w.outer, Pick(w.port), w.inner))
async def test_a_silent_callee_is_given_up_by_the_librarys_own_timeout(w: World) -> None:
    """The library's errors pass untouched."""
    with pytest.raises(w.asking.library.ReadTimeout):
        await w.asking.ask("GET", "/silent", timeout=0.1)
    assert [(o.verdict.name, o.sent.name) for o in w.inner.outcomes] == [("TRANSIENT", "MAYBE")]
    await until(lambda: w.shop.left == 1)


@on(lambda w: (w.outer, Pick(closed_port()), w.inner))
async def test_an_error_of_the_library_passes_untouched(w: World) -> None:
    """Code that catches it goes on catching it."""
    with pytest.raises(w.asking.library.ConnectError):
        await w.asking.ask("GET", "/orders")


# Substitutes.


def test_a_fallback_answers_with_a_response() -> None:
    """And the reply that it replaces gives its connection back."""
    for library, colour in KINDS:
        lib: Any = importlib.import_module(library)

        @on(lambda w, lib=lib: (Fallback(lambda call, error: lib.Response(200, content=b"spare")), Pick(w.port)))
        async def inside(w: World) -> None:
            w.shop.fails = 1
            for _ in range(2):
                await w.asking.ask("GET", "/orders")
            answer = await w.asking.ask("GET", "/status/503")
            assert (answer.content, len(w.shop.asked)) == (b"spare", 3)

        inside(library, colour)


@on(lambda w: (Fallback("spare"), Pick(w.port)))
async def test_a_fallback_that_is_no_response_is_told_apart(w: World) -> None:
    """A client can hand out nothing else; it says what it was given."""
    for _ in range(2):
        with pytest.raises(RuleError, match="spare"):
            await w.asking.ask("GET", "/status/503")


# Streams.


@on(lambda w: (w.outer, Bulkhead(BulkheadRule(limit=1)), Pick(w.port), w.inner))
async def test_a_streamed_reply_holds_its_tickets_until_it_is_closed(w: World) -> None:
    """A bulkhead counts what is under way, and a stream is, until its end."""
    response = await w.asking.open("GET", "/drip")
    assert (w.outer.inside, w.inner.inside) == (1, 1)
    with pytest.raises(BulkheadFull):
        await w.asking.ask("GET", "/orders")
    await w.asking.close(response)
    assert w.inner.ends == [("IGNORED", "closed")]
    w.settled()
    assert (await w.asking.ask("GET", "/orders")).status_code == 200
    await until(lambda: w.shop.left == 1)


@on(lambda w: (w.outer, Pick(w.port), w.inner))
async def test_a_stream_that_is_read_to_its_end_went_well(w: World) -> None:
    """Its time is that of the whole."""
    response = await w.asking.open("GET", "/orders")
    assert w.inner.inside == 1
    await asyncio.sleep(0.05)
    assert await w.asking.read(response) == b"yes"
    assert w.outer.ends == w.inner.ends == [("OK", "200")]
    assert min(o.seconds for o in w.outer.outcomes + w.inner.outcomes) > 0.049


@on(lambda w: (w.outer, Retry(RetryRule(base=0.001)), Pick(w.port), w.inner))
async def test_a_stream_that_breaks_off_failed_and_is_not_begun_again(w: World) -> None:
    """A part of it has been handed out."""
    with silent("uvicorn.error"):
        response = await w.asking.open("GET", "/breaks")
        with pytest.raises(w.asking.library.RemoteProtocolError):
            await w.asking.read(response)
    assert w.outer.ends == w.inner.ends == [("TRANSIENT", "RemoteProtocolError")]
    assert len(w.shop.asked) == 1


@on(lambda w: (w.outer, Pick(w.port), w.inner))
async def test_a_stream_that_is_dropped_is_settled_all_the_same(w: World) -> None:
    """Late but surely: by the collector and the next request, and its connection is free again."""
    response = await w.asking.open("GET", "/drip")
    del response
    # The thread that made it may hold it a moment longer.
    await until(lambda: gc.collect() is not None and (w.asking.transport.dropped or w.inner.outcomes))
    assert (await w.asking.ask("GET", "/orders")).status_code == 200
    assert w.inner.ends == [("IGNORED", "abandoned"), ("OK", "200")]


@pytest.mark.parametrize(("library", "colour"), KINDS)
def test_a_reply_that_is_there_already_holds_nothing(library: str, colour: str) -> None:
    """Nobody reads the body of a reply from memory, so nobody would end it."""

    async def main() -> None:
        lib: Any = importlib.import_module(library)
        seen = Seen()
        edge = ClientEdge(target="catalog", policies=lambda _: (seen,))
        asking = Asking(library, colour, edge, lib.MockTransport(lambda _: lib.Response(200, content=b"yes")))
        assert (await asking.ask("GET", "/a")).content == b"yes"
        assert (seen.inside, seen.ends) == (0, [("OK", "200")])
        await asking.run("close", asking.client)

    asyncio.run(main())


# Deadlines.


@on(lambda w: (w.outer, Deadline(0.25), Retry(RetryRule(base=0.001)), Pick(w.port), w.inner))
async def test_a_deadline_bounds_the_wait_for_a_reply(w: World) -> None:
    """In all, whatever timeouts the client has; the callee sees the caller go."""
    began = asyncio.get_running_loop().time()
    with pytest.raises(DeadlineExceeded):
        await w.asking.ask("GET", "/silent")
    assert 0.23 < asyncio.get_running_loop().time() - began < 0.6
    assert int(w.shop.asked[0]["msgov-deadline-ms"]) <= 250
    await until(lambda: w.shop.left == 1)
    assert w.outer.ends == [("TRANSIENT", "deadline_exceeded")]


@on(lambda w: (w.outer, Deadline(0.25), Pick(w.port), w.inner))
async def test_a_deadline_bounds_a_body_that_drips(w: World) -> None:
    """Each part comes in time, and all of it never would."""
    began = asyncio.get_running_loop().time()
    with pytest.raises(DeadlineExceeded):
        await w.asking.ask("GET", "/drip")
    assert 0.23 < asyncio.get_running_loop().time() - began < 0.6
    assert w.outer.ends == w.inner.ends == [("TRANSIENT", "deadline_exceeded")]


@on()
async def test_the_scopes_deadline_holds_without_a_policy(w: World) -> None:
    """Whoever serves a request with little time left must not wait longer for what it asks."""
    began = asyncio.get_running_loop().time()
    with scope.within(0.2), pytest.raises(DeadlineExceeded):
        await w.asking.ask("GET", "/silent", timeout=None)
    assert asyncio.get_running_loop().time() - began < 0.6
    with scope.within(0.0), pytest.raises(DeadlineSpent):
        await w.asking.ask("GET", "/orders")
    assert [asked["path"] for asked in w.shop.asked] == ["/silent"]


# Both ways out that only asyncio has.


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
@pytest.mark.parametrize("path", ["/silent", "/drip"])
def test_a_cancelled_call_closes_its_connection(library: str, path: str) -> None:
    """The callee sees the caller go; the only connection is free for the next."""

    async def main() -> None:
        shop, seen = Shop(), Seen()
        async with serving(shop) as port:
            pick = Pick(port)
            asking = Asking(library, "asyncio", ClientEdge(target="catalog", policies=lambda _: (seen, pick)))
            task = asyncio.create_task(asking.ask("GET", path))
            await until(lambda: shop.asked)
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (seen.inside, [verdict for verdict, _ in seen.ends]) == (0, ["IGNORED"])
            assert (await asking.ask("GET", "/orders")).status_code == 200
            await asking.run("close", asking.client)

    asyncio.run(asyncio.wait_for(main(), 20))


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
def test_a_call_cancelled_between_two_attempts_gives_its_connection_back(library: str) -> None:
    """The reply of the first attempt is open while the second is awaited."""

    async def main() -> None:
        shop, seen = Shop(), Seen()
        shop.fails = 9
        async with serving(shop) as port:
            policies = (Retry(RetryRule(base=30, cap=30), dice=LoadedDice(0.99, cycle=True)), Pick(port), seen)
            asking = Asking(library, "asyncio", ClientEdge(target="catalog", policies=lambda _: policies))
            task = asyncio.create_task(asking.ask("GET", "/orders"))
            await until(lambda: seen.outcomes)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            shop.fails = 0
            assert (await asking.ask("GET", "/orders")).status_code == 200
            await asking.run("close", asking.client)

    asyncio.run(asyncio.wait_for(main(), 20))


# The clients that are made for you.


@pytest.fixture(params=["httpx2", "httpx"])
def only(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Leave one library to be found."""
    if request.param == "httpx":
        monkeypatch.setitem(sys.modules, "httpx2", None)
    return importlib.import_module(request.param)


@contextlib.contextmanager
def proxied(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Point all proxy variables at a port where nobody listens."""
    with monkeypatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            patch.setenv(name, f"http://127.0.0.1:{closed_port()}")
        yield


def test_clients_ignore_proxy_variables(only: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call to a service next door must not leave by a proxy."""

    async def main() -> None:
        async with serving(Shop()) as port:
            pick = Pick(port)
            edge = ClientEdge(target="catalog", policies=lambda _: (pick,))
            with proxied(monkeypatch):
                async with transports.async_client(edge) as client:
                    assert isinstance(client, only.AsyncClient)
                    assert (await client.get("/orders")).content == b"yes"

                def ask() -> bytes:
                    with transports.client(edge) as client:
                        found: bytes = client.get("/orders").content
                        return found

                assert await asyncio.to_thread(ask) == b"yes"

    asyncio.run(main())


def test_a_services_name_need_not_be_a_hosts(only: ModuleType) -> None:
    """Names have letters, digits and ._/- in any case."""

    async def main() -> None:
        shop = Shop()
        async with serving(shop) as port:
            pick = Pick(port)
            async with transports.async_client(
                ClientEdge(target="Shop/catalog_v2", policies=lambda _: (pick,))
            ) as client:
                assert (await client.get("/orders")).content == b"yes"
        assert shop.asked[0]["host"] == "shop%2fcatalog_v2"

    asyncio.run(main())


def test_without_a_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install is said."""
    monkeypatch.setitem(sys.modules, "httpx2", None)
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(MissingExtra, match=r"msgov\[http\]"):
        transports.library()
