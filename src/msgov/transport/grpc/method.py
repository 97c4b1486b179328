"""What a method's path and its own description say about it, and what a call of it may be given."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import MethodOptions

from msgov.scope import sooner

Serializer = Callable[[Any], Any] | None
Metadata = Iterable[tuple[str, str | bytes]]
Pairs = tuple[tuple[str, str | bytes], ...]

NO_DEADLINE = 1e9  # seconds; grpc gives 9.2e18 where a caller set none, and overflows on what is much longer

_KEY = re.compile(r"[0-9a-z_.-]+", re.ASCII)
_VALUE = re.compile(r"[\x20-\x7e]*", re.ASCII)


def split(path: str) -> tuple[str, str]:
    """Split "/pkg.Service/Method" into service and method; the parts of anything else are empty."""
    parts = path.split("/")
    return (parts[1], parts[2]) if len(parts) == 3 and not parts[0] else ("", "")


@lru_cache(maxsize=4096)  # a proxy may call whatever its own callers name
def idempotent(path: str) -> bool:
    """Whether the method's own proto says that running it twice does no harm (`option idempotency_level`)."""
    service, method = split(path)
    try:
        found = descriptor_pool.Default().FindMethodByName(f"{service}.{method}")
    except KeyError:
        return False
    level = found.GetOptions().idempotency_level
    return level in (MethodOptions.NO_SIDE_EFFECTS, MethodOptions.IDEMPOTENT)


def until(timeout: float | None, around: float | None, now: float) -> float | None:
    """Return the deadline of a call that may take `timeout` seconds, in work that ends at `around`.

    A timeout beyond NO_DEADLINE, infinity too, is none. Raises ValueError for NaN, TypeError for what is no number.
    """
    if timeout is None:
        return around
    if timeout != timeout:
        raise ValueError("timeout = nan: a number of seconds, or None for no limit")
    return around if timeout > NO_DEADLINE else sooner(around, now + timeout)


def checked(metadata: Metadata | None) -> Pairs:
    """Return metadata as pairs; raises ValueError where grpc would refuse it, or (asyncio) never end the call.

    Keys: digits, lower-case letters and `_.-`. Values: printable ASCII, and any bytes for keys that end in `-bin`. The
    message does not repeat the value: it may be a secret.
    """
    if metadata is None:
        return ()
    pairs = tuple((key, value) for key, value in metadata)
    for key, value in pairs:
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise ValueError(f"metadata key {key!r:.80}: digits, lower-case letters and _.- only")
        if not isinstance(value, str | bytes):
            raise ValueError(f"metadata {key!r}: {type(value).__name__} given, text or bytes needed")
        text = value if isinstance(value, str) else value.decode("latin-1")
        if not key.endswith("-bin") and not _VALUE.fullmatch(text):
            raise ValueError(f"metadata {key!r}: printable ASCII only; end the key in -bin for any bytes")
    return pairs
