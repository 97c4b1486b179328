"""The proxy does to connections what networks do: at once, live, and without leaving anything."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager

import pytest

from msgov.clock import Dice
from msgov.errors import RuleError
from msgov.testing import FaultProxy, LoadedDice, no_leaks, run

Scene = Callable[["FaultProxy", "Upstream"], Coroutine[object, object, None]]
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Upstream:
    """A server that answers each line with the same line, and remembers what it got."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.broken = 0
        self.ended = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Echo lines until the client ends."""
        try:
            while line := await reader.readline():
                self.got.append(line)
                writer.write(line)
                await writer.drain()
            self.ended += 1
        except ConnectionError:
            self.broken += 1
        finally:
            writer.close()


@asynccontextmanager
async def proxied(dice: Dice | None = None) -> AsyncIterator[tuple[FaultProxy, Upstream]]:
    """Start an upstream and a proxy before it."""
    upstream = Upstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server, FaultProxy(host, port, dice=dice) as proxy:
        yield proxy, upstream


@asynccontextmanager
async def connected(proxy: FaultProxy) -> AsyncIterator[Ends]:
    """Connect through the proxy."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def ask(ends: Ends, line: bytes = b"hello\n") -> bytes:
    """Send a line and read the answer."""
    reader, writer = ends
    writer.write(line)
    return await reader.readline()


