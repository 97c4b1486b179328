"""A reply holds its tickets until its body is over, and the deadline bounds it to its end."""

from __future__ import annotations

import asyncio
import gc
import importlib
from typing import Any

import pytest

from msgov import scope
from msgov.errors import (
    BulkheadFull,
    DeadlineExceeded,
    DeadlineSpent,
)
from msgov.resilience.bulkhead import Bulkhead, BulkheadRule
from msgov.resilience.deadline import Deadline
from msgov.resilience.retry import Retry, RetryRule
from msgov.testing import LoadedDice
from msgov.transport.http import ClientEdge
from tests.transport.asking import KINDS, Asking, Shop, World, on
from tests.transport.grpc.gates import Pick
from tests.transport.web import (
    Seen,
    serving,
    silent,
    until,
)

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
    assert 0.23 < asyncio.get_running_loop().time() - began < 5
    assert int(w.shop.asked[0]["msgov-deadline-ms"]) <= 250
    await until(lambda: w.shop.left == 1)
    assert w.outer.ends == [("TRANSIENT", "deadline_exceeded")]


@on(lambda w: (w.outer, Deadline(0.25), Pick(w.port), w.inner))
async def test_a_deadline_bounds_a_body_that_drips(w: World) -> None:
    """Each part comes in time, and all of it never would."""
    began = asyncio.get_running_loop().time()
    with pytest.raises(DeadlineExceeded):
        await w.asking.ask("GET", "/drip")
    assert 0.23 < asyncio.get_running_loop().time() - began < 5
    assert w.outer.ends == w.inner.ends == [("TRANSIENT", "deadline_exceeded")]


@on()
async def test_the_scopes_deadline_holds_without_a_policy(w: World) -> None:
    """Whoever serves a request with little time left must not wait longer for what it asks."""
    began = asyncio.get_running_loop().time()
    with scope.within(0.2), pytest.raises(DeadlineExceeded):
        await w.asking.ask("GET", "/silent", timeout=None)
    assert asyncio.get_running_loop().time() - began < 5
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
