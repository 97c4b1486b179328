"""What goes out as a problem is what comes in as an outcome."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from msgov.call import PERMANENT
from msgov.errors import (
    BreakerOpen,
    CallFailed,
    DeadlineExceeded,
    MsgovError,
    OutcomeUnknown,
    RateLimited,
    Rejected,
    RuleError,
)
from msgov.scope import Trace
from msgov.transport.problem import Refusal, outcome, refusal, retry_after

TRACE = Trace("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")


def headers(answer: Refusal) -> dict[str, str]:
    """Read the headers of a refusal as a client does."""
    return {name.decode(): value.decode() for name, value in answer.headers}


def test_a_refusal_says_all_that_a_caller_may_know() -> None:
    """Status, a sentence, the reason for programs, when to come back, where to look."""
    answer = refusal(BreakerOpen("payment: 7 of 10 failed", retry_after=0.4), began=False, trace=TRACE)
    assert json.loads(answer.body) == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "The service behind this is resting after failures. Please try again shortly.",
        "code": "breaker_open",
        "retry_after": 0.4,
        "trace_id": TRACE.trace_id,
        "why": {"safe_to_retry": True},
    }
    assert headers(answer) == {
        "content-type": "application/problem+json",
        "content-length": str(len(answer.body)),
        "msgov-reason": "breaker_open",
        "msgov-sent": "no",
        "msgov-overloaded": "1",
        "retry-after": "1",
        "x-trace-id": TRACE.trace_id,
        "traceresponse": f"00-{TRACE.trace_id}-{TRACE.span_id}-00",
    }


def test_what_the_application_did_is_not_called_unsent() -> None:
    """A refusal of a call inside came after the application had begun."""
    assert "msgov-sent" not in headers(refusal(BreakerOpen("open"), began=True, trace=None))
    assert "msgov-sent" not in headers(refusal(DeadlineExceeded("late"), began=False, trace=None))


class Mine(Rejected):
    """A refusal of the user's own making."""

    reason = "not_on_sundays"


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (RateLimited("10 a second"), 429, "rate_limited"),
        (DeadlineExceeded("late"), 504, "deadline_exceeded"),
        (TimeoutError("late"), 504, "deadline_exceeded"),
        (CallFailed("down", status="UNAVAILABLE"), 503, "call_failed"),
        (CallFailed("no such user", status="NOT_FOUND", verdict=PERMANENT), 500, "internal"),
        (OutcomeUnknown("lost", key="a"), 503, "outcome_unknown"),
        (RuleError.at("x", "secret", "1"), 500, "rule"),
        (MsgovError("secret"), 500, "error"),
        (ValueError("secret"), 500, "internal"),
        (Mine("secret"), 503, "not_on_sundays"),
    ],
)
def test_each_error_has_its_status_and_none_its_text(error: Exception, status: int, reason: str) -> None:
    """The text of an exception from inside is never told."""
    answer = refusal(error, began=True, trace=None)
    assert (answer.status, answer.reason) == (status, reason)
    assert str(error).encode() not in answer.body


@pytest.mark.parametrize("seconds", [None, -1.0, float("inf"), float("nan")])
def test_nothing_to_wait_for_is_not_told(seconds: float | None) -> None:
    """A negative one means "do not come back"."""
    answer = Refusal("shed", retry_after=seconds)
    assert "retry-after" not in headers(answer)
    assert "retry_after" not in json.loads(answer.body)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_these_may_pass(status: int) -> None:
    """Another attempt may meet a better moment."""
    assert outcome(status, {}, None).verdict.name == "TRANSIENT"


@pytest.mark.parametrize("status", [400, 401, 404, 409, 413, 422, 431, 501, 505])
def test_these_are_answers(status: int) -> None:
    """Asking again would be told the same."""
    assert outcome(status, {}, None).verdict.name == "PERMANENT"


def test_our_own_refusals_are_read_as_such() -> None:
    """Unsent, overloaded, and when to come back: what one msgov writes, another reads."""
    answer = refusal(BreakerOpen("open", retry_after=1.2), began=False, trace=None)
    found = outcome(answer.status, headers(answer), None)
    assert (found.status, found.sent.name, found.overloaded, found.retry_after) == ("503", "NO", True, 2.0)
    bare = outcome(503, {}, None)
    assert (bare.sent.name, bare.overloaded, bare.retry_after) == ("YES", False, None)
    assert outcome(429, {}, None).overloaded


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0.0), ("120", 120.0), (" 7 ", 7.0), ("999999999", 86_400.0)],
)
def test_retry_after_is_read_in_seconds(value: str, seconds: float) -> None:
    """As RFC 9110 has it."""
    assert retry_after(value) == seconds


@pytest.mark.parametrize(
    "value",
    ["", "-1", "1.5", "1e3", "soon", "٣", "1" * 100, "Fri, 99 Foo 9999 99:99:99 GMT", "\x00"],
)
def test_a_retry_after_that_cannot_be_read_is_passed_over(value: str) -> None:
    """A hostile callee must neither break a call nor hang it."""
    assert retry_after(value) is None
    assert retry_after(None) is None


def test_retry_after_may_be_a_date() -> None:
    """One that is past means now; one without a zone is UTC."""
    soon = datetime.now(UTC) + timedelta(seconds=100)
    assert retry_after(format_datetime(soon, usegmt=True)) == pytest.approx(100, abs=3)
    assert retry_after(format_datetime(soon.replace(tzinfo=None))) == pytest.approx(100, abs=3)
    assert retry_after("Fri, 31 Dec 1999 23:59:59 GMT") == 0.0
