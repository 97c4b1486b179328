"""Clients of httpx and of httpx2, of both colours, go through one transport: each test runs for all four."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from msgov import scope
from msgov.call import Call, Outcome
from msgov.errors import (
    BulkheadFull,
    MissingExtra,
    RateLimited,
    RuleError,
)
from msgov.policy import Plan
from msgov.resilience.breaker import Breaker, BreakerRule
from msgov.resilience.fallback import Fallback
from msgov.resilience.retry import Retry, RetryRule
from msgov.transport import http as transports
from msgov.transport.http import ClientEdge
from tests.transport.asking import KINDS, Asking, Shop, World, closed_port, on
from tests.transport.grpc.gates import Pick
from tests.transport.web import (
    TRACE,
    No,
    governed,
    serving,
    until,
)

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
