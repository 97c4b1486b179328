"""A call is what is asked; an outcome is what became of one attempt at it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final, Protocol

from msgov.scope import CRITICAL, Trace
from msgov.scope import Criticality as Criticality  # said here too: it is how a call is asked for


class Verdict(Enum):
    """What an attempt says about the callee, judged once per attempt.

    TRANSIENT failures may pass when tried again and count against the callee; PERMANENT ones are an answer;
    IGNORED says nothing about the callee (a caller's cancellation, a lost hedge, our own rejection).
    """

    OK = "ok"
    TRANSIENT = "transient"
    PERMANENT = "permanent"
    IGNORED = "ignored"


class Sent(Enum):
    """Whether the callee may have seen the attempt."""

    NO = "no"
    MAYBE = "maybe"
    YES = "yes"


# Bound once: an enum member by attribute costs 90 ns on CPython 3.11.
OK, TRANSIENT, PERMANENT, IGNORED = Verdict.OK, Verdict.TRANSIENT, Verdict.PERMANENT, Verdict.IGNORED
NO, MAYBE, YES = Sent.NO, Sent.MAYBE, Sent.YES

NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class Endpoint(Protocol):
    """One place a call can go to; a discovered instance is one."""

    @property
    def id(self) -> str:
        """Name it among the instances of its service."""
        ...


class Call:
    """One logical call, shared by all its attempts: made by an edge, read by policies.

    `target` is the service, `method` the operation in it, `key` whom it is for (what a keyed limiter counts by),
    `metadata` what came with it. `deadline` is absolute, on the driver's monotonic clock, None for no limit.
    `idempotent` says that a second execution does no harm. `attempt` counts from 1; `instance` is where the current
    attempt goes and `tried` where earlier ones went. `attempts_left` is the chain-wide allowance, None for no limit;
    `criticality` how much it matters when not all can be done; `trace` the span that the attempt runs under and sends
    on. `context` is the edge's own, for its own handler, which may set `status`, the wire's word for a good reply.
    """

    __slots__ = (
        "attempt",
        "attempts_left",
        "context",
        "criticality",
        "deadline",
        "idempotent",
        "instance",
        "key",
        "metadata",
        "method",
        "request",
        "status",
        "target",
        "trace",
        "tried",
    )

    def __init__(
        self,
        target: str,
        method: str = "",
        request: object = None,
        *,
        deadline: float | None = None,
        idempotent: bool = False,
        key: str = "",
        metadata: Mapping[str, str] = NOTHING,
        attempts_left: int | None = None,
        criticality: Criticality = CRITICAL,
    ) -> None:
        self.target = target
        self.method = method
        self.request = request
        self.deadline = deadline
        self.idempotent = idempotent
        self.key = key
        self.metadata = metadata
        self.attempts_left = attempts_left
        self.criticality = criticality
        self.attempt = 1
        self.instance: Endpoint | None = None
        self.context: object = None
        self.status = ""
        self.tried: list[Endpoint] | None = None
        self.trace: Trace | None = None

    def fork(self) -> Call:
        """Copy the call for an attempt that runs beside another (a hedge); `tried` stays one shared list."""
        other = Call.__new__(Call)
        for name in Call.__slots__:
            setattr(other, name, getattr(self, name))
        return other

    def __repr__(self) -> str:
        """Show what is asked, never the payload: it may hold secrets."""
        return f"Call({self.target!r}, {self.method!r}, attempt={self.attempt})"


class Outcome:
    """What became of one attempt: the one value that every policy learns from.

    `seconds` is how long it took; `status` the wire's own word ("UNAVAILABLE", "503", "" on success);
    `retry_after` what the callee asked to wait, in seconds, negative for "do not retry". `first` is the seconds until
    the first message of a stream, which tell more of the callee than its length; None where there is no stream.
    """

    __slots__ = ("error", "overloaded", "retry_after", "seconds", "sent", "status", "verdict")

    first: float | None = None

    def __init__(
        self,
        verdict: Verdict,
        *,
        error: BaseException | None = None,
        status: str = "",
        retry_after: float | None = None,
        sent: Sent = YES,
        overloaded: bool = False,
        seconds: float = 0.0,
    ) -> None:
        self.verdict = verdict
        self.error = error
        self.status = status
        self.retry_after = retry_after
        self.sent = sent
        self.overloaded = overloaded
        self.seconds = seconds

    def __repr__(self) -> str:
        """Show the verdict first."""
        return f"Outcome({self.verdict.name}, status={self.status!r}, sent={self.sent.name}, error={self.error!r})"
