"""Channels that people already have are governed by plain interceptors."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from msgov.call import Call, Outcome
from msgov.errors import DeadlineSpent, RateLimited
from msgov.policy import Gate, Substitute
from msgov.resilience.hedge import Hedge, HedgeRule
from msgov.transport.grpc.interceptors import ClientEdge, SyncInterceptor, aio_interceptors
from tests.transport.grpc import echo_pb2, echo_pb2_grpc
from tests.transport.grpc.gates import Again, Count, Turnstile
from tests.transport.grpc.test_storm import AioStorm, SyncStorm
from tests.transport.grpc.worlds import World, aio_world, sync_world, until, wait

Ask = echo_pb2.Ask


class Shut(Gate[int]):
    """Lets nobody in."""

    def admit(self, call: Call, now: float) -> int:
        raise RateLimited("no", retry_after=2.0)

    def settle(self, ticket: int, outcome: Outcome, now: float) -> None: ...


class Instead(Substitute):
    """Answers for everything."""

    def instead(self, call: Call, outcome: Outcome, now: float) -> Any:
        return lambda call, error: "instead"


@asynccontextmanager
async def governed(
    *policies: Any, others: tuple[Any, ...] = (), **edge: Any
) -> AsyncIterator[tuple[World, Count, Any]]:
    gate = Count()
    async with aio_world(**edge) as (w, _):
        found = (gate, *policies)
        mine = aio_interceptors(ClientEdge(target="echo", policies=lambda path: found))
        where = f"127.0.0.1:{w.port}"
        async with grpc.aio.insecure_channel(where, interceptors=[*mine, *others]) as channel:
            yield w, gate, echo_pb2_grpc.EchoStub(channel)


@contextmanager
def governed_sync(*policies: Any, **edge: Any) -> Iterator[tuple[World, Count, Any]]:
    gate = Count()
    with sync_world(**edge) as (w, _), grpc.insecure_channel(f"127.0.0.1:{w.port}") as bare:
        found = (gate, *policies)
        interceptor = SyncInterceptor(ClientEdge(target="echo", policies=lambda path: found))
        yield w, gate, echo_pb2_grpc.EchoStub(grpc.intercept_channel(bare, interceptor))


def on_aio(*policies: Any, **more: Any) -> Callable[[Callable[..., Coroutine[Any, Any, None]]], Callable[[], None]]:
    def decorated(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[[], None]:
        async def main() -> None:
            async with governed(*policies, **more) as (w, gate, stub):
                await asyncio.wait_for(test(w, gate, stub), 20)
                await until(lambda: gate.inside == 0 and w.idle, about=lambda: (gate.inside, w.held))
            await until(lambda: len(asyncio.all_tasks()) == 1)

        def runner() -> None:
            asyncio.run(main())

        runner.__doc__, runner.__name__ = test.__doc__, test.__name__
        return runner

    return decorated


def on_threads(*policies: Any) -> Callable[[Callable[..., None]], Callable[[], None]]:
    def decorated(test: Callable[..., None]) -> Callable[[], None]:
        def runner() -> None:
            with governed_sync(*policies) as (w, gate, stub):
                test(w, gate, stub)
                wait(lambda: gate.inside == 0 and w.idle, about=lambda: (gate.inside, w.held))

        runner.__doc__, runner.__name__ = test.__doc__, test.__name__
        return runner

    return decorated


async def asks() -> AsyncIterator[Any]:
    for text in "xyz":
        yield Ask(text=text)


@on_aio(Again())
async def test_asyncio_channel_with_our_interceptors(w: World, gate: Count, stub: Any) -> None:
    """All four kinds, retries, errors and a cancellation."""
    assert (await stub.Unary(Ask(text="a", fail="UNAVAILABLE", fail_first=2))).attempt == 3
    assert [m.text async for m in stub.Down(Ask(text="a", count=2, fail="UNAVAILABLE", fail_first=1))] == ["a0", "a1"]
    assert (await stub.Up(asks())).text == "x+y+z"
    assert [m.text async for m in stub.Both(asks())] == ["x", "y", "z"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Once(Ask(text="a", fail="UNAVAILABLE"))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await stub.Unary(Ask(text="z", sleep=30))
    await w.log.until("cancelled")
    assert gate.verdicts == ["OK", "OK", "OK", "OK", "TRANSIENT", "IGNORED"]


@on_threads(Again())
def test_blocking_channel_with_our_interceptor(w: World, gate: Count, stub: Any) -> None:
    """All four kinds, retries and errors."""
    texts = [Ask(text=text) for text in "xyz"]
    assert stub.Unary(Ask(text="a", fail="UNAVAILABLE", fail_first=2)).attempt == 3
    assert [m.text for m in stub.Down(Ask(text="a", count=2, fail="UNAVAILABLE", fail_first=1))] == ["a0", "a1"]
    assert stub.Up(iter(texts)).text == "x+y+z"
    assert [m.text for m in stub.Both(iter(texts))] == ["x", "y", "z"]
    with pytest.raises(grpc.RpcError) as caught:
        stub.Once(Ask(text="a", fail="UNAVAILABLE"))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert gate.verdicts == ["OK", "OK", "OK", "OK", "TRANSIENT"]


@on_aio(Again())
async def test_the_writing_style_of_streams_works(w: World, gate: Count, stub: Any) -> None:
    """grpc.aio lets nobody write before the interceptor has returned: one that waits for the reply would hang it."""
    up = stub.Up()
    await up.write(Ask(text="a"))
    await up.write(Ask(text="b"))
    await up.done_writing()
    assert (await up).text == "a+b"
    both = stub.Both()
    for text in "xy":
        await both.write(Ask(text=text))
        assert (await both.read()).text == text
    await both.done_writing()
    assert await both.read() is grpc.aio.EOF
    assert await both.code() is grpc.StatusCode.OK


@on_aio(Again())
async def test_streams_are_cancelled_as_bare_ones_are(w: World, gate: Count, stub: Any) -> None:
    """By the call, with the task, or dropped."""
    call = stub.Down(Ask(text="a", count=1000, sleep=0.01))
    assert (await call.read()).text == "a0"
    assert call.cancel()
    await w.log.until("cancelled")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            async for _ in stub.Down(Ask(text="a", count=1000, sleep=0.01)):
                pass
    await w.log.until("cancelled", 2)


@on_threads(Again())
def test_streams_are_calls(w: World, gate: Count, stub: Any) -> None:
    """With all that a call has: its code, its metadata, a way to cancel it."""
    stream = stub.Down(Ask(text="a", count=2))
    assert isinstance(stream, grpc.Call)
    assert [m.text for m in stream] == ["a0", "a1"]
    assert stream.code() is grpc.StatusCode.OK
    endless = stub.Down(Ask(text="a", count=1000, sleep=0.01))
    next(endless)
    endless.cancel()
    w.log.wait("cancelled")
    with pytest.raises(grpc.RpcError) as caught:
        list(endless)
    assert caught.value.code() is grpc.StatusCode.CANCELLED


@on_threads(Again())
def test_a_future_does_not_wait(w: World, gate: Count, stub: Any) -> None:
    """It can be asked, and cancelled, while its reply is awaited; its retries too run by themselves."""
    call = stub.Unary.future(Ask(text="a", sleep=30))
    w.log.wait("begun")
    assert not call.done()
    assert call.cancel()
    with pytest.raises(grpc.FutureCancelledError):
        call.result(5)
    assert stub.Unary.future(Ask(text="b", fail="UNAVAILABLE", fail_first=2)).result(5).attempt == 3


@on_aio(Shut())
async def test_a_rejection_is_raised(w: World, gate: Count, stub: Any) -> None:
    """In all four kinds, and nothing is sent."""
    for call in (stub.Unary(Ask()), stub.Up(asks())):
        with pytest.raises(RateLimited):
            await call
    for stream in (stub.Down(Ask()), stub.Both(asks())):
        with pytest.raises(RateLimited):
            [m async for m in stream]
    assert w.log.seen["begun"] == 0


@on_threads(Shut())
def test_a_rejection_is_raised_in_threads(w: World, gate: Count, stub: Any) -> None:
    """In all ways of calling."""
    for call in (
        lambda: stub.Unary(Ask()), lambda: stub.Unary.future(Ask()).result(5), lambda: list(stub.Down(Ask())),
        lambda: stub.Up(iter([Ask()])), lambda: list(stub.Both(iter([Ask()]))),
    ):  # fmt: skip
        with pytest.raises(RateLimited):
            call()
    assert w.log.seen["begun"] == 0


@on_aio(Instead(), Again())
async def test_a_substitute_answers(w: World, gate: Count, stub: Any) -> None:
    """With what grpc takes for a reply."""
    call = stub.Unary(Ask(text="a", fail="NOT_FOUND"))
    assert await call == "instead"
    assert await call.code() is grpc.StatusCode.OK


@on_threads(Instead(), Again())
def test_a_substitute_answers_in_threads(w: World, gate: Count, stub: Any) -> None:
    """With what grpc takes for a reply."""
    assert stub.Unary(Ask(text="a", fail="NOT_FOUND")) == "instead"
    assert stub.Unary.future(Ask(text="a", fail="NOT_FOUND")).result(5) == "instead"


@on_aio(Again())
async def test_a_spent_deadline_is_never_sent(w: World, gate: Count, stub: Any) -> None:
    """timeout=0 reaches a server on a bare channel."""
    with pytest.raises(DeadlineSpent):
        await stub.Unary(Ask(text="a"), timeout=0)
    assert w.log.seen["begun"] == 0


class Slow(grpc.aio.UnaryUnaryClientInterceptor):
    """Someone else's, that takes its time on the way."""

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        await asyncio.sleep(0.02)
        if request.text == "stray":
            raise ValueError("mine")
        return await continuation(client_call_details, request)


