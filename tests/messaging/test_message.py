from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msgov import scope, wire
from msgov.call import NO, PERMANENT
from msgov.messaging.message import (
    BODY_LIMIT,
    HEADER_COUNT,
    HEADERS_LIMIT,
    KEY_LIMIT,
    Message,
    Poison,
    decode_headers,
    encode_headers,
)
from msgov.scope import Scope, Trace


def test_envelope_is_a_cloud_event() -> None:
    """Whoever reads the topic with other tools must find the attributes where CloudEvents puts them."""
    message = Message.of("order.placed", {"id": 1}, key="1", source="order", now=lambda: 1.5)
    headers = dict(message.headers)
    del headers["traceparent"]
    assert headers == {
        "ce_specversion": "1.0",
        "ce_id": message.id,
        "ce_type": "order.placed",
        "ce_source": "order",
        "ce_time": "1970-01-01T00:00:01.500+00:00",
        "content-type": "application/json",
    }


def test_id_and_type_in_the_headers_cannot_be_forged() -> None:
    """Two answers to one question are one too many."""
    message = Message("t", headers={"ce_id": "other", "ce_type": "u"})
    assert (message.headers["ce_id"], message.headers["ce_type"]) == (message.id, "t")


def test_trace_travels_along_and_the_callers_deadline_does_not() -> None:
    """An event stays true after the caller who caused it has given up."""
    token = scope.current.set(Scope(deadline=1.0, trace=Trace("a" * 32, "b" * 16, sampled=True, state="x=1")))
    try:
        message = Message.of("t", b"")
    finally:
        scope.current.reset(token)
    assert message.headers[wire.TRACEPARENT] == f"00-{'a' * 32}-{'b' * 16}-01"
    assert message.headers[wire.TRACESTATE] == "x=1"
    assert wire.DEADLINE not in message.headers
    assert message.left(10_000) is None


def test_message_without_a_trace_begins_one() -> None:
    """What a timer publishes can be followed too."""
    assert wire.read_traceparent(Message.of("t", b"").headers[wire.TRACEPARENT]) is not None


def test_deadline_that_was_asked_for_shrinks_with_age() -> None:
    """In the outbox and in the bus alike."""
    message = Message.of("t", b"", expires=10.0)
    assert message.left(4.0) == 6.0
    assert message.aged(4.0).left(1.0) == 5.0
    assert message.aged(60.0).left(0.0) == 0.0
    assert message.aged(-3.0).left(0.0) == 10.0
    assert message.left(12.0) == -2.0
    assert message.left(12.0, skew=5.0) == 3.0
    assert message.left(2.0, skew=5.0) == 10.0


@pytest.mark.parametrize(
    "make",
    [
        lambda: Message(""),
        lambda: Message("a b"),
        lambda: Message("t" * 201),
        lambda: Message("t", b"x" * (BODY_LIMIT + 1)),
        lambda: Message("t", key="k" * (KEY_LIMIT + 1)),
        lambda: Message("t", key="a\nb"),
        lambda: Message("t", id=""),
        lambda: Message("t", id="i" * 201),
        lambda: Message("t", id="a\x00"),
        lambda: Message("t", headers={"A": "1"}),
        lambda: Message("t", headers={"": "1"}),
        lambda: Message("t", headers={"a": "1\r\nb: 2"}),
        lambda: Message("t", headers={"a": "\ud800"}),
        lambda: Message("t", headers={"a": "x" * HEADERS_LIMIT}),
        lambda: Message("t", headers={f"a{n}": "" for n in range(HEADER_COUNT)}),
        lambda: Message.of("t", {"a": object()}),
        lambda: Message.of("t", {"a": float("nan")}),
    ],
)
def test_what_no_broker_should_be_given_is_refused(make: object) -> None:
    """Where it is made, so that it never blocks a partition."""
    with pytest.raises(Poison) as refused:
        make()  # type: ignore[operator]
    assert refused.value.sent is NO
    assert refused.value.verdict is PERMANENT


def test_limits_themselves_are_allowed() -> None:
    """Off by one here is a message lost there."""
    headers = {f"a{n}": "" for n in range(HEADER_COUNT - 4)}
    made = Message("t" * 200, b"x" * BODY_LIMIT, key="k" * KEY_LIMIT, id="i" * 200, headers=headers)
    assert len(made.headers) == HEADER_COUNT


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"x"', b"\xff", b"NaN", b'{"a": Infinity}', b"[" * 100_000])
def test_body_that_is_no_json_object_is_poison(body: bytes) -> None:
    """A handler that reads it must get one error, whatever is wrong."""
    with pytest.raises(Poison):
        Message("t", body).json()


def test_number_of_five_thousand_digits_is_poison() -> None:
    """Python refuses it with an error of its own kind."""
    with pytest.raises(Poison):
        Message("t", b'{"a": ' + b"9" * 5000 + b"}").json()


def test_payload_is_not_shown() -> None:
    """It may hold secrets, and messages are logged."""
    assert "hunter2" not in repr(Message.of("t", {"password": "hunter2"}, headers={"x-token": "hunter2"}))


def test_headers_are_frozen() -> None:
    """A handler that changes them would change them for the next attempt."""
    given_headers = {"a": "1"}
    message = Message("t", headers=given_headers)
    given_headers["a"] = "2"
    assert message.headers["a"] == "1"
    with pytest.raises(TypeError):
        message.headers["a"] = "3"  # type: ignore[index]


@given(st.dictionaries(st.from_regex(r"[a-z][a-z-]{0,9}", fullmatch=True), st.text(max_size=20), max_size=9))
def test_headers_survive_the_codec(headers: dict[str, str]) -> None:
    """Whatever characters they hold."""
    try:
        message = Message("t", headers=headers)
    except Poison:
        return
    assert decode_headers(encode_headers(message)) == message.headers
