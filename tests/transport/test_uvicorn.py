"""A head that drips is given up; whoever sends whole requests never notices."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any

import pytest

from msgov.errors import MissingExtra
from msgov.transport.uvicorn import HEAD_SECONDS, Protocol
from tests.transport.web import connection, get, governed, raw, run, serving


class Hasty(Protocol):
    """Waits a fifth of a second."""

    head_seconds = 0.2


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer after a while longer than a head may take."""
    if scope["path"] == "/slow":
        await asyncio.sleep(0.35)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]})
    await send({"type": "http.response.body", "body": b"yes"})


async def drips(port: int, text: bytes) -> float:
    """Send a byte every 20 ms until the server hangs up; return how long it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with connection(port) as (reader, writer):
        ended = asyncio.create_task(reader.read())
        with contextlib.suppress(OSError):
            for each in text * 1000:
                writer.write(bytes([each]))
                await asyncio.wait([ended], timeout=0.02)
                if ended.done():
                    break
        with contextlib.suppress(OSError):
            assert await ended == b""
    return loop.time() - began


@pytest.mark.parametrize("text", [b"", b"a", b"GET / HTTP/1.1\r\nhost: shop\r\nx: "])
def test_a_head_that_drips_or_never_comes_is_given_up(text: bytes) -> None:
    """Each would hold a connection for as long as its peer likes (F28)."""

    async def main() -> None:
        async with serving(governed(app), http=Hasty) as port:
            if text:
                took = await drips(port, text)
            else:
                began = asyncio.get_running_loop().time()
                async with connection(port) as (reader, _):
                    assert await reader.read() == b""
                took = asyncio.get_running_loop().time() - began
        assert 0.19 < took < 5

    asyncio.run(asyncio.wait_for(main(), 20))


@run
async def test_the_second_request_of_a_connection_has_its_own_time() -> None:
    """The first was answered, and the pause between two is not a head."""
    async with serving(governed(app), http=Hasty) as port, connection(port) as (reader, writer):
        writer.write(b"GET /slow HTTP/1.1\r\nhost: shop\r\n\r\n")
        await reader.readuntil(b"yes")
        await asyncio.sleep(0.3)
        writer.write(b"GET / HTTP/1.1\r\nho")
        await asyncio.sleep(0.05)
        writer.write(b"st: shop\r\n\r\n")
        await reader.readuntil(b"yes")
        writer.write(b"GET / HTTP/1.1\r\nho")
        began = asyncio.get_running_loop().time()
        assert await reader.read() == b""
        assert 0.19 < asyncio.get_running_loop().time() - began < 5


@run
async def test_whoever_drips_does_not_slow_the_others() -> None:
    """A hundred of them, and whole requests are served meanwhile."""
    async with serving(governed(app), http=Hasty) as port:
        crowd = [asyncio.create_task(drips(port, b"x")) for _ in range(100)]
        for _ in range(5):
            assert (await raw(port, get("/"))).body == b"yes"
        took = await asyncio.gather(*crowd)
    assert max(took) < 10


def test_the_default_is_ten_seconds() -> None:
    """Less than any proxy in front waits for us, more than a bad line needs."""
    assert Protocol.head_seconds == HEAD_SECONDS == 10.0


def test_without_uvicorn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install is said."""
    monkeypatch.delitem(sys.modules, "msgov.transport.uvicorn")
    monkeypatch.setitem(sys.modules, "uvicorn.protocols.http.h11_impl", None)
    with pytest.raises(MissingExtra, match=r"msgov\[serve\]"):
        __import__("msgov.transport.uvicorn")
