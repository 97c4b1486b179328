"""What no client library would send harms nobody: the handler runs on what can be believed, or not at all."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import Any

import pytest

from msgov import scope
from tests.transport.grpc import raw
from tests.transport.grpc.served import WAYS, Served, served

PATH = "/t.T/unary_unary"
each_way = pytest.mark.parametrize("way", WAYS)


class Seen:
    """What a handler saw, each time it ran."""

    def __init__(self) -> None:
        self.scopes: list[scope.Scope] = []
        self.left: list[float] = []
        self.requests: list[bytes] = []

    def handler(self, way: str) -> Any:
        def run(request: bytes, context: Any) -> bytes:
            around = scope.current.get()
            self.scopes.append(around)
            self.requests.append(request)
            self.left.append((around.deadline or 0.0) - time.monotonic())
            return b"reply"

        async def run_async(request: bytes, context: Any) -> bytes:
            return run(request, context)

        return run_async if way == "aio" else run


def lives(s: Served) -> None:
    """Check that the next good call is answered."""
    assert s.call() == b"reply"
    assert s.gate.inside == 0


@each_way
@pytest.mark.parametrize("value", [b"abc", b"-1S", b"0n", b"1.5S", b"\xd9\xa1S"])
def test_a_deadline_that_is_none_runs_nothing(way: str, value: bytes) -> None:
    """grpc refuses them, or takes them for spent."""
    seen = Seen()
    with served(way, seen.handler(way)) as s:
        raw.ask(s.port, PATH, (b"grpc-timeout", value))
        assert seen.requests == []
        lives(s)


@each_way
def test_a_deadline_without_end_is_cut(way: str) -> None:
    """Eight digits of hours are eleven thousand years."""
    seen = Seen()
    with served(way, seen.handler(way)) as s:
        for value in (b"99999999H", b"123456789S"):
            raw.ask(s.port, PATH, (b"grpc-timeout", value))
        raw.ask(s.port, PATH)
        assert [round(left) for left in seen.left] == [60, 60, 15]
        lives(s)


@each_way
@pytest.mark.parametrize(
    "value",
    [
        b"a\r\nb: c",
        b"\x00",
        b"\x1b[31m",
        "ünïcödé".encode(),
        b"\xff\xfe",
        b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01",
    ],
)
def test_header_values_that_no_client_sends(way: str, value: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """grpc delivers some of them to the handler: they make no trace, no key, no line of a log, and go nowhere on."""
    seen = Seen()
    names = (b"traceparent", b"tracestate", b"baggage", b"msgov-deadline-ms", b"msgov-attempts-left", b"x-other")
    with caplog.at_level(logging.DEBUG, "msgov"), served(way, seen.handler(way), trusted=lambda peer: True) as s:
        for name in names:
            raw.ask(s.port, PATH, (name, value))
        for around in seen.scopes:
            assert (around.trace, around.attempts_left, around.key) == (None, None, "127.0.0.1")
            assert around.baggage in ("", "00-" + "0" * 32 + "-" + "0" * 16 + "-01")  # whatever is printable goes on
        lives(s)
    assert not [record for record in caplog.records if record.name.startswith("msgov")]


@each_way
@pytest.mark.parametrize(
    ("more", "body"),
    [
        ((), raw.message(b"abc", length=100)),
        ((), raw.message(b"", length=2**32 - 1)),
        ((), raw.message(b"x" * 40, flag=1)),
        (((b"grpc-encoding", b"gzip"),), raw.message(b"no gzip", flag=1)),
        (((b"grpc-encoding", b"bogus"),), raw.message(b"abc", flag=1)),
        ((), b"\x00"),
        ((), b""),
    ],
)
def test_messages_that_are_none_reach_no_handler(way: str, more: Any, body: bytes) -> None:
    """Not as an empty request either."""
    seen = Seen()
    with served(way, seen.handler(way)) as s:
        with suppress(TimeoutError):  # grpc.aio answers nothing where no message came
            raw.ask(s.port, PATH, *more, body=body, patience=0.3)
        assert seen.requests == []
        lives(s)


@each_way
@pytest.mark.parametrize("path", ["abc", "/../../x", "/t.T/", "/" + "x" * 100, "/t.T/unary_unary/"])
def test_paths_that_nobody_serves_make_no_state(way: str, path: str) -> None:
    """They reach no policy: a million of them are a million refusals."""
    with served(way, Seen().handler(way)) as s:
        raw.ask(s.port, path)
        assert s.gate.entered == 0
        lives(s)
