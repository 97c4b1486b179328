"""A call to another service fails in one of two ways: it was answered no, or nobody knows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from .answers import DETAILS, DOMAIN

T = TypeVar("T")

# The callee read the request, said no and did nothing. All else may have been done.
ANSWERS: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
    }
)


@dataclass(frozen=True, slots=True)
class Failure:
    """What a failed call tells.

    `answered`: the callee said no, and did nothing. `sent`: the callee may have seen it; with `answered` false that
    means it may have been done. `message` may be shown to a stranger. `retry_after` is in seconds, None for unknown.
    """

    code: grpc.StatusCode
    reason: str
    message: str
    answered: bool
    sent: bool
    retry_after: float | None


class CallError(Exception):
    """A call failed for good; `maybe` says whether any of its tries may have been carried out."""

    def __init__(self, failure: Failure, *, maybe: bool) -> None:
        super().__init__(failure.reason or failure.code.name)
        self.failure = failure
        self.maybe = maybe


async def ask(call: Callable[[], Awaitable[T]], *, tries: int = 2) -> T:
    """Ask until there is an answer, at most `tries` times: for calls that do no harm when repeated.

    A call that was certainly not sent is not repeated: whoever kept it back has a reason.
    Raises `CallError`.
    """
    maybe = False
    for left in reversed(range(tries)):
        try:
            return await call()
        except Exception as error:
            failure = read(error)
            maybe = maybe or (failure.sent and not failure.answered)
            if failure.answered or not failure.sent or not left:
                raise CallError(failure, maybe=maybe) from error
    raise ValueError(f"tries is {tries}: at least 1 is needed")


def read(error: Exception) -> Failure:
    """Read any error a stub may raise.

    A gRPC status comes with `google.rpc` details. An error of the client's own making may say `retry_after` and
    `sent`, whose value "no" means that the call never left. All else: nobody knows.
    """
    sent = getattr(getattr(error, "sent", None), "value", "maybe") != "no"
    retry_after = getattr(error, "retry_after", None)
    if not isinstance(error, grpc.aio.AioRpcError):
        code = grpc.StatusCode.DEADLINE_EXCEEDED if isinstance(error, TimeoutError) else grpc.StatusCode.UNAVAILABLE
        return Failure(code, "", "", answered=False, sent=sent, retry_after=retry_after)
    reason, told = details(tuple(error.trailing_metadata() or ()))
    answered = error.code() in ANSWERS
    message = error.details() or "" if reason else ""  # without a reason of ours the text is not ours either
    return Failure(
        error.code(),
        reason,
        message,
        answered=answered,
        sent=sent,
        retry_after=told if told is not None else retry_after,
    )


def details(metadata: Iterable[tuple[str, str | bytes]]) -> tuple[str, float | None]:
    """Return our own reason ("" when another gave it) and the seconds to wait, out of a status's details."""
    reason, seconds = "", None
    packed = next((value for key, value in metadata if key == DETAILS and isinstance(value, bytes)), b"")
    try:
        for detail in status_pb2.Status.FromString(packed).details:
            info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
            if detail.Unpack(info) and info.domain == DOMAIN:
                reason = info.reason
            elif detail.Unpack(retry):
                seconds = retry.retry_delay.ToMilliseconds() / 1000
    except DecodeError:
        pass
    return reason, seconds
