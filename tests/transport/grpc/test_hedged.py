"""A hedge over real servers: two instances, one of them slow, and the answer of the quick one."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent import futures
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from msgov.discovery.balance import RoundRobin
from msgov.discovery.instance import Instance, Snapshot
from msgov.discovery.pick import Pick
from msgov.discovery.two_choices import TwoChoices
from msgov.latest import Latest
from msgov.pipeline import Policy
from msgov.resilience.hedge import Hedge, HedgeRule
from msgov.transport.grpc.aio_channel import Channel
from msgov.transport.grpc.sync_channel import Channel as SyncChannel
from tests.transport.grpc import echo_pb2, echo_pb2_grpc
from tests.transport.grpc.echo import AioEcho, Log, SyncEcho
from tests.transport.grpc.gates import Count
from tests.transport.grpc.worlds import until, wait

Ask = echo_pb2.Ask
DELAY = 0.05  # seconds that the first attempt has for itself
SLOW = 5.0  # seconds, longer than any test waits


class _Slow:
    """What a servicer does to each request: sleep, or fail."""

    def __init__(self) -> None:
        self.sleep = 0.0
        self.fail = ""
        self.pushback = ""


def _changed(slow: _Slow, request: Any) -> Any:
    changed = Ask()
    changed.CopyFrom(request)
    changed.sleep, changed.fail = slow.sleep or request.sleep, slow.fail or request.fail
    return changed


class AioInstance(AioEcho):
    """An instance with a name and a temper."""

    def __init__(self, name: str) -> None:
        super().__init__(Log())
        self.name, self.temper = name, _Slow()

    async def Unary(self, request: Any, context: Any) -> Any:
        context.set_trailing_metadata((("who", self.name),))
        if self.temper.pushback:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no", (("grpc-retry-pushback-ms", self.temper.pushback),))
        return await AioEcho.Unary(self, _changed(self.temper, request), context)

    Once = Unary

    async def Down(self, request: Any, context: Any) -> Any:
        context.set_trailing_metadata((("who", self.name),))
        async for message in AioEcho.Down(self, _changed(self.temper, request), context):
            yield message


class SyncInstance(SyncEcho):
    """The same, in threads."""

    def __init__(self, name: str) -> None:
        super().__init__(Log())
        self.name, self.temper = name, _Slow()

    def Unary(self, request: Any, context: Any) -> Any:
        context.set_trailing_metadata((("who", self.name),))
        if self.temper.pushback:
            context.set_trailing_metadata((("grpc-retry-pushback-ms", self.temper.pushback),))
            context.abort(grpc.StatusCode.UNAVAILABLE, "no")
        return SyncEcho.Unary(self, _changed(self.temper, request), context)

    Once = Unary

    def Down(self, request: Any, context: Any) -> Any:
        context.set_trailing_metadata((("who", self.name),))
        yield from SyncEcho.Down(self, _changed(self.temper, request), context)


class Two:
    """Two instances, asked in turn from the first on, and what the caller's gates saw."""

    def __init__(self, one: Any, two: Any, ports: tuple[int, int]) -> None:
        self.one, self.two = one, two
        self.outer, self.inner = Count(), Count()
        self.hedge = Hedge(HedgeRule(initial=DELAY, load=1.0))
        self.policies: tuple[Policy, ...] = ()
        known = Latest("echo", Snapshot("echo", tuple(Instance("echo", "127.0.0.1", port) for port in ports)))
        self.policies = (self.outer, self.hedge, Pick(known, RoundRobin(start=0)), self.inner)

    @property
    def idle(self) -> bool:
        """Whether nothing is held, here or there."""
        return not (self.outer.inside or self.inner.inside or self.one.log.running or self.two.log.running)


