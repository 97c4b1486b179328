"""A call that comes in becomes a call of ours: whom it is for, how long it may take, which trace it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from msgov import scope, wire
from msgov.call import Call
from msgov.clock import Clock, monotonic
from msgov.errors import DeadlineSpent, Rejected, RuleError
from msgov.pipeline import Policy
from msgov.resilience.keys import network

from .method import Serializer

MOST_HEADERS = 64
_ATTEMPTS: Final = frozenset((wire.ATTEMPT, wire.ENVOY_ATTEMPT, wire.GRPC_PREVIOUS))
_NEVER = 1e12  # seconds; threads are told 9.2e18 where the caller set no deadline, and up to 3.6e11 where it did
_NOTHING: Final[AbstractContextManager[object]] = nullcontext()


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """How a server governs what comes in.

    `policies` gives those of a method path, the same tuple until their shape changes. `default_deadline` and
    `longest_deadline` (seconds) bound calls that came without one, or with too long a one. `trusted` says whose attempt
    allowance is believed, by peer. `around` is entered round each unary handler, in its own task or thread (a tracer
    makes its span current there). `pool` is where an asyncio server runs plain functions; by default the loop's own.
    """

    service: str
    policies: Callable[[str], tuple[Policy, ...]]
    default_deadline: float = 15.0
    longest_deadline: float = 60.0
    trusted: Callable[[str], bool] = field(default=lambda peer: False)
    around: Callable[[Call], AbstractContextManager[object]] = field(default=lambda call: _NOTHING)
    pool: Executor | None = None
    clock: Clock = monotonic

    def __post_init__(self) -> None:
        """Check the numbers; raises `RuleError`."""
        if not 0 < self.default_deadline <= self.longest_deadline <= wire.LONGEST:
            raise RuleError.at(
                "default_deadline", self.default_deadline, f"above 0, at most longest_deadline, {wire.LONGEST:g} s"
            )


class Malformed(Rejected):
    """The request cannot be deserialised: the same bytes will not be, next time."""

    reason = "malformed"
    retry_after = -1.0


class HeadersTooLarge(Rejected):
    """More headers came than any caller has need of."""

    reason = "headers_too_large"
    retry_after = -1.0


class Serving(Call):
    """A call being served, which knows how far its handler has come.

    `context` is grpc's. `due` is when its caller stops waiting, or we do: then it is `clamped`, and the transport will
    not end it. A stream is `endless` where only the transport ends it. `refused` is what the handler must not be run
    for.
    """

    __slots__ = ("began", "chosen", "clamped", "clock", "due", "endless", "refused")

    def __init__(
        self, edge: Edge, path: str, request: object, context: Any, headers: dict[str, str], around: scope.Scope
    ) -> None:
        # Store by store: through the constructor of a call, in keywords, it takes twice as long.
        self.target = edge.service
        self.method = path
        self.request = request
        self.context = context
        self.metadata = headers
        self.deadline = self.due = around.deadline
        self.key = around.key
        self.trace = around.trace
        self.attempts_left = around.attempts_left
        self.criticality = around.criticality
        self.attempt = 1 if _ATTEMPTS.isdisjoint(headers) else wire.attempt(headers)
        self.idempotent = False
        self.instance = self.tried = None
        self.status = ""
        self.clock = edge.clock
        self.began = self.chosen = self.clamped = self.endless = False
        self.refused: Rejected | None = None

    @property
    def late(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.due is not None and self.clock() >= self.due

    @property
    def unguarded(self) -> bool:
        """Whether its deadline comes before the one that the transport ends it at."""
        return self.clamped or self.deadline is not self.due


def receive(edge: Edge, path: str, request: object, context: Any, decode: Serializer) -> Serving:
    """Make the call of an RPC that came in, and make its deadline and trace the current scope; `decode` its request.

    What must be refused is refused by `begin`, inside the pipeline, where it is counted.
    """
    metadata = context.invocation_metadata() or ()
    # HTTP/2 names are in lower case; of a repeated one the first counts.
    headers = dict(reversed(metadata if len(metadata) <= MOST_HEADERS else metadata[:MOST_HEADERS]))
    for name, value in headers.items():
        if value.__class__ is bytes:
            headers[name] = value.decode("latin-1")
    told = context.time_remaining()
    seconds = edge.default_deadline if told is None or told > _NEVER else min(told, edge.longest_deadline)
    peer = context.peer()
    trusted = (wire.ATTEMPTS_LEFT in headers or wire.CRITICALITY in headers) and edge.trusted(peer)
    around = wire.incoming(headers, edge.clock(), trusted=trusted, seconds=seconds, key=host(peer))
    serving = Serving(edge, path, request, context, headers, around)
    serving.clamped = seconds != told
    if len(metadata) > MOST_HEADERS:
        serving.refused = HeadersTooLarge(f"{len(metadata)} headers: {MOST_HEADERS} at most", headers=len(metadata))
    elif decode is not None:
        try:
            serving.request = decode(request)
        except Malformed as error:
            serving.refused = error
    scope.current.set(around)
    return serving


@lru_cache(maxsize=4096)  # a peer's port stays as long as its connection
def host(peer: str) -> str:
    """Say whom a call is for by grpc's peer ("ipv4:10.0.0.7:5123"): an IPv4 address, or the /64 of an IPv6 host."""
    found = bare(peer)
    return network(found) if ":" in found else found


def bare(peer: str) -> str:
    """Return the address of grpc's peer without its port; what is no address ("unix:...") stays as it is."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return peer
    return rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]").partition("%")[0]


def begin(serving: Serving) -> None:
    """Note that the handler runs, in the trace that the policies chose.

    Raises what the call is refused for, and `DeadlineSpent` when nobody waits for it any more.
    """
    if serving.refused is not None:
        raise serving.refused
    trace, around = serving.trace, scope.current.get()
    if serving.late:
        if serving.endless or serving.deadline is None or serving.deadline <= serving.clock():
            raise DeadlineSpent("the caller's time ran out before the handler began")
        around.deadline = serving.due = serving.deadline  # a policy lets it in all the same, and gives it time
        serving.clamped = True
    serving.began = True
    if trace is not None and trace is not around.trace:
        around.trace = trace  # made by `receive` for this call, or out of that: nobody else has it
