"""A lease ends when its holder stops moving it while others still can, or when the holder has surely died.

No time is stored: a lease is a counter that its holder moves, judged by the watcher's own clock, so clocks that jump or
begin anew with the next boot end no lease and keep none alive. Two things must not be taken for a death: a registry
that takes no writes (then nobody's counter moves), and a watcher that was stopped itself (then it saw nothing move).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from msgov.discovery.instance import HEAVIEST, LIGHTEST, Instance, Snapshot, read, snapshot
from msgov.errors import RuleError

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """A lease as it stands in the registry.

    An instance may have several holders (the workers of one address); it stays as long as one of them does. `beat` is
    the counter, `ttl` how long it may stand still, in seconds, and `origin` says which process holds it.
    """

    id: str
    holder: str
    record: str
    beat: int
    ttl: float
    origin: str


@dataclass(frozen=True, slots=True)
class Override:
    """What an operator wants of an instance, whatever it says of itself: offline (no new calls), or another weight."""

    offline: bool = False
    weight: float | None = None

    def __post_init__(self) -> None:
        """Check the weight; raises `RuleError`."""
        if self.weight is not None and not LIGHTEST <= self.weight <= HEAVIEST:
            raise RuleError.at("weight", self.weight, f"a number from {LIGHTEST:g} to {HEAVIEST:g}")

    def on(self, instance: Instance) -> Instance:
        """Return the instance as the operator wants it."""
        weight = instance.weight if self.weight is None else self.weight
        return replace(instance, draining=instance.draining or self.offline, weight=weight)


class _Lease:
    __slots__ = ("forgotten", "instance", "quiet", "row", "why")

    def __init__(self, row: Row) -> None:
        self.row = row
        self.quiet = 0.0
        self.forgotten = False
        self.instance: Instance | None = None
        self.why = ""
        try:
            self.instance = read(json.loads(row.record))
        except (ValueError, RecursionError) as error:  # a RuleError is a ValueError
            self.why = str(error) or "nested too deep"


class Leases:
    """What one watcher knows of one service: take each reading of the registry, get the instances that live.

    `ended` lists the leases that had ended at the last reading, by id, holder and counter: whoever deletes one must
    find it unmoved.
    """

    __slots__ = ("_era", "_leases", "_looked", "ended", "service")

    def __init__(self, service: str) -> None:
        self.service = service
        self.ended: list[tuple[str, str, int]] = []
        self._era = ""
        self._looked: float | None = None
        self._leases: dict[Key, _Lease] = {}

    def take(
        self,
        rows: Sequence[Row],
        *,
        era: str,
        revision: int,
        now: float,
        writable: bool,
        dead: Callable[[str], bool],
        overrides: Mapping[str, Override] = MappingProxyType({}),
    ) -> Snapshot:
        """Take what the registry holds at `now`; return who lives.

        `era` names the registry's own life. A row that is missing in the same era was taken out; one that is missing in
        a new era was forgotten with the rest, and its instance gets the time of its lease to come back. `writable` is
        whether we could write to the registry ourselves of late: as long as not, no counter can be blamed for standing
        still, and afterwards each has its whole lease. `dead` judges an origin.
        """
        since = None if self._looked is None or not writable else max(0.0, now - self._looked)
        old, self._leases = self._leases, {}
        for row in rows:
            self._leases[row.id, row.holder] = _moved(old.pop((row.id, row.holder), None), row, since)
        for key, lease in old.items():  # no longer there
            lease.forgotten = lease.forgotten or era != self._era
            if lease.forgotten:
                self._leases[key] = _moved(lease, lease.row, since)
        self._looked, self._era = now, era
        return self._living(revision, _once(dead), overrides)

    def _living(self, revision: int, dead: Callable[[str], bool], overrides: Mapping[str, Override]) -> Snapshot:
        found: dict[str, Instance] = {}
        self.ended = []
        broken, why = 0, ""
        for key, lease in tuple(self._leases.items()):
            if lease.quiet >= lease.row.ttl or dead(lease.row.origin):
                if lease.forgotten:
                    del self._leases[key]
                else:  # kept, so that a row that nobody could delete yet does not look like a new one
                    self.ended.append((*key, lease.row.beat))
            elif lease.instance is None:
                broken, why = broken + 1, why or lease.why
            elif key[0] not in found or not found[key[0]].eligible:  # of several holders, one that takes calls
                found[key[0]] = lease.instance
        for id_ in overrides.keys() & found.keys():
            found[id_] = overrides[id_].on(found[id_])
        made = snapshot(self.service, found.values(), revision=revision)
        return replace(made, dropped=made.dropped + broken, why=made.why or why) if broken else made


def _moved(old: _Lease | None, row: Row, since: float | None) -> _Lease:
    """Carry a lease over to its new row; the time between two looks counts for a third of the lease at most."""
    if old is None or old.row.record != row.record:
        return _Lease(row)
    old.quiet = old.quiet + min(since, row.ttl / 3) if row.beat == old.row.beat and since is not None else 0.0
    old.forgotten = old.forgotten and row is old.row
    old.row = row
    return old


def _once(dead: Callable[[str], bool]) -> Callable[[str], bool]:
    """Ask once about each origin: one process may hold many leases, and asking costs a system call."""
    known: dict[str, bool] = {}

    def asked(origin: str) -> bool:
        if origin not in known:
            known[origin] = dead(origin)
        return known[origin]

    return asked
