"""A gRPC status becomes an outcome on one side of the wire, and an error becomes a status on the other: here, once.

Refusals carry `google.rpc` details (ErrorInfo, RetryInfo, LocalizedMessage), so a client in any language can read why
and when to come back. The text of an exception from inside never leaves the process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil
from types import MappingProxyType
from typing import Protocol, cast

try:
    import grpc
    from google.protobuf.any_pb2 import Any as AnyMessage
    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.message import DecodeError
    from google.rpc.error_details_pb2 import ErrorInfo, LocalizedMessage, RetryInfo
    from google.rpc.status_pb2 import Status
except ModuleNotFoundError as missing:
    from msgov.errors import MissingExtra

    raise MissingExtra(missing.name or "grpcio", extra="grpc") from missing

from msgov import friendly, wire
from msgov.call import IGNORED, MAYBE, NO, OK, PERMANENT, TRANSIENT, YES, Call, Outcome, Verdict
from msgov.errors import MsgovError, Rejected
from msgov.policy import classify

Code = grpc.StatusCode
Pairs = tuple[tuple[str, str | bytes], ...]

DETAILS = "grpc-status-details-bin"
DOMAIN = "msgov"

VERDICTS: Mapping[grpc.StatusCode, Verdict] = {
    Code.OK: OK,
    Code.CANCELLED: TRANSIENT,  # not by us: an overloaded server refuses with it
    Code.UNKNOWN: TRANSIENT,
    Code.DEADLINE_EXCEEDED: TRANSIENT,
    Code.RESOURCE_EXHAUSTED: TRANSIENT,
    Code.UNAVAILABLE: TRANSIENT,
    Code.INTERNAL: TRANSIENT,
    Code.DATA_LOSS: TRANSIENT,
    Code.ABORTED: TRANSIENT,
}
"""What a status says of the callee; those not listed are its answer (PERMANENT)."""


class Ended(Protocol):
    """An ended RPC, as both colours of grpc show it."""

    def code(self) -> grpc.StatusCode:
        """Its status."""
        ...

    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """What came with the status."""
        ...


def judge(call: Call, error: BaseException) -> Outcome:
    """Judge an error of a client call: by its status where it is grpc's, as the core does otherwise.

    What the caller's own request iterator raised says nothing about the callee.
    """
    if getattr(call.context, "fault", None) is error:
        return Outcome(IGNORED, error=error, status=type(error).__name__, sent=MAYBE)
    if isinstance(error, grpc.RpcError) and hasattr(error, "code"):
        ended = cast("Ended", error)
        return outcome(ended.code(), ended.trailing_metadata(), error)
    return classify(call, error)


def outcome(
    code: grpc.StatusCode,
    trailing: Iterable[tuple[str, str | bytes]] | None,
    error: BaseException | None,
    *,
    ours: bool = False,
) -> Outcome:
    """Make an outcome of a status; `ours` says that we cancelled."""
    if code is Code.OK:
        return Outcome(OK)
    if ours:
        return Outcome(IGNORED, error=error, status=code.name, sent=MAYBE)
    pairs = tuple(trailing or ())
    headers = wire.lowered(pairs)
    pushback = _pushback(headers.get(wire.PUSHBACK))
    sent = NO if headers.get(wire.SENT) == "no" else MAYBE if code in _UNSURE else YES
    overloaded = code in (Code.RESOURCE_EXHAUSTED, Code.CANCELLED) or wire.overloaded(headers)
    return Outcome(
        VERDICTS.get(code, PERMANENT),
        error=error,
        status=code.name,
        retry_after=retry_delay(pairs) if pushback is None and DETAILS in headers else pushback,
        sent=sent,
        overloaded=overloaded,
    )


_UNSURE = (Code.CANCELLED, Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.UNKNOWN)


def _pushback(value: str | None) -> float | None:
    """Read gRFC A6 pushback, whole milliseconds, into seconds; negative or unreadable means "do not retry"."""
    if value is None:
        return None
    readable = value.isascii() and value.isdigit() and len(value) <= 10  # a 32-bit number, says A6
    return int(value) / 1000.0 if readable else -1.0


def served(code: grpc.StatusCode, error: BaseException | None = None) -> Outcome:
    """Make an outcome of a status that a handler of ours answered with."""
    return Outcome(VERDICTS.get(code, PERMANENT), error=error, status=code.name)


class Refusal:
    """What a server answers in place of a reply: a code, a sentence for people, details for programs."""

    __slots__ = ("code", "details", "trailing")

    def __init__(self, code: grpc.StatusCode, details: str, trailing: Pairs) -> None:
        self.code = code
        self.details = details
        self.trailing = trailing


def refusal(error: BaseException, *, began: bool, trace_id: str) -> Refusal:
    """Turn an error into what the caller may know of it.

    `began` says that the handler ran, so that the caller may not take a refusal for "never sent".
    """
    if isinstance(error, MsgovError):
        reason = friendly.reason(error)
        told = friendly.told(reason)
        not_sent = isinstance(error, Rejected) and not began
        # ABORTED may pass, by its name; what is certain to be refused again says so.
        after = -1.0 if error.verdict is PERMANENT else error.retry_after
        overloaded = error.overloaded or told.overloaded
        why = error.for_caller() if isinstance(error, Rejected) and not began else {}
        code = grpc.StatusCode[told.grpc]
        return _made(code, reason, after, trace_id, not_sent=not_sent, overloaded=overloaded, why=why)
    if isinstance(error, grpc.RpcError) and hasattr(error, "code"):
        code = cast("Ended", error).code()
        if code in (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.CANCELLED):
            found = outcome(code, cast("Ended", error).trailing_metadata(), error)
            return _made(Code.UNAVAILABLE, "call_failed", found.retry_after, trace_id, overloaded=found.overloaded)
        if code is Code.DEADLINE_EXCEEDED:
            return _made(code, "deadline_exceeded", None, trace_id)
        return _made(Code.INTERNAL, "internal", None, trace_id)
    reason = friendly.reason(error)
    return _made(grpc.StatusCode[friendly.told(reason).grpc], reason, None, trace_id)


_MOST = 2_147_483.0  # seconds: A6's pushback is a 32-bit number of milliseconds


def _made(
    code: grpc.StatusCode,
    reason: str,
    retry_after: float | None,
    trace_id: str,
    *,
    not_sent: bool = False,
    overloaded: bool = False,
    why: Mapping[str, object] = MappingProxyType({}),
) -> Refusal:
    text = friendly.told(reason).text
    status = Status(code=code.value[0], message=text)
    facts = {name: str(fact) for name, fact in why.items()}
    if trace_id:
        facts["trace_id"] = trace_id
    if retry_after is not None:
        retry_after = min(retry_after, _MOST)
    _pack(status, ErrorInfo(reason=reason.upper(), domain=DOMAIN, metadata=facts))
    if retry_after is not None and retry_after >= 0:
        _pack(status, RetryInfo(retry_delay=Duration(seconds=int(retry_after), nanos=int(retry_after % 1 * 1e9))))
    _pack(status, LocalizedMessage(locale="en", message=text))
    trailing: list[tuple[str, str | bytes]] = [(DETAILS, status.SerializeToString()), (wire.REASON, reason)]
    if not_sent:
        trailing.append((wire.SENT, "no"))
    if overloaded:
        trailing.append((wire.OVERLOADED, "1"))
    if retry_after is not None:
        trailing.append((wire.PUSHBACK, str(max(-1, ceil(retry_after * 1000)))))
    return Refusal(code, text, tuple(trailing))


def _pack(status: Status, message: ErrorInfo | RetryInfo | LocalizedMessage) -> None:
    packed = AnyMessage()
    packed.Pack(message)
    status.details.append(packed)


def told(error: BaseException | None) -> grpc.StatusCode:
    """Return the status of a call that ended with no answer of grpc's: refused here, cancelled, or never sent."""
    if error is None:
        return Code.OK
    if isinstance(error, grpc.RpcError) and hasattr(error, "code"):
        return cast("Ended", error).code()
    if not isinstance(error, Exception) or isinstance(error, grpc.FutureCancelledError):
        return Code.CANCELLED
    return refusal(error, began=False, trace_id="").code


def text(error: BaseException) -> str:
    """Return the details of such a call."""
    details = getattr(error, "details", None)
    return str(details() if callable(details) else error)


def retry_delay(trailing: Iterable[tuple[str, str | bytes]] | None) -> float | None:
    """Read the RetryInfo of a refusal, in seconds; None where there is none or it cannot be read."""
    for name, value in trailing or ():
        if name == DETAILS and isinstance(value, bytes):
            status = Status()
            try:
                status.ParseFromString(value)
            except DecodeError:
                return None
            for detail in status.details:
                info = RetryInfo()
                if detail.Is(RetryInfo.DESCRIPTOR) and detail.Unpack(info):
                    return float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9)
    return None
