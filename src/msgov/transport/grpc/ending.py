"""However a handler ends, its outcome is what its caller is told; what was said inside stays inside."""

from __future__ import annotations

import logging
from typing import Any

import grpc
import grpc.aio

from msgov import wire
from msgov.call import IGNORED, TRANSIENT, Call, Outcome
from msgov.errors import MsgovError
from msgov.policy import classify

from . import status
from .serving import Serving

_EARLY = 0.005  # seconds by which grpc may end a call before its deadline by our reckoning
_log = logging.getLogger("msgov.grpc")


class Chosen(Exception):
    """A handler that came to its end has set a status: an outcome like any other, with a reply that may go with it."""

    def __init__(self, code: grpc.StatusCode, reply: object = None) -> None:
        super().__init__(code.name)
        self.code = code
        self.reply = reply


def ended(serving: Serving) -> grpc.StatusCode | None:
    """Return the status that a handler which came to its end has set; None for OK."""
    code = chosen(serving.context)
    serving.chosen = code is not None
    return code


def answered(serving: Serving) -> None:
    """Let a substitute's answer pass for what it is: a status that the handler set would throw it away."""
    if serving.chosen:
        serving.context.set_code(grpc.StatusCode.OK)  # type: ignore[attr-defined]  # grpc's context
        serving.context.set_details("")  # type: ignore[attr-defined]  # as above


def answer_to(serving: Serving, error: Exception) -> status.Refusal:
    """Return what the caller is told of an error; what is our fault is said in our own log, under the same id."""
    trace_id = wire.new_trace_id() if serving.trace is None else serving.trace.trace_id
    answer = status.refusal(error, began=serving.began, trace_id=trace_id)
    if answer.code is grpc.StatusCode.INTERNAL:
        facts = {"rpc_method": serving.method, "error_id": trace_id}
        _log.error("%s failed", serving.method, exc_info=error, extra=facts)
        code = chosen(serving.context)
        if code is not None:  # what the handler set before it failed; its words, if it set some, are for the caller
            details = serving.context.details()  # type: ignore[attr-defined]  # grpc's context
            said = details.decode(errors="replace") if isinstance(details, bytes) else details
            return status.Refusal(code, said or answer.details, answer.trailing)
    return answer


def judge(call: Call, error: BaseException) -> Outcome:
    """Judge what a handler ended with: a status that it chose, or what its callers will see."""
    if isinstance(error, Chosen):
        return status.served(error.code, error)
    if isinstance(call, Serving):
        code = aborted(call.context, error)
        if code is None and isinstance(error, Exception) and not isinstance(error, MsgovError):
            code = chosen(call.context)
            if code is None:
                answer = status.refusal(error, began=True, trace_id="")
                return Outcome(TRANSIENT, error=error, status=answer.code.name)
        if code is not None:
            return status.served(code, error)
        if not isinstance(error, Exception) and call.due is not None and call.clock() >= call.due - _EARLY:
            return status.served(grpc.StatusCode.DEADLINE_EXCEEDED, error)  # so grpc has told the caller
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
