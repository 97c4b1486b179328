"""A reply can be a failure: policies learn of it as of an error, and the caller gets the reply all the same."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from msgov.call import OK, TRANSIENT, Call, Outcome, Verdict
from msgov.errors import CallFailed, RuleError
from msgov.event import unraisable
from msgov.policy import Classify, classify

# Of a reply; it is not tied to the function's own type, for then a lambda would have no type at all.
Failed: TypeAlias = Callable[..., bool | Verdict | Outcome | None]


class FailedReply(CallFailed):
    """A reply that counts as a failure, as policies, layers and the answer of a fallback meet it: `reply` is what came.

    Round all policies it is turned back into that reply: no caller sees it. What it says of itself in logs, traces and
    notes is its status, never its content, which may be secret.
    """

    def __init__(self, target: str, reply: object, outcome: Outcome) -> None:
        super().__init__(
            f"{target} replied {outcome.status}, which counts as a failure",
            status=outcome.status,
            verdict=outcome.verdict,
            sent=outcome.sent,
            overloaded=outcome.overloaded,
            retry_after=outcome.retry_after,
        )
        self.facts = {"status": outcome.status}
        self.reply = reply


def check(failed: Failed) -> None:
    """Refuse what cannot judge a reply; raises `RuleError`."""
    if not callable(failed):
        raise RuleError.at("failed", failed, "a function of the reply: lambda reply: reply.status_code >= 500")
    if any(map(inspect.iscoroutinefunction, (failed, getattr(failed, "__call__", None)))):  # noqa: B004  an object, too
        raise RuleError.at("failed", failed, "a plain function of the reply: nobody awaits what it says")
    try:
        inspect.signature(failed).bind(None)
    except TypeError:
        raise RuleError.at("failed", failed, "a function of one thing: the reply") from None
    except ValueError:
        pass  # a builtin that tells no signature


def judged_by(chosen: Classify) -> Classify:
    """Return a judge of errors that leaves a failed reply what `failed` said of it."""

    @functools.wraps(chosen)
    def judge(call: Call, error: BaseException) -> Outcome:
        return (classify if isinstance(error, FailedReply) else chosen)(call, error)

    return judge


def judging(function: Callable[..., object], failed: Failed, target: str, *, awaits: bool) -> Callable[..., object]:
    """Wrap a function (a coroutine function: `awaits`) so that it raises `FailedReply` for what `failed` names."""
    if awaits:
        later: Callable[..., Awaitable[object]] = function  # type: ignore[assignment]  # its colour was looked at

        async def awaited(*args: object, **kwargs: object) -> object:
            reply = await later(*args, **kwargs)
            outcome = _judged(failed, reply)
            if outcome is not None:
                raise FailedReply(target, reply, outcome)
            return reply

        return awaited

    def called(*args: object, **kwargs: object) -> object:
        reply = function(*args, **kwargs)
        outcome = _judged(failed, reply)
        if outcome is not None:
            raise FailedReply(target, reply, outcome)
        return reply

    return called


def giving_back(governed: Callable[..., object], *, awaits: bool) -> Callable[..., object]:
    """Wrap a governed function so that the reply which it failed with is returned."""
    if awaits:
        later: Callable[..., Awaitable[object]] = governed  # type: ignore[assignment]  # as in judging

        async def awaited(*args: object, **kwargs: object) -> object:
            try:
                return await later(*args, **kwargs)
            except FailedReply as error:
                return error.reply

        return awaited

    def called(*args: object, **kwargs: object) -> object:
        try:
            return governed(*args, **kwargs)
        except FailedReply as error:
            return error.reply

    return called


def _judged(failed: Failed, reply: object) -> Outcome | None:
    """Ask about one reply; None for a good one, and for one that `failed` itself fails over, which is reported."""
    try:
        said = failed(reply)
        if not said:
            return None
        if not isinstance(said, Outcome):
            said = Outcome(said if isinstance(said, Verdict) else TRANSIENT)
        if said.verdict is OK:
            return None
        return _named(said, reply)
    except Exception as fault:  # noqa: BLE001  the user's function must not cost the caller a reply that is there
        unraisable(fault, failed)
        return None


def _named(said: Outcome, reply: object) -> Outcome:
    """Give an outcome that has no status one; the user's own object, which may be a constant, stays as it is."""
    if said.status:
        return said
    return Outcome(
        said.verdict,
        status=_status(reply),
        retry_after=said.retry_after,
        sent=said.sent,
        overloaded=said.overloaded,
    )


def _status(reply: object) -> str:
    """Read a reply's HTTP status, by the names that httpx, requests and aiohttp give it; else name its class."""
    for name in ("status_code", "status"):
        code = getattr(reply, name, None)
        if isinstance(code, int) and 100 <= code <= 599:  # no other number: each would be a label of its own
            return str(int(code))
    return type(reply).__name__
