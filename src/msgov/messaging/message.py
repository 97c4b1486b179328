"""A message says what happened, whom it concerns, and what travels along; it is checked where it is made.

Its headers are the envelope, the same on every broker: CloudEvents attributes (`ce_id`, `ce_type`; CloudEvents 1.0,
Kafka binding), W3C trace context, and msgov's own names, which stand in `msgov.wire`.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType

from msgov import scope, wire
from msgov.call import NO, NOTHING, PERMANENT
from msgov.clock import Clock, wall
from msgov.errors import DeliveryError, Fact

BODY_LIMIT = 256 * 1024  # bytes: brokers and inboxes are for facts; what is larger belongs in a store, its name here
HEADERS_LIMIT = 16 * 1024  # bytes of all names and values
HEADER_COUNT = 64
NAME_LIMIT = 200  # characters of a topic, a group, an id
KEY_LIMIT = 512  # characters

CE_ID, CE_TYPE, CE_SOURCE, CE_TIME, CE_VERSION = "ce_id", "ce_type", "ce_source", "ce_time", "ce_specversion"
CONTENT_TYPE = "content-type"

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_LIMIT - 1}}}")
_HEADER = re.compile(r"[a-z0-9_][a-z0-9._-]{0,99}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")

Body = bytes | Mapping[str, object]


class Poison(DeliveryError):
    """A message that no further attempt can help: malformed, too large, unreadable.

    Raised where a message is made, so that it never leaves; a handler raises it to have what it was given dead-lettered
    at once.
    """

    reason = "poison"
    verdict = PERMANENT

    def __init__(self, message: str, **facts: Fact) -> None:
        super().__init__(message, sent=NO, **facts)


def new_id() -> str:
    """Mint a random id."""
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class Message:
    """One message, frozen.

    `topic` says what it is about, `key` whom it concerns: messages of one key are handled in the order of publishing,
    those without a key in any order. `id` tells it from all others and stays the same however often it is delivered.
    Limits: body 256 KiB; headers 64, together 16 KiB, names of lower-case letters, digits and `._-`, values without
    control characters; topic and id 200 characters, key 512. Raises `Poison` beyond them.
    """

    topic: str
    body: bytes = field(default=b"", repr=False)  # it may hold secrets
    _: KW_ONLY
    key: str = ""
    id: str = field(default_factory=new_id)
    headers: Mapping[str, str] = field(default_factory=dict, hash=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse what no broker should be given, and freeze the headers."""
        check_name("topic", self.topic)
        if not self.id or len(self.id) > NAME_LIMIT or _CONTROL.search(self.id):
            raise Poison(f"message id {_shown(self.id)}: 1 to {NAME_LIMIT} characters, none of them control characters")
        if len(self.key) > KEY_LIMIT or _CONTROL.search(self.key):
            raise Poison(f"message key {_shown(self.key)}: at most {KEY_LIMIT} characters, no control characters")
        if len(self.body) > BODY_LIMIT:
            raise Poison(
                f"{self.topic}: a body of {len(self.body)} bytes; at most {BODY_LIMIT}: send a reference instead"
            )
        headers = {CE_VERSION: "1.0", CE_SOURCE: "msgov", **self.headers, CE_ID: self.id, CE_TYPE: self.topic}
        _check_headers(self.topic, headers)
        object.__setattr__(self, "headers", MappingProxyType(headers))

    @classmethod
    def of(
        cls,
        topic: str,
        body: Body,
        *,
        key: str = "",
        headers: Mapping[str, str] = NOTHING,
        source: str = "",
        expires: float | None = None,
        now: Clock = wall,
    ) -> Message:
        """Make a message with its whole envelope; a mapping is written as JSON.

        The trace of the current scope travels along. Its deadline does not, unless asked for: an event is a fact, which
        stays true after the caller who caused it has given up. `expires` is in seconds from now, for a message that
        is a request; `expires=scope.remaining()` hands the caller's own deadline on.
        Raises `Poison` for what cannot be JSON, and beyond the limits.
        """
        made = dict(headers)
        if isinstance(body, Mapping):
            body = to_json(topic, body)
            made.setdefault(CONTENT_TYPE, "application/json")
        if source:
            made[CE_SOURCE] = source
        made[CE_TIME] = datetime.fromtimestamp(now(), UTC).isoformat(timespec="milliseconds")
        trace = scope.current.get().trace or wire.child(None)
        made[wire.TRACEPARENT] = wire.write_traceparent(trace)
        if trace.state:
            made[wire.TRACESTATE] = trace.state
        if expires is not None:
            made[wire.DEADLINE] = str(max(0, int(expires * 1000)))
        return cls(topic, body, key=key, headers=made)

    def json(self) -> dict[str, object]:
        """Read the body as a JSON object; raises `Poison` when it is none."""
        try:
            found = json.loads(self.body, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise Poison(f"{self.topic} {self.id}: the body is not JSON ({type(error).__name__})") from error
        if not isinstance(found, dict):
            raise Poison(f"{self.topic} {self.id}: the body is a JSON {type(found).__name__}, not an object")
        return found

    def having(self, headers: Mapping[str, str]) -> Message:
        """Return a copy with these headers set."""
        return replace(self, headers={**self.headers, **headers})

    def aged(self, seconds: float) -> Message:
        """Return a copy whose deadline, if it has one, is nearer by what it has waited."""
        left = wire.read_milliseconds(self.headers.get(wire.DEADLINE))
        if left is None:
            return self
        return self.having({wire.DEADLINE: str(max(0, int((left - max(0.0, seconds)) * 1000)))})

    def left(self, age: float, *, skew: float = 0.0) -> float | None:
        """Return the seconds until it expires, `age` seconds after the broker took it; None if it never does.

        `skew` is how far the broker's clock and ours may differ: that much is taken off the age.
        """
        left = wire.read_milliseconds(self.headers.get(wire.DEADLINE))
        return None if left is None else left - max(0.0, age - skew)


def to_json(topic: str, body: Mapping[str, object]) -> bytes:
    """Write a mapping as JSON bytes; raises `Poison` for what JSON cannot say."""
    try:
        return json.dumps(body, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise Poison(f"{topic}: the body cannot be written as JSON: {error}") from error


def encode_headers(message: Message) -> str:
    """Write the headers as a JSON object."""
    return json.dumps(dict(message.headers), separators=(",", ":"), ensure_ascii=False)


def decode_headers(text: str) -> dict[str, str]:
    """Read what `encode_headers` wrote."""
    return {str(name): str(value) for name, value in json.loads(text).items()}


def check_name(what: str, name: str) -> None:
    """Raise `Poison` unless it can name a topic or a group on every broker."""
    if _NAME.fullmatch(name) is None:
        raise Poison(
            f"{what} {_shown(name)}: letters, digits and '._-', beginning with a letter or digit, at most {NAME_LIMIT}"
        )


def _check_headers(topic: str, headers: Mapping[str, str]) -> None:
    if len(headers) > HEADER_COUNT:
        raise Poison(f"{topic}: {len(headers)} headers; at most {HEADER_COUNT}")
    size = 0
    for name, value in headers.items():
        if _HEADER.fullmatch(name) is None:
            raise Poison(f"{topic}: header name {_shown(name)}: 1 to 100 lower-case letters, digits and '._-'")
        if _CONTROL.search(value):
            raise Poison(f"{topic}: header {name}: no control characters")
        size += len(name) + len(value.encode())
    if size > HEADERS_LIMIT:
        raise Poison(f"{topic}: headers of {size} bytes; at most {HEADERS_LIMIT}")


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
