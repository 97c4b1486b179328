"""Errors are facts: they answer whether anything was sent, and cross a process boundary whole."""

from __future__ import annotations

import pickle

import pytest

from msgov import errors
from msgov.call import IGNORED, MAYBE, NO, Call
from msgov.policy import classify


def test_a_rejection_was_never_sent_and_says_nothing_of_the_callee() -> None:
    """So it is safe to send elsewhere, and no breaker learns from it."""
    for kind in errors.Rejected.__subclasses__():
        error = kind("no", retry_after=2.0, limit=3)
        assert (error.sent, error.verdict, error.retry_after) == (NO, IGNORED, 2.0)
        assert error.facts == {"limit": 3}
        assert classify(Call("a"), error).verdict is IGNORED


def test_each_error_is_also_what_python_calls_it() -> None:
    """Code that catches the standard ones goes on working."""
    assert issubclass(errors.DeadlineExceeded, TimeoutError)
    assert issubclass(errors.RuleError, ValueError)
    assert issubclass(errors.MissingExtra, ImportError)


@pytest.mark.parametrize(
    "error",
    [
        errors.BreakerOpen("open", retry_after=1.5, failures=3),
        errors.CallFailed("no", status="503", overloaded=True),
        errors.RuleError.at("a.b", -1, "> 0", where="f.toml"),
        errors.OutcomeUnknown("?", key="k1"),
        errors.MissingExtra("grpc", extra="grpc"),
    ],
)
def test_errors_pickle_whole(error: errors.MsgovError) -> None:
    """A process pool sends them home."""
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301  our own bytes
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.__dict__ == error.__dict__


def test_classify_judges_what_no_edge_knows() -> None:
    """A bug meets itself again; a cancellation says nothing; the rest may pass."""
    assert classify(Call("a"), TypeError()).verdict.name == "PERMANENT"
    assert classify(Call("a"), KeyboardInterrupt()).verdict is IGNORED
    found = classify(Call("a"), ConnectionError())
    assert (found.verdict.name, found.sent) == ("TRANSIENT", MAYBE) or found.sent.name == "YES"
