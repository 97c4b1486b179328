"""Bound what is in flight, so that one slow callee cannot take every worker."""

from __future__ import annotations

import threading

from msgov.call import Call, Outcome
from msgov.errors import BulkheadFull, Rejected
from msgov.policy import Gate, Shortcut, Waiting
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
        self.queued = 0
        self.rejected = 0
        self._rule = rule
        self._lock = threading.Lock()
        self._line: Line[int] = Line(rule)
        # To take a permit from the pile, or to put one back, is one C-level step, and needs no lock as long as nobody
        # is in line. Whoever joins the line looks at the pile once more after it, whoever puts back looks at the line.
        self._pile: list[int] = [_PERMIT] * rule.limit
        self._permits = rule.limit  # those in the pile and those handed out
        self._busy = False  # somebody is in line, or there are more permits than the limit

    @property
    def rule(self) -> BulkheadRule:
        """The rule in force; storing another keeps every permit, and a higher limit lets those in line in at once."""
        return self._rule

    @rule.setter
    def rule(self, rule: BulkheadRule) -> None:
        with self._lock:
            self._rule = rule
            self._line.set(rule)
            if rule.limit > self._permits:
                self._pile += [_PERMIT] * (rule.limit - self._permits)
                self._permits = rule.limit
            self._busy = True
            woken = self._grant(None)
        for waiting in woken:
            waiting.rouse()

    @property
    def limit(self) -> int:
        """How many may be in flight."""
        return self._rule.limit

    @property
    def inflight(self) -> int:
        """How many are in flight."""
        return self._permits - len(self._pile)

    @property
    def depth(self) -> int:
        """How many are in line."""
        return len(self._line)

    shortcut = Shortcut(
        admit=(
            "if {g}._busy:",
            "    {admit}",
            "else:",
            "    try:",
            "        {t} = {g}._pile.pop()",
            "    except IndexError:",
            "        {admit}",
        ),
        settle=("{g}._pile.append({t})", "if {g}._busy:", "    {g}._hand_on({now})"),
    )

    def admit(self, call: Call, now: float) -> int | Waiting[int]:
        """Hand out a permit, or a place in the line; raise `BulkheadFull` when both are taken."""
        if not self._busy:
            try:
                return self._pile.pop()
            except IndexError:
                pass
        return self._knock(call, now)

    def _knock(self, call: Call, now: float) -> int | Waiting[int]:
        with self._lock:
            if not self._line.places and self._permits <= self._rule.limit and self._pile:
                try:
                    return self._pile.pop()
                except IndexError:  # somebody was quicker
                    pass
            place = self._line.join(call, now)
            woken: list[Waiting[int]] = []
            if place is None:
                self.rejected += 1
                inflight, depth = self.inflight, len(self._line)
            else:
                self.queued += 1
                self._busy = True
                woken = self._grant(now)  # what was put back before that could be seen
        for waiting in woken:
            waiting.rouse()
        if place is None:
            raise self._full(f"{self.name or call.target}: {inflight} in flight, {depth} in line", inflight, depth)
        return place if place.ticket is None else place.ticket

    def settle(self, ticket: int, outcome: Outcome, now: float) -> None:
        """Put the permit back, and hand it to whose turn it is."""
        self._pile.append(ticket)
        if self._busy:
            self._hand_on(now)

    def _hand_on(self, now: float) -> None:
        with self._lock:
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
        return BulkheadFull(message, inflight=inflight, limit=self._rule.limit, depth=depth, queue=self._rule.queue)

    def _grant(self, now: float | None) -> list[Waiting[int]]:
        """Hand permits from the pile down the line, what is above the limit to nobody; call with the lock held."""
        woken: list[Waiting[int]] = []
        while self._pile:
            try:
                permit = self._pile.pop()
            except IndexError:  # somebody was quicker
                break
            if self._permits > self._rule.limit:
                self._permits -= 1
                continue
            waiting = self._line.next(now)
            if waiting is None:
                self._pile.append(permit)
                break
            waiting.resolve(ticket=permit)
            woken.append(waiting)
        self._busy = bool(self._line.places) or self._permits > self._rule.limit
        return woken
