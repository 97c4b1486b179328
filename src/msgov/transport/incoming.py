"""A request that comes in becomes a call: whom it is for, how long it may take, which trace it belongs to."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from msgov import scope as scopes
from msgov import wire
from msgov.call import Call
from msgov.clock import Clock, monotonic
from msgov.errors import RuleError
from msgov.pipeline import Policy
from msgov.resilience.keys import network
from msgov.transport.limits import Headers, Limits, Scope
from msgov.transport.routes import UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpEdge:
    """How an ASGI application is governed.

    `policies` gives those of "VERB /path", the same tuple until their shape changes. A request without a deadline gets
    `default_deadline` seconds, 15 by default, and none once it replies with an event stream; a longer one than
    `longest_deadline`, 60 by default, is cut. `trusted` tells by its address which peer is believed: its attempt
    allowance, its criticality, and, with `hops` proxies in front, the X-Forwarded-For that they append to. Otherwise
    the peer of the socket is whom a request is for; let no server rewrite it (uvicorn: `proxy_headers=False`).
    `standing` tells each caller in `RateLimit` headers what the limiters among the policies leave it; a refusal does so
    in any case. `around` is entered round the application where the call has a span, in its own task: a tracer makes it
    current there. Raises `RuleError`.
    """

    service: str
    policies: Callable[[str], tuple[Policy, ...]]
    default_deadline: float = 15.0
    longest_deadline: float = 60.0
    limits: Limits = field(default_factory=Limits)
    trusted: Callable[[str], bool] = field(default=lambda peer: False)
    hops: int = 0
    standing: bool = False
    around: Callable[[Call], AbstractContextManager[object]] | None = None
    clock: Clock = monotonic

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 < self.default_deadline <= self.longest_deadline <= wire.LONGEST:
            raise RuleError.at(
                "default_deadline", self.default_deadline, f"above 0, at most longest_deadline, {wire.LONGEST:g} s"
            )
        if not 0 <= self.hops <= 16:
            raise RuleError.at("hops", self.hops, "0 to 16 proxies")


def received(edge: HttpEdge, scope: Scope, verb: str, raw: dict[bytes, bytes]) -> tuple[Call, scopes.Scope, bool]:
    """Make the `Call` of a request, and the scope that its headers give; say whether the deadline is the caller's."""
    now = edge.clock()
    headers = Headers(raw)
    client = scope.get("client")
    peer: str = client[0] if client else ""
    trusted = edge.trusted(peer)
    key = (_forwarded(scope, edge.hops) if trusted and edge.hops else "") or peer
    if ":" in key:  # the /64 that an IPv6 host has to itself; an IPv4 address is written in one way
        key = network(key)
    deadline: float | None = None
    if _SAID.isdisjoint(raw):
        around = scopes.Scope(now + edge.default_deadline, None, None, key)
    else:
        said = wire.incoming(headers, now, trusted=trusted)
        deadline = said.deadline
        around = scopes.Scope(
            deadline=now + (edge.default_deadline if deadline is None else min(deadline - now, edge.longest_deadline)),
            trace=said.trace,
            attempts_left=said.attempts_left,
            key=key,
            baggage=said.baggage,
            criticality=said.criticality,
        )
    call = Call(
        edge.service,
        f"{verb} {UNKNOWN}",
        deadline=around.deadline,
        key=key,
        metadata=headers,
        attempts_left=around.attempts_left,
        criticality=around.criticality,
    )
    call.trace = around.trace
    return call, around, deadline is not None


_ATTEMPTS = frozenset(name.encode() for name in (wire.ATTEMPT, wire.ENVOY_ATTEMPT, wire.GRPC_PREVIOUS))


_SAID = frozenset(  # what `wire.incoming` reads: most requests from outside carry none of it
    name.encode()
    for name in (
        wire.TRACEPARENT,
        wire.BAGGAGE,
        wire.DEADLINE,
        wire.ENVOY_DEADLINE,
        wire.GRPC_TIMEOUT,
        wire.ATTEMPTS_LEFT,
        wire.CRITICALITY,
    )
)


def _forwarded(scope: Scope, hops: int) -> str:
    """Return whom the outermost of our proxies saw, "" where that is no address.

    Each proxy appends one entry, so it is counted from the right: what stands left of that is what the client wrote.
    """
    told = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
    entries = told.decode("latin-1").split(",")
    found = _ENTRY.fullmatch(entries[-hops].strip()) if len(entries) >= hops else None
    if found is None:
        return ""
    address = found[1] or found[2] or found[3]
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return ""
    return address


_ENTRY = re.compile(
    r"\[([^\]]+)\](?::\d+)?|([^:]+)(?::\d+)?|(.+)"
)  # [IPv6], IPv4, each with a port or not, or bare IPv6