async def timed(work: Awaitable[object]) -> float:
    """Return the virtual seconds that it takes."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await work
    return loop.time() - began


def play(scene: Scene, *, dice: Dice | None = None) -> None:
    """Run a scene on virtual time, and check that it leaves nothing."""

    async def staged() -> None:
        async with proxied(dice) as (proxy, upstream):
            await scene(proxy, upstream)
            assert proxy.connections <= 2

    with no_leaks():
        run(staged())


def test_without_faults_all_bytes_pass_at_once_and_the_end_too() -> None:
    """A healed proxy must not be seen."""

    async def scene(proxy: FaultProxy, upstream: Upstream) -> None:
        async with connected(proxy) as ends:
            big = b"x" * 50_000 + b"\n"
            assert await timed(ask(ends, big)) == 0
            ends[1].write_eof()
            assert await ends[0].read() == b""
        assert upstream.got == [big]
        assert upstream.ended == 1

    play(scene)


def test_latency_is_felt_both_ways_and_does_not_add_up_along_the_line() -> None:
    """Ten messages on their way at once arrive together: delay is distance, not work."""

    async def scene(proxy: FaultProxy, _: Upstream) -> None:
        proxy.slow(latency=0.2)
        async with connected(proxy) as ends:
            assert await timed(ask(ends)) == pytest.approx(0.4)
            for _number in range(10):
                ends[1].write(b"again\n")
                await asyncio.sleep(0.01)
            assert await timed(ends[0].readexactly(60)) == pytest.approx(0.4 - 0.01)

    play(scene)


def test_latency_one_way_is_felt_that_way_alone() -> None:
    """Up is to the server, down to the client."""

    async def scene(proxy: FaultProxy, upstream: Upstream) -> None:
        proxy.slow(latency=3, way="down")
        async with connected(proxy) as ends:
            ends[1].write(b"hello\n")
            await asyncio.sleep(1)
            assert upstream.got == [b"hello\n"]
            assert await timed(ends[0].readline()) == pytest.approx(2)

    play(scene)


def test_jitter_is_drawn_from_the_dice_and_never_turns_the_order() -> None:
    """TCP keeps order: a quick byte waits behind a slow one."""

    async def scene(proxy: FaultProxy, _: Upstream) -> None:
        proxy.slow(latency=1, jitter=0.5, way="up")
        async with connected(proxy) as ends:
            assert await timed(ask(ends, b"slow\n")) == pytest.approx(1.5)
            assert await timed(ask(ends, b"fast\n")) == pytest.approx(0.5)

    # Each chunk draws once, the replies (down) and the ends too: 1 - 2**-53 draws +1, 0 draws -1.
    play(scene, dice=LoadedDice(1 - 2**-53, 0.5, 0.0, 0.5, cycle=True))


def test_bandwidth_is_bytes_a_second() -> None:
    """A narrow line delivers smoothly, and in the time that its width says."""

    async def scene(proxy: FaultProxy, upstream: Upstream) -> None:
        proxy.slow(bandwidth=1000, way="up")
        async with connected(proxy) as ends:
            assert await timed(ask(ends, b"x" * 9_999 + b"\n")) == pytest.approx(10)

    play(scene)


def test_healing_frees_what_is_under_way() -> None:
    """A live switch must be felt by bytes already delayed, or a test would wait for the old fault."""

    async def scene(proxy: FaultProxy, _: Upstream) -> None:
        proxy.slow(latency=1000, bandwidth=1)
        async with connected(proxy) as ends:
            asyncio.get_running_loop().call_later(5, proxy.heal)
            assert await timed(ask(ends)) == 5

    play(scene)


def test_reset_breaks_open_connections_on_both_sides_and_no_new_ones() -> None:
    """A pool must find its connections dead and the server alive."""

    async def scene(proxy: FaultProxy, upstream: Upstream) -> None:
        async with connected(proxy) as ends:
            await ask(ends)
            proxy.reset()
            with pytest.raises(ConnectionResetError):
                await ends[0].read()
        await asyncio.sleep(1)
        assert upstream.broken == 1
        async with connected(proxy) as ends:
            assert await ask(ends) == b"hello\n"

    play(scene)


def test_black_hole_down_is_the_lost_reply() -> None:
    """The server did it, and the client cannot know: the case that idempotency keys are for."""

    async def scene(proxy: FaultProxy, upstream: Upstream) -> None:
        async with connected(proxy) as ends:
            assert await ask(ends) == b"hello\n"
            proxy.black_hole(way="down")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(ask(ends, b"pay\n"), 60)
        assert upstream.got == [b"hello\n", b"pay\n"]

    play(scene)


def test_black_hole_accepts_and_tells_nobody_of_an_end() -> None:
    """The server must see a silent client, not one that hung up."""

    async def scene(proxy: FaultProxy, upstream: Upstream) -> None:
        proxy.black_hole()
        async with connected(proxy) as ends:
            ends[1].write(b"hello\n")
            ends[1].write_eof()
            await asyncio.sleep(60)
        await asyncio.sleep(60)
        assert (upstream.got, upstream.ended, upstream.broken) == ([], 0, 0)

    play(scene)


def test_healed_black_hole_resets_whoever_lost_bytes_and_nobody_else() -> None:
    """A stream with a hole must not go on as if it were whole."""

    async def scene(proxy: FaultProxy, _: Upstream) -> None:
        async with connected(proxy) as talker, connected(proxy) as listener:
            await ask(talker)
            await ask(listener)
            proxy.black_hole(way="up")
            talker[1].write(b"lost\n")
            await asyncio.sleep(1)
            proxy.heal()
            with pytest.raises(ConnectionResetError):
                await talker[0].read()
            assert await ask(listener) == b"hello\n"

    play(scene)


def test_refused_connections_leave_open_ones_alone_and_the_port_stays_ours() -> None:
    """A server that restarts comes back where it was."""

    async def scene(proxy: FaultProxy, _: Upstream) -> None:
        port = proxy.port
        async with connected(proxy) as ends:
            proxy.refuse()
            proxy.refuse()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)
            assert await ask(ends) == b"hello\n"
        proxy.heal()
        proxy.heal()
        assert proxy.port == port
        async with connected(proxy) as ends:
            assert await ask(ends) == b"hello\n"

    play(scene)


@pytest.mark.parametrize("after", [0, 1, 4, 6000])
def test_cut_lets_exactly_so_many_bytes_pass(after: int) -> None:
    """A reply may end in the middle of a frame, and at each byte of it."""

    async def scene(proxy: FaultProxy, upstream: Upstream) -> None:
        proxy.cut(after=after, way="down")
        async with connected(proxy) as ends:
            ends[1].write(b"x" * 9_999 + b"\n")
            assert await ends[0].read() == b"x" * after

    play(scene)


def test_cut_by_reset_delivers_first_and_counts_from_the_call() -> None:
    """What passed before does not count, on connections that are open already."""

    async def scene(proxy: FaultProxy, _: Upstream) -> None:
        async with connected(proxy) as ends:
            await ask(ends, b"a longer line\n")
            proxy.cut(after=3, reset=True, way="down")
            ends[1].write(b"hello\n")
            assert await ends[0].readexactly(3) == b"hel"
            with pytest.raises(ConnectionResetError):
                await ends[0].read()

    play(scene)


def test_slow_reader_loses_nothing_at_the_end() -> None:
    """A server that said all and hung up must still be heard to its last byte."""
    size = 16_000_000  # more than the kernel holds for us

    async def scene() -> None:
        async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"x" * size)
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(pour, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        async with server, FaultProxy(host, port) as proxy, connected(proxy) as (reader, writer):
            writer.write_eof()
            got = 0
            while chunk := await reader.read(1 << 16):
                got += len(chunk)
                await asyncio.sleep(1)
            assert got == size

    with no_leaks():
        run(scene())


def test_small_messages_are_not_held_back() -> None:
    """Nagle's delay, 40 ms for the second of two small ones, would be a fault that nobody asked for."""

    async def scene(proxy: FaultProxy, _: Upstream) -> None:
        proxy.slow(latency=1)  # so that no later message carries the acknowledgement of the first reply
        async with connected(proxy) as ends:
            for _number in range(50):
                for _half in range(2):
                    ends[1].write(b"hello\n")
                    await asyncio.sleep(0.01)
                await ends[0].readexactly(12)

    began = time.monotonic()
    play(scene)
    assert time.monotonic() - began < 1.5, "with the delay it takes at least two seconds, else a tenth"


