"""What a hostile peer sends is refused, and says nothing of the application."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from msgov.errors import (
    RuleError,
)
from msgov.resilience.deadline import Deadline
from msgov.transport.asgi import Limits
from tests.transport.shop import Shop, post
from tests.transport.web import (
    Answer,
    Seen,
    Server,
    connection,
    get,
    governed,
    http,
    raw,
    run,
    serving,
    until,
)


@pytest.mark.parametrize(("size", "status"), [(-1, 200), (0, 200), (1, 431)])
def test_headers_are_bounded_in_size(size: int, status: int) -> None:
    """One byte less, as many, one more (S9, S41)."""

    async def main() -> None:
        limits = Limits(header_bytes=1000)
        used = len("hostshop") + len("connectionclose") + len("x-large")
        async with serving(governed(Shop().app, limits=limits)) as port:
            answer = await raw(port, get("/hello/ann", "x-large: " + "a" * (1000 - used + size)))
        assert answer.status == status
        if status != 200:
            assert answer.problem["code"] == "headers_too_large"
            assert answer.headers["connection"] == "close"

    asyncio.run(main())


@pytest.mark.parametrize(("more", "status"), [(-1, 200), (0, 200), (1, 431)])
def test_headers_are_bounded_in_number(more: int, status: int) -> None:
    """Five thousand small ones cost more than one large one."""

    async def main() -> None:
        async with serving(governed(Shop().app, limits=Limits(headers=10))) as port:
            answer = await raw(port, get("/hello/ann", *(f"x-{n}: a" for n in range(8 + more))))
        assert answer.status == status

    asyncio.run(main())


@pytest.mark.parametrize(("size", "status"), [(99, 200), (100, 200), (101, 413)])
def test_a_declared_body_is_bounded(size: int, status: int) -> None:
    """It is refused before a byte of it is read."""

    async def main() -> None:
        seen = Seen()
        async with serving(governed(Shop().app, seen, limits=Limits(body_bytes=100))) as port:
            answer = await raw(port, post("/count", b"a" * size))
        assert answer.status == status
        if status == 413:
            assert answer.headers["connection"] == "close"
            assert seen.calls == []

    asyncio.run(main())


@pytest.mark.parametrize(("size", "status"), [(99, 200), (100, 200), (101, 413)])
def test_a_streamed_body_is_counted_as_it_comes(size: int, status: int) -> None:
    """A chunked body declares nothing; Starlette's own handler of errors must not turn it into a 500."""

    async def main() -> None:
        seen = Seen()
        chunks = b"%x\r\n%s\r\n" % (50, b"a" * 50) + b"%x\r\n%s\r\n" % (size - 50, b"a" * (size - 50))
        head = b"POST /count HTTP/1.1\r\nhost: shop\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        async with serving(governed(Shop().app, seen, limits=Limits(body_bytes=100))) as port:
            answer = await raw(port, head + chunks + b"0\r\n\r\n")
        assert answer.status == status
        assert seen.ends == ([("OK", "200")] if status == 200 else [("IGNORED", "413")])

    asyncio.run(main())


@run
async def test_an_endless_body_ends_at_the_limit() -> None:
    """A chunked body without an end must not fill the memory (S11)."""
    seen = Seen()
    async with serving(governed(Shop().app, seen)) as port, connection(port) as (reader, writer):
        writer.write(b"POST /count HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\n")
        sent = 0

        async def pour() -> None:
            nonlocal sent
            while True:
                writer.write(b"8000\r\n" + b"a" * 0x8000 + b"\r\n")
                await writer.drain()
                sent += 0x8000

        task = asyncio.create_task(pour())
        with contextlib.suppress(OSError):
            assert b" 413 " in await reader.readline()
        await until(lambda: seen.ends == [("IGNORED", "413")])
        task.cancel()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await task
    assert sent < 8 << 20


@pytest.mark.parametrize("path", ["/count", "/late"])
def test_a_body_that_drips_is_given_up(path: str) -> None:
    """Slow is how one peer holds many workers; it says nothing of the application (F28, S11)."""

    async def main() -> None:
        shop, seen = Shop(), Seen()
        limits = Limits(body_seconds=0.3)
        async with serving(governed(shop.app, seen, limits=limits)) as port, connection(port) as (reader, writer):
            began = asyncio.get_running_loop().time()
            writer.write(post(path, b"a", length=1000))
            drip = asyncio.create_task(dripping(writer))
            answer = Answer(await reader.read())
            took = asyncio.get_running_loop().time() - began
            drip.cancel()
        assert (answer.status, answer.problem["code"]) == (408, "body_too_slow")
        assert answer.headers["connection"] == "close"
        assert 0.29 < took < 5
        assert seen.ends == [("IGNORED", "408")]

    async def dripping(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"a")
            await asyncio.sleep(0.02)

    asyncio.run(main())


@pytest.mark.parametrize("policies", [(), (Deadline(0.2),)])
def test_a_deadline_that_passes_in_a_slow_body_is_the_callers_doing(policies: tuple[Any, ...]) -> None:
    """Else a few peers that send slowly could open the breaker for all."""

    async def main() -> None:
        seen = Seen()
        async with serving(governed(Shop().app, seen, *policies, default_deadline=0.25)) as port:
            answer = await raw(port, post("/count", b"a", length=1000))
        assert (answer.status, answer.problem["code"]) == (408, "body_too_slow")
        assert seen.ends == [("IGNORED", "408")]

    asyncio.run(main())


@run
async def test_a_body_of_two_lengths_is_refused() -> None:
    """One parser takes the one, the next the other: that is how requests are smuggled (S10)."""
    smuggled = b"POST /count HTTP/1.1\r\nhost: shop\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    seen = Seen()
    async with serving(governed(Shop().app, seen)) as port:
        answer = await raw(port, smuggled)
    assert (answer.status, answer.problem["code"], answer.headers["connection"]) == (400, "malformed", "close")
    assert seen.calls == []


@run
async def test_a_request_without_a_host_is_refused() -> None:
    """h11 refuses it by itself, httptools lets it pass (S10)."""
    server = Server()
    given = http("/hello/ann")
    given["headers"] = []
    await governed(Shop().app)(given, server.receive, server.send)
    assert server.status == 400


def test_limits_are_a_rule() -> None:
    """Each with its range."""
    with pytest.raises(RuleError) as caught:
        Limits(header_bytes=1, body_seconds=0.0)
    assert [problem.path for problem in caught.value.problems] == ["header_bytes", "body_seconds"]
