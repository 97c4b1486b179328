"""What both colours of gRPC server do alike with a call that comes in: read its scope, govern it, map its errors."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network
from typing import Any, Final

import grpc
import grpc.aio

from msgov import scope, wire
from msgov.call import IGNORED, TRANSIENT, Call, Outcome
from msgov.clock import Clock, monotonic
from msgov.errors import MsgovError, Rejected, RuleError
from msgov.pipeline import Pipeline, Policy
from msgov.policy import classify

from . import status
from .method import NO_DEADLINE, Serializer

MOST_HEADERS = 64
MOST_HANDLERS = 1024  # methods of one server whose handlers are kept, wrapped: a generic handler may know any name
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


class Chosen(Exception):
    """A handler that came to its end has set a status: an outcome like any other, with a reply that may go with it."""

    def __init__(self, code: grpc.StatusCode, reply: object = None) -> None:
        super().__init__(code.name)
        self.code = code
        self.reply = reply


class Serving:
    """One call being served: what the handler's side of the edge needs beside the `Call`."""

    __slots__ = ("began", "call", "chosen", "clamped", "clock", "context", "deadline", "refused")

    def __init__(self, context: Any, call: Call, clock: Clock) -> None:
        self.context = context
        self.call = call
        self.clock = clock
        self.deadline = call.deadline
        self.began = False
        self.chosen = False
        self.clamped = False
        self.refused: Rejected | None = None

    @property
    def trace_id(self) -> str:
        """The id under which the call is found again; empty where it has no trace."""
        trace = self.call.trace
        return "" if trace is None else trace.trace_id


def receive(edge: Edge, path: str, request: object, context: Any, decode: Serializer) -> Serving:
    """Make the call of an RPC that came in, and make its deadline and trace the current scope.

    What must be refused is refused by `began`, inside the pipeline, where it is counted.
    """
    now = edge.clock()
    metadata = context.invocation_metadata() or ()
    headers = wire.lowered(metadata if len(metadata) <= MOST_HEADERS else metadata[:MOST_HEADERS])
    told = context.time_remaining()
    seconds = edge.default_deadline if told is None or told > NO_DEADLINE else min(told, edge.longest_deadline)
    peer = context.peer()
    key = host(peer)
    trusted = wire.ATTEMPTS_LEFT in headers and edge.trusted(peer)
    around = wire.incoming(headers, now, trusted=trusted, seconds=seconds, key=key)
    call = Call(
        edge.service, path, request, deadline=around.deadline, key=key, metadata=headers,
        attempts_left=around.attempts_left,
    )  # fmt: skip
    call.trace = around.trace
    serving = Serving(context, call, edge.clock)
    serving.clamped = seconds != told
    call.context = serving
    if len(metadata) > MOST_HEADERS:
        serving.refused = HeadersTooLarge(f"{len(metadata)} headers: {MOST_HEADERS} at most", headers=len(metadata))
    elif decode is not None:
        try:
            call.request = decode(request)
        except Exception as error:  # noqa: BLE001  whatever the deserialiser has to say is no business of the caller's
            serving.refused = Malformed(f"the request cannot be read: {type(error).__name__}")
    scope.current.set(around)
    return serving


