"""Errors are facts: they answer whether anything was sent, and cross a process boundary whole."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

from msgov import errors
from msgov.call import IGNORED, MAYBE, NO, Call, Outcome
from msgov.policy import Gate, classify
from msgov.resilience.limiter import LimiterRule


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


class Lock(Gate[int]):
    """A gate that always refuses, by a rule, under a name."""

    name = "payment/*"
    rule = LimiterRule(rate="5/minute")

    def admit(self, call: Call, now: float) -> int:
        """Refuse."""
        raise errors.RateLimited("no", retry_after=12.0, limit=5.0, key="alice@example.org")

    def settle(self, ticket: int, outcome: Outcome, now: float) -> None:
        """Learn nothing."""


def refused(gate: Gate[int]) -> errors.Rejected:
    """Do what a driver does: ask the gate, and explain its refusal."""
    with pytest.raises(errors.Rejected) as refusal:
        gate.admit(Call("payment"), 0.0)
    errors.explain(gate, refusal.value)
    return refusal.value


def test_a_rejection_explains_itself() -> None:
    """Which policy, for what, by which rule, on what numbers, when to come back, whether that is safe."""
    told = refused(Lock()).as_dict()
    assert told == {
        "reason": "rate_limited",
        "message": "no",
        "policy": "lock",
        "name": "payment/*",
        "rule": errors.version(Lock.rule),
        "retry_after": 12.0,
        "safe_to_retry": True,
        "facts": {"limit": 5.0, "key": "alice@example.org"},
    }


def test_a_policy_is_called_what_it_calls_itself() -> None:
    """A breaker of a service and one of an instance are of one class."""
    gate = Lock()
    gate.policy = "service_breaker"  # type: ignore[attr-defined]  # as a rule book does
    assert refused(gate).policy == "service_breaker"


def test_the_innermost_policy_that_refused_is_the_one_named() -> None:
    """An outer pipeline only passes the refusal on."""
    error = refused(Lock())
    errors.explain(object(), error)
    assert error.policy == "lock"


def test_what_is_no_rejection_of_ours_is_left_alone() -> None:
    """A gate's own fault is somebody's bug, and no decision."""
    fault = ZeroDivisionError()
    errors.explain(Lock(), fault)
    assert fault.__dict__ == {}


def test_a_rule_has_one_version_in_every_process() -> None:
    """So that a line in a log can be matched with the rules of another machine: no salt of this process in it."""
    assert errors.version(LimiterRule(rate="5/minute")) == errors.version(Lock.rule)
    assert errors.version(LimiterRule(rate="6/minute")) != errors.version(Lock.rule)
    program = (
        "from msgov.errors import version\nfrom msgov.resilience.limiter import LimiterRule\n"
        "print(version(LimiterRule(rate='5/minute')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == errors.version(Lock.rule)


def test_a_live_change_does_not_rewrite_what_was_refused_before() -> None:
    """The rule named is the one that decided."""
    gate = Lock()
    error = refused(gate)
    gate.rule = LimiterRule(rate="6/minute")
    assert error.rule == errors.version(LimiterRule(rate="5/minute"))


def test_a_caller_is_told_kinds_and_numbers_only() -> None:
    """No name, no key, no text, and nothing that JSON has no word for."""
    error = refused(Lock())
    error.facts = {"limit": 5.0, "left": 0.1234567, "key": "alice", "until": float("inf"), "shadow": False, "who": None}
    assert error.for_caller() == {
        "limit": 5.0,
        "left": 0.123457,
        "shadow": False,
        "safe_to_retry": True,
        "policy": "lock",
        "rule": errors.version(Lock.rule),
    }


def test_a_rejection_made_by_hand_can_be_explained() -> None:
    """A machine in a storm skips the constructor."""
    bare = errors.BreakerOpen.__new__(errors.BreakerOpen, "open")
    assert bare.as_dict()["facts"] == {}
    assert bare.for_caller() == {"safe_to_retry": True}
    errors.explain(object(), bare)
    assert (bare.policy, bare.name, bare.rule) == ("object", "", "")


def test_an_explained_rejection_crosses_a_process_pool() -> None:
    """With the version of the rule: the other side may not have the class."""
    error = refused(Lock())
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301  our own bytes
    assert copy.as_dict() == error.as_dict()
    assert copy._rule == errors.version(Lock.rule)


def test_only_what_was_surely_not_sent_is_safe_to_retry() -> None:
    """A timeout may have done it."""
    assert errors.RateLimited("no").safe_to_retry
    assert not errors.DeadlineExceeded("late").safe_to_retry
    assert errors.CallFailed("busy", status="503", sent=NO).safe_to_retry
    assert not errors.CallFailed("busy", status="503").safe_to_retry
