"""What a caller gives, and how it leaves, costs no permit, no server and no other task anything."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest

from msgov import scope
from msgov.call import Call, Outcome
from msgov.policy import Substitute
from msgov.transport.grpc.aio_channel import Channel
from msgov.transport.grpc.connections import AioConnections
from msgov.transport.grpc.options import CHANNEL_OPTIONS
from tests.transport.grpc import echo_pb2, echo_pb2_grpc
from tests.transport.grpc.gates import Again, Pick
from tests.transport.grpc.worlds import World, on_aio, until

Ask = echo_pb2.Ask


@on_aio
async def test_what_is_no_message_is_never_sent(w: World, stub: Any) -> None:
    """A bare grpc.aio channel sends an empty message in its place, and the server acts on it."""

    async def asks() -> AsyncIterator[Any]:
        yield "no message"

    for call in (stub.Unary("no message"), stub.Once("no message"), stub.Up(asks()), stub.Up(iter(["no message"]))):
        with pytest.raises(TypeError):
            await call
    for stream in (stub.Down("no message"), stub.Both(asks())):
        with pytest.raises(TypeError):
            await stream.read()
    call = stub.Up()
    with pytest.raises(TypeError):
        await call.write("no message")
    call.cancel()
    await until(lambda: w.idle)
    assert w.log.seen["finished"] == 0
    assert "TRANSIENT" not in w.inner.verdicts + w.outer.verdicts


@on_aio
async def test_metadata_that_cannot_be_sent_is_refused(w: World, stub: Any) -> None:
    """grpc.aio never ends such a call: its permits would be gone. Raised where it is awaited, like all that fails."""
    calls = [stub.Unary(Ask(text="a"), metadata=[pair]) for pair in (("a", "x\r\ny"), ("A", "x"), ("a", "é"), ("a", 3))]
    for call in calls:
        with pytest.raises(ValueError, match="metadata"):
            await call
        assert call.done()
    assert (await stub.Unary(Ask(text="a"), metadata=(("k-bin", b"\x00\xff"),))).text == "a"
    assert w.outer.verdicts == ["OK"]


@on_aio
async def test_what_a_request_iterator_raises_is_raised(w: World, stub: Any) -> None:
    """grpc.aio cancels the call, and whoever awaits it: as if the task had been cancelled, by nobody."""

    async def asks() -> AsyncIterator[Any]:
        yield Ask(text="a")
        raise LookupError("mine")

    def plain() -> Iterator[Any]:
        yield Ask(text="a")
        raise LookupError("mine")

    for requests in (asks, plain):
        with pytest.raises(LookupError, match="mine"):
            await stub.Up(requests())
        with pytest.raises(LookupError, match="mine"):
            async for _ in stub.Both(requests()):
                pass
    assert set(w.outer.verdicts) == {"IGNORED"}


@on_aio
async def test_a_stream_whose_end_is_waited_for_ends_when_it_is_dropped(w: World, stub: Any) -> None:
    """Metrics and tracers add such callbacks; they must not keep the server sending."""
    told: list[Any] = []
    gc.disable()
    try:
        stream = stub.Down(Ask(text="a", count=1000, sleep=0.01))
        stream.add_done_callback(lambda call: told.append((call.done(), call.cancelled())))
        await stream.read()
        del stream
        await w.log.until("cancelled")
    finally:
        gc.enable()
    assert told == [(True, True)]


@on_aio
async def test_a_callback_gets_the_call_itself(w: World, stub: Any) -> None:
    """As long as somebody has it."""
    told: list[Any] = []
    call = stub.Unary(Ask(text="a"))
    call.add_done_callback(told.append)
    await call
    assert told == [call]


@on_aio
async def test_a_call_dropped_while_it_was_written_ends(w: World, stub: Any) -> None:
    """Nobody could ever say that no more messages come."""
    call = stub.Up()
    await call.write(Ask(text="a"))
    await w.log.until("begun")
    del call
    await until(lambda: w.idle)
    assert w.outer.verdicts == ["IGNORED"]
    stub.Up(iter([Ask(text="a")]))  # this one can end by itself
    await w.log.until("finished")


@on_aio
async def test_waiting_in_vain_leaves_nothing_behind(w: World, stub: Any) -> None:
    """Whoever asks again and again for what is not there yet."""
    call = stub.Unary(Ask(text="a", sleep=0.3))
    for _ in range(50):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call.code(), 0.001)
    assert call._flight._heard == []
    await call


@on_aio
async def test_no_attempt_follows_metadata_that_was_given_out(w: World, stub: Any) -> None:
    """What the caller has read belongs to this attempt."""

    async def early(request: Any, context: Any) -> Any:
        await context.send_initial_metadata((("early", "1"),))
        await asyncio.sleep(0.05)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "then this")

    w.servicer.instead = early
    call = stub.Down(Ask(text="a"))
    assert ("early", "1") in tuple(await call.initial_metadata())
    with pytest.raises(grpc.aio.AioRpcError):
        await call.read()
    assert w.log.seen["begun"] == 1


@on_aio
async def test_a_server_cannot_cancel_our_tasks(w: World, stub: Any) -> None:
    """A proxy passes on the words of a call that was cancelled over there; here nobody has cancelled anything."""

    async def abort(request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.CANCELLED, "Locally cancelled by application!")

    w.servicer.instead = abort
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Once(Ask(text="a"))
    assert caught.value.code() is grpc.StatusCode.CANCELLED
    assert [(o.verdict.name, o.overloaded) for o in w.outer.outcomes] == [("TRANSIENT", True)]


@on_aio
async def test_a_fallback_works_in_the_scope_of_its_call(w: World, stub: Any) -> None:
    """It runs where grpc tells of the failure: what it calls has the deadline and the trace all the same."""
    seen: list[scope.Scope] = []

    class Instead(Substitute):
        def instead(self, call: Call, outcome: Outcome, now: float) -> Any:
            async def answer(call: Call, error: BaseException) -> str:
                await asyncio.sleep(0)
                seen.append(scope.current.get())
                return "instead"

            return answer

    w.policies = (w.outer, Instead(), Again(), Pick(w.port), w.inner)
    trace = scope.Trace("a" * 32, "b" * 16)
    token = scope.current.set(scope.Scope(trace=trace))
    try:
        call = stub.Unary(Ask(text="a", fail="NOT_FOUND"), timeout=5)
        assert await call == "instead"
    finally:
        scope.current.reset(token)
    assert seen[0].trace is trace
    assert seen[0].deadline == call._flight.call.deadline


@on_aio
async def test_a_cancelled_call_ends_its_fallback(w: World, stub: Any) -> None:
    """It must not go on for nobody."""
    began, ended = asyncio.Event(), asyncio.Event()

    class Instead(Substitute):
        def instead(self, call: Call, outcome: Outcome, now: float) -> Any:
            async def answer(call: Call, error: BaseException) -> str:
                began.set()
                try:
                    await asyncio.sleep(30)
                finally:
                    ended.set()
                return "never"

            return answer

    w.policies = (w.outer, Instead(), Again(), Pick(w.port), w.inner)
    call = stub.Unary(Ask(text="a", fail="NOT_FOUND"))
    await began.wait()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await call
    await asyncio.wait_for(ended.wait(), 5)
    assert w.outer.verdicts == ["IGNORED"]
    assert await call.code() is grpc.StatusCode.CANCELLED


@on_aio
async def test_calls_take_the_scope_they_are_made_in(w: World, stub: Any) -> None:
    """Each its own, whichever of them runs first."""
    calls = []
    for letter in "abc":
        token = scope.current.set(scope.Scope(trace=scope.Trace(letter * 32, "b" * 16)))
        calls.append(stub.Unary(Ask(text=letter)))
        scope.current.reset(token)
    calls.append(stub.Unary(Ask(text="d")))
    assert [(await call).trace_id for call in calls] == ["a" * 32, "b" * 32, "c" * 32, ""]


class Mine(grpc.aio.UnaryUnaryClientInterceptor):
    """An interceptor of the user's, on the channel to an instance."""

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        await asyncio.sleep(0.005)
        if client_call_details.metadata.get("stray"):
            raise LookupError("mine")
        return await continuation(client_call_details, request)


@on_aio
async def test_interceptors_on_the_way_to_an_instance(w: World, stub: Any) -> None:
    """`open_channel` is where they go; they run once for each attempt."""
    connections = AioConnections(
        lambda address: grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS, interceptors=[Mine()])
    )
    policies = (w.outer, Again(), Pick(w.port), w.inner)
    mine = echo_pb2_grpc.EchoStub(Channel("echo", lambda path: policies, connections=connections))
    assert (await mine.Unary(Ask(text="a", fail="UNAVAILABLE", fail_first=2))).attempt == 3
    with pytest.raises(LookupError, match="mine"):
        await mine.Once(Ask(text="a"), metadata=(("stray", "1"),))
    call = mine.Unary(Ask(text="b", sleep=30))
    await w.log.until("begun", 4)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert w.outer.verdicts == ["OK", "TRANSIENT", "IGNORED"]
    await connections.aclose()