@lru_cache(maxsize=4096)  # a peer's port stays as long as its connection
def host(peer: str) -> str:
    """Say whom a call is for by grpc's peer ("ipv4:10.0.0.7:5123"): an IPv4 address, or the /64 of an IPv6 host."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return peer
    found = rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]").partition("%")[0]
    try:
        address = IPv6Address(found)
    except ValueError:
        return found
    if address.ipv4_mapped is not None:  # a socket of both kinds names its IPv4 peers so
        return str(address.ipv4_mapped)
    return str(IPv6Network((address, 64), strict=False))


def began(serving: Serving) -> None:
    """Note that the handler runs, in the trace that the policies chose; raises what it is refused for."""
    refused = serving.refused
    if refused is not None:
        raise refused
    serving.began = True
    trace = serving.call.trace
    around = scope.current.get()
    if trace is not None and trace is not around.trace:
        around.trace = trace  # made by `receive` for this call, or out of that: nobody else has it


class Handlers:
    """The governed handler of a method, made again when its policies change shape."""

    __slots__ = ("_edge", "_govern", "_kept", "_path")

    def __init__(self, edge: Edge, path: str, govern: Callable[[Pipeline], Callable[[Call], Any]]) -> None:
        self._edge = edge
        self._path = path
        self._govern = govern
        self._kept: tuple[tuple[Policy, ...], Callable[[Call], Any]] | None = None

    def __call__(self) -> Callable[[Call], Any]:
        """Return the handler for the next call."""
        kept, policies = self._kept, self._edge.policies(self._path)
        if kept is None or kept[0] is not policies:  # one store: no thread sees one's policies with another's handler
            kept = self._kept = (policies, self._govern(Pipeline(policies, classify=judge)))
        return kept[1]


class Wrapped:
    """The handlers of a server, each wrapped once."""

    __slots__ = ("_all", "_wrap")

    def __init__(self, wrap: Callable[[str, Any], Any]) -> None:
        self._wrap = wrap
        self._all: dict[str, tuple[Any, Any]] = {}

    def of(self, path: str, handler: Any) -> Any:
        """Return the governed twin of a handler.

        A generic handler is made anew for each call: what stays is the function inside. One that answers to any name
        must not fill our memory with what its callers make up.
        """
        inside = behaviour(handler)
        kept = self._all.get(path)
        if kept is None or kept[0] != inside:
            if len(self._all) >= MOST_HANDLERS:
                self._all.clear()
            kept = self._all[path] = (inside, self._wrap(path, handler))
        return kept[1]


def behaviour(handler: Any) -> Any:
    """Return the function inside a method handler."""
    return handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream


def remade(handler: Any, governed: Any) -> Any:
    """Make a handler of the same kind round another function, which deserialises a single request itself."""
    made = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[bool(handler.request_streaming), bool(handler.response_streaming)]
    decode = _discreet(handler.request_deserializer) if handler.request_streaming else None
    return made(governed, decode, _discreet(handler.response_serializer))


def _discreet(convert: Serializer) -> Serializer:
    """Keep what a serialiser says of a message from the wire: grpc.aio would send it to the caller."""
    if convert is None:
        return None

    def discreet(message: Any) -> Any:
        try:
            return convert(message)
        except Exception as error:  # noqa: BLE001  whatever it is
            _log.error("a message cannot be converted", exc_info=error)
        raise ValueError("a message cannot be converted")

    return discreet


def answer_to(serving: Serving, error: Exception) -> status.Refusal:
    """Return what the caller is told of an error; what is our fault is said in our own log, under the same id."""
    trace_id = serving.trace_id or wire.new_trace_id()
    answer = status.refusal(error, began=serving.began, trace_id=trace_id)
    if answer.code is grpc.StatusCode.INTERNAL:
        method = serving.call.method
        _log.error("%s failed", method, exc_info=error, extra={"rpc_method": method, "error_id": trace_id})
        code = chosen(serving.context)
        if code is not None:  # what the handler set before it failed; its words, if it set some, are for the caller
            details = serving.context.details()
            said = details.decode(errors="replace") if isinstance(details, bytes) else details
            return status.Refusal(code, said or answer.details, answer.trailing)
    return answer


_log = logging.getLogger("msgov.grpc")


def judge(call: Call, error: BaseException) -> Outcome:
    """Judge what a handler ended with: a status that it chose, or what its callers will see."""
    serving = call.context
    if isinstance(error, Chosen):
        return status.served(error.code, error)
    if isinstance(serving, Serving):
        code = aborted(serving.context, error)
        if code is not None:
            return status.served(code, error)
        if isinstance(error, Exception) and not isinstance(error, MsgovError):
            code = chosen(serving.context)
            if code is not None:
                return status.served(code, error)
            answer = status.refusal(error, began=True, trace_id="")
            return Outcome(TRANSIENT, error=error, status=answer.code.name)
    found = classify(call, error)
    if found.verdict is IGNORED and not isinstance(error, Exception):
        found.status = "CANCELLED"
    return found


def chosen(context: Any) -> grpc.StatusCode | None:
    """Return the status that a handler has set, None where it left it at OK."""
    code = context.code()
    if code is None or code in (grpc.StatusCode.OK, 0):
        return None
    return code if isinstance(code, grpc.StatusCode) else _BY_NUMBER.get(code, grpc.StatusCode.UNKNOWN)


def aborted(context: Any, error: BaseException) -> grpc.StatusCode | None:
    """Return the status that the handler itself chose with `abort`; None when the error is something else.

    Threaded grpc raises a bare `Exception()` there. One with words in it is the handler's own, and they stay here.
    """
    if isinstance(error, grpc.aio.AbortError) or (type(error) is Exception and not error.args):
        return chosen(context)
    return None


_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}
