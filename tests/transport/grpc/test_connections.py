"""Connections follow what is known of instances: none is closed under a call, and none outlives its last."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from msgov.transport.grpc.aio_channel import Channel
from msgov.transport.grpc.connections import AioConnections, SyncConnections, address, aio_connect, sync_connect
from msgov.transport.grpc.sync_channel import Channel as SyncChannel
from tests.transport.grpc import echo_pb2, echo_pb2_grpc
from tests.transport.grpc.gates import Again, At, Count, Pick
from tests.transport.grpc.worlds import World, aio_world, on_aio, on_threads, sync_world, until, wait

Ask = echo_pb2.Ask


@contextmanager
def closed_port() -> Iterator[int]:
    """Yield a port on which nobody listens, and nobody else will."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_addresses_are_spelt_as_grpc_reads_them() -> None:
    """IPv6 needs brackets."""
    assert address(At("a", "10.0.0.1", 80)) == "10.0.0.1:80"
    assert address(At("a", "::1", 80)) == "[::1]:80"


class Opened:
    """Opens channels, and keeps them to be looked at."""

    def __init__(self, connect: Any) -> None:
        self.connect = connect
        self.channels: list[Any] = []

    def __call__(self, where: str) -> Any:
        self.channels.append(self.connect(where))
        return self.channels[-1]


@on_aio
async def test_a_call_under_way_outlives_its_instance(w: World, stub: Any) -> None:
    """The connection closes with its last call, not before and not much later."""
    opened = Opened(aio_connect)
    connections = AioConnections(opened)
    channel = Channel("echo", lambda path: (w.outer, Pick(w.port)), connections=connections)
    mine = echo_pb2_grpc.EchoStub(channel)
    call = mine.Unary(Ask(text="a", sleep=0.2))
    stream = mine.Down(Ask(text="a", count=4, sleep=0.05))
    await w.log.until("begun", 2)
    connections.keep([])
    assert (await call).text == "a"
    assert [m.text async for m in stream] == ["a0", "a1", "a2", "a3"]
    await until(lambda: opened.channels[0].get_state() is grpc.ChannelConnectivity.SHUTDOWN)
    assert not connections._leaving
    await connections.aclose()


@on_threads
def test_in_threads_too(w: World, stub: Any) -> None:
    """Also a plain call, which nobody could tell of."""
    opened = Opened(sync_connect)
    connections = SyncConnections(opened)
    channel = SyncChannel("echo", lambda path: (w.outer, Pick(w.port)), connections=connections)
    mine = echo_pb2_grpc.EchoStub(channel)
    with futures.ThreadPoolExecutor(1) as pool:
        plain = pool.submit(mine.Unary, Ask(text="a", sleep=0.2))
        future = mine.Unary.future(Ask(text="b", sleep=0.2))
        stream = mine.Down(Ask(text="a", count=4, sleep=0.05))
        w.log.wait("begun", 3)
        connections.keep([])
        assert (plain.result(5).text, future.result(5).text) == ("a", "b")
        assert [m.text for m in stream] == ["a0", "a1", "a2", "a3"]
    wait(lambda: not connections._leaving)
    wait(lambda: shut(opened.channels[0]))
    connections.close()


def shut(channel: grpc.Channel) -> bool:
    """Whether a channel is closed."""
    try:
        channel.unary_unary("/a/b")(b"", timeout=1)
    except ValueError:
        return True
    except grpc.RpcError:
        return False
    return False


@on_aio
async def test_an_idle_connection_closes_at_once(w: World, stub: Any) -> None:
    """Nothing waits for it."""
    opened = Opened(aio_connect)
    connections = AioConnections(opened)
    channel = Channel("echo", lambda path: (Pick(w.port),), connections=connections)
    await echo_pb2_grpc.EchoStub(channel).Unary(Ask(text="a"))
    connections.keep([])
    await until(lambda: opened.channels[0].get_state() is grpc.ChannelConnectivity.SHUTDOWN)
    await connections.aclose()


