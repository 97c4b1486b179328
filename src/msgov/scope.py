"""What the work under way carries with it: its deadline, its trace, whom it is for.

One context variable holds one value, so an edge sets it once per request and everything below reads it once per call.
A deadline in it only ever shrinks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from msgov.clock import Clock, monotonic


class Trace:
    """One span's place in a trace, as W3C Trace Context names it; treat it as frozen.

    `trace_id` has 32 lower-case hex digits, `span_id` 16; `sampled` is the trace's own decision, `state` the tracestate
    header, unread.
    """

    __slots__ = ("sampled", "span_id", "state", "trace_id")

    def __init__(self, trace_id: str, span_id: str, sampled: bool = False, state: str = "") -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.sampled = sampled
        self.state = state

    def __repr__(self) -> str:
        """Show it as the traceparent header does."""
        return f"Trace(00-{self.trace_id}-{self.span_id}-0{int(self.sampled)})"


class Scope:
    """The governance context of the current work; treat it as frozen, and derive with `having`.

    `deadline` is absolute, on the monotonic clock; `trace` is where the work stands in its trace; `attempts_left` is
    the chain-wide attempt allowance; `key` says whom the work is for; `baggage` travels along unread.
    """

    __slots__ = ("attempts_left", "baggage", "deadline", "key", "trace")

    def __init__(
        self,
        deadline: float | None = None,
        trace: Trace | None = None,
        attempts_left: int | None = None,
        key: str = "",
        baggage: str = "",
    ) -> None:
        self.deadline = deadline
        self.trace = trace
        self.attempts_left = attempts_left
        self.key = key
        self.baggage = baggage

    def by(self, deadline: float | None) -> Scope:
        """Return this scope with its deadline shortened to `deadline`, where that is sooner."""
        # By position: a call in keywords costs twice as much, and each governed call makes one of these.
        return Scope(sooner(self.deadline, deadline), self.trace, self.attempts_left, self.key, self.baggage)

    def having(self, *, trace: Trace | None = None, attempts_left: int | None = None, key: str | None = None) -> Scope:
        """Return a copy with what is given replaced; None keeps what is here."""
        return Scope(
            self.deadline,
            trace or self.trace,
            self.attempts_left if attempts_left is None else attempts_left,
            self.key if key is None else key,
            self.baggage,
        )

    def __repr__(self) -> str:
        """Show what bounds the work and which trace it is part of."""
        return f"Scope(deadline={self.deadline}, trace={self.trace}, attempts_left={self.attempts_left})"


EMPTY = Scope()
current: ContextVar[Scope] = ContextVar("msgov.scope", default=EMPTY)


def sooner(one: float | None, other: float | None) -> float | None:
    """Return the earlier of two deadlines; None is no deadline."""
    if one is None:
        return other
    return one if other is None or one < other else other


@contextmanager
def within(seconds: float, *, clock: Clock = monotonic) -> Iterator[Scope]:
    """Bound all that is called in the block to `seconds` from now; an outer, shorter bound stays.

    It shortens what calls made inside are given and send on; it does not interrupt the block itself.
    """
    token = current.set(current.get().by(clock() + seconds))
    try:
        yield current.get()
    finally:
        current.reset(token)


def remaining(*, clock: Clock = monotonic) -> float | None:
    """Return the seconds left to the current work, never negative; None where nothing bounds it."""
    deadline = current.get().deadline
    return None if deadline is None else max(0.0, deadline - clock())
