"""What becomes of a message is decided by numbers alone."""

from __future__ import annotations

import pytest

from msgov.call import PERMANENT, TRANSIENT, Call, Outcome
from msgov.errors import (
    BreakerOpen,
    CallFailed,
    DeadlineExceeded,
    DeadlineSpent,
    RateLimited,
    RuleError,
    SourceError,
)
from msgov.messaging.consumption import ConsumerRule, Decision, Fate, cause, decide
from msgov.messaging.message import Poison
from msgov.policy import classify
from msgov.testing import LoadedDice

RULE = ConsumerRule()


def fate(error: BaseException, *, attempt: int = 1, expired: bool = False, rule: ConsumerRule = RULE) -> Decision:
    """Decide with a dice that always rolls 0.5."""
    outcome: Outcome = classify(Call("g"), error)
    return decide(rule, attempt, error, outcome, LoadedDice(0.5), expired=expired)


def test_failure_is_tried_again_later_and_later_then_given_up() -> None:
    """Five deliveries, over some ten seconds: a blip passes, a poison does not hold its key for long."""
    found = [fate(OSError("x"), attempt=attempt) for attempt in range(1, 7)]
    assert found == [
        Decision(Fate.AGAIN, 0.0),
        Decision(Fate.AGAIN, 0.1 * 0.75),
        Decision(Fate.AGAIN, 1.0 * 0.75),
        Decision(Fate.AGAIN, 10.0 * 0.75),
        Decision(Fate.DEAD, reason="exhausted"),
        Decision(Fate.DEAD, reason="exhausted"),
    ]


def test_what_no_attempt_can_help_is_given_up_at_once() -> None:
    """A bug and a poison would only fail four times more."""
    assert fate(Poison("x")) == Decision(Fate.DEAD, reason="poison")
    assert fate(TypeError("x")) == Decision(Fate.DEAD, reason="permanent")
    refused = CallFailed("x", status="INVALID_ARGUMENT", verdict=PERMANENT)
    assert fate(refused) == Decision(Fate.DEAD, reason="call_failed")


def test_refusal_of_a_policy_says_nothing_about_the_message() -> None:
    """An open breaker must not empty a topic into the dead letters, however long it stays open."""
    assert fate(BreakerOpen("x", retry_after=7.0), attempt=5) == Decision(Fate.PUT_BACK, 7.0)
    assert fate(RateLimited("x"), attempt=99) == Decision(Fate.PUT_BACK, 1.0)
    assert fate(RateLimited("x", retry_after=-1.0)) == Decision(Fate.PUT_BACK, 1.0)
    assert fate(RateLimited("x", retry_after=1e9)) == Decision(Fate.PUT_BACK, 600.0)


def test_store_out_of_reach_says_nothing_about_the_message() -> None:
    """A full disk must not turn every message into a dead letter."""
    assert fate(SourceError("disk full"), attempt=5) == Decision(Fate.PUT_BACK, 1.0)


def test_deadline_of_the_handler_counts_and_of_the_message_ends_it() -> None:
    """A handler that is slow may be quicker next time; a message that is too late never is in time."""
    assert fate(DeadlineExceeded("x")).fate is Fate.AGAIN
    assert fate(DeadlineSpent("x")).fate is Fate.AGAIN
    assert fate(DeadlineExceeded("x"), expired=True) == Decision(Fate.DEAD, reason="expired")
    assert fate(BreakerOpen("x"), expired=True) == Decision(Fate.DEAD, reason="expired")


def test_rule_without_delays_delivers_once() -> None:
    """For those who want no second try."""
    rule = ConsumerRule(delays=())
    assert rule.deliveries == 1
    assert fate(OSError(), rule=rule).fate is Fate.DEAD


@pytest.mark.parametrize(
    "wrong",
    [
        {"delays": (-1.0,)},
        {"delays": (601.0,)},
        {"delays": (0.0,) * 21},
        {"concurrency": 0},
        {"timeout": 0.0},
        {"remember": 0.0},
        {"grace": -1.0},
        {"retries": 3},
    ],
)
def test_rule_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    """With the field and its range in the error."""
    with pytest.raises(RuleError, match=next(iter(wrong))):
        ConsumerRule(**wrong)  # type: ignore[arg-type]


def test_cause_keeps_the_end_of_a_long_traceback() -> None:
    """The error itself stands last."""
    error = OSError("x" * 10_000 + "the end")
    assert len(cause(error)) <= 4096
    assert cause(error).endswith("the end\n")


def test_verdict_of_the_classifier_counts() -> None:
    """The same judge as for calls: users teach it once."""
    outcome = Outcome(TRANSIENT, error=TypeError())
    assert decide(RULE, 1, TypeError(), outcome, LoadedDice(0.5)).fate is Fate.AGAIN
