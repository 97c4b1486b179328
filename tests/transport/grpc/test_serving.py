"""However a handler ends, its outcome is what its caller is told, its permits come back, and its words stay inside."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from msgov import scope
from msgov.call import Call, Outcome
from msgov.errors import RuleError
from msgov.policy import Substitute
from msgov.resilience.deadline import Deadline
from msgov.transport.grpc.serving import MOST_HEADERS, Edge, host
from tests.transport.grpc.served import WAYS, served
from tests.transport.grpc.worlds import wait

Code = grpc.StatusCode
each_way = pytest.mark.parametrize("way", WAYS)
SECRET = "hunter2"


def all_kinds(step: Callable[[Any], Any], way: str) -> dict[str, Any]:
    """Make a handler of each kind that does one thing with its context, and then answers."""
    if way == "aio":

        async def one(request: Any, context: Any) -> bytes:
            done = step(context)
            if asyncio.iscoroutine(done):
                await done
            return b"reply"

        async def many(request: Any, context: Any) -> AsyncIterator[bytes]:
            yield b"first"
            done = step(context)
            if asyncio.iscoroutine(done):
                await done
            yield b"second"

    else:

        def one(request: Any, context: Any) -> bytes:  # type: ignore[misc]  # the other colour of the same
            step(context)
            return b"reply"

        def many(request: Any, context: Any) -> Iterator[bytes]:  # type: ignore[misc]
            yield b"first"
            step(context)
            yield b"second"

    return {"unary_unary": one, "unary_stream": many, "stream_unary": one, "stream_stream": many}


def ask(kind: str) -> Any:
    """Return what a method of a kind is asked with."""
    return [b"ask"] if kind.startswith("stream") else b"ask"


each_kind = pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])


class TestStatuses:
    """A status can be chosen in many ways."""

    @each_way
    @each_kind
    def test_set_without_an_abort(self, way: str, kind: str) -> None:
        """A breaker round a server would take such failures for successes."""
        with served(way, all_kinds(lambda context: context.set_code(Code.DATA_LOSS), way)) as s:
            assert s.fails(ask(kind), kind=kind).code() is Code.DATA_LOSS
            assert s.outcome() == ("TRANSIENT", "DATA_LOSS")

    @each_way
    @each_kind
    def test_by_an_abort(self, way: str, kind: str) -> None:
        """Its words are for the caller."""
        with served(way, all_kinds(lambda context: context.abort(Code.NOT_FOUND, "no such thing"), way)) as s:
            error = s.fails(ask(kind), kind=kind)
            assert (error.code(), error.details()) == (Code.NOT_FOUND, "no such thing")
            assert s.outcome() == ("PERMANENT", "NOT_FOUND")

    @each_way
    @each_kind
    def test_by_an_abort_with_a_status(self, way: str, kind: str) -> None:
        """`grpc_status.rpc_status` makes them."""

        class Refused(grpc.Status):  # type: ignore[misc]  # it has no types
            code = Code.FAILED_PRECONDITION
            details = "not now"
            trailing_metadata = (("why", "because"),)

        with served(way, all_kinds(lambda context: context.abort_with_status(Refused()), way)) as s:
            error = s.fails(ask(kind), kind=kind)
            assert (error.code(), error.details()) == (Code.FAILED_PRECONDITION, "not now")
            assert ("why", "because") in error.trailing_metadata()
            assert s.outcome() == ("PERMANENT", "FAILED_PRECONDITION")

    @each_way
    @each_kind
    def test_set_before_an_error(self, way: str, kind: str) -> None:
        """The handler's choice counts, and so do the words it chose; those of the error are not sent."""

        def step(context: Any) -> None:
            context.set_code(Code.ALREADY_EXISTS)
            context.set_details("it is there")
            raise ValueError(SECRET)

        with served(way, all_kinds(step, way)) as s:
            error = s.fails(ask(kind), kind=kind)
            assert (error.code(), error.details()) == (Code.ALREADY_EXISTS, "it is there")
            assert s.outcome() == ("PERMANENT", "ALREADY_EXISTS")

    @each_way
    @each_kind
    def test_an_exception_is_told_by_nothing_but_an_id(self, way: str, kind: str) -> None:
        """grpc sends its words, in four different forms."""

        def step(context: Any) -> None:
            raise ValueError(SECRET)

        with served(way, all_kinds(step, way)) as s:
            error = s.fails(ask(kind), kind=kind)
            assert error.code() is Code.INTERNAL
            assert SECRET not in repr(error) + repr(error.trailing_metadata())
            assert s.outcome() == ("TRANSIENT", "INTERNAL")

    @each_way
    def test_words_in_a_plain_exception_are_no_abort(self, way: str) -> None:
        """Threaded grpc aborts by a bare `Exception()`; this one only looks like it."""

        def step(context: Any) -> None:
            context.set_code(Code.NOT_FOUND)
            raise Exception(SECRET)

        with served(way, all_kinds(step, way)) as s:
            error = s.fails()
            assert error.code() is Code.NOT_FOUND
            assert SECRET not in repr(error)

    @each_way
    def test_an_abort_that_the_handler_swallows(self, way: str) -> None:
        """The caller was told; the outcome says the same."""

        async def handler(request: Any, context: Any) -> bytes:
            with suppress(grpc.aio.AbortError):
                await context.abort(Code.OUT_OF_RANGE, "too far")
            return b"reply"

        def plain(request: Any, context: Any) -> bytes:
            with suppress(Exception):
                context.abort(Code.OUT_OF_RANGE, "too far")
            return b"reply"

        with served(way, handler if way == "aio" else plain) as s:
            assert s.fails().code() is Code.OUT_OF_RANGE
            assert s.outcome() == ("PERMANENT", "OUT_OF_RANGE")

    @each_way
    def test_trailing_metadata_of_the_handler_goes_along(self, way: str) -> None:
        """With what a refusal adds."""

        def step(context: Any) -> None:
            context.set_trailing_metadata((("mine", "1"),))
            raise ValueError(SECRET)

        with served(way, all_kinds(step, way)) as s:
            trailing = dict(s.fails().trailing_metadata())
            assert trailing["mine"] == "1"
            assert trailing["msgov-reason"] == "internal"

    @each_way
    def test_a_substitute_answers_for_a_status_that_was_set(self, way: str) -> None:
        """With its reply goes OK, or grpc throws the reply away."""

        class Instead(Substitute):
            def instead(self, call: Call, outcome: Outcome, now: float) -> Any:
                return lambda call, error: b"instead"

        with served(way, all_kinds(lambda context: context.set_code(Code.UNAVAILABLE), way), Instead()) as s:
            assert s.call() == b"instead"
            assert s.outcome()[0] == "OK"

    @each_way
    def test_our_log_has_what_the_caller_has_only_the_id_of(self, way: str, caplog: pytest.LogCaptureFixture) -> None:
        """So that the two can be brought together."""

        def step(context: Any) -> None:
            raise ValueError(SECRET)

        with served(way, all_kinds(step, way)) as s, caplog.at_level(logging.ERROR, "msgov.grpc"):
            trailing = dict(s.fails().trailing_metadata())
        status, info = Status.FromString(trailing["grpc-status-details-bin"]), ErrorInfo()
        status.details[0].Unpack(info)
        [record] = [record for record in caplog.records if record.name == "msgov.grpc"]
        assert record.error_id == info.metadata["trace_id"] != ""  # type: ignore[attr-defined]
        assert SECRET in caplog.text