@asynccontextmanager
async def aio_two() -> AsyncIterator[tuple[Two, Any, Any]]:
    """Serve two instances on asyncio."""
    servers, servicers, ports = [], [AioInstance("one"), AioInstance("two")], []
    for servicer in servicers:
        server = grpc.aio.server()
        echo_pb2_grpc.add_EchoServicer_to_server(servicer, server)
        ports.append(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        servers.append(server)
    two = Two(*servicers, (ports[0], ports[1]))
    try:
        async with Channel("echo", lambda path: two.policies) as channel:
            yield two, echo_pb2_grpc.EchoStub(channel), channel
    finally:
        for server in servers:
            await server.stop(0)


@contextmanager
def sync_two() -> Iterator[tuple[Two, Any]]:
    """Serve two instances in threads."""
    servicers = [SyncInstance("one"), SyncInstance("two")]
    with futures.ThreadPoolExecutor(8) as pool:
        servers, ports = [], []
        for servicer in servicers:
            server = grpc.server(pool)
            echo_pb2_grpc.add_EchoServicer_to_server(servicer, server)
            ports.append(server.add_insecure_port("127.0.0.1:0"))
            server.start()
            servers.append(server)
        two = Two(*servicers, (ports[0], ports[1]))
        try:
            with SyncChannel("echo", lambda path: two.policies) as channel:
                yield two, echo_pb2_grpc.EchoStub(channel)
        finally:
            for server in servers:
                server.stop(0).wait(5)


def on_aio(test: Callable[[Two, Any], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test between two instances; at its end nothing is held, and no task is left."""

    async def main() -> None:
        async with aio_two() as (two, stub, _):
            await asyncio.wait_for(test(two, stub), 20)
            await until(lambda: two.idle, about=lambda: vars(two))
        await until(lambda: len(asyncio.all_tasks()) == 1, about=asyncio.all_tasks)

    def runner() -> None:
        asyncio.run(main())

    runner.__doc__, runner.__name__ = test.__doc__, test.__name__
    return runner


def on_threads(test: Callable[[Two, Any], None]) -> Callable[[], None]:
    """Run a test between two instances; at its end nothing is held."""

    def runner() -> None:
        with sync_two() as (two, stub):
            test(two, stub)
            wait(lambda: two.idle, about=lambda: vars(two))

    runner.__doc__, runner.__name__ = test.__doc__, test.__name__
    return runner


def _who(trailing: Any) -> str:
    return str(dict(trailing)["who"])


@on_aio
async def test_the_quick_instance_answers(two: Two, stub: Any) -> None:
    """The slow one is left alone: its handler is cancelled, and its tickets say nothing about it."""
    two.one.temper.sleep = SLOW
    began = time.monotonic()
    call = stub.Unary(Ask(text="a"), timeout=10)
    assert (await call).text == "a"
    assert DELAY * 0.9 <= time.monotonic() - began < SLOW / 2
    assert (await call.code(), _who(await call.trailing_metadata())) == (grpc.StatusCode.OK, "two")
    await two.one.log.until("cancelled")
    await until(lambda: two.idle)
    assert sorted(two.inner.verdicts) == ["IGNORED", "OK"]
    assert (two.outer.verdicts, two.hedge.hedged) == (["OK"], 1)


@on_threads
def test_the_quick_instance_answers_threads_too(two: Two, stub: Any) -> None:
    """A plain call waits for whichever comes first; the loser's handler sees the cancellation."""
    two.one.temper.sleep = SLOW
    began = time.monotonic()
    reply, call = stub.Unary.with_call(Ask(text="a"), timeout=10)
    assert DELAY * 0.9 <= time.monotonic() - began < SLOW / 2
    assert (reply.text, call.code(), _who(call.trailing_metadata())) == ("a", grpc.StatusCode.OK, "two")
    two.one.log.wait("cancelled")
    wait(lambda: two.idle)
    assert sorted(two.inner.verdicts) == ["IGNORED", "OK"]
    assert (two.outer.verdicts, two.hedge.hedged) == (["OK"], 1)
    two.one.temper.sleep = 0.0
    future = stub.Unary.future(Ask(text="b"), timeout=10)
    assert (future.result().text, future.code(), future.cancelled()) == ("b", grpc.StatusCode.OK, False)
    assert stub.Unary(Ask(text="c"), timeout=10).text == "c"


@on_aio
async def test_a_quick_answer_needs_no_hedge(two: Two, stub: Any) -> None:
    """Most calls cost one attempt."""
    for _ in range(10):
        await stub.Unary(Ask(text="a"))
    assert (two.hedge.hedged, len(two.inner.outcomes), two.outer.verdicts) == (0, 10, ["OK"] * 10)


@on_aio
async def test_the_slow_one_may_still_win(two: Two, stub: Any) -> None:
    """A hedge adds a chance, it does not take one away."""
    two.one.temper.sleep, two.two.temper.sleep = DELAY * 4, SLOW
    call = stub.Unary(Ask(text="a"), timeout=10)
    assert (await call).text == "a"
    assert _who(await call.trailing_metadata()) == "one"
    await two.two.log.until("cancelled")


@on_aio
async def test_both_fail(two: Two, stub: Any) -> None:
    """The call ends with a failure of the callee's, once no attempt is under way any more."""
    two.one.temper.fail = two.two.temper.fail = "UNAVAILABLE"
    call = stub.Unary(Ask(text="a"), timeout=10)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert (caught.value.code(), await call.code()) == (grpc.StatusCode.UNAVAILABLE,) * 2
    assert caught.value.__notes__ == ["after 2 attempts"]
    assert (two.inner.verdicts, two.outer.verdicts) == (["TRANSIENT"] * 2, ["TRANSIENT"])
    assert two.one.log.seen["begun"] == two.two.log.seen["begun"] == 1


@on_threads
def test_both_fail_in_threads(two: Two, stub: Any) -> None:
    """The same."""
    two.one.temper.fail = two.two.temper.fail = "UNAVAILABLE"
    with pytest.raises(grpc.RpcError) as caught:
        stub.Unary(Ask(text="a"), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    wait(lambda: two.idle)
    assert (two.inner.verdicts, two.outer.verdicts) == (["TRANSIENT"] * 2, ["TRANSIENT"])


@on_aio
async def test_a_failure_brings_the_next_at_once(two: Two, stub: Any) -> None:
    """There is nothing to wait for any more (gRFC A6: a non-fatal status starts the next hedge immediately)."""
    two.one.temper.fail = "UNAVAILABLE"
    call = stub.Unary(Ask(text="a"), timeout=10)
    assert (await call).text == "a"
    assert (two.hedge.hedged, two.hedge.retried, two.inner.verdicts) == (0, 1, ["TRANSIENT", "OK"])


@on_aio
async def test_what_is_permanent_is_an_answer(two: Two, stub: Any) -> None:
    """A6: a fatal status ends the call; the other attempt is cancelled."""
    two.one.temper.sleep, two.two.temper.fail = SLOW, "NOT_FOUND"
    call = stub.Unary(Ask(text="a"), timeout=10)
    assert await call.code() is grpc.StatusCode.NOT_FOUND
    await two.one.log.until("cancelled")
    await until(lambda: two.idle)
    assert sorted(two.inner.verdicts) == ["IGNORED", "PERMANENT"]


@on_aio
async def test_what_may_run_once_is_never_hedged(two: Two, stub: Any) -> None:
    """`Once` has no idempotency_level in its proto."""
    two.one.temper.sleep = DELAY * 6
    call = stub.Once(Ask(text="a"), timeout=10)
    assert (await call).text == "a"
    assert (_who(await call.trailing_metadata()), two.two.log.seen["begun"], two.hedge.hedged) == ("one", 0, 0)


@on_threads
def test_threads_hedge_no_more_than_that(two: Two, stub: Any) -> None:
    """The same in threads."""
    two.one.temper.sleep = DELAY * 6
    assert stub.Once(Ask(text="a"), timeout=10).text == "a"
    assert (two.two.log.seen["begun"], two.hedge.hedged) == (0, 0)


@on_aio
async def test_a_pushback_stops(two: Two, stub: Any) -> None:
    """A6: a negative pushback, or one that cannot be read, ends all further attempts."""
    two.one.temper.pushback = "-1"
    call = stub.Unary(Ask(text="a"), timeout=10)
    assert await call.code() is grpc.StatusCode.UNAVAILABLE
    assert (two.two.log.seen["begun"], two.hedge.suppressed["pushback"]) == (0, 1)


@on_threads
def test_a_pushback_stops_in_threads(two: Two, stub: Any) -> None:
    """The same; here one that cannot be read."""
    two.one.temper.pushback = "soon"
    with pytest.raises(grpc.RpcError):
        stub.Unary(Ask(text="a"), timeout=10)
    assert (two.two.log.seen["begun"], two.hedge.suppressed["pushback"]) == (0, 1)


@on_aio
async def test_cancelling_ends_all_attempts(two: Two, stub: Any) -> None:
    """Both handlers hear of it, and every ticket comes back."""
    two.one.temper.sleep = two.two.temper.sleep = SLOW
    call = stub.Unary(Ask(text="a"), timeout=10)
    await two.two.log.until("begun")
    assert call.cancel()
    assert not call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (call.cancelled(), await call.code()) == (True, grpc.StatusCode.CANCELLED)
    await two.one.log.until("cancelled")
    await two.two.log.until("cancelled")
    await until(lambda: two.idle)
    assert (two.inner.verdicts, two.outer.verdicts) == (["IGNORED"] * 2, ["IGNORED"])


@on_aio
async def test_a_cancelled_task_takes_all_attempts_with_it(two: Two, stub: Any) -> None:
    """Whoever awaits is cancelled: nothing stays behind."""
    two.one.temper.sleep = two.two.temper.sleep = SLOW

    async def ask() -> None:
        await stub.Unary(Ask(text="a"), timeout=10)

    task = asyncio.create_task(ask())
    await two.two.log.until("begun")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await two.one.log.until("cancelled")
    await two.two.log.until("cancelled")


@on_threads
def test_cancelling_a_future_ends_all_attempts(two: Two, stub: Any) -> None:
    """The same in threads."""
    two.one.temper.sleep = two.two.temper.sleep = SLOW
    future = stub.Unary.future(Ask(text="a"), timeout=10)
    two.two.log.wait("begun")
    assert future.cancel()
    with pytest.raises(grpc.FutureCancelledError):
        future.result()
    two.one.log.wait("cancelled")
    two.two.log.wait("cancelled")
    wait(lambda: two.idle)
    assert (two.inner.verdicts, two.outer.verdicts) == (["IGNORED"] * 2, ["IGNORED"])


@on_aio
async def test_the_deadline_covers_all_attempts(two: Two, stub: Any) -> None:
    """A hedge begins late, and has no longer than the first."""
    two.one.temper.sleep = two.two.temper.sleep = SLOW
    began = time.monotonic()
    call = stub.Unary(Ask(text="a"), timeout=0.3)
    assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < SLOW / 2
    assert two.two.log.seen["begun"] == 1


@on_threads
def test_the_deadline_covers_all_attempts_in_threads(two: Two, stub: Any) -> None:
    """The same."""
    two.one.temper.sleep = two.two.temper.sleep = SLOW
    with pytest.raises(grpc.RpcError) as caught:
        stub.Unary(Ask(text="a"), timeout=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert two.two.log.seen["begun"] == 1


@on_aio
async def test_a_hedge_goes_where_the_call_has_not_been(two: Two, stub: Any) -> None:
    """Two draws of a balancer would fall on the slow instance every second time."""
    known = two.policies[2].latest  # type: ignore[union-attr]  # a Pick
    two.policies = (two.outer, two.hedge, Pick(known, TwoChoices()), two.inner)
    two.one.temper.sleep = two.two.temper.sleep = DELAY * 3
    for turn in range(4):
        await stub.Unary(Ask(text="a"), timeout=10)
        await until(lambda: two.idle)
        assert two.one.log.seen["begun"] == two.two.log.seen["begun"] == turn + 1


@on_aio
async def test_an_attempt_says_which_it_is(two: Two, stub: Any) -> None:
    """The server may shed what is asked a second time first."""
    two.one.temper.sleep = SLOW
    assert (await stub.Unary(Ask(text="a"), timeout=10)).attempt == 2


@on_aio
async def test_a_stream_wins_with_its_first_message(two: Two, stub: Any) -> None:
    """From then on it is an ordinary stream, and no message is lost."""
    two.one.temper.sleep = SLOW
    call = stub.Down(Ask(text="a", count=3), timeout=10)
    assert [message.text async for message in call] == ["a0", "a1", "a2"]
    assert (await call.code(), _who(await call.trailing_metadata())) == (grpc.StatusCode.OK, "two")
    await two.one.log.until("cancelled")
    await until(lambda: two.idle)
    assert sorted(two.inner.verdicts) == ["IGNORED", "OK"]
    assert two.outer.verdicts == ["OK"]


@on_threads
def test_a_stream_wins_with_its_first_message_in_threads(two: Two, stub: Any) -> None:
    """The same."""
    two.one.temper.sleep = SLOW
    call = stub.Down(Ask(text="a", count=3), timeout=10)
    assert [message.text for message in call] == ["a0", "a1", "a2"]
    assert (call.code(), _who(call.trailing_metadata())) == (grpc.StatusCode.OK, "two")
    two.one.log.wait("cancelled")
    wait(lambda: two.idle)
    assert sorted(two.inner.verdicts) == ["IGNORED", "OK"]


@on_aio
async def test_an_empty_stream_wins_with_its_end(two: Two, stub: Any) -> None:
    """It has answered, if with nothing."""
    assert [message async for message in stub.Down(Ask(text="a"), timeout=10)] == []
    await until(lambda: two.idle)
    assert (two.inner.verdicts, two.outer.verdicts) == (["OK"], ["OK"])


@on_threads
def test_an_empty_stream_wins_with_its_end_in_threads(two: Two, stub: Any) -> None:
    """The same."""
    assert list(stub.Down(Ask(text="a"), timeout=10)) == []
    wait(lambda: two.idle)
    assert (two.inner.verdicts, two.outer.verdicts) == (["OK"], ["OK"])


@on_aio
async def test_a_stream_that_breaks_after_its_first_message_is_broken(two: Two, stub: Any) -> None:
    """Something was given out: nobody else can go on with it."""
    two.hedge.rule = HedgeRule(initial=5.0, load=1.0)
    two.one.temper.sleep = two.two.temper.sleep = 0.05
    call = stub.Down(Ask(text="a", count=3, fail="UNAVAILABLE", fail_after=2), timeout=10)
    assert (await call.read()).text == "a0"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while True:
            await call.read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    await until(lambda: two.idle)
    assert (two.two.log.seen["begun"], two.outer.verdicts) == (0, ["TRANSIENT"])


@on_aio
async def test_a_stream_that_is_dropped_is_cancelled(two: Two, stub: Any) -> None:
    """Before anything came, and after."""
    two.one.temper.sleep = two.two.temper.sleep = SLOW
    call = stub.Down(Ask(text="a", count=3), timeout=10)
    await two.two.log.until("begun")
    del call
    await two.one.log.until("cancelled")
    await two.two.log.until("cancelled")
    two.one.temper.sleep = two.two.temper.sleep = 0.02
    call = stub.Down(Ask(text="a", count=1000), timeout=10)
    assert (await call.read()).text == "a0"
    del call
    await until(lambda: two.idle)
    assert two.outer.verdicts == ["IGNORED"] * 2


@on_aio
async def test_a_storm_of_cancellations_leaves_nothing(two: Two, stub: Any) -> None:
    """Permits in are permits out, at whatever moment a caller goes: before the hedge, with it, or as it wins."""
    chance = random.Random(7)
    two.hedge.rule = HedgeRule(initial=0.01, load=1.0)
    two.one.temper.sleep, two.two.temper.sleep = 0.04, 0.02

    async def one(number: int) -> None:
        task = asyncio.create_task(_asked(stub, streams=number % 3 == 0))
        await asyncio.wait([task], timeout=chance.uniform(0.0, 0.06))
        task.cancel()
        await asyncio.wait([task])

    await asyncio.gather(*(one(number) for number in range(90)))
    await until(lambda: two.idle, about=lambda: (two.outer.inside, two.inner.inside))
    assert two.outer.entered == len(two.outer.outcomes) > 0
    assert two.inner.entered == len(two.inner.outcomes) >= two.outer.entered
    assert set(two.outer.verdicts) <= {"OK", "IGNORED"}


async def _asked(stub: Any, *, streams: bool) -> None:
    if streams:
        async for _ in stub.Down(Ask(text="a", count=2), timeout=10):
            pass
    else:
        await stub.Unary(Ask(text="a"), timeout=10)


@on_threads
def test_many_threads_hedge_at_once(two: Two, stub: Any) -> None:
    """Permits in are permits out, whoever wins."""
    two.one.temper.sleep, two.two.temper.sleep = 0.03, 0.02
    two.hedge.rule = HedgeRule(initial=0.01, load=1.0)
    failed: list[BaseException] = []

    def load() -> None:
        try:
            for _ in range(10):
                assert stub.Unary(Ask(text="a"), timeout=10).text == "a"
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    wait(lambda: two.idle)
    assert two.outer.verdicts == ["OK"] * 40
    assert two.hedge.hedged > 0