@on_aio(Again(), others=(Slow(),))
async def test_interceptors_behind_ours_may_wait(w: World, gate: Count, stub: Any) -> None:
    """And raise what they like: it is the call's error, and its permits come back."""
    assert (await stub.Unary(Ask(text="a"))).text == "a"
    call = stub.Unary(Ask(text="b", sleep=30))
    await asyncio.sleep(0.005)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    with pytest.raises(ValueError, match="mine"):
        await stub.Unary(Ask(text="stray"))
    assert gate.verdicts == ["OK", "IGNORED", "TRANSIENT"]


def _dawdling(times: int) -> Callable[[Any, Any], Coroutine[Any, Any, Any]]:
    """Make a handler that is slow for the first calls."""
    left = [30.0] * times

    async def handle(request: Any, context: Any) -> Any:
        await asyncio.sleep(left.pop() if left else 0.0)
        return echo_pb2.Answer(text=request.text)

    return handle


@on_aio(Hedge(HedgeRule(initial=0.02, load=1.0)))
async def test_a_hedge_goes_over_the_same_channel(w: World, gate: Count, stub: Any) -> None:
    """It may find another backend behind it; its first attempt is cancelled."""
    w.servicer.instead = _dawdling(1)
    assert (await stub.Unary(Ask(text="a"), timeout=10)).text == "a"
    await until(lambda: w.log.running == 0)
    down = [message.text async for message in stub.Down(Ask(text="b", count=2), timeout=10)]
    assert (down, gate.verdicts) == (["b0", "b1"], ["OK", "OK"])


