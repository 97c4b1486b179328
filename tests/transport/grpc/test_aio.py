"""Generated stubs run unchanged over the asyncio channel, and every ticket comes back."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from msgov.call import Call, Outcome
from msgov.errors import NoInstance, RateLimited
from msgov.policy import Gate, Plan, Substitute, Waiting
from tests.transport.grpc import echo_pb2
from tests.transport.grpc.gates import Again, Pick
from tests.transport.grpc.worlds import World, on_aio

Ask = echo_pb2.Ask


@on_aio
async def test_all_four_kinds_answer(w: World, stub: Any) -> None:
    """A generated stub works unchanged."""
    assert (await stub.Unary(Ask(text="a"))).text == "a"
    assert [m.text async for m in stub.Down(Ask(text="a", count=3))] == ["a0", "a1", "a2"]

    async def asks() -> AsyncIterator[Any]:
        for text in "xyz":
            yield Ask(text=text)

    assert (await stub.Up(asks())).text == "x+y+z"
    assert [m.text async for m in stub.Both(asks())] == ["x", "y", "z"]
    assert w.outer.verdicts == ["OK"] * 4
    assert w.inner.verdicts == ["OK"] * 4
    assert w.server_gate.verdicts == ["OK"] * 4


@on_aio
async def test_reader_and_writer_style_works(w: World, stub: Any) -> None:
    """The other half of grpc.aio's streaming interface."""
    call = stub.Both()
    await call.write(Ask(text="a"))
    assert (await call.read()).text == "a"
    await call.write(Ask(text="b"))
    assert (await call.read()).text == "b"
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK
    up = stub.Up()
    await up.write(Ask(text="a"))
    await up.done_writing()
    assert (await up).text == "a"


@on_aio
async def test_awaited_twice_it_gives_the_same_reply(w: World, stub: Any) -> None:
    """As a bare call does."""
    call = stub.Unary(Ask(text="a"))
    assert (await call) is (await call)
    assert await call.code() is grpc.StatusCode.OK
    assert call.done()
    assert not call.cancelled()


@on_aio
async def test_calls_start_when_they_are_made(w: World, stub: Any) -> None:
    """Three calls made, then awaited, run at once."""
    calls = [stub.Unary(Ask(text=str(n), sleep=0.2)) for n in range(3)]
    await w.log.until("begun", 3)
    assert w.log.seen["finished"] == 0
    assert [(await c).text for c in calls] == ["0", "1", "2"]


@on_aio
async def test_a_dropped_call_runs_to_its_end(w: World, stub: Any) -> None:
    """Fire and forget, retries included."""
    stub.Unary(Ask(text="a", fail="UNAVAILABLE", fail_first=1))
    gc.collect()
    await w.log.until("finished")
    await w.log.until("begun", 2)


@on_aio
async def test_failed_attempts_are_tried_again(w: World, stub: Any) -> None:
    """The caller sees one call; the server sees three, numbered."""
    reply = await stub.Unary(Ask(text="a", fail="UNAVAILABLE", fail_first=2))
    assert reply.attempt == 3
    assert w.inner.verdicts == ["TRANSIENT", "TRANSIENT", "OK"]
    assert w.outer.verdicts == ["OK"]


@on_aio
async def test_the_last_error_is_grpcs_own(w: World, stub: Any) -> None:
    """What users catch today goes on working."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Unary(Ask(text="a", fail="UNAVAILABLE"))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.details() == "told to"
    assert caught.value.__notes__ == ["after 3 attempts"]
    call = stub.Unary(Ask(text="b", fail="NOT_FOUND"))
    assert await call.code() is grpc.StatusCode.NOT_FOUND
    assert await call.details() == "told to"
    with pytest.raises(grpc.aio.AioRpcError):
        await call
    assert w.outer.verdicts == ["TRANSIENT", "PERMANENT"]


@on_aio
async def test_what_is_not_idempotent_is_not_repeated(w: World, stub: Any) -> None:
    """The proto says which methods are."""
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.Once(Ask(text="a", fail="UNAVAILABLE"))
    assert w.log.seen["begun"] == 1


@on_aio
async def test_what_brings_a_key_is_repeated(w: World, stub: Any) -> None:
    """Its callee tells the second request from a new one by it."""
    key = (("idempotency-key", "k1"),)
    assert (await stub.Once(Ask(text="a", fail="UNAVAILABLE", fail_first=1), metadata=key)).attempt == 2


@on_aio
async def test_timeout_round_a_call_cancels_the_server(w: World, stub: Any) -> None:
    """asyncio.timeout reaches the handler."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await stub.Unary(Ask(text="a", sleep=30))
    await w.log.until("cancelled")
    assert w.outer.verdicts == ["IGNORED"]


