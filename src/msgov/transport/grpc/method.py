"""What a method's path and its own description say about it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import MethodOptions

Serializer = Callable[[Any], Any] | None


def split(path: str) -> tuple[str, str]:
    """Split "/pkg.Service/Method" into service and method; the parts of anything else are empty."""
    parts = path.split("/")
    return (parts[1], parts[2]) if len(parts) == 3 and not parts[0] else ("", "")


@cache
def idempotent(path: str) -> bool:
    """Whether the method's own proto says that running it twice does no harm (`option idempotency_level`)."""
    service, method = split(path)
    try:
        found = descriptor_pool.Default().FindMethodByName(f"{service}.{method}")
    except KeyError:
        return False
    level = found.GetOptions().idempotency_level
    return level in (MethodOptions.NO_SIDE_EFFECTS, MethodOptions.IDEMPOTENT)
