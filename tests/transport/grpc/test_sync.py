"""Generated stubs run unchanged over the blocking channel, and every ticket comes back."""

from __future__ import annotations

import gc
from concurrent import futures
from typing import Any

import grpc
import pytest

from msgov import scope
from msgov.call import Call, Outcome
from msgov.errors import DeadlineSpent, NoInstance, RateLimited
from msgov.policy import Gate, Substitute
from msgov.transport.grpc import status
from tests.transport.grpc import echo_pb2, echo_pb2_grpc
from tests.transport.grpc.gates import Again, Pick
from tests.transport.grpc.worlds import World, on_threads, wait

Ask = echo_pb2.Ask


@on_threads
def test_all_four_kinds_answer(w: World, stub: Any) -> None:
    """A generated stub works unchanged."""
    assert stub.Unary(Ask(text="a")).text == "a"
    reply, native = stub.Unary.with_call(Ask(text="a"))
    assert (reply.text, native.code()) == ("a", grpc.StatusCode.OK)
    assert [m.text for m in stub.Down(Ask(text="a", count=3))] == ["a0", "a1", "a2"]
    asks = [Ask(text=text) for text in "xyz"]
    assert stub.Up(iter(asks)).text == "x+y+z"
    assert [m.text for m in stub.Both(iter(asks))] == ["x", "y", "z"]
    assert stub.Unary.future(Ask(text="f")).result(5).text == "f"
    assert set(w.outer.verdicts) == {"OK"}
    assert set(w.server_gate.verdicts) == {"OK"}


@on_threads
def test_interceptors_of_the_user_work_on_top(w: World, stub: Any) -> None:
    """They run once per logical call, however many attempts we make."""
    ran = []

    class Mine(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            ran.append(details.method)
            return continuation(details, request)

    mine = echo_pb2_grpc.EchoStub(grpc.intercept_channel(w.channel, Mine()))
    assert mine.Unary(Ask(text="a", fail="UNAVAILABLE", fail_first=2)).attempt == 3
    assert mine.Unary(Ask(text="b")).text == "b"
    assert len(ran) == 2


@on_threads
def test_failed_attempts_are_tried_again(w: World, stub: Any) -> None:
    """In all three ways of calling."""
    assert stub.Unary(Ask(text="a", fail="UNAVAILABLE", fail_first=2)).attempt == 3
    assert stub.Unary.future(Ask(text="b", fail="UNAVAILABLE", fail_first=2)).result(5).attempt == 3
    assert [m.text for m in stub.Down(Ask(text="c", count=2, fail="UNAVAILABLE", fail_first=2))] == ["c0", "c1"]
    assert w.inner.verdicts == ["TRANSIENT", "TRANSIENT", "OK"] * 3


@on_threads
def test_the_last_error_is_grpcs_own(w: World, stub: Any) -> None:
    """What users catch today goes on working."""
    with pytest.raises(grpc.RpcError) as caught:
        stub.Unary(Ask(text="a", fail="UNAVAILABLE"))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    call = stub.Unary.future(Ask(text="b", fail="NOT_FOUND"))
    assert isinstance(call.exception(5), grpc.RpcError)
    assert call.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError):
        stub.Once(Ask(text="c", fail="UNAVAILABLE"))
    assert w.log.seen["begun"] == 5


@on_threads
def test_what_brings_a_key_is_repeated(w: World, stub: Any) -> None:
    """Its callee tells the second request from a new one by it."""
    key = (("idempotency-key", "k1"),)
    assert stub.Once(Ask(text="a", fail="UNAVAILABLE", fail_first=1), metadata=key).attempt == 2


@on_threads
def test_a_stream_is_not_retried_after_a_message(w: World, stub: Any) -> None:
    """A failure after a message is the caller's to see."""
    seen = []
    with pytest.raises(grpc.RpcError):
        for message in stub.Down(Ask(text="a", count=5, fail="UNAVAILABLE", fail_after=2)):
            seen.append(message.text)  # noqa: PERF401  what came before the failure counts
    assert seen == ["a0", "a1"]
    assert w.inner.verdicts == ["TRANSIENT"]


@on_threads
def test_cancelling_reaches_the_server(w: World, stub: Any) -> None:
    """A future's cancel, and a stream's."""
    call = stub.Unary.future(Ask(text="a", sleep=30))
    w.log.wait("begun")
    with pytest.raises(grpc.FutureTimeoutError):
        call.result(0.01)
    assert call.cancel()
    assert not call.cancel()
    with pytest.raises(grpc.FutureCancelledError):
        call.result(5)
    assert call.cancelled()
    w.log.wait("cancelled")
    stream = stub.Down(Ask(text="a", count=100, sleep=0.05))
    next(stream)
    stream.cancel()
    w.log.wait("cancelled", 2)
    wait(lambda: w.idle)
    assert w.outer.verdicts == ["IGNORED", "IGNORED"]