@on_aio
async def test_an_instance_that_comes_back_is_called_again(w: World, stub: Any) -> None:
    """Under the same address, by a stub that knew it before."""
    connections = AioConnections()
    channel = Channel("echo", lambda path: (Pick(w.port),), connections=connections)
    mine = echo_pb2_grpc.EchoStub(channel)
    for _ in range(3):
        assert (await mine.Unary(Ask(text="a"))).text == "a"
        connections.keep([])
        await until(lambda: not connections._all)
        connections.keep([f"127.0.0.1:{w.port}"])
    await connections.aclose()


@on_threads
def test_in_threads_it_does_too(w: World, stub: Any) -> None:
    """A multicallable of the closed channel would fail for ever."""
    connections = SyncConnections()
    channel = SyncChannel("echo", lambda path: (Pick(w.port),), connections=connections)
    mine = echo_pb2_grpc.EchoStub(channel)
    for _ in range(3):
        assert mine.Unary(Ask(text="a")).text == "a"
        connections.keep([])
        wait(lambda: not connections._leaving)
        connections.keep([f"127.0.0.1:{w.port}"])
    connections.close()


@on_aio
async def test_an_attempt_on_its_way_to_who_vanished_leaves_nothing_open(w: World, stub: Any) -> None:
    """Its connection is for this one attempt: nobody would close it later."""
    opened = Opened(aio_connect)
    connections = AioConnections(opened)
    connections.keep(["127.0.0.1:1"])
    channel = Channel("echo", lambda path: (Pick(w.port),), connections=connections)
    assert (await echo_pb2_grpc.EchoStub(channel).Unary(Ask(text="a"))).text == "a"
    await until(lambda: opened.channels[0].get_state() is grpc.ChannelConnectivity.SHUTDOWN)
    assert (connections._all, connections._leaving) == ({}, set())


@on_threads
def test_nor_do_threads_leave_it_open(w: World, stub: Any) -> None:
    """The same, where another thread may change what is known at any moment."""
    connections = SyncConnections()
    connections.keep(["127.0.0.1:1"])
    channel = SyncChannel("echo", lambda path: (Pick(w.port),), connections=connections)
    assert echo_pb2_grpc.EchoStub(channel).Unary(Ask(text="a")).text == "a"
    wait(lambda: not connections._leaving)
    assert connections._all == {}


@on_aio
async def test_a_target_dialled_by_name_is_no_instance(w: World, stub: Any) -> None:
    """What is known of instances says nothing about it."""
    opened = Opened(aio_connect)
    connections = AioConnections(opened)
    mine = echo_pb2_grpc.EchoStub(Channel(f"127.0.0.1:{w.port}", lambda path: (), connections=connections))
    await mine.Unary(Ask(text="a"))
    connections.keep([])
    await asyncio.sleep(0)
    await mine.Unary(Ask(text="a"))
    assert len(opened.channels) == 1
    await connections.aclose()


@on_threads
def test_nor_is_it_for_threads(w: World, stub: Any) -> None:
    """The same."""
    opened = Opened(sync_connect)
    connections = SyncConnections(opened)
    mine = echo_pb2_grpc.EchoStub(SyncChannel(f"127.0.0.1:{w.port}", lambda path: (), connections=connections))
    mine.Unary(Ask(text="a"))
    connections.keep([])
    mine.Unary(Ask(text="a"))
    assert len(opened.channels) == 1
    connections.close()


def test_what_is_known_may_change_in_another_thread() -> None:
    """Whoever follows the registry need not live on the loop of the channels."""

    async def main() -> None:
        async with aio_world() as (w, stub):
            connections = AioConnections()
            channel = Channel("echo", lambda path: (Pick(w.port),), connections=connections)
            await echo_pb2_grpc.EchoStub(channel).Unary(Ask(text="a"))
            await asyncio.to_thread(connections.keep, [])
            await until(lambda: not connections._all and not connections._leaving)
            await connections.aclose()

    asyncio.run(main())


