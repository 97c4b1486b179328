"""What goes wrong is told as application/problem+json (RFC 9457), with when to come back where that is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import grpc
from starlette.responses import JSONResponse

from ..calls import Failure

STATUS: Final[Mapping[grpc.StatusCode, int]] = {
    grpc.StatusCode.INVALID_ARGUMENT: 422,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 503,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
# Refused by a service that is well itself, for something behind it rests: no failure there, but a wait here.
BUSY: Final = frozenset({"PAYMENT_UNAVAILABLE"})
TITLES: Final[Mapping[int, str]] = {
    400: "The request cannot be read",
    401: "Log in first",
    402: "The payment was declined",
    403: "Not allowed",
    404: "There is no such thing",
    409: "Not as things are",
    413: "The request is too large",
    422: "The request is not right",
    500: "Something broke on our side",
    503: "Busy just now: please try again",
    504: "It took too long: please ask again",
}


class Problem(Exception):
    """A request that ends without what was asked; `facts` go into the answer beside the standard members.

    `retry_after` is in seconds, None when waiting changes nothing. Raises `KeyError` for a status without a title.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        reason: str = "",
        retry_after: float | None = None,
        facts: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.title = TITLES[status]
        self.reason = reason
        self.retry_after = retry_after
        self.facts = dict(facts or {})

    def response(self) -> JSONResponse:
        """Write it for the wire; Retry-After is in whole seconds, so it is rounded up."""
        body: dict[str, object] = {"type": "about:blank", "title": self.title, "status": self.status}
        body |= {"detail": str(self), **self.facts}
        headers: dict[str, str] = {}
        if self.reason:
            body["reason"] = self.reason.lower()
        if self.retry_after is not None:
            body["retry_after"] = round(self.retry_after, 3)
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(body, self.status, headers, media_type="application/problem+json")


def of(failure: Failure) -> Problem:
    """Turn what a service refused, or what kept it from answering, into a problem."""
    status = 503 if failure.reason in BUSY else STATUS.get(failure.code, 500)
    detail = failure.message or f"{TITLES[status]}."
    # Whoever is busy but cannot say for how long is asked again in a second, not at once by everybody.
    wait = failure.retry_after if failure.retry_after is not None or status not in (503, 504) else 1.0
    return Problem(status, detail, reason=failure.reason, retry_after=wait)
