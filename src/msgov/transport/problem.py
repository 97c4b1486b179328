"""A refusal over HTTP: `application/problem+json` (RFC 9457) with Retry-After, and what a status says of the callee."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from msgov import wire
from msgov.call import NO, PERMANENT, TRANSIENT, YES, Call, Outcome
from msgov.clock import wall
from msgov.errors import CallFailed, MsgovError, Rejected

TEXTS: Mapping[str, tuple[int, str]] = {
    "breaker_open": (503, "The service behind this is resting after failures. Please try again shortly."),
    "rate_limited": (429, "Too many requests. Please slow down."),
    "bulkhead_full": (503, "The service is busy. Please try again shortly."),
    "shed": (503, "The service is busy. Please try again shortly."),
    "no_instance": (503, "The service is not available right now. Please try again shortly."),
    "budget_spent": (503, "The service is busy. Please try again shortly."),
    "deadline_exhausted": (504, "There was not enough time left to do this."),
    "deadline_exceeded": (504, "This took too long."),
    "call_failed": (503, "A service this depends on failed. Please try again shortly."),
    "headers_too_large": (431, "The request's headers are too large."),
    "body_too_large": (413, "The request's body is too large."),
    "body_too_slow": (408, "The request's body did not arrive in time."),
    "draining": (503, "The service is shutting down. Please try again."),
    "internal": (500, "Something went wrong on our side."),
}
"""Status and sentence by reason: what a person is told; never the text of an exception."""


class Refusal:
    """What is answered in place of a reply."""

    __slots__ = ("body", "headers", "reason", "status")

    def __init__(
        self,
        reason: str,
        *,
        retry_after: float | None = None,
        trace_id: str = "",
        sent: bool = True,
        overloaded: bool = False,
    ) -> None:
        self.status, text = TEXTS.get(reason, TEXTS["call_failed"])
        self.reason = reason
        facts: dict[str, object] = {"type": "about:blank", "title": text, "status": self.status, "code": reason}
        self.headers: list[tuple[bytes, bytes]] = [
            (b"content-type", b"application/problem+json"),
            (wire.REASON.encode(), reason.encode()),
        ]
        if retry_after is not None and retry_after >= 0:
            facts["retry_after"] = round(retry_after, 3)
            self.headers.append((b"retry-after", str(math.ceil(retry_after)).encode()))
        if trace_id:
            facts["trace_id"] = trace_id
        if not sent:
            self.headers.append((wire.SENT.encode(), b"no"))
        if overloaded:
            self.headers.append((wire.OVERLOADED.encode(), b"1"))
        self.body = json.dumps(facts).encode()
        self.headers.append((b"content-length", str(len(self.body)).encode()))


def refusal(error: BaseException, *, began: bool, trace_id: str) -> Refusal:
    """Turn an error into what the caller may know of it; `began` says that the application ran."""
    if isinstance(error, MsgovError):
        reason = "internal" if isinstance(error, CallFailed) and error.verdict is PERMANENT else error.reason
        return Refusal(
            reason if reason in TEXTS else "call_failed",
            retry_after=error.retry_after,
            trace_id=trace_id,
            sent=began or not isinstance(error, Rejected),
            overloaded=error.overloaded,
        )
    return Refusal("deadline_exceeded" if isinstance(error, TimeoutError) else "internal", trace_id=trace_id)


def outcome(status: int, headers: Mapping[str, str], error: BaseException | None) -> Outcome:
    """Judge a reply by its status: 429, 408 and 5xx (but 501 and 505) may pass, other 4xx are the callee's answer."""
    transient = status in (408, 425, 429) or (status >= 500 and status not in (501, 505))
    return Outcome(
        TRANSIENT if transient else PERMANENT,
        error=error,
        status=str(status),
        retry_after=retry_after(headers.get("retry-after")),
        sent=NO if headers.get(wire.SENT) == "no" else YES,
        overloaded=status == 429 or headers.get(wire.OVERLOADED) == "1",
    )


def judged(call: Call, error: CallFailed) -> Outcome:
    """Make the outcome of a reply that an edge has turned into an error."""
    return Outcome(
        error.verdict,
        error=error,
        status=error.status,
        retry_after=error.retry_after,
        sent=error.sent,
        overloaded=error.overloaded,
    )


def retry_after(value: str | None) -> float | None:
    """Read Retry-After: seconds or an HTTP date (RFC 9110, 10.2.3); None where it cannot be read."""
    if not value or len(value) > 64:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text) if len(text) < 10 else None
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - wall())
    except (ValueError, TypeError, OverflowError):
        return None
