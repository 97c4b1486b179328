"""Learn from the other processes of a service what is down, without being fooled by one of them.

The machine waits for nobody: who talks to the store (`pool_redis`) takes a `report` there, brings back to `hear` what
the others reported, and says when the store is `unreachable`. Only what a process saw itself is passed on, never what
it concluded: a breaker that opened on the pool's word is no further evidence, and opening does not spread by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from msgov._rolling import Rolling
from msgov.errors import RuleError
from msgov.resilience.breaker import Breaker
from msgov.resilience.breaker_states import CLOSED
from msgov.resilience.pool_evidence import Report, Seen, weigh
from msgov.resilience.pool_rule import PoolRule

__all__ = ["Pool", "PoolRule"]

MOST: Final = 1000  # other members remembered: each costs every other one a line a period
SILENT: Final = 60  # hearings without news of a member after which it is gone for good

_DEFAULT = PoolRule()
_NOTHING: Final = Seen(0, 0)


class Pool:
    """Breakers of one process, who learn what the same breakers of other processes see.

    `name` is the service's: processes with the same one are a pool. A breaker is the same as another process's by its
    name, target and key. One that is closed opens, by the reason "pool", when (a) the calls of all members in their
    windows reach its own `failure_rate`, (b) a quorum of the members sees that rate, and (c) its own calls do not deny
    it. From there on it is as if it had opened by itself: it comes back by its own probes, and for a window after that
    the pool leaves it alone, for what the others report may be of before.

    One at a time calls `report`, `hear` and `gone`; no call through a breaker ever waits for them.
    Raises `RuleError` for a pool without a name, for a breaker without one, and for two of the same.

    Read at any time: `lost`, whether the store does not answer, so that each decides alone; `members`, how many others
    are heard of; `opened` and `vetoed`, how often a breaker was opened, and was not because of its own calls.
    """

    def __init__(self, *breakers: Breaker, name: str, rule: PoolRule = _DEFAULT) -> None:
        if not name:
            raise RuleError.at("name", name, "the service's name: its processes are a pool by that")
        self.name = name
        self.rule = rule
        self.lost = True
        self.members = 0
        self.opened = 0
        self.vetoed = 0
        self._serial = 0
        self._heard = float("-inf")
        self._others: dict[str, _Member] = {}
        self._watched: dict[str, _Watched] = {}
        self.keep(breakers)

    def keep(self, breakers: Iterable[Breaker]) -> None:
        """Pool these from now on, and no others; of one that stays, what was seen stays."""
        before, found = self._watched, dict[str, _Watched]()
        for breaker in breakers:
            label = "/".join(part for part in (breaker.name, breaker.target, breaker.key) if part)
            if not label or label in found:
                raise RuleError.at("name", label, "a name of its own for each breaker: processes share it by that")
            stays = before.get(label)
            found[label] = stays if stays is not None and stays.breaker is breaker else _Watched(breaker)
        self._watched = found

    def report(self, now: float) -> Report:
        """Count what was seen since the last time; return what is in the windows, for the others."""
        self._serial += 1
        seen = {label: watched.look(now) for label, watched in self._watched.items()}
        return Report(self._serial, {label: each for label, each in seen.items() if each.calls})

    def hear(self, said: Mapping[str, Report], now: float) -> None:
        """Take in what the other members say, by any names of theirs, and open what they show to be down.

        A member counts from the second sight on, and as long as its serial moves: a report that lies in the store says
        nothing about the day it was written.
        """
        others, stale = self._others, self.rule.stale
        if now - self._heard > stale:
            others.clear()  # all of it was too long ago; what lay in the store meanwhile is no news either
        self._heard, self.lost = now, False
        for member in [member for member in others if member not in said]:
            del others[member]
        for member, report in said.items():
            known = others.get(member)
            if known is not None:
                known.hear(report, self._watched, now)
            elif len(others) < MOST:
                others[member] = _Member(report.serial)
        fresh = [member.seen for member in others.values() if now - member.moved <= stale]
        self.members = len(fresh)
        for label, watched in self._watched.items():
            self._weigh(watched, [seen[label] for seen in fresh if label in seen], now)

    def unreachable(self) -> None:
        """Say that the store does not answer: until it does, each decides by its own calls."""
        self.lost, self.members = True, 0

    def gone(self) -> list[str]:
        """Return who is dead for so long that the store may forget it."""
        return [member for member, known in self._others.items() if known.silent >= SILENT]

    def _weigh(self, watched: _Watched, others: list[Seen], now: float) -> None:
        breaker = watched.breaker
        rule = breaker.rule
        if not others or breaker.state is not CLOSED or now - watched.back < rule.window:
            return
        found = weigh(watched.seen, others, rule=self.rule, breaker=rule)
        self.vetoed += found.vetoed
        self.opened += found.opens and breaker.trip(found.facts, now=now)


class _Member:
    """Another process: what it said last, and when that was news."""

    __slots__ = ("moved", "seen", "serial", "silent")

    def __init__(self, serial: int) -> None:
        self.serial = serial
        self.moved = float("-inf")  # not seen to move yet
        self.silent = 0  # hearings since it moved: a time would grow while the store is lost
        self.seen: dict[str, Seen] = {}

    def hear(self, report: Report, labels: Iterable[str], now: float) -> None:
        """Take its report if it is news, and of that what this process knows too."""
        if report.serial == self.serial:
            self.silent += 1
            return
        self.serial, self.moved, self.silent = report.serial, now, 0
        self.seen = {label: report.seen[label] for label in labels if label in report.seen}


class _Watched:
    """A breaker of this process, and its calls over its window as of the last look, probes among them."""

    __slots__ = ("_counted", "_shape", "_since", "_window", "back", "breaker", "seen")

    def __init__(self, breaker: Breaker) -> None:
        self.breaker = breaker
        self.back = float("-inf")  # when it last began anew
        self.seen = _NOTHING
        self._since = breaker.since
        self._counted = self._count()
        self._shape = breaker.rule.window, breaker.rule.buckets
        self._window = Rolling(2, seconds=breaker.rule.window, buckets=breaker.rule.buckets)

    def look(self, now: float) -> Seen:
        """Take in the calls since the last look, as of now; what was before it closed again, it forgets."""
        shape = self.breaker.rule.window, self.breaker.rule.buckets
        if shape != self._shape:
            self._shape = shape
            self._window.reshape(seconds=shape[0], buckets=shape[1])
        before, self._counted = self._counted, self._count()
        for kind in (0, 1):
            self._window.add(kind, now, self._counted[kind] - before[kind])
        if self.breaker.since != self._since:
            self._since = self.breaker.since
            if self.breaker.state is CLOSED:
                self.back = self._since
                self._window.clear()
        well, badly = self._window.totals
        self.seen = Seen(well, badly)
        return self.seen

    def _count(self) -> Seen:
        counts = self.breaker.counts
        return Seen(counts["success"], counts["failure"])