def test_instances_that_come_and_go_under_load_lose_no_call() -> None:
    """Rolling restarts are seen as snapshots that change."""

    async def main() -> None:
        async with aio_world() as (one, _), aio_world() as (two, _):
            opened, gate, pick = Opened(aio_connect), Count(), Pick(one.port, two.port)
            both, connections = pick.all, AioConnections(opened)
            channel = Channel("echo", lambda path: (gate, pick), connections=connections)
            stub = echo_pb2_grpc.EchoStub(channel)

            async def work() -> None:
                for _ in range(20):
                    assert (await stub.Once(Ask(text="a", sleep=0.001))).text == "a"
                    assert len([m async for m in stub.Down(Ask(text="a", count=3, sleep=0.001))]) == 3

            async def change() -> None:
                for turn in range(30):
                    pick.all = [both[turn % 2]]
                    connections.keep([address(both[turn % 2])])
                    await asyncio.sleep(0.003)

            await asyncio.gather(change(), *(work() for _ in range(8)))
            pick.all = []
            connections.keep([])
            await until(lambda: {c.get_state() for c in opened.channels} == {grpc.ChannelConnectivity.SHUTDOWN})
            assert not connections._leaving
            assert len(opened.channels) > 10
            assert gate.inside == 0

    asyncio.run(main())


def test_instances_that_come_and_go_under_threads_lose_no_call() -> None:
    """The same, with threads that take a connection as another lets go of it."""
    with sync_world() as (one, _), sync_world() as (two, _):
        opened, gate, pick = Opened(sync_connect), Count(), Pick(one.port, two.port)
        both, connections = pick.all, SyncConnections(opened)
        channel = SyncChannel("echo", lambda path: (gate, pick), connections=connections)
        stub, working = echo_pb2_grpc.EchoStub(channel), threading.Event()

        def work(turn: int) -> None:
            for _ in range(15):
                assert stub.Once(Ask(text="a")).text == "a"
                assert stub.Once.future(Ask(text="a", sleep=0.001)).result(5).text == "a"
                assert len(list(stub.Down(Ask(text="a", count=2)))) == 2

        def change() -> None:
            turn = 0
            while not working.wait(0.003):
                turn += 1
                pick.all = [both[turn % 2]]
                connections.keep([address(both[turn % 2])])

        with futures.ThreadPoolExecutor(5) as pool:
            changing = pool.submit(change)
            for each in [pool.submit(work, turn) for turn in range(4)]:
                each.result(20)
            working.set()
            changing.result(5)
        connections.keep([])
        wait(lambda: not connections._leaving)
        assert gate.inside == 0
        connections.close()


