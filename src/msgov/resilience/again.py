"""A retry and a hedge ask of a failed attempt the same: whether there may be another."""

from __future__ import annotations

from typing import Protocol

from msgov.call import NO, Call, Outcome
from msgov.errors import BreakerOpen, Rejected


class Purse(Protocol):
    """What attempts are paid from: a `Budget`, or a `Tokens`."""

    def deposit(self, now: float) -> None:
        """Pay in for one first call."""
        ...

    def withdraw(self, now: float) -> bool:
        """Pay for one attempt more; False when there is not enough."""
        ...


def obstacle(call: Call, tries: int, outcome: Outcome, *, attempts: int, starts: float, minimum: float) -> str | None:
    """Say why no attempt may follow one that failed, None when one may start at `starts`.

    It may if a second execution does no harm, or there was no first (`outcome.sent` is NO). Our own rejections are not
    tried again, for the same gate would refuse again; the open breaker of an instance is, for there are others.
    """
    error, asked = outcome.error, outcome.retry_after
    if isinstance(error, Rejected):
        if not isinstance(error, BreakerOpen):
            return "rejected"
        instance = call.instance
        if instance is None or error.facts.get("key", instance.id) != instance.id:  # the breaker of more than it
            return "breaker"
    elif asked is not None and asked < 0:
        return "pushback"
    elif not call.idempotent and outcome.sent is not NO:
        return "not_idempotent"
    if tries >= attempts:
        return "attempts"
    return limit(call, starts=starts, minimum=minimum)


def limit(call: Call, *, starts: float, minimum: float) -> str | None:
    """Say what of the call itself leaves no room for an attempt that starts at `starts` and takes `minimum` seconds."""
    if call.attempts_left is not None and call.attempts_left <= 0:
        return "allowance"
    if call.deadline is not None and starts + minimum >= call.deadline:
        return "deadline"
    return None