@on_aio
async def test_timeout_round_a_stream_cancels_the_server(w: World, stub: Any) -> None:
    """So does one round a stream."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            async for _ in stub.Down(Ask(text="a", count=100, sleep=0.05)):
                pass
    await w.log.until("cancelled")
    assert w.outer.verdicts == ["IGNORED"]


@on_aio
async def test_cancelling_the_task_cancels_the_server(w: World, stub: Any) -> None:
    """A cancelled task leaves nothing running."""

    async def work() -> None:
        await stub.Unary(Ask(text="a", sleep=30))

    task = asyncio.create_task(work())
    await w.log.until("begun")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await w.log.until("cancelled")


@on_aio
async def test_the_calls_own_cancel_is_heard(w: World, stub: Any) -> None:
    """call.cancel() ends it, once."""
    call = stub.Unary(Ask(text="a", sleep=30))
    await w.log.until("begun")
    assert call.cancel()
    assert not call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert call.cancelled()
    await w.log.until("cancelled")
    assert w.outer.verdicts == ["IGNORED"]


@on_aio
async def test_cancel_between_attempts_ends_it(w: World, stub: Any) -> None:
    """No attempt starts after a cancellation."""

    class Later(Plan):
        def next(self, call: Call, tries: int, outcome: Outcome | None, now: float) -> float | None:
            return None if outcome is None else 30.0

    w.policies = (w.outer, Later(), Pick(w.port), w.inner)
    call = stub.Unary(Ask(text="a", fail="UNAVAILABLE"))
    while not w.inner.outcomes:
        await asyncio.sleep(0.002)
    assert call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert call.cancelled()
    assert await call.code() is grpc.StatusCode.CANCELLED
    assert w.log.seen["begun"] == 1


@on_aio
async def test_a_stream_is_retried_before_its_first_message(w: World, stub: Any) -> None:
    """Two failures before the first message are hidden."""
    stream = stub.Down(Ask(text="a", count=2, fail="UNAVAILABLE", fail_first=2))
    assert [m.text async for m in stream] == ["a0", "a1"]
    assert w.inner.verdicts == ["TRANSIENT", "TRANSIENT", "OK"]


@on_aio
async def test_a_stream_is_not_retried_after_it(w: World, stub: Any) -> None:
    """A failure after a message is the caller's to see."""
    seen = []
    with pytest.raises(grpc.aio.AioRpcError):
        async for message in stub.Down(Ask(text="a", count=5, fail="UNAVAILABLE", fail_after=2)):
            seen.append(message.text)  # noqa: PERF401  what came before the failure counts
    assert seen == ["a0", "a1"]
    assert w.inner.verdicts == ["TRANSIENT"]


@on_aio
async def test_an_abandoned_stream_is_cancelled_without_the_collector(w: World, stub: Any) -> None:
    """Bare grpc.aio would let the server send all of it."""
    gc.disable()
    try:
        async for _ in stub.Down(Ask(text="a", count=1000, sleep=0.01)):
            break
        await w.log.until("cancelled")
        for _ in range(100):
            await stub.Unary(Ask(text="b"))
            if w.outer.inside == 0:
                break
        assert (w.outer.inside, w.inner.inside) == (0, 0)
        both = stub.Both()
        await both.write(Ask(text="x"))
        await both.read()
        del both
        before = w.log.seen["finished"]
        while w.log.seen["finished"] == before and w.log.seen["cancelled"] < 2:  # grpc may end the request stream first
            await asyncio.sleep(0.002)
        await stub.Unary(Ask(text="b"))
    finally:
        gc.enable()


