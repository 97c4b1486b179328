"""A limit goes out as `RateLimit-Policy` and `RateLimit`, computed from the numbers that decided the call.

    RateLimit-Policy: "api";q=100;w=60      100 calls in 60 seconds
    RateLimit: "api";r=50;t=30              50 are left at once, all of them in 30 seconds

draft-ietf-httpapi-ratelimit-headers-11, a List of Strings with parameters (RFC 9651). `Retry-After` is the
refusal's own (`msgov.transport.problem`) and wins, as the draft says, so clients read that alone.

For an edge: `headers(standings)` for a reply, where `msgov.resilience.standing` says how to come by standings without
cost for those who do not want them; `refused(error)` for a refusal.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final

from msgov.errors import Rejected
from msgov.resilience.standing import Standing

Headers = list[tuple[bytes, bytes]]

POLICY: Final = b"ratelimit-policy"
LIMIT: Final = b"ratelimit"

_LARGEST = 999_999_999_999_999  # of an Integer (RFC 9651, 3.3.1)
_UNSPEAKABLE = re.compile(r"[^\x20-\x7e]")  # what a String cannot hold
_NAME = 64  # characters of a limit's name


def headers(standings: Sequence[Standing]) -> Headers:
    """Return both headers, one item in each for every limit; none where there is none."""
    if not standings:
        return []
    policies, limits = [], []
    for each in standings:
        name = _quoted(each.name)
        policies.append(f"{name};q={_whole(each.quota)};w={max(1, _whole(each.window))}")
        limits.append(f"{name};r={_whole(each.remaining)};t={_whole(each.reset)}")
    return [(POLICY, ", ".join(policies).encode()), (LIMIT, ", ".join(limits).encode())]


def refused(error: Rejected) -> Headers:
    """Return the headers of a refusal: those of the limit that refused, none for another kind of refusal."""
    standing = Standing.of(error)
    return [] if standing is None else headers((standing,))


def _quoted(name: str) -> str:
    """Write a String: printable ASCII, quotes and backslashes escaped; any other character is written as "_"."""
    text = _UNSPEAKABLE.sub("_", name[:_NAME]) or "default"
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _whole(value: float) -> int:
    """Round seconds up, never below 0: who comes back at the second told is not too early."""
    return min(_LARGEST, max(0, math.ceil(value)))