@on_threads(Hedge(HedgeRule(initial=0.02, load=1.0)))
def test_a_future_is_hedged_in_threads(w: World, gate: Count, stub: Any) -> None:
    """A plain call is not: grpc holds its thread until it ends."""
    assert stub.Unary.future(Ask(text="a", sleep=0.2), timeout=10).result().text == "a"
    assert w.log.seen["begun"] == 2
    assert stub.Unary(Ask(text="a", sleep=0.2), timeout=10).text == "a"
    assert w.log.seen["begun"] == 3


def test_asyncio_storm() -> None:
    """Every permit comes back, whatever happens; the storm of the channel, on someone else's."""

    async def main() -> None:
        turnstile = Turnstile(16, 0.03)
        async with governed(turnstile, Again(), default_deadline=0.5) as (w, gate, stub):
            storm = AioStorm(stub, 1, tidy=1.0)  # grpc.aio itself keeps a call whose caller drops it while writing
            tasks = [asyncio.create_task(storm.one(number)) for number in range(60)]
            await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
            del tasks
            gc.collect()  # grpc.aio's wrapper of a stream that is iterated refers to itself
            held = lambda: (gate.inside, *w.held, turnstile.free)  # noqa: E731
            await until(lambda: held() == (0, 0, 0, 0, 0, 16), 10, about=held)

    asyncio.run(main())


def test_storm_in_threads() -> None:
    """The same in threads."""
    turnstile = Turnstile(16, 0.03)
    with governed_sync(turnstile, Again(), default_deadline=0.5) as (w, gate, stub):
        storm = SyncStorm(stub, 1)
        threads = [threading.Thread(target=storm.one, args=(number,)) for number in range(60)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        held = lambda: (gate.inside, *w.held, turnstile.free)  # noqa: E731
        wait(lambda: held() == (0, 0, 0, 0, 0, 16), 10, about=held)
