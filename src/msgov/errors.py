"""Every error answers one question first, whether the call was sent.

    MsgovError
      Rejected             not sent, safe to send elsewhere; retry_after, and the numbers that decided
        BreakerOpen  RateLimited  BulkheadFull  Shed  NoInstance  BudgetSpent  DeadlineSpent
      DeadlineExceeded     (also TimeoutError) may have been sent
      CallFailed           sent and refused; status, verdict
      OutcomeUnknown       may have happened; carries the idempotency key to ask again
      SourceError          knowledge could not be refreshed; age
      RuleError            (also ValueError) a rule that cannot be: path, value, allowed range
      DeliveryError        a message whose fate is unknown or known bad
      MissingExtra         (also ImportError) names the extra to install

Facts are attributes; a message is one lower-case clause with the number in it.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from msgov.call import IGNORED, MAYBE, NO, TRANSIENT, YES, Sent, Verdict

Fact = str | int | float | bool | None


class MsgovError(Exception):
    """The root: catch it to catch whatever msgov itself decided.

    `reason` is the short name used in metrics, logs and on the wire; `verdict` says what the error tells
    about the callee; `sent` says whether the callee may have seen the call; `overloaded` asks callers not to
    pile on; `retry_after` is in seconds, None when there is nothing to wait for.
    """

    reason: str = "error"
    verdict: Verdict = TRANSIENT
    sent: Sent = MAYBE
    overloaded: bool = False
    retry_after: float | None = None

    def __init__(self, message: str, *, retry_after: float | None = None, **facts: Fact) -> None:
        super().__init__(message)
        if retry_after is not None:
            self.retry_after = retry_after
        self.facts: Mapping[str, Fact] = facts

    @property
    def safe_to_retry(self) -> bool:
        """Whether the call is known not to have been sent: another try cannot do it twice."""
        return self.sent is NO

    def __reduce__(self) -> tuple[object, ...]:
        """Cross process pools whole: the default would lose everything but the message."""
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[MsgovError], args: tuple[object, ...], state: dict[str, object]) -> MsgovError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class Rejected(MsgovError):
    """Refused on this side before anything was sent: safe to send elsewhere, and says nothing about the callee.

    It explains itself: `policy` is the kind of policy that refused ("limiter"), `name` what it governs ("payment/*"),
    `facts` the numbers that decided, `rule` the version of the rule by which they did. All but the facts are "" until a
    pipeline has let it out (`explain`), and where a gate has no rule.
    """

    reason = "rejected"
    verdict = IGNORED
    sent = NO
    facts: Mapping[str, Fact] = MappingProxyType({})  # of one that a machine made by hand
    policy: str = ""
    name: str = ""
    _rule: object = None

    @property
    def rule(self) -> str:
        """The version of the rule in force when it was refused: equal rules have equal versions in every process."""
        return version(self._rule)

    def as_dict(self) -> dict[str, Fact | dict[str, Fact]]:
        """Say all of it as plain data, for logs and consoles of one's own."""
        return {
            "reason": self.reason,
            "message": str(self),
            "policy": self.policy,
            "name": self.name,
            "rule": self.rule,
            "retry_after": self.retry_after,
            "safe_to_retry": self.safe_to_retry,
            "facts": dict(self.facts),
        }

    def for_caller(self) -> dict[str, Fact]:
        """Say what a caller on the other side of a wire may know: kinds and numbers, never a name, a key or a text."""
        numbers = {
            name: round(fact, 6) if isinstance(fact, float) else fact
            for name, fact in self.facts.items()
            if isinstance(fact, int | float) and math.isfinite(fact)
        }
        told: dict[str, Fact] = {"safe_to_retry": self.safe_to_retry}
        if self.policy:
            told["policy"] = self.policy
        if self.rule:
            told["rule"] = self.rule
        return {**numbers, **told}

    def __reduce__(self) -> tuple[object, ...]:
        """Cross process pools with the version of the rule in place of the rule."""
        state = {**self.__dict__, "_rule": self.rule} if self._rule is not None else self.__dict__
        return _rebuild, (type(self), self.args, state)


def explain(step: object, error: BaseException) -> None:
    """Write on a rejection which step of a pipeline refused, and by which rule; the first to claim it keeps it.

    For drivers, where `admit`, `withdraw` or `late` of that step gave the error: the way of a call that goes well does
    not come by here. The policy is what the step calls itself (`policy`), else its class; the rule is kept as it is,
    and its version found only when asked for.
    """
    if isinstance(error, Rejected) and not error.policy:
        error.policy = getattr(step, "policy", "") or _kind(type(step).__name__)
        error.name = getattr(step, "name", "")
        error._rule = getattr(step, "rule", None)  # noqa: SLF001  ours


def explainer(step: object) -> Callable[[Rejected], None]:
    """Return what `explain` does for one step, with all looked up that does not change."""
    policy = getattr(step, "policy", "") or _kind(type(step).__name__)
    name, ruled = getattr(step, "name", ""), hasattr(step, "rule")

    def write(error: Rejected) -> None:
        if not error.policy:
            error.policy = policy
            error.name = name
            if ruled:
                error._rule = step.rule  # type: ignore[attr-defined]  # noqa: SLF001  just looked; ours

    return write