@on_threads
def test_an_abandoned_stream_is_cancelled(w: World, stub: Any) -> None:
    """By reference count, without the collector."""
    gc.disable()
    try:
        for _ in stub.Down(Ask(text="a", count=1000, sleep=0.01)):
            break
        w.log.wait("cancelled")
        stub.Unary(Ask(text="b"))
    finally:
        gc.enable()


@on_threads
def test_deadlines_cross_two_hops(w: World, stub: Any) -> None:
    """The second server sees what the first caller left."""
    assert 3000 < stub.Unary(Ask(text="a", deep=True), timeout=5).deadline_ms <= 5100
    with pytest.raises(grpc.RpcError) as caught:
        stub.Unary(Ask(text="a", deep=True, sleep=30), timeout=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    with pytest.raises(DeadlineSpent):
        stub.Unary(Ask(text="a"), timeout=0)


@on_threads
def test_the_trace_crosses_hops(w: World, stub: Any) -> None:
    """Both servers stand in the caller's trace."""
    token = scope.current.set(scope.Scope(trace=scope.Trace("a" * 32, "b" * 16)))
    try:
        assert stub.Unary(Ask(text="a", deep=True)).trace_id == "a" * 32
        assert {m.trace_id for m in stub.Down(Ask(text="a", count=3))} == {"a" * 32}
    finally:
        scope.current.reset(token)


@on_threads
def test_a_rejection_is_raised(w: World, stub: Any) -> None:
    """Whatever the way of calling."""

    class Shut(Gate[int]):
        def admit(self, call: Call, now: float) -> int:
            raise RateLimited("no", retry_after=2.0)

        def settle(self, ticket: int, outcome: Outcome, now: float) -> None: ...

    w.policies = (w.outer, Shut(), Again(), Pick(w.port), w.inner)
    with pytest.raises(RateLimited):
        stub.Unary(Ask())
    with pytest.raises(RateLimited):
        stub.Unary.future(Ask()).result(5)
    with pytest.raises(RateLimited):
        next(stub.Down(Ask()))
    with pytest.raises(RateLimited):
        stub.Up(iter([Ask()]))
    w.policies = (w.outer, Again(), Pick(), w.inner)
    with pytest.raises(NoInstance):
        stub.Unary(Ask())


@on_threads
def test_a_substitute_answers(w: World, stub: Any) -> None:
    """A fallback stands in for the reply."""

    class Instead(Substitute):
        def instead(self, call: Call, outcome: Outcome, now: float) -> Any:
            return lambda call, error: "now"

    w.policies = (w.outer, Instead(), Again(), Pick(w.port), w.inner)
    assert stub.Unary(Ask(text="a", fail="NOT_FOUND")) == "now"
    assert stub.Unary.future(Ask(text="a", fail="NOT_FOUND")).result(5) == "now"
    assert w.outer.verdicts == ["OK", "OK"]


@on_threads
def test_exception_text_never_reaches_the_caller(w: World, stub: Any) -> None:
    """grpc itself sends it."""
    for call in (lambda: stub.Once(Ask(fail="raise")), lambda: list(stub.Down(Ask(count=2, fail="raise")))):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert "hunter2" not in repr(caught.value)


@on_threads
def test_a_servers_refusal_says_not_sent_and_when(w: World, stub: Any) -> None:
    """The client learns from it what a local rejection would have told."""

    class Full(Gate[int]):
        def admit(self, call: Call, now: float) -> int:
            raise RateLimited("no", retry_after=1.5)

        def settle(self, ticket: int, outcome: Outcome, now: float) -> None: ...

    w.server_policies = (w.server_gate, Full())
    with pytest.raises(grpc.RpcError) as caught:
        stub.Once(Ask(text="a"))
    found = status.judge(Call("echo"), caught.value)
    assert (found.status, found.sent.name, found.retry_after) == ("RESOURCE_EXHAUSTED", "NO", 1.5)
    assert w.log.seen["begun"] == 0


@on_threads
def test_many_threads_share_a_channel(w: World, stub: Any) -> None:
    """Permits in are permits out under mixed calls, cancellations included."""

    def work(turn: int) -> None:
        stub.Unary(Ask(text=f"{turn}", fail="UNAVAILABLE" if turn % 3 else "", fail_first=turn % 3))
        call = stub.Unary.future(Ask(text="x", sleep=0.01 * (turn % 2)))
        if turn % 2:
            call.cancel()
        else:
            call.result(5)

    with futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(64)))
    assert w.outer.entered == 128
