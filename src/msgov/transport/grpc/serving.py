"""What both colours of gRPC server do alike with a call that comes in: read its scope, govern it, map its errors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import grpc
import grpc.aio

from msgov import scope, wire
from msgov.call import IGNORED, TRANSIENT, Call, Outcome
from msgov.clock import Clock, monotonic
from msgov.pipeline import Pipeline, Policy
from msgov.policy import classify

from . import status

MOST_HEADERS = 64
NO_DEADLINE = 1e9  # seconds; grpc gives 9.2e18 where the caller set none


class Context(Protocol):
    """What both colours of grpc's servicer context have."""

    def time_remaining(self) -> float | None:
        """Seconds left to the caller's deadline."""
        ...

    def invocation_metadata(self) -> Any:
        """Return what came with the call."""
        ...

    def peer(self) -> str:
        """Return who called."""
        ...


_NOTHING = nullcontext()


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """How a server governs what comes in.

    `policies` gives those of a method path, the same tuple until their shape changes. `default_deadline` and
    `longest_deadline` (seconds) bound calls that came without one, or with too long a one. `trusted` says whose attempt
    allowance is believed, by peer. `around` is entered round each unary handler, in its own task or thread (a tracer
    makes its span current there).
    """

    service: str
    policies: Callable[[str], tuple[Policy, ...]]
    default_deadline: float = 15.0
    longest_deadline: float = 60.0
    trusted: Callable[[str], bool] = field(default=lambda peer: False)
    around: Callable[[Call], AbstractContextManager[object]] = field(default=lambda call: _NOTHING)
    clock: Clock = monotonic


class Serving:
    """One call being served: what the handler's side of the edge needs beside the `Call`."""

    __slots__ = ("began", "call", "clamped", "context", "trace_id")

    def __init__(self, context: Any, call: Call) -> None:
        self.context = context
        self.call = call
        self.began = False
        self.clamped = False
        self.trace_id = ""


def receive(edge: Edge, path: str, request: object, context: Any) -> tuple[Serving, scope.Scope]:
    """Make the `Call` of an RPC that came in, and the scope that its deadline and trace give."""
    now = edge.clock()
    headers = wire.lowered(_few(context.invocation_metadata()))
    told = context.time_remaining()
    seconds = edge.default_deadline if told is None or told > NO_DEADLINE else min(told, edge.longest_deadline)
    peer = context.peer()
    around = wire.incoming(headers, now, trusted=edge.trusted(peer), seconds=seconds).having(key=host(peer))
    call = Call(edge.service, path, request, deadline=around.deadline, key=around.key, metadata=headers)
    call.trace = around.trace
    serving = Serving(context, call)
    serving.clamped = seconds != told
    call.context = serving
    return serving, around


def _few(metadata: Iterable[tuple[str, str | bytes]] | None) -> Iterable[tuple[str, str | bytes]]:
    """Take the first MOST_HEADERS pairs: a caller may send thousands."""
    return islice(metadata or (), MOST_HEADERS)


def host(peer: str) -> str:
    """Take the address out of grpc's peer ("ipv4:10.0.0.7:5123"), without the port that changes per connection."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return peer
    return rest.rpartition(":")[0].strip("[]").replace("%5B", "").replace("%5D", "")


def began(serving: Serving) -> None:
    """Note that the handler runs, in the trace that the policies chose."""
    serving.began = True
    trace = serving.call.trace
    around = scope.current.get()
    if trace is not None:
        serving.trace_id = trace.trace_id
        if trace is not around.trace:
            scope.current.set(around.having(trace=trace))


class Handlers:
    """The governed handler of a method, made again when its policies change shape."""

    __slots__ = ("_edge", "_govern", "_handler", "_path", "_policies")

    def __init__(self, edge: Edge, path: str, govern: Callable[[Pipeline], Callable[[Call], Any]]) -> None:
        self._edge = edge
        self._path = path
        self._govern = govern
        self._policies: tuple[Policy, ...] | None = None
        self._handler: Callable[[Call], Any] | None = None

    def __call__(self) -> Callable[[Call], Any]:
        """Return the handler for the next call."""
        policies = self._edge.policies(self._path)
        handler = self._handler
        if handler is None or policies is not self._policies:
            handler = self._handler = self._govern(Pipeline(policies, classify=judge))
            self._policies = policies
        return handler


def unexpected(serving: Serving, error: BaseException) -> None:
    """Say in our own log what the caller must not see."""
    _log.error("%s failed", serving.call.method, exc_info=error, extra={"rpc_method": serving.call.method})


_log = logging.getLogger("msgov.grpc")


def judge(call: Call, error: BaseException) -> Outcome:
    """Judge what a handler ended with: an abort by its status, the rest as its callers will see it."""
    serving = call.context
    if isinstance(serving, Serving):
        code = aborted(serving.context, error)
        if code is not None:
            return status.served(code, error)
        if isinstance(error, Exception) and not hasattr(error, "verdict"):
            answer = status.refusal(error, began=True, trace_id="")
            return Outcome(TRANSIENT, error=error, status=answer.code.name)
    found = classify(call, error)
    if found.verdict is IGNORED and not isinstance(error, Exception):
        found.status = "CANCELLED"
    return found


def aborted(context: Any, error: BaseException) -> grpc.StatusCode | None:
    """Return the status that the handler itself chose with `abort`; None when the error is something else."""
    if type(error) is not Exception and not isinstance(error, grpc.aio.AbortError):
        return None
    code = context.code()
    if code is None or code in (grpc.StatusCode.OK, 0):
        return None
    return code if isinstance(code, grpc.StatusCode) else _BY_NUMBER.get(code)


_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}
