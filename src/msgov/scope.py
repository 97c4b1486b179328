"""What the work under way carries with it: its deadline, its trace, whom it is for, how much it matters.

One context variable holds one value, so an edge sets it once per request and everything below reads it once per call.
A deadline in it only ever shrinks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import IntEnum

from msgov.clock import Clock, monotonic


class Criticality(IntEnum):
    """How much it matters that work is done now, after the SRE book (ch. 21): what is higher is shed later.

    CRITICAL is what nobody said otherwise of. CRITICAL_PLUS is for the few calls whose failure is seen at once and
    hurts most; SHEDDABLE_PLUS for what will be tried again, such as batch work; SHEDDABLE for what may fail for hours.
    """

    SHEDDABLE = 0
    SHEDDABLE_PLUS = 1
    CRITICAL = 2
    CRITICAL_PLUS = 3


CRITICAL = Criticality.CRITICAL  # bound once: an enum member by attribute costs 90 ns on CPython 3.11


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
    the chain-wide attempt allowance; `key` says whom the work is for; `baggage` travels along unread; `criticality` is
    how much it matters, to all that it calls too.
    """

    __slots__ = ("attempts_left", "baggage", "criticality", "deadline", "key", "trace")

    def __init__(
        self,
        deadline: float | None = None,
        trace: Trace | None = None,
        attempts_left: int | None = None,
        key: str = "",
        baggage: str = "",
        criticality: Criticality = CRITICAL,
    ) -> None:
        self.deadline = deadline
        self.trace = trace
        self.attempts_left = attempts_left
        self.key = key
        self.baggage = baggage
        self.criticality = criticality

    def by(self, deadline: float | None, trace: Trace | None = None) -> Scope:
        """Return this scope with its deadline shortened to `deadline`, where that is sooner, and at a trace's place."""
        made = _new(Scope)  # each governed call makes one of these, and to call the class costs half as much again
        outer = self.deadline
        made.deadline = deadline if outer is None or (deadline is not None and deadline < outer) else outer
        made.trace = trace or self.trace
        made.attempts_left = self.attempts_left
        made.key = self.key
        made.baggage = self.baggage
        made.criticality = self.criticality
        return made

    def having(
        self,
        *,
        trace: Trace | None = None,
        attempts_left: int | None = None,
        key: str | None = None,
        criticality: Criticality | None = None,
    ) -> Scope:
        """Return a copy with what is given replaced; None keeps what is here."""
        return Scope(
            self.deadline,
            trace or self.trace,
            self.attempts_left if attempts_left is None else attempts_left,
            self.key if key is None else key,
            self.baggage,
            self.criticality if criticality is None else criticality,
        )

    def __repr__(self) -> str:
        """Show what bounds the work and which trace it is part of."""
        return f"Scope(deadline={self.deadline}, trace={self.trace}, attempts_left={self.attempts_left})"


_new = object.__new__
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


@contextmanager
def mattering(criticality: Criticality) -> Iterator[Scope]:
    """Say how much all that is called in the block matters, here and at every trusted service further down."""
    token = current.set(current.get().having(criticality=criticality))
    try:
        yield current.get()
    finally:
        current.reset(token)


def remaining(*, clock: Clock = monotonic) -> float | None:
    """Return the seconds left to the current work, never negative; None where nothing bounds it."""
    deadline = current.get().deadline
    return None if deadline is None else max(0.0, deadline - clock())