class TestDeadlines:
    """Nothing runs for ever, nor after nobody waits for it."""

    def slow(self, way: str, ended: threading.Event) -> dict[str, Any]:
        async def one(request: Any, context: Any) -> bytes:
            try:
                await asyncio.sleep(30)
            finally:
                ended.set()
            return b"late"

        async def many(request: Any, context: Any) -> AsyncIterator[bytes]:
            yield await one(request, context)

        return {"unary_unary": one, "unary_stream": many, "stream_unary": one, "stream_stream": many}

    @each_kind
    def test_a_call_without_one_gets_the_default(self, kind: str) -> None:
        """The handler is cancelled, and the caller is told."""
        ended = threading.Event()
        with served("aio", self.slow("aio", ended), default_deadline=0.1) as s:
            assert s.fails(ask(kind), kind=kind, timeout=None).code() is Code.DEADLINE_EXCEEDED
            assert ended.wait(5)
            assert s.outcome() == ("TRANSIENT", "deadline_exceeded")

    @each_kind
    def test_one_that_is_too_long_is_cut(self, kind: str) -> None:
        """99999999 hours are not a deadline."""
        ended = threading.Event()
        with served("aio", self.slow("aio", ended), default_deadline=0.1, longest_deadline=0.2) as s:
            assert s.fails(ask(kind), kind=kind, timeout=1e7).code() is Code.DEADLINE_EXCEEDED
            assert ended.wait(5)

    @each_kind
    def test_the_rule_of_the_server_may_be_shorter_than_the_caller(self, kind: str) -> None:
        """The shorter one counts."""
        ended = threading.Event()
        with served("aio", self.slow("aio", ended), Deadline(0.1)) as s:
            began = time.monotonic()
            assert s.fails(ask(kind), kind=kind).code() is Code.DEADLINE_EXCEEDED
            assert time.monotonic() - began < 5
            assert ended.wait(5)

    @each_kind
    def test_a_caller_that_goes_away_takes_its_handler_along(self, kind: str) -> None:
        """Cancelled, or gone with its connection."""
        for leave in ("cancel", "hang up"):
            ended = threading.Event()
            with served("aio", self.slow("aio", ended)) as s:
                method = getattr(s.channel, kind)(f"/t.T/{kind}")
                call = (method if kind.endswith("stream") else method.future)(
                    iter([b"ask"]) if kind.startswith("stream") else b"ask"
                )
                wait(lambda: s.gate.inside == 1)
                if leave == "cancel":
                    call.cancel()
                else:
                    s.channel.close()
                assert ended.wait(5)
                assert s.outcome()[0] == "IGNORED"

    @each_kind
    def test_a_handler_that_its_callers_deadline_ends_has_failed(self, kind: str) -> None:
        """The caller was told DEADLINE_EXCEEDED: a breaker must hear of it, not of a cancellation."""
        ended = threading.Event()
        with served("aio", self.slow("aio", ended)) as s:
            grpc.channel_ready_future(s.channel).result(5)
            assert s.fails(ask(kind), kind=kind, timeout=0.15).code() is Code.DEADLINE_EXCEEDED
            assert ended.wait(5)
            verdict, status = s.outcome()
            assert (verdict, status.upper()) == ("TRANSIENT", "DEADLINE_EXCEEDED")

    def test_a_thread_that_is_late_has_failed(self) -> None:
        """It cannot be interrupted; its caller has given up all the same."""

        def late(request: Any, context: Any) -> bytes:
            time.sleep(0.15)
            return b"late"

        with served("threads", late) as s:
            assert s.fails(timeout=0.05).code() is Code.DEADLINE_EXCEEDED
            assert s.outcome() == ("TRANSIENT", "DEADLINE_EXCEEDED")

    @each_way
    def test_a_server_that_stops_gives_grace(self, way: str) -> None:
        """What is under way ends well, and its permit comes back."""
        began = threading.Event()

        async def handler(request: Any, context: Any) -> bytes:
            began.set()
            await asyncio.sleep(0.2)
            return b"reply"

        def plain(request: Any, context: Any) -> bytes:
            began.set()
            time.sleep(0.2)
            return b"reply"

        with served(way, handler if way == "aio" else plain) as s:
            call = s.channel.unary_unary("/t.T/unary_unary").future(b"ask")
            assert began.wait(5)
            if way == "threads":
                s.server.stop(5).wait(5)
            else:
                loop = s.server._loop
                asyncio.run_coroutine_threadsafe(s.server.stop(5), loop).result(5)
            assert call.result(5) == b"reply"
            assert s.outcome()[0] == "OK"