class TestClosing:
    """A channel that is closed takes no calls, as a bare one."""

    def test_calls_after_it_are_refused(self) -> None:
        """They would open connections that nobody closes."""

        async def main() -> None:
            async with aio_world() as (w, stub):
                await stub.Unary(Ask(text="a"))
                await w.channel.close()
                with pytest.raises(grpc.aio.UsageError, match="closed"):
                    stub.Unary(Ask(text="a"))
                assert w.channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN
                await w.channel.wait_for_state_change(grpc.ChannelConnectivity.READY)

        asyncio.run(main())

    @on_threads
    def test_threads_calls_after_it_are_refused(w: World, stub: Any) -> None:
        """In all ways of calling."""
        stub.Unary(Ask(text="a"))
        w.channel.close()
        for call in (stub.Unary, stub.Unary.future, stub.Down):
            with pytest.raises(ValueError, match="closed"):
                call(Ask(text="a"))

    @on_aio
    async def test_one_channel_does_not_close_what_it_shares(w: World, stub: Any) -> None:
        """`async with svc.grpc.channel("a")` must not cut the calls to "b"."""
        connections = AioConnections()
        other = echo_pb2_grpc.EchoStub(Channel("echo", lambda path: (Pick(w.port),), connections=connections))
        call = other.Unary(Ask(text="a", sleep=0.1))
        async with Channel("echo", lambda path: (Pick(w.port),), connections=connections) as mine:
            await echo_pb2_grpc.EchoStub(mine).Unary(Ask(text="a"))
        assert (await call).text == "a"
        await connections.aclose()

    @on_threads
    def test_nor_in_threads(w: World, stub: Any) -> None:
        """The same."""
        connections = SyncConnections()
        other = echo_pb2_grpc.EchoStub(SyncChannel("echo", lambda path: (Pick(w.port),), connections=connections))
        call = other.Unary.future(Ask(text="a", sleep=0.1))
        with SyncChannel("echo", lambda path: (Pick(w.port),), connections=connections) as mine:
            echo_pb2_grpc.EchoStub(mine).Unary(Ask(text="a"))
        assert call.result(5).text == "a"
        connections.close()

    @on_aio
    async def test_calls_under_way_get_grace(w: World, stub: Any) -> None:
        """Then they are cancelled."""
        soon, late = stub.Unary(Ask(text="a", sleep=0.05)), stub.Unary(Ask(text="b", sleep=30))
        await w.log.until("begun", 2)
        await w.channel.close(0.5)
        assert (await soon).text == "a"
        with pytest.raises(asyncio.CancelledError):
            await late
        await w.log.until("cancelled")

    @on_aio
    async def test_a_retired_connection_is_closed_too(w: World, stub: Any) -> None:
        """Its calls would go on for nobody."""
        call = stub.Unary(Ask(text="a", sleep=30))
        await w.log.until("begun")
        w.channel.connections.keep([])
        await asyncio.sleep(0)
        await w.channel.close()
        with pytest.raises(asyncio.CancelledError):
            await call

    @on_threads
    def test_an_attempt_that_is_connecting_ends(w: World, stub: Any) -> None:
        """Nobody would tell it that its connection will never be up."""
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            w.policies = (w.outer, Again(), Pick(silent.getsockname()[1]), w.inner)
            call = stub.Once.future(Ask(text="a"))
            w.channel.close()
            with pytest.raises(ValueError, match="closed"):
                raise call.exception(5)


class TestLoops:
    """grpc.aio's objects belong to the loop that made them."""

    def test_a_second_loop_is_refused_by_name(self) -> None:
        """grpc would hang, or fail with words that say nothing."""

        async def main() -> None:
            async with aio_world() as (w, stub):
                await stub.Unary(Ask(text="a"))

                async def elsewhere() -> None:
                    with pytest.raises(RuntimeError, match="another event loop"):
                        stub.Unary(Ask(text="a"))
                    shared = Channel("other", w.channel.policies, connections=w.channel.connections)
                    with pytest.raises(RuntimeError, match="another event loop"):
                        echo_pb2_grpc.EchoStub(shared).Unary(Ask(text="a"))

                await asyncio.to_thread(asyncio.run, elsewhere())

        asyncio.run(main())

    def test_a_loop_after_the_first_takes_over(self) -> None:
        """Tests, and scripts, call asyncio.run more than once."""
        with sync_world() as (w, _):
            channel = Channel("echo", lambda path: (Pick(w.port),))
            stub = echo_pb2_grpc.EchoStub(channel)

            async def ask() -> str:
                return str((await stub.Unary(Ask(text="a"))).text)

            assert [asyncio.run(ask()) for _ in range(2)] == ["a", "a"]
            asyncio.run(channel.close())