_WORD = re.compile(r"(?<!^)(?=[A-Z])")


@lru_cache(maxsize=256)
def _kind(name: str) -> str:
    """Name a class of steps as the rules file would: `AttemptLimit` is "attempt_limit"."""
    return _WORD.sub("_", name).lower()


def version(rule: object) -> str:
    """Name a rule by its content, in twelve characters; "" for none, and a version stays what it is."""
    if rule is None or isinstance(rule, str):
        return rule or ""
    return hashlib.sha256(repr(rule).encode()).hexdigest()[:12]


class BreakerOpen(Rejected):
    """The callee has been failing, so it is left alone until `retry_after` seconds have passed."""

    reason = "breaker_open"
    overloaded = True


class RateLimited(Rejected):
    """More calls than the rate allows; the next one fits after `retry_after` seconds."""

    reason = "rate_limited"


class BulkheadFull(Rejected):
    """As many calls as allowed are already in flight."""

    reason = "bulkhead_full"


class Shed(Rejected):
    """Dropped to keep the rest of the work alive."""

    reason = "shed"
    overloaded = True


class NoInstance(Rejected):
    """No instance of the service is known, or none is left to try."""

    reason = "no_instance"


class BudgetSpent(Rejected):
    """The retry budget of this callee is spent: another attempt would only add to its load."""

    reason = "budget_spent"


class DeadlineSpent(Rejected):
    """No time was left before the call began."""

    reason = "deadline_exhausted"


class DeadlineExceeded(MsgovError, TimeoutError):
    """Time ran out while the call was under way: it may have been done."""

    reason = "deadline_exceeded"


class CallFailed(MsgovError):
    """The callee, or something on its side of the wire, refused the call.

    `status` is the wire's own word for it: a gRPC status name ("UNAVAILABLE") or an HTTP code ("503").
    """

    reason = "call_failed"
    sent = YES

    def __init__(
        self,
        message: str,
        *,
        status: str,
        verdict: Verdict = TRANSIENT,
        sent: Sent = YES,
        overloaded: bool = False,
        retry_after: float | None = None,
        **facts: Fact,
    ) -> None:
        super().__init__(message, retry_after=retry_after, **facts)
        self.status = status
        self.verdict = verdict
        self.sent = sent
        self.overloaded = overloaded


class OutcomeUnknown(MsgovError):
    """The call may have happened; ask again with the same `key`, which makes asking safe."""

    reason = "outcome_unknown"

    def __init__(self, message: str, *, key: str, **facts: Fact) -> None:
        super().__init__(message, retry_after=None, **facts)
        self.key = key


class SourceError(MsgovError):
    """Knowledge could not be refreshed; what is known is `age` seconds old (None: nothing is known)."""

    reason = "source"
    sent = NO

    def __init__(self, message: str, *, age: float | None = None, **facts: Fact) -> None:
        super().__init__(message, retry_after=None, **facts)
        self.age = age


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a rule: where it stands, what stands there, what may stand there."""

    path: str
    value: object
    allowed: str

    def __str__(self) -> str:
        """Read as one clause: path, value, allowed."""
        shown = repr(self.value)
        return f"{self.path or '(top)'} = {shown if len(shown) <= 80 else shown[:77] + '...'}: {self.allowed}"


class RuleError(MsgovError, ValueError):
    """A rule that cannot be; names every `Problem` at once, and `where` (the file or source) it stood."""

    reason = "rule"
    sent = NO

    def __init__(self, problems: Sequence[Problem], *, where: str = "") -> None:
        self.problems = tuple(problems)
        self.where = where
        lines = [str(problem) for problem in self.problems[:20]]
        if len(self.problems) > len(lines):
            lines.append(f"and {len(self.problems) - len(lines)} more")
        head = f"{where}: " if where else ""
        super().__init__(head + (lines[0] if len(lines) == 1 else "\n  " + "\n  ".join(lines)))

    @property
    def path(self) -> str:
        """Where the first problem stands."""
        return self.problems[0].path

    @property
    def value(self) -> object:
        """What stands there."""
        return self.problems[0].value

    @property
    def allowed(self) -> str:
        """What may stand there."""
        return self.problems[0].allowed

    @classmethod
    def at(cls, path: str, value: object, allowed: str, *, where: str = "") -> RuleError:
        """Build the common case: one problem."""
        return cls([Problem(path, value, allowed)], where=where)


class DeliveryError(MsgovError):
    """A message whose fate is unknown (`sent` is MAYBE) or known bad (`sent` is NO)."""

    reason = "delivery"

    def __init__(self, message: str, *, sent: Sent = MAYBE, **facts: Fact) -> None:
        super().__init__(message, retry_after=None, **facts)
        self.sent = sent


class MissingExtra(MsgovError, ImportError):
    """A package that an extra of msgov brings is not installed; names the extra."""

    reason = "missing_extra"
    sent = NO

    def __init__(self, package: str, *, extra: str) -> None:
        super().__init__(f"{package} is not installed: pip install 'msgov[{extra}]'")
        self.package = package
        self.extra = extra