class TestScope:
    """What the work under way carries."""

    @each_way
    @each_kind
    def test_a_handler_sees_its_own(self, way: str, kind: str) -> None:
        """In whatever thread, at every step of a stream."""
        seen: list[Any] = []
        sent = (("traceparent", f"00-{'a' * 32}-{'b' * 16}-01"),)
        with served(way, all_kinds(lambda context: seen.append(scope.current.get()), way)) as s:
            found = s.call(ask(kind), kind=kind, metadata=sent)
            if kind.endswith("stream"):
                list(found)
        assert seen[0].trace.trace_id == "a" * 32
        assert seen[0].key == "127.0.0.1"
        assert 5 < seen[0].deadline - time.monotonic() < 10.5  # the wire rounds up

    @each_way
    @each_kind
    def test_the_next_call_does_not_see_it(self, way: str, kind: str) -> None:
        """Threads are used again; what a handler leaves in its context is its own affair."""
        seen: list[Any] = []

        def step(context: Any) -> None:
            seen.append(scope.current.get().trace)
            scope.current.set(scope.Scope(trace=scope.Trace("c" * 32, "d" * 16)))

        with served(way, all_kinds(step, way), pool=1) as s:
            for metadata in ((("traceparent", f"00-{'a' * 32}-{'b' * 16}-01"),), ()):
                found = s.call(ask(kind), kind=kind, metadata=metadata)
                if kind.endswith("stream"):
                    list(found)
        assert seen[0].trace_id == "a" * 32
        assert seen[1] is None

    @each_way
    def test_attempts_are_believed_from_trusted_peers_only(self, way: str) -> None:
        """A client must not grant itself attempts."""
        for trusted, expected in ((True, 7), (False, None)):
            seen: list[Any] = []
            asked: list[str] = []

            def trusts(peer: str, asked: list[str] = asked, trusted: bool = trusted) -> bool:
                asked.append(peer)
                return trusted

            handlers = all_kinds(lambda context, seen=seen: seen.append(scope.current.get().attempts_left), way)
            with served(way, handlers, trusted=trusts) as s:
                s.call(metadata=(("msgov-attempts-left", "7"),))
            assert seen == [expected]
            assert asked[0].startswith("ipv4:127.0.0.1:")


