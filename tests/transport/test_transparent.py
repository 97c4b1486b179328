"""What was certainly never sent is sent elsewhere, whatever it is; what may have been sent is not: on a bad network."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from msgov.resilience.retry import Retry, RetryRule
from msgov.testing import FaultProxy
from msgov.transport.grpc.aio_channel import Channel
from msgov.transport.grpc.sync_channel import Channel as SyncChannel
from msgov.transport.http import ClientEdge
from tests.transport.asking import KINDS, Asking, Shop
from tests.transport.grpc import echo_pb2, echo_pb2_grpc
from tests.transport.grpc.gates import Count, Pick
from tests.transport.grpc.worlds import aio_world, until
from tests.transport.web import Seen, serving

Ask = echo_pb2.Ask


def again() -> Retry:
    """Make a retry that does not wait long."""
    return Retry(RetryRule(base=0.001, overloaded_base=0.001))


def _ends(gate: Count) -> list[tuple[str, str]]:
    return [(outcome.status, outcome.sent.name) for outcome in gate.outcomes]


@pytest.mark.parametrize("colour", ["asyncio", "threads"])
def test_grpc_goes_elsewhere_from_an_instance_that_refuses(colour: str) -> None:
    """Its connection was up, and is lost: the next attempt sees that before it sends."""

    async def main() -> None:
        async with aio_world() as (one, _), aio_world() as (two, _), FaultProxy("127.0.0.1", one.port) as proxy:
            gate = Count()
            policies = (again(), Pick(proxy.port, proxy.port, two.port), gate)
            aio: Any = Channel("echo", lambda path: policies)
            plain: Any = SyncChannel("echo", lambda path: policies)

            async def once() -> Any:
                if colour == "asyncio":
                    return await echo_pb2_grpc.EchoStub(aio).Once(Ask(text="a"), timeout=10)
                return await asyncio.to_thread(echo_pb2_grpc.EchoStub(plain).Once, Ask(text="a"), timeout=10)

            assert (await once()).text == "a"
            proxy.refuse()
            proxy.reset()
            connections = (aio if colour == "asyncio" else plain).connections
            (connection,) = connections._all.values()
            if colour == "asyncio":
                await until(lambda: connection.channel.get_state() is not grpc.ChannelConnectivity.READY)
            else:
                await until(lambda: not connection.up)
            assert (await once()).text == "a"
            assert (one.log.seen["begun"], two.log.seen["begun"]) == (1, 1)
            assert _ends(gate) == [("", "YES"), ("UNAVAILABLE", "NO"), ("", "YES")]
            await aio.close()
            await asyncio.to_thread(plain.close)

    asyncio.run(asyncio.wait_for(main(), 20))


@pytest.mark.parametrize("colour", ["asyncio", "threads"])
def test_grpc_does_not_repeat_what_lost_its_reply(colour: str) -> None:
    """The handler ran: another attempt would charge twice."""

    async def main() -> None:
        async with aio_world() as (one, _), aio_world() as (two, _), FaultProxy("127.0.0.1", one.port) as proxy:
            gate = Count()
            policies = (again(), Pick(proxy.port, two.port), gate)
            aio: Any = Channel("echo", lambda path: policies)
            plain: Any = SyncChannel("echo", lambda path: policies)
            stub = echo_pb2_grpc.EchoStub(aio if colour == "asyncio" else plain)

            async def once() -> Any:
                ask = Ask(text="a", sleep=0.2)
                if colour == "asyncio":
                    return await stub.Once(ask, timeout=10)
                return await asyncio.to_thread(stub.Once, ask, timeout=10)

            task = asyncio.create_task(once())
            await one.log.until("begun")
            proxy.black_hole(way="down")
            await one.log.until("finished")
            proxy.reset()
            with pytest.raises(grpc.RpcError):
                await task
            assert (one.log.seen["finished"], two.log.seen["begun"]) == (1, 0)
            assert _ends(gate) == [("UNAVAILABLE", "MAYBE")]
            await aio.close()
            await asyncio.to_thread(plain.close)

    asyncio.run(asyncio.wait_for(main(), 20))


def test_grpc_does_not_believe_the_words_of_an_error() -> None:
    """Anyone can say "failed to connect": a service further down did, and the call was under way."""

    async def main() -> None:
        async with aio_world() as (one, stub):
            words = "failed to connect to all addresses; last error: connection refused"

            async def handle(request: Any, context: Any) -> Any:
                await context.abort(grpc.StatusCode.UNAVAILABLE, words)

            one.servicer.instead = handle
            one.policies = (again(), Pick(one.port), one.inner)
            with pytest.raises(grpc.aio.AioRpcError, match="failed to connect"):
                await stub.Once(Ask(text="a"))
            assert (one.log.seen["begun"], _ends(one.inner)) == (1, [("UNAVAILABLE", "MAYBE")])

    asyncio.run(asyncio.wait_for(main(), 20))


@pytest.mark.parametrize(("library", "colour"), KINDS)
def test_http_goes_elsewhere_from_an_instance_that_refuses(library: str, colour: str) -> None:
    """A POST without a key, even: no connection, no request."""

    async def main() -> None:
        shop, seen = Shop(), Seen()
        async with serving(shop) as port, FaultProxy("127.0.0.1", port) as proxy:
            proxy.refuse()
            policies = (again(), Pick(proxy.port, port), seen)
            asking = Asking(library, colour, ClientEdge(target="catalog", policies=lambda _: policies))
            answer = await asking.ask("POST", "/orders", content=b"x")
            await asking.run("close", asking.client)
        assert (answer.status_code, len(shop.asked)) == (200, 1)
        assert [(o.status, o.sent.name) for o in seen.outcomes] == [("ConnectError", "NO"), ("200", "YES")]

    asyncio.run(asyncio.wait_for(main(), 20))


@pytest.mark.parametrize(("library", "colour"), KINDS)
def test_http_does_not_repeat_what_lost_its_reply(library: str, colour: str) -> None:
    """The shop has the order; whoever has not heard of it must ask with a key."""

    async def main() -> None:
        shop, seen = Shop(), Seen()
        async with serving(shop) as port, FaultProxy("127.0.0.1", port) as proxy:
            proxy.cut(after=0, reset=True, way="down")
            policies = (again(), Pick(proxy.port, port), seen)
            asking = Asking(library, colour, ClientEdge(target="catalog", policies=lambda _: policies))
            with pytest.raises(asking.library.TransportError):
                await asking.ask("POST", "/orders", content=b"x")
            keyed = await asking.ask("POST", "/orders", content=b"x", headers={"idempotency-key": "k"})
            await asking.run("close", asking.client)
        assert (keyed.status_code, len(shop.asked)) == (200, 2)
        assert [o.sent.name for o in seen.outcomes] == ["MAYBE", "YES"]

    asyncio.run(asyncio.wait_for(main(), 20))
