"""Bound what is in flight, so that one slow callee cannot take every worker."""

from __future__ import annotations

import threading

from msgov.call import Call, Outcome
from msgov.errors import BulkheadFull, Rejected
from msgov.policy import Gate, Waiting
from msgov.resilience._line import Line, LineRule
from msgov.rule import field, rule


@rule
class BulkheadRule(LineRule):
    """How many at once, and how many may wait for how long."""

    limit: int = field(
        default=64,
        ge=1,
        le=1_000_000,
        unit="calls",
        why="64 in flight of 50 ms each are 1,280 a second: more than one Python process serves (Little's law)",
    )


_DEFAULT = BulkheadRule()
_PERMIT = 1


class Bulkhead(Gate[int]):
    """Let at most `limit` calls be in flight; let `queue` more wait, at most `max_wait` each.

    The line is first come, first served. Once it has not been empty for `max_wait` it absorbs no burst: newcomers wait
    at most `target`, and the newest is served first (CoDel and adaptive LIFO, as in "Fail at Scale"). Nobody waits past
    the call's deadline. Raises `BulkheadFull` at the door, or when the wait was in vain. The permit of a call is free
    again when it is settled: a stream's when the stream ends. Put one that waits before the breaker.

    Read at any time: `inflight`, `depth` of the line, `limit`; counters `queued` and `rejected`.
    """

    def __init__(self, rule: BulkheadRule = _DEFAULT, *, name: str = "", target: str = "") -> None:
        self.name = name
        self.target = target
        self.inflight = 0
        self.queued = 0
        self.rejected = 0
        self._rule = rule
        self._limit = rule.limit
        self._lock = threading.Lock()
        self._line: Line[int] = Line(rule)

    @property
    def rule(self) -> BulkheadRule:
        """The rule in force; storing another keeps every permit, and a higher limit lets those in line in at once."""
        return self._rule

    @rule.setter
    def rule(self, rule: BulkheadRule) -> None:
        with self._lock:
            self._rule = rule
            self._limit = rule.limit
            self._line.set(rule)
            woken = self._grant(None)
        for waiting in woken:
            waiting.rouse()

    @property
    def limit(self) -> int:
        """How many may be in flight."""
        return self._limit

    @property
    def depth(self) -> int:
        """How many are in line."""
        return len(self._line)

    def admit(self, call: Call, now: float) -> int | Waiting[int]:
        """Hand out a permit, or a place in the line; raise `BulkheadFull` when both are taken."""
        with self._lock:  # not by acquire and release: an interrupt between the two would leave it locked for ever
            if self.inflight < self._limit:  # then nobody is in line: every free permit went down it
                self.inflight += 1
                return _PERMIT
            place = self._line.join(call, now)
            if place is not None:
                self.queued += 1
                return place
            self.rejected += 1
            inflight, depth = self.inflight, len(self._line)
        raise self._full(f"{self.name or call.target}: {inflight} in flight, {depth} in line", inflight, depth)

    def settle(self, ticket: int, outcome: Outcome, now: float) -> None:
        """Take the permit back and hand it to whose turn it is."""
        with self._lock:
            self.inflight -= 1
            if not self._line.places:
                return
            woken = self._grant(now)
        for waiting in woken:
            waiting.rouse()

    def withdraw(self, waiting: Waiting[int], now: float) -> int | None:
        """Leave the line: None, or the permit that was granted at that very moment."""
        with self._lock:
            if waiting.ticket is None:
                self._line.leave(waiting)
            return waiting.ticket

    def late(self, waiting: Waiting[int], now: float) -> Rejected:
        """Say that the wait was in vain."""
        with self._lock:
            self.rejected += 1
            inflight, depth = self.inflight, len(self._line)
        waited = now - waiting.since
        return self._full(
            f"{self.name or 'bulkhead'}: waited {waited:.3f} s behind {inflight} in flight", inflight, depth
        )

    def _full(self, message: str, inflight: int, depth: int) -> BulkheadFull:
        return BulkheadFull(message, inflight=inflight, limit=self._limit, depth=depth, queue=self._rule.queue)

    def _grant(self, now: float | None) -> list[Waiting[int]]:
        """Hand free permits down the line; call with the lock held."""
        woken: list[Waiting[int]] = []
        while self.inflight < self._limit:
            waiting = self._line.next(now)
            if waiting is None:
                break
            self.inflight += 1
            waiting.resolve(ticket=_PERMIT)
            woken.append(waiting)
        return woken