class TestInput:
    """What comes in is hostile until read."""

    @each_way
    def test_headers_up_to_a_bound(self, way: str) -> None:
        """grpc takes a second to read a thousand; nobody needs more than these."""
        ran: list[int] = []
        with served(way, all_kinds(lambda context: ran.append(len(tuple(context.invocation_metadata()))), way)) as s:
            s.call()
            for extra, refused in ((MOST_HEADERS - ran[0], False), (MOST_HEADERS - ran[0] + 1, True)):
                metadata = tuple((f"h{number}", "x") for number in range(extra))
                if refused:
                    error = s.fails(metadata=metadata)
                    assert error.code() is Code.RESOURCE_EXHAUSTED
                    assert dict(error.trailing_metadata())["msgov-reason"] == "headers_too_large"
                    assert int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) < 0
                else:
                    assert s.call(metadata=metadata) == b"reply"
            assert len(ran) == 2
            assert s.gate.verdicts == ["OK", "OK", "IGNORED"]

    @each_way
    def test_metadata_that_is_too_big_costs_one_call(self, way: str) -> None:
        """The channel goes on."""
        with served(way, all_kinds(lambda context: None, way)) as s:
            assert s.fails(metadata=(("big", "x" * 100_000),)).code() is Code.RESOURCE_EXHAUSTED
            assert s.call() == b"reply"

    @each_way
    @each_kind
    def test_a_request_that_cannot_be_read(self, way: str, kind: str) -> None:
        """The caller is told that it is malformed, and not what the parser says."""

        def decode(raw: bytes) -> bytes:
            if raw == b"bad":
                raise ValueError(SECRET)
            return raw

        async def one(request: Any, context: Any) -> bytes:
            if kind.startswith("stream"):
                async for _ in request:
                    pass
            return b"reply"

        async def many(request: Any, context: Any) -> AsyncIterator[bytes]:
            yield await one(request, context)

        def one_plain(request: Any, context: Any) -> bytes:
            if kind.startswith("stream"):
                list(request)
            return b"reply"

        def many_plain(request: Any, context: Any) -> Iterator[bytes]:
            yield one_plain(request, context)

        handlers = (one, many) if way == "aio" else (one_plain, many_plain)
        with served(way, {kind: handlers[kind.endswith("stream")]}, decode=decode) as s:
            error = s.fails([b"bad"] if kind.startswith("stream") else b"bad", kind=kind)
            assert error.code() is Code.INVALID_ARGUMENT
            assert SECRET not in repr(error)
            assert s.outcome()[0] == "IGNORED"
            found = s.call([b"good"] if kind.startswith("stream") else b"good", kind=kind)
            assert (list(found) if kind.endswith("stream") else [found]) == [b"reply"]

    @each_way
    @each_kind
    def test_a_reply_that_cannot_be_written(self, way: str, kind: str) -> None:
        """A serialiser may show what it was given."""

        def encode(reply: Any) -> bytes:
            raise TypeError(SECRET)

        with served(way, all_kinds(lambda context: None, way), encode=encode) as s:
            error = s.fails(ask(kind), kind=kind)
            assert error.code() is not Code.OK
            assert SECRET not in repr(error)

    @each_way
    def test_a_method_that_nobody_knows(self, way: str) -> None:
        """It reaches no policy: what callers make up must not make state."""
        with served(way, all_kinds(lambda context: None, way)) as s:
            with pytest.raises(grpc.RpcError) as caught:
                s.channel.unary_unary("/t.T/Nothing")(b"", timeout=5)
            assert caught.value.code() is Code.UNIMPLEMENTED
            assert s.gate.entered == 0


