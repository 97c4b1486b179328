"""Plain functions serve in an asyncio server, and hold no thread for a caller that is gone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from tests.transport.grpc.served import served
from tests.transport.grpc.worlds import wait


def test_a_stream_that_nobody_draws_gives_its_thread_back() -> None:
    """grpc.aio itself leaves it waiting for ever: two callers that hang up would stop a server of two threads."""
    closed: list[int] = []

    def endless(request: bytes, context: Any) -> Iterator[bytes]:
        try:
            for number in range(1_000_000):
                yield b"%d" % number
        finally:
            closed.append(1)

    with served("bridged", {"unary_stream": endless}, pool=2) as s:
        for turn in range(6):
            call = s.call(kind="unary_stream")
            assert next(call) == b"0"
            call.cancel()
            wait(lambda turn=turn: len(closed) == turn + 1)
        wait(lambda: s.gate.inside == 0)
        assert set(s.gate.verdicts) == {"IGNORED"}


def test_a_step_that_is_at_work_closes_when_it_is_done() -> None:
    """A thread cannot be interrupted; the permit comes back at once all the same."""
    at_work, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    def slow(request: bytes, context: Any) -> Iterator[bytes]:
        try:
            yield b"first"
            at_work.set()
            go_on.wait(5)
            yield b"second"
        finally:
            closed.set()

    with served("bridged", {"unary_stream": slow}) as s:
        call = s.call(kind="unary_stream")
        assert next(call) == b"first"
        assert at_work.wait(5)
        call.cancel()
        wait(lambda: s.gate.inside == 0)
        assert not closed.is_set()
        go_on.set()
        assert closed.wait(5)


def test_requests_are_drawn_and_replies_given_as_they_come() -> None:
    """A conversation: neither side waits for the other's end."""

    def echo(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        for request in requests:
            yield request + b"!"

    with served("bridged", {"stream_stream": echo}) as s:
        asked = threading.Semaphore(1)

        def asks() -> Iterator[bytes]:
            for number in range(3):
                assert asked.acquire(timeout=5)
                yield b"%d" % number

        replies = s.channel.stream_stream("/t.T/stream_stream")(asks(), timeout=10)
        found = []
        for reply in replies:
            found.append(reply)
            asked.release()
        assert found == [b"0!", b"1!", b"2!"]


def test_the_context_is_what_a_plain_handler_knows() -> None:
    """What waits is done on the loop, from whatever thread."""
    told: list[Any] = []
    ended = threading.Event()

    def handler(request: bytes, context: Any) -> bytes:
        assert context.is_active()
        assert context.add_callback(ended.set)
        context.send_initial_metadata((("early", "1"),))
        context.set_trailing_metadata((("late", "2"),))
        told.append((context.peer(), dict(context.invocation_metadata())["mine"], context.time_remaining()))
        return b"reply"

    with served("bridged", handler) as s:
        reply, call = s.channel.unary_unary("/t.T/unary_unary").with_call(b"", metadata=(("mine", "0"),), timeout=10)
        assert reply == b"reply"
        assert ("early", "1") in call.initial_metadata()
        assert ("late", "2") in call.trailing_metadata()
        assert ended.wait(5)
    peer, mine, left = told[0]
    assert peer.startswith("ipv4:127.0.0.1:")
    assert (mine, 5 < left <= 10.5) == ("0", True)


def test_a_plain_function_that_outlives_its_deadline_is_not_waited_for() -> None:
    """Its caller is told in time; the thread ends when it does."""
    go_on, ended = threading.Event(), threading.Event()

    def slow(request: bytes, context: Any) -> bytes:
        go_on.wait(5)
        ended.set()
        return b"late"

    with served("bridged", slow, default_deadline=0.1) as s:
        assert s.fails(timeout=None).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert s.outcome() == ("TRANSIENT", "deadline_exceeded")
        assert not ended.is_set()
        go_on.set()
        assert ended.wait(5)


@pytest.mark.parametrize("kind", ["unary_stream", "stream_stream"])
def test_a_handler_may_return_any_iterator(kind: str) -> None:
    """grpc takes a list as well as a generator."""
    with served("bridged", {kind: lambda request, context: iter([b"a", b"b"])}) as s:
        assert list(s.call([b"x"] if kind == "stream_stream" else b"x", kind=kind)) == [b"a", b"b"]
