"""What a caller gives, and how it leaves, costs no permit, no server and no other thread anything."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from msgov import scope
from msgov.call import Call, Outcome
from msgov.policy import Substitute
from tests.transport.grpc import echo_pb2
from tests.transport.grpc.gates import Again, Pick
from tests.transport.grpc.worlds import World, on_threads, wait

Ask = echo_pb2.Ask


@on_threads
def test_what_is_no_message_is_never_sent(w: World, stub: Any) -> None:
    """It is the caller's error, by its own name; no gate hears of it."""
    for call in (stub.Unary, stub.Once, stub.Unary.future, stub.Down):
        with pytest.raises(TypeError):
            call("no message")
    with pytest.raises(TypeError):
        stub.Up(iter(["no message"]))
    with pytest.raises(TypeError):
        stub.Up.future(iter(["no message"])).result(5)
    with pytest.raises(TypeError):
        list(stub.Both(iter(["no message"])))
    assert "TRANSIENT" not in w.inner.verdicts + w.outer.verdicts


@on_threads
def test_metadata_that_cannot_be_sent_is_refused(w: World, stub: Any) -> None:
    """It would count against the callee, and be tried three times."""
    for pair in (("a", "x\r\ny"), ("A", "x"), ("a", "é"), ("a", 3)):
        with pytest.raises(ValueError, match="metadata"):
            stub.Unary(Ask(text="a"), metadata=[pair])
    assert w.outer.verdicts == []


@on_threads
def test_what_a_request_iterator_raises_is_raised(w: World, stub: Any) -> None:
    """grpc has other words for it, and a breaker would take them for the callee's."""

    def asks() -> Iterator[Any]:
        yield Ask(text="a")
        raise LookupError("mine")

    for call in (
        lambda: stub.Up(asks()), lambda: stub.Up.future(asks()).result(5), lambda: list(stub.Both(asks())),
    ):  # fmt: skip
        with pytest.raises(LookupError, match="mine"):
            call()
    assert set(w.outer.verdicts) == {"IGNORED"}


@on_threads
def test_a_stream_whose_end_is_waited_for_ends_when_it_is_dropped(w: World, stub: Any) -> None:
    """Metrics and tracers add such callbacks; they must not keep the server sending."""
    told: list[Any] = []
    gc.disable()
    try:
        stream = stub.Down(Ask(text="a", count=1000, sleep=0.01))
        stream.add_done_callback(lambda call: told.append((call.done(), call.cancelled())))
        assert stream.add_callback(lambda: told.append("over"))
        next(stream)
        del stream
        wait(lambda: len(told) == 2)
    finally:
        gc.enable()
    assert told == [(True, True), "over"]


@on_threads
def test_a_stream_that_was_tried_again_ends_when_it_is_dropped(w: World, stub: Any) -> None:
    """The first attempt's error knows the frame it was raised in, and the frame knows the stream."""
    gc.disable()
    try:
        stream = stub.Down(Ask(text="a", count=1000, sleep=0.01, fail="UNAVAILABLE", fail_first=1))
        next(stream)
        del stream
        wait(lambda: w.idle)
    finally:
        gc.enable()


@on_threads
def test_waiting_in_vain_leaves_nothing_behind(w: World, stub: Any) -> None:
    """Whoever asks again and again for what is not there yet."""
    call = stub.Unary.future(Ask(text="a", sleep=0.2))
    for _ in range(50):
        with pytest.raises(grpc.FutureTimeoutError):
            call.result(0.0005)
    assert call._flight._heard == []
    assert call.result(5).text == "a"


@on_threads
def test_no_attempt_follows_metadata_that_was_given_out(w: World, stub: Any) -> None:
    """What the caller has read belongs to this attempt."""
    call = stub.Unary.future(Ask(text="a", fail="UNAVAILABLE", fail_first=1))
    call.initial_metadata()
    attempts = 1 if isinstance(call.exception(5), grpc.RpcError) else 2  # it may have failed before we asked
    assert w.log.seen["begun"] == attempts


@on_threads
def test_a_fallback_may_wait_even_for_the_same_channel(w: World, stub: Any) -> None:
    """Run on the channel's own thread it would wait for ever."""
    seen: list[scope.Scope] = []

    class Instead(Substitute):
        def instead(self, call: Call, outcome: Outcome, now: float) -> Any:
            def answer(call: Call, error: BaseException) -> Any:
                seen.append(scope.current.get())
                return stub.Unary.future(Ask(text="instead")).result(5)

            return answer

    w.policies = (w.outer, Instead(), Again(), Pick(w.port), w.inner)
    assert stub.Unary.future(Ask(text="a", fail="NOT_FOUND"), timeout=5).result(5).text == "instead"
    assert seen[0].deadline is not None


@on_threads
def test_a_call_with_its_reply_has_no_native_call_for_a_substitute(w: World, stub: Any) -> None:
    """with_call returns None there."""

    class Instead(Substitute):
        def instead(self, call: Call, outcome: Outcome, now: float) -> Any:
            return lambda call, error: "instead"

    w.policies = (w.outer, Instead(), Again(), Pick(w.port), w.inner)
    assert stub.Unary.with_call(Ask(text="a", fail="NOT_FOUND")) == ("instead", None)


@on_threads
def test_policies_that_change_are_seen_by_all_threads(w: World, stub: Any) -> None:
    """One thread's old handler must not be kept under another's new policies."""
    stop = threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        while not stop.is_set():
            try:
                stub.Unary(Ask(text="a"))
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(30):
        w.policies = (w.outer, Again(), Pick(w.port), w.inner)
        stub.Unary(Ask(text="b"))
    stop.set()
    for thread in threads:
        thread.join(5)
    last = (w.server_gate, Again(), Pick(w.port), w.inner)
    w.policies = last
    before = len(w.outer.outcomes)
    for _ in range(3):
        stub.Unary(Ask(text="c"))
    assert len(w.outer.outcomes) == before
    assert errors == []