def test_coroutines_that_write_replies_hold_their_tickets() -> None:
    """The other style of grpc.aio's streams."""

    async def writes(request: Any, context: Any) -> None:
        for number in range(3):
            await context.write(b"%d" % number)

    async def fails(request: Any, context: Any) -> None:
        await context.write(b"0")
        raise ValueError(SECRET)

    async def echoes(request: Any, context: Any) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            await context.write(message)

    with served("aio", {"unary_stream": writes, "stream_stream": echoes}) as s:
        assert list(s.call(kind="unary_stream")) == [b"0", b"1", b"2"]
        assert list(s.call([b"a", b"b"], kind="stream_stream")) == [b"a", b"b"]
        wait(lambda: s.gate.verdicts == ["OK", "OK"])
    with served("aio", {"unary_stream": fails}) as s:
        error = s.fails(kind="unary_stream")
        assert error.code() is Code.INTERNAL
        assert SECRET not in repr(error)
        assert s.outcome() == ("TRANSIENT", "INTERNAL")


def test_hosts_are_told_without_what_their_owner_may_change() -> None:
    """A port changes by the connection, an IPv6 host has 2^64 addresses."""
    assert host("ipv4:10.0.0.7:5123") == "10.0.0.7"
    assert host("ipv6:[2001:db8:1:2:3:4:5:6]:5123") == host("ipv6:%5B2001:db8:1:2::9%5D:77") == "2001:db8:1:2::/64"
    assert host("ipv6:[::ffff:10.0.0.7]:5123") == "10.0.0.7"
    assert host("unix:/run/a.sock") == "unix:/run/a.sock"
    assert host("ipv6:[nonsense]:1") == "nonsense"


@pytest.mark.parametrize(("default", "longest"), [(0, 1), (2, 1), (1, 1e9), (float("nan"), 1)])
def test_an_edge_with_deadlines_that_cannot_be_is_refused(default: float, longest: float) -> None:
    """At the start, not at the first call."""
    with pytest.raises(RuleError, match="default_deadline"):
        Edge(service="a", policies=lambda path: (), default_deadline=default, longest_deadline=longest)
