"""What a request may be is said and checked here: ASGI servers keep no such limits, and parsers differ.

The limits that show only while a body arrives are kept by `exchange`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from itertools import chain
from typing import Any, TypeVar, overload

from msgov.rule import field, rule

T = TypeVar("T")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@rule
class Limits:
    """How large the headers and the body of a request may be, and how long its body may take."""

    header_bytes: int = field(
        default=16 * 1024, ge=256, le=1 << 20, unit="bytes", why="names and values; proxies stop at 8 to 16 KiB"
    )
    headers: int = field(default=100, ge=1, le=10_000, unit="headers", why="browsers send about 20 (Apache's limit)")
    body_bytes: int = field(
        default=1 << 20, ge=0, le=1 << 40, unit="bytes", why="JSON needs less; counted while it streams in (nginx)"
    )
    body_seconds: float = field(
        default=30.0, gt=0, le=3600, unit="s", why="from the request's begin; a drip must not hold us for ever"
    )


class Headers(Mapping[str, str]):
    """Headers as text, decoded when asked for: most requests are served without. Of a repeated name the first counts.

    `raw` has names in lower case, as ASGI gives them.
    """

    __slots__ = ("raw",)

    def __init__(self, raw: dict[bytes, bytes]) -> None:
        self.raw = raw

    def __getitem__(self, name: str) -> str:
        """Return a header by its lower-case name."""
        return self.raw[name.encode("latin-1", "replace")].decode("latin-1")

    @overload
    def get(self, name: str, /) -> str | None: ...
    @overload
    def get(self, name: str, /, default: T) -> str | T: ...
    def get(self, name: str, /, default: object = None) -> object:
        """Return a header, or `default`: without the error that a mapping's own `get` raises and catches."""
        value = self.raw.get(name.encode("latin-1", "replace"))
        return default if value is None else value.decode("latin-1")

    def __contains__(self, name: object) -> bool:
        """Whether a header came: without the error that a mapping's own look raises and catches."""
        return isinstance(name, str) and name.encode("latin-1", "replace") in self.raw

    def __iter__(self) -> Iterator[str]:
        """Go through the names."""
        return (name.decode("latin-1") for name in self.raw)

    def __len__(self) -> int:
        """Count the names."""
        return len(self.raw)


def oversized(scope: Scope, limits: Limits) -> bool:
    """Say whether the headers are too many or too large."""
    pairs = scope["headers"]
    return len(pairs) > limits.headers or sum(map(len, chain.from_iterable(pairs))) > limits.header_bytes


def wrong(headers: dict[bytes, bytes], scope: Scope, limits: Limits) -> str:
    """Name what is wrong with a request that cannot be served, "" when it can.

    Refused are a body larger than it may be, and what parsers let through and the next one may read otherwise: two
    lengths of one body, no host (RFC 9112, 3.2 and 6.3).
    """
    length = headers.get(b"content-length")
    if length is not None:
        if b"transfer-encoding" in headers or not length.isdigit():
            return "malformed"
        if len(length) > 18 or int(length) > limits.body_bytes:
            return "body_too_large"
    return "malformed" if scope.get("http_version") == "1.1" and b"host" not in headers else ""