def test_server_that_is_away_is_a_reset() -> None:
    """The proxy accepted already, so it can only break off."""

    async def scene() -> None:
        async with proxied() as (away, _):
            away.refuse()
            async with FaultProxy("127.0.0.1", away.port) as proxy, connected(proxy) as ends:
                with pytest.raises(ConnectionResetError):
                    await ends[0].read()

    with no_leaks():
        run(scene())


def test_sender_must_wait_when_the_line_is_full() -> None:
    """An endless buffer would hide the back-pressure that a slow network gives."""

    async def scene(proxy: FaultProxy, _: Upstream) -> None:
        proxy.slow(bandwidth=1)
        async with connected(proxy) as ends:
            ends[1].write(b"x" * 64_000_000)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(ends[1].drain(), 1)

    play(scene)


def test_connection_reset_at_birth_is_closed() -> None:
    """A task that is cancelled before its first step never gets to clean up after itself."""

    async def scene(proxy: FaultProxy, upstream: Upstream) -> None:
        def reset_at_once() -> None:
            if proxy.connections:
                proxy.reset()
            else:
                asyncio.get_running_loop().call_soon(reset_at_once)

        reset_at_once()
        async with connected(proxy) as ends:
            with pytest.raises(ConnectionResetError):
                await ends[0].read()
        assert proxy.connections == 0

    play(scene)


def test_leaving_closes_what_is_open_in_the_middle_of_everything() -> None:
    """A test that fails half-way must not leave its network behind."""

    async def scene() -> None:
        async with proxied() as (proxy, _):
            proxy.slow(latency=1000)
            ends = [await asyncio.open_connection("127.0.0.1", proxy.port) for _ in range(3)]
            for _, writer in ends:
                writer.write(b"hello\n")
            await asyncio.sleep(0.01)
            assert proxy.connections == 3
        assert proxy.connections == 0
        for reader, writer in ends:
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()

    with no_leaks():
        run(scene())


@pytest.mark.parametrize(
    "wrong",
    [
        lambda proxy: proxy.slow(latency=-1),
        lambda proxy: proxy.slow(jitter=math.nan),
        lambda proxy: proxy.slow(bandwidth=0),
        lambda proxy: proxy.cut(after=-1),
        lambda proxy: proxy.slow(latency=1, way="sideways"),
    ],
)
def test_fault_that_cannot_be_is_refused(wrong: Callable[[FaultProxy], None]) -> None:
    """Refused where it is set, not felt as a hang."""
    with pytest.raises(RuleError, match=r"slow: |cut: |FaultProxy: way"):
        wrong(FaultProxy("127.0.0.1", 1))