@on_aio
async def test_deadlines_cross_two_hops(w: World, stub: Any) -> None:
    """The second server sees what the first caller left."""
    reply = await stub.Unary(Ask(text="a", deep=True), timeout=5)
    assert 3000 < reply.deadline_ms <= 5100  # the wire rounds up
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Unary(Ask(text="a", deep=True, sleep=30), timeout=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await w.log.until("cancelled", 2)


@on_aio
async def test_the_trace_crosses_hops(w: World, stub: Any) -> None:
    """Both servers stand in the caller's trace."""
    from msgov import scope

    trace = scope.Trace("a" * 32, "b" * 16)
    token = scope.current.set(scope.Scope(trace=trace))
    try:
        assert (await stub.Unary(Ask(text="a", deep=True))).trace_id == "a" * 32
    finally:
        scope.current.reset(token)


@on_aio
async def test_a_spent_deadline_is_never_sent(w: World, stub: Any) -> None:
    """timeout=0 reaches a server on a bare channel."""
    from msgov.errors import DeadlineSpent

    with pytest.raises(DeadlineSpent):
        await stub.Unary(Ask(text="a"), timeout=0)
    assert w.log.seen["begun"] == 0


@on_aio
async def test_a_rejection_is_raised_at_await(w: World, stub: Any) -> None:
    """Raised at the call it would leave the others of a gather running."""

    class Shut(Gate[int]):
        def admit(self, call: Call, now: float) -> int:
            raise RateLimited("no", retry_after=2.0)

        def settle(self, ticket: int, outcome: Outcome, now: float) -> None: ...

    w.policies = (w.outer, Shut(), Again(), Pick(w.port), w.inner)
    for call in (stub.Unary(Ask()), stub.Up(), stub.Once(Ask())):
        with pytest.raises(RateLimited):
            await call
    with pytest.raises(RateLimited):
        async for _ in stub.Down(Ask()):
            pass
    with pytest.raises(RateLimited):
        await stub.Both().read()
    with pytest.raises(RateLimited):
        await stub.Both().write(Ask())
    assert set(w.outer.verdicts) == {"IGNORED"}
    w.policies = (w.outer, Again(), Pick(), w.inner)
    with pytest.raises(NoInstance):
        await stub.Unary(Ask())


@on_aio
async def test_a_substitute_answers(w: World, stub: Any) -> None:
    """A fallback, plain or async, stands in for the reply."""

    class Instead(Substitute):
        def __init__(self, answer: Any) -> None:
            self.answer = answer

        def instead(self, call: Call, outcome: Outcome, now: float) -> Any:
            return self.answer

    async def later(call: Call, error: BaseException) -> str:
        await asyncio.sleep(0)
        return "later"

    for answer, expected in ((lambda call, error: "now", "now"), (later, "later")):
        w.policies = (w.outer, Instead(answer), Again(), Pick(w.port), w.inner)
        call = stub.Unary(Ask(text="a", fail="NOT_FOUND"))
        assert await call == expected
        assert await call.code() is grpc.StatusCode.OK
    assert w.outer.verdicts == ["OK", "OK"]


@on_aio
async def test_a_call_waits_in_line(w: World, stub: Any) -> None:
    """A gate that waits lets the call in later, or refuses it late; a cancelled one gives its place back."""

    class Line(Gate[int]):
        def __init__(self) -> None:
            self.waiting: list[Waiting[int]] = []
            self.settled = 0

        def admit(self, call: Call, now: float) -> Waiting[int]:
            place: Waiting[int] = Waiting(since=now, until=now + 0.3)
            self.waiting.append(place)
            return place

        def settle(self, ticket: int, outcome: Outcome, now: float) -> None:
            self.settled += 1

    line = Line()
    w.policies = (w.outer, line, Again(), Pick(w.port), w.inner)
    call = stub.Unary(Ask(text="a"))
    line.waiting[0].resolve(ticket=1)
    line.waiting[0].rouse()
    assert (await call).text == "a"
    from msgov.errors import Rejected

    with pytest.raises(Rejected):
        await stub.Unary(Ask(text="a"))
    gone = stub.Unary(Ask(text="a"))
    line.waiting[2].resolve(ticket=1)
    assert gone.cancel()
    line.waiting[2].rouse()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert line.settled == 2


@on_aio
async def test_a_done_callback_that_raises_breaks_nothing(w: World, stub: Any) -> None:
    """On a bare call it would break the await."""
    told = []

    def callback(call: Any) -> None:
        told.append(call.done())
        raise RuntimeError("mine")

    call = stub.Unary(Ask(text="a"))
    call.add_done_callback(callback)
    import sys

    before, sys.unraisablehook = sys.unraisablehook, lambda args: None
    try:
        assert (await call).text == "a"
        call.add_done_callback(callback)
    finally:
        sys.unraisablehook = before
    assert told == [True, True]


@on_aio
async def test_exception_text_never_reaches_the_caller(w: World, stub: Any) -> None:
    """grpc.aio itself sends it."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Once(Ask(text="a", fail="raise"))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "hunter2" not in repr(caught.value)
    assert [o.status for o in w.server_gate.outcomes] == ["INTERNAL"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stub.Down(Ask(text="a", count=2, fail="raise")):
            pass
    assert "hunter2" not in repr(caught.value)


@on_aio
async def test_a_servers_refusal_says_not_sent_and_when(w: World, stub: Any) -> None:
    """The client learns from it what a local rejection would have told."""
    from msgov.transport.grpc import status

    class Full(Gate[int]):
        def admit(self, call: Call, now: float) -> int:
            raise RateLimited("no", retry_after=1.5)

        def settle(self, ticket: int, outcome: Outcome, now: float) -> None: ...

    w.server_policies = (w.server_gate, Full())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Once(Ask(text="a"))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    found = status.judge(Call("echo"), caught.value)
    assert (found.sent.name, found.overloaded, found.retry_after) == ("NO", True, 1.5)
    assert status.retry_delay(caught.value.trailing_metadata()) == 1.5
    assert w.log.seen["begun"] == 0
