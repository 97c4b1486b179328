"""What a refusal is called on every wire stands here once: a gRPC code, an HTTP status, a sentence for people.

Both wires tell a caller the same. The text of an exception from inside is never told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from msgov.call import PERMANENT
from msgov.errors import CallFailed, MsgovError


@dataclass(frozen=True, slots=True)
class Told:
    """What the outside is told: `grpc` is the name of a status code, `http` a status, `text` one English sentence.

    `overloaded` says that callers must not pile on, whatever the error itself knows of it.
    """

    grpc: str
    http: int
    text: str
    overloaded: bool = False


_BUSY = "The service is busy. Please try again shortly."
_AWAY = "The service is not available right now. Please try again shortly."
_OURS = "Something went wrong on our side."

TOLD: Mapping[str, Told] = {
    "breaker_open": Told(
        "UNAVAILABLE",
        503,
        "The service behind this is resting after failures. Please try again shortly.",
        overloaded=True,
    ),
    "rate_limited": Told("RESOURCE_EXHAUSTED", 429, "Too many requests. Please slow down."),
    "bulkhead_full": Told("UNAVAILABLE", 503, _BUSY, overloaded=True),
    "throttled": Told("UNAVAILABLE", 503, _BUSY, overloaded=True),
    "shed": Told("UNAVAILABLE", 503, _BUSY, overloaded=True),
    "budget_spent": Told("UNAVAILABLE", 503, _BUSY),
    "no_instance": Told("UNAVAILABLE", 503, _AWAY),
    "rejected": Told("UNAVAILABLE", 503, _AWAY),
    "source": Told("UNAVAILABLE", 503, _AWAY),
    "delivery": Told("UNAVAILABLE", 503, _AWAY),
    "draining": Told("UNAVAILABLE", 503, "The service is shutting down. Please try again."),
    "call_failed": Told("UNAVAILABLE", 503, "A service this depends on failed. Please try again shortly."),
    "outcome_unknown": Told("UNAVAILABLE", 503, "It is not known whether this was done. Please ask again."),
    "deadline_exhausted": Told("DEADLINE_EXCEEDED", 504, "There was not enough time left to do this."),
    "deadline_exceeded": Told("DEADLINE_EXCEEDED", 504, "This took too long."),
    "idempotency_conflict": Told("ABORTED", 409, "This key came before with another request. Nothing was done."),
    "malformed": Told("INVALID_ARGUMENT", 400, "The request cannot be read."),
    "headers_too_large": Told("RESOURCE_EXHAUSTED", 431, "The request's headers are too large."),
    "body_too_large": Told("RESOURCE_EXHAUSTED", 413, "The request's body is too large."),
    "body_too_slow": Told("DEADLINE_EXCEEDED", 408, "The request's body did not arrive in time."),
    "internal": Told("INTERNAL", 500, _OURS),
    "error": Told("INTERNAL", 500, _OURS),
    "rule": Told("INTERNAL", 500, _OURS),
    "missing_extra": Told("INTERNAL", 500, _OURS),
}
"""By reason, the short name that metrics, logs and the wire use."""


def told(reason: str) -> Told:
    """Return what is told of a reason; one that is not ours (a policy of the user's) is told as "rejected"."""
    return TOLD.get(reason) or TOLD["rejected"]


def reason(error: BaseException) -> str:
    """Name an error for those outside: by our own reason, or "internal" for what is nobody else's business.

    An answer of a callee that our caller never asked ("not found", for a question of ours) is our own fault too.
    """
    if isinstance(error, CallFailed) and error.verdict is PERMANENT:
        return "internal"
    if isinstance(error, MsgovError):
        return error.reason
    return "deadline_exceeded" if isinstance(error, TimeoutError) else "internal"
