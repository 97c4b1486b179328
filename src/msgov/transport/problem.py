"""A refusal over HTTP is `application/problem+json` (RFC 9457) with Retry-After; a status says something of the callee.

What goes out and what comes in stand together: the one is what the other reads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType

from msgov import friendly, wire
from msgov._http_date import retry_after_seconds
from msgov.call import NO, PERMANENT, TRANSIENT, YES, Outcome
from msgov.clock import wall
from msgov.errors import MsgovError, RateLimited, Rejected
from msgov.scope import Trace
from msgov.transport import ratelimit

Headers = list[tuple[bytes, bytes]]


class Refusal:
    """What is answered in place of a reply: `status`, `headers` and `body`, and the `reason` it was made of.

    `retry_after` is in seconds, None when there is nothing to wait for; it is rounded up in the header, exact in the
    body. `sent` says that the application may have seen the request. `close` ends the connection with the answer, for
    a request whose rest is not wanted. `why` are the numbers that decided.
    """

    __slots__ = ("body", "headers", "reason", "status")

    def __init__(
        self,
        reason: str,
        *,
        retry_after: float | None = None,
        trace: Trace | None = None,
        sent: bool = True,
        overloaded: bool = False,
        close: bool = False,
        why: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        told = friendly.told(reason)
        self.reason = reason
        self.status = told.http
        facts: dict[str, object] = {
            "type": "about:blank",
            "title": HTTPStatus(told.http).phrase,
            "status": told.http,
            "detail": told.text,
            "code": reason,
        }
        if why:
            facts["why"] = dict(why)
        self.headers: Headers = [
            (b"content-type", b"application/problem+json"),
            (wire.REASON.encode(), reason.encode("ascii", "replace")),
        ]
        if retry_after is not None and 0 <= retry_after < math.inf:
            facts["retry_after"] = round(retry_after, 3)
            self.headers.append((b"retry-after", str(math.ceil(retry_after)).encode()))
        if trace is not None:
            facts["trace_id"] = trace.trace_id
            self.headers += traced(trace)
        if not sent:
            self.headers.append((wire.SENT.encode(), b"no"))
        if overloaded or told.overloaded:
            self.headers.append((wire.OVERLOADED.encode(), b"1"))
        if close:
            self.headers.append((b"connection", b"close"))
        self.body = json.dumps(facts).encode()
        self.headers.append((b"content-length", str(len(self.body)).encode()))


_TRACE_ID, _TRACERESPONSE = wire.TRACE_ID.encode(), wire.TRACERESPONSE.encode()


def refusal(error: BaseException, *, began: bool, trace: Trace | None, close: bool = False) -> Refusal:
    """Turn an error into what the caller may know of it.

    `began` says that the application ran, so that the caller may not take a refusal for "never sent".
    """
    reason = friendly.reason(error)
    if not isinstance(error, MsgovError):
        return Refusal(reason, trace=trace, close=close)
    door = isinstance(error, Rejected) and not began  # what was refused further in is nobody else's business
    found = Refusal(
        reason,
        retry_after=error.retry_after,
        trace=trace,
        sent=not door,
        overloaded=error.overloaded,
        close=close,
        why=error.for_caller() if isinstance(error, Rejected) and door else {},
    )
    if isinstance(error, RateLimited) and door:
        found.headers += ratelimit.refused(error)
    return found


def traced(trace: Trace) -> Headers:
    """Return the headers by which a caller finds its request again: ours, and the draft of Trace Context level 2."""
    return [(_TRACE_ID, trace.trace_id.encode()), (_TRACERESPONSE, wire.write_traceparent(trace).encode())]


def outcome(status: int, headers: Mapping[str, str], error: BaseException | None) -> Outcome:
    """Judge a reply by its status: 408, 425, 429 and 5xx (but 501 and 505) may pass, the rest is the callee's answer.

    `headers` have lower-case names.
    """
    transient = status in (408, 425, 429) or (status >= 500 and status not in (501, 505))
    return Outcome(
        TRANSIENT if transient else PERMANENT,
        error=error,
        status=str(status),
        retry_after=retry_after(headers.get("retry-after")),
        sent=NO if headers.get(wire.SENT) == "no" else YES,
        overloaded=status == 429 or wire.overloaded(headers),
    )


def retry_after(value: str | None) -> float | None:
    """Read Retry-After, seconds or an HTTP date, into seconds from now; None where it cannot be read."""
    return retry_after_seconds(value, wall())