class TestNotSent:
    """What was certainly never sent is sent elsewhere, idempotent or not."""

    def test_a_refused_connection(self) -> None:
        """The state of the connection tells, not the words of an error."""

        async def main() -> None:
            async with aio_world() as (w, stub):
                with closed_port() as nobody:
                    w.policies = (w.outer, Again(), Pick(nobody, w.port), w.inner)
                    assert (await stub.Once(Ask(text="a"))).text == "a"
                assert [(o.status, o.sent.name) for o in w.inner.outcomes] == [("UNAVAILABLE", "NO"), ("", "YES")]
                assert w.log.seen["begun"] == 1

        asyncio.run(main())

    def test_in_threads(self) -> None:
        """For a plain call and a future."""
        with sync_world() as (w, stub), closed_port() as nobody:
            for call in (stub.Once, lambda ask: stub.Once.future(ask).result(5)):
                w.policies = (w.outer, Again(), Pick(nobody, w.port), w.inner)
                assert call(Ask(text="a")).text == "a"
            assert [(o.status, o.sent.name) for o in w.inner.outcomes] == [("UNAVAILABLE", "NO"), ("", "YES")] * 2
            assert w.log.seen["begun"] == 2

    def test_nobody_anywhere(self) -> None:
        """The error is grpc's own kind, and says where nobody was."""

        async def main() -> None:
            with closed_port() as nobody:
                async with Channel("echo", lambda path: (Again(), Pick(nobody))) as channel:
                    call = echo_pb2_grpc.EchoStub(channel).Once(Ask(text="a"))
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await call
                    assert caught.value.code() is await call.code() is grpc.StatusCode.UNAVAILABLE
                    assert f":{nobody}" in (caught.value.details() or "")

        asyncio.run(main())
        with closed_port() as nobody, SyncChannel("echo", lambda path: (Again(), Pick(nobody))) as channel:
            stub = echo_pb2_grpc.EchoStub(channel)
            future = stub.Once.future(Ask(text="a"))
            for call in (lambda: stub.Once(Ask(text="a")), lambda: future.result(5)):
                with pytest.raises(grpc.RpcError) as caught:
                    call()
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
                assert f":{nobody}" in caught.value.details()
            assert future.code() is grpc.StatusCode.UNAVAILABLE

    def test_a_connection_lost_under_a_call_says_nothing(self) -> None:
        """It may have run: another attempt might charge twice."""

        async def main() -> None:
            async with aio_world() as (w, stub), aio_world() as (other, _):
                w.policies = (w.outer, Again(), Pick(w.port, other.port), w.inner)
                call = stub.Once(Ask(text="a", sleep=30))
                await w.log.until("begun")
                await w.server.stop(0)
                with pytest.raises(grpc.aio.AioRpcError):
                    await call
                assert [o.sent.name for o in w.inner.outcomes] == ["MAYBE"]
                assert other.log.seen["begun"] == 0

        asyncio.run(main())

    def test_nor_in_threads(self) -> None:
        """Asked after it has ended, the state would say that it is down."""
        with sync_world() as (w, stub), sync_world() as (other, _):
            w.policies = (w.outer, Again(), Pick(w.port, other.port), w.inner)
            call = stub.Once.future(Ask(text="a", sleep=30))
            w.log.wait("begun")
            w.server.stop(0).wait(5)
            assert isinstance(call.exception(5), grpc.RpcError)
            assert [o.sent.name for o in w.inner.outcomes] == ["MAYBE"]
            assert other.log.seen["begun"] == 0

    def test_the_deadline_bounds_the_wait_for_a_connection(self) -> None:
        """One that is accepted and never answered."""
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            port = silent.getsockname()[1]

            async def main() -> None:
                async with Channel("echo", lambda path: (Again(), Pick(port))) as channel:
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await echo_pb2_grpc.EchoStub(channel).Once(Ask(text="a"), timeout=0.2)
                    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

            asyncio.run(main())
            with SyncChannel("echo", lambda path: (Again(), Pick(port))) as channel:
                stub = echo_pb2_grpc.EchoStub(channel)
                for call in (stub.Once, lambda ask, timeout: stub.Once.future(ask, timeout=timeout).result(5)):
                    with pytest.raises(grpc.RpcError) as caught:
                        call(Ask(text="a"), timeout=0.2)
                    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    def test_wait_for_ready_waits(self) -> None:
        """Whoever asks grpc to wait gets what grpc does."""

        async def main() -> None:
            with closed_port() as nobody:
                async with Channel("echo", lambda path: (Again(), Pick(nobody))) as channel:
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await echo_pb2_grpc.EchoStub(channel).Once(Ask(text="a"), timeout=0.3, wait_for_ready=True)
                    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

        asyncio.run(main())
