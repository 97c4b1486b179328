"""A method is what its path and its description say of it, its policies made into a pipeline, and its native twins."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextvars import Context
from functools import lru_cache
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import MethodOptions

from msgov import scope, wire
from msgov.call import NOTHING, Call
from msgov.clock import Clock
from msgov.pipeline import Pipeline, Policy, Segment
from msgov.policy import Hedging, Plan

from . import status
from .connections import Connection

Serializer = Callable[[Any], Any] | None
Metadata = Iterable[tuple[str, str | bytes]]
Policies = Callable[[str], tuple[Policy, ...]]

NO_DEADLINE = 1e9  # seconds; grpc overflows on what is much longer

MOST_METHODS = 1024  # that a channel keeps

_KEY = re.compile(r"[0-9a-z_.-]+", re.ASCII)
_VALUE = re.compile(r"[\x20-\x7e]*", re.ASCII)


def split(path: str) -> tuple[str, str]:
    """Split "/pkg.Service/Method" into service and method; the parts of anything else are empty."""
    parts = path.split("/")
    return (parts[1], parts[2]) if len(parts) == 3 and not parts[0] else ("", "")


def idempotent(path: str) -> bool:
    """Whether the method's own proto says that running it twice does no harm (`option idempotency_level`).

    A method that no loaded module describes may not; it is asked for again, for its module may be loaded later.
    """
    try:
        return _described(path)
    except KeyError:
        return False


@lru_cache(maxsize=4096)  # a proxy may call whatever its own callers name
def _described(path: str) -> bool:
    service, method = split(path)
    found = descriptor_pool.Default().FindMethodByName(f"{service}.{method}")
    level = found.GetOptions().idempotency_level
    return level in (MethodOptions.NO_SIDE_EFFECTS, MethodOptions.IDEMPOTENT)


def keyed(metadata: Metadata | None) -> bool:
    """Whether a call brings an `idempotency-key`, by which its callee tells the second request from a new one."""
    return metadata is not None and any(pair[0] == wire.IDEMPOTENCY_KEY and pair[1] for pair in metadata)


def until(timeout: float | None, around: float | None, now: float) -> float | None:
    """Return the deadline of a call that may take `timeout` seconds, in work that ends at `around`.

    A timeout beyond NO_DEADLINE, infinity too, is none. Raises ValueError for NaN, TypeError for what is no number.
    """
    if timeout is None:
        return around
    if timeout != timeout:
        raise ValueError("timeout = nan: a number of seconds, or None for no limit")
    return around if timeout > NO_DEADLINE else scope.sooner(around, now + timeout)


def checked(metadata: Metadata | None) -> status.Pairs:
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


class Given:
    """What a caller gave beside request and timeout; `fault` is what its request iterator raised.

    `payload` is the request ready to be sent, where it is made once for all attempts.
    """

    __slots__ = ("compression", "credentials", "fault", "metadata", "payload", "wait_for_ready")

    def __init__(
        self,
        metadata: Metadata | None,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> None:
        self.metadata = checked(metadata)
        self.credentials = credentials
        self.wait_for_ready = wait_for_ready
        self.compression = compression
        self.fault: BaseException | None = None
        self.payload: object = None


class Governed:
    """A method's policies made into a pipeline, which is sound as long as they are the same tuple."""

    __slots__ = ("hedged", "pipeline", "policies", "segment")

    def __init__(self, policies: tuple[Policy, ...], *, once: bool) -> None:
        self.policies = policies
        kept = [policy for policy in policies if not (once and isinstance(policy, Plan))]
        self.pipeline = Pipeline(kept, classify=status.judge)
        self.segment: Segment = self.pipeline.flat
        self.hedged = isinstance(self.segment.plan, Hedging)


class Method:
    """One method of a channel, either colour: what is made once and used for every call of it.

    Messages are serialised here and not by grpc, which (asyncio) would send an empty message for one that cannot be.
    """

    def __init__(
        self, target: str, policies: Policies, clock: Clock, kind: str, path: str,
        encode: Serializer, decode: Serializer, *, registered: bool,
    ) -> None:  # fmt: skip
        self.target = target
        self.clock = clock
        self.path = path
        self._encode = encode
        self.once = kind.startswith("stream")
        self.streams = kind.endswith("stream")
        self.idempotent = False
        self._asked = False  # whether its proto was
        self._find = policies
        self._kind = kind
        self._how: dict[str, Any] = {"request_serializer": None, "response_deserializer": decode}
        if registered:
            self._how["_registered_method"] = True
        self._natives: dict[Connection[Any], Any] = {}
        self._governed: Governed | None = None

    def governed(self) -> Governed:
        """Return what governs the next call; a request stream is sent once, so nothing plans another attempt of it."""
        governed, policies = self._governed, self._find(self.path)
        if governed is None or governed.policies is not policies:
            governed = self._governed = Governed(policies, once=self.once)
        return governed

    def encode(self, message: Any) -> Any:
        """Serialise a message."""
        return message if self._encode is None else self._encode(message)

    def native(self, connection: Connection[Any]) -> Any:
        """Return the native multicallable of a connection, made with its first call."""
        found = self._natives.get(connection)
        if found is None:
            found = getattr(connection.channel, self._kind)(self.path, **self._how)
            living = {each: native for each, native in self._natives.items() if not each.closed}
            self._natives = {**living, connection: found}  # never changed in place: threads read it without a lock
        return found

    def call(self, request: object, timeout: float | None) -> Call:
        """Make a call in the current scope."""
        if not self._asked:  # at the first call: by then its module is loaded
            self.idempotent, self._asked = idempotent(self.path), True
        around = scope.current.get()
        deadline = around.deadline
        if timeout is not None:
            deadline = until(timeout, deadline, self.clock())
        return Sending(self.target, self.path, request, deadline, self.idempotent, around)


class Sending(Call):
    """A call to be sent."""

    __slots__ = ()

    def __init__(
        self,
        target: str,
        method: str,
        request: object,
        deadline: float | None,
        idempotent: bool,
        around: scope.Scope,
    ) -> None:
        # Store by store: through the constructor of a call, in keywords, it takes twice as long.
        self.target = target
        self.method = method
        self.request = request
        self.deadline = deadline
        self.idempotent = idempotent
        self.key = around.key
        self.trace = around.trace
        self.attempts_left = around.attempts_left
        self.criticality = around.criticality
        self.metadata = NOTHING
        self.attempt = 1
        self.context = self.instance = self.tried = None
        self.status = ""


def scoped(call: Call) -> Context:
    """Make a context for what works in the callee's place: it inherits the call's deadline, trace, key and weight."""
    context = Context()
    around = scope.Scope(
        deadline=call.deadline,
        trace=call.trace,
        attempts_left=call.attempts_left,
        key=call.key,
        criticality=call.criticality,
    )
    context.run(scope.current.set, around)
    return context
