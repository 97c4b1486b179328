"""Deadline, trace and key of a request reach the application, and go with it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from msgov import scope
from msgov.errors import (
    RuleError,
)
from msgov.transport.asgi import HttpEdge
from tests.transport.shop import Shop
from tests.transport.web import (
    TRACE,
    TRACEPARENT,
    Server,
    connection,
    get,
    governed,
    http,
    raw,
    run,
    serving,
    silent,
)


@run
async def test_scope_and_trace_reach_the_application_and_go_with_it() -> None:
    """One keep-alive connection carries many callers: nothing of the first may be left for the second."""
    shop = Shop()
    first = "GET /scope HTTP/1.1\r\nhost: shop\r\nmsgov-deadline-ms: 500\r\nmsgov-attempts-left: 1\r\n"
    app = governed(shop.app, trusted=lambda peer: peer == "127.0.0.1")
    async with serving(app) as port, connection(port) as (reader, writer):
        writer.write((first + TRACEPARENT + "\r\n\r\n").encode())
        head = await reader.readuntil(b"}")
        writer.write(get("/scope"))
        await reader.read()
    assert f"x-trace-id: {TRACE}".encode() in head
    assert f"traceresponse: 00-{TRACE}-00f067aa0ba902b7-01".encode() in head
    one, other = shop.seen
    assert one.trace is not None
    assert (one.trace.trace_id, one.attempts_left, one.key) == (TRACE, 1, "127.0.0.1")
    assert (other.trace, other.attempts_left) == (None, None)
    assert one.deadline is not None
    assert other.deadline is not None
    assert other.deadline - one.deadline > 10


@run
async def test_pipelined_requests_do_not_inherit_each_others_scope() -> None:
    """uvicorn starts the second in the context of the first."""
    shop = Shop()
    first = ("GET /scope HTTP/1.1\r\nhost: shop\r\n" + TRACEPARENT + "\r\n\r\n").encode()
    async with serving(governed(shop.app)) as port:
        await raw(port, first + get("/scope"))
    assert [seen.trace is None for seen in shop.seen] == [False, True]


@pytest.mark.parametrize("path", ["/scope", "/boom", "/nowhere"])
def test_the_scope_ends_with_the_request(path: str) -> None:
    """A server may serve several in one task."""

    async def main() -> None:
        server = Server()
        name, value = TRACEPARENT.split(": ")
        with silent("msgov.asgi"):
            given = http(path, headers=((name.encode(), value.encode()),))
            await governed(Shop().app)(given, server.receive, server.send)
        assert scope.current.get() is scope.EMPTY

    asyncio.run(main())


@run
async def test_an_allowance_is_believed_only_of_a_trusted_hop() -> None:
    """Whoever is outside could ask for more attempts than there are (S14)."""
    shop = Shop()
    async with serving(governed(shop.app)) as port:
        await raw(port, get("/scope", "msgov-attempts-left: 9"))
    assert shop.seen[0].attempts_left is None


@pytest.mark.parametrize(
    ("peer", "hops", "forwarded", "key"),
    [
        ("10.0.0.1", 0, "6.6.6.6", "10.0.0.1"),
        ("10.0.0.1", 1, "6.6.6.6, 8.8.8.8", "8.8.8.8"),
        ("10.0.0.1", 2, "6.6.6.6, 8.8.8.8, 10.0.0.2", "8.8.8.8"),
        ("10.0.0.1", 3, "8.8.8.8", "10.0.0.1"),
        ("9.9.9.9", 1, "6.6.6.6", "9.9.9.9"),
        ("10.0.0.1", 1, "8.8.8.8:1234", "8.8.8.8"),
        ("10.0.0.1", 1, "[2001:db8::1]:1234", "2001:db8::/64"),
        ("10.0.0.1", 1, "2001:db8::1", "2001:db8::/64"),
        ("10.0.0.1", 1, "unknown", "10.0.0.1"),
        ("10.0.0.1", 1, "", "10.0.0.1"),
        ("10.0.0.1", 1, "a" * 1000, "10.0.0.1"),
        ("::ffff:9.9.9.9", 0, "", "9.9.9.9"),
        ("a path", 0, "", "a path"),
        ("2001:db8::1:2:3:4", 0, "", "2001:db8::/64"),
        ("2001:db8::9:9:9:9", 0, "", "2001:db8::/64"),
        ("fe80::1%eth0", 0, "", "fe80::/64"),
    ],
)
def test_the_key_is_whom_the_outermost_own_proxy_saw(peer: str, hops: int, forwarded: str, key: str) -> None:
    """Counted from the right, for the left is what clients write; an IPv6 host has a whole /64 to itself (S12, S13)."""

    async def main() -> str:
        shop, server = Shop(), Server()
        given = http("/scope", headers=((b"x-forwarded-for", forwarded.encode()),))
        given["client"] = (peer, 1)
        edge = governed(shop.app, hops=hops, trusted=lambda peer: peer.startswith("10."))
        await edge(given, server.receive, server.send)
        return shop.seen[0].key

    assert asyncio.run(main()) == key


def test_header_lines_of_several_proxies_are_read_as_one() -> None:
    """A proxy may add a line of its own instead of appending."""

    async def main() -> str:
        shop, server = Shop(), Server()
        lines = ((b"x-forwarded-for", b"6.6.6.6"), (b"x-forwarded-for", b"8.8.8.8"))
        await governed(shop.app, hops=1, trusted=lambda _: True)(
            http("/scope", headers=lines), server.receive, server.send
        )
        return shop.seen[0].key

    assert asyncio.run(main()) == "8.8.8.8"


@pytest.mark.parametrize(
    ("numbers", "path"),
    [
        ({"default_deadline": 0.0}, "default_deadline"),
        ({"default_deadline": float("nan")}, "default_deadline"),
        ({"default_deadline": 70.0}, "default_deadline"),
        ({"longest_deadline": 601.0}, "default_deadline"),
        ({"hops": -1}, "hops"),
    ],
)
def test_numbers_that_cannot_be_are_refused(numbers: dict[str, Any], path: str) -> None:
    """At start, by name and range."""
    with pytest.raises(RuleError) as caught:
        HttpEdge(service="shop", policies=lambda _: (), **numbers)
    assert caught.value.path == path
