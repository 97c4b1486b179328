"""Say what of the past still answers: for how long it is fresh, and for how much longer it may serve.

Freshness is RFC 9111's: an answer's age counts from the moment it was asked for. The two windows after it are those of
RFC 5861, stale-while-revalidate and stale-if-error.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from enum import Enum
from itertools import count
from typing import Final

from msgov.call import PERMANENT, TRANSIENT, Outcome
from msgov.errors import Rejected
from msgov.rule import field, rule


@rule
class CacheRule:
    """How long an answer serves, and how many are kept."""

    ttl: float = field(
        default=5.0,
        gt=0,
        le=86_400,
        unit="s",
        why="spares a hot key most of its calls, and is over before a person looks twice; more is the owner's to say",
    )
    stale_if_error: float = field(
        default=60.0,
        ge=0,
        le=604_800,
        unit="s",
        why="after the ttl: a minute outlasts a restart or a failover of the callee; 0 for never (RFC 5861)",
    )
    stale_while_revalidate: float = field(
        default=0.0,
        ge=0,
        le=86_400,
        unit="s",
        why="after the ttl, while one call asks anew: off, for a stale answer with no need is asked for (RFC 5861)",
    )
    size: int = field(
        default=1000, ge=1, le=10_000_000, unit="answers", why="of 10 kB each that is 10 MB; count your own"
    )


class Find(Enum):
    """What a look into the cache says to do."""

    HIT = "hit"
    STALE = "stale"
    REFRESH = "refresh"
    MISS = "miss"


# Bound once: an enum member by attribute costs 90 ns on CPython 3.11.
HIT, STALE, REFRESH, MISS = Find.HIT, Find.STALE, Find.REFRESH, Find.MISS

NOTHING: Final = object()
_DEFAULT = CacheRule()


class _Entry:
    __slots__ = ("asked", "refresh", "ticket", "used", "value")

    def __init__(self, value: object, asked: float, ticket: int) -> None:
        self.value = value
        self.asked = asked
        self.ticket = ticket
        self.refresh = 0  # the ticket of the call that asks for it anew
        self.used = False


class CacheStore:
    """Say what of the past still answers: numbers in, a choice out.

    `find` says what to do; whoever is told MISS or REFRESH asks the callee, and comes back with the ticket to `keep`
    the answer or to `fail`. Tickets are numbered as calls begin, so the answer of an older call never replaces that of
    a newer one, and what was asked before a `forget` is not kept after it. A hit takes no lock; to make room the oldest
    goes that was not asked for since it was last passed over (second chance, Corbato 1968: least recently used within
    one round).
    """

    def __init__(self, rule: CacheRule = _DEFAULT) -> None:
        self.rule = rule
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._lock = threading.Lock()
        self._ticket = 0
        self._floor = 0
        self._misses = 0
        self._stale = 0
        self._errors = 0
        self._evicted = 0
        self._hit = count(1).__next__
        self._looks = 0

    def find(self, key: Hashable, now: float, *, behind: bool = True) -> tuple[Find, object, int]:
        """Return what to do, the value to answer with (HIT, STALE, REFRESH) and the ticket (REFRESH, MISS).

        STALE answers while another refreshes; REFRESH answers too, and asks the caller to refresh `behind` it; a caller
        that cannot is told MISS instead.
        """
        entry = self._entries.get(key)
        if entry is not None and now - entry.asked < self.rule.ttl and entry.value is not NOTHING:
            entry.used = True
            self._hit()
            return HIT, entry.value, 0
        with self._lock:
            entry = self._entries.get(key)
            age = None if entry is None or entry.value is NOTHING else now - entry.asked
            if entry is not None and age is not None:
                if age < self.rule.ttl:  # kept by another thread since
                    self._hit()
                    return HIT, entry.value, 0
                if age < self.rule.ttl + self.rule.stale_while_revalidate:
                    entry.used = True
                    begins = not entry.refresh
                    if begins:
                        entry.refresh = self._next()
                    if behind or not begins:
                        self._stale += 1
                        return (REFRESH, entry.value, entry.refresh) if begins else (STALE, entry.value, 0)
                    self._misses += 1
                    return MISS, None, entry.refresh
            self._misses += 1
            return MISS, None, self._next()

    def keep(self, key: Hashable, value: object, *, ticket: int, asked: float) -> None:
        """Keep an answer that was asked for at `asked`, unless a newer one is here, or it was to be forgotten."""
        with self._lock:
            old = self._entries.get(key)
            if ticket <= self._floor or (old is not None and ticket < old.ticket):
                return
            self._put(key, _Entry(value, asked, ticket))

    def fail(self, key: Hashable, outcome: Outcome, *, ticket: int, now: float, behind: bool = False) -> object:
        """Learn that asking failed; return the stale answer that serves in its place, or NOTHING.

        TRANSIENT failures and our own rejections may be answered, unless nobody waits (`behind`). A PERMANENT one is
        the callee's newer answer: what is older is forgotten.
        """
        passing = outcome.verdict is TRANSIENT or isinstance(outcome.error, Rejected)
        with self._lock:
            self._errors += passing
            entry = self._entries.get(key)
            if entry is None or entry.value is NOTHING:
                return NOTHING
            if entry.refresh == ticket:
                entry.refresh = 0
            if outcome.verdict is PERMANENT and entry.ticket < ticket:
                del self._entries[key]
            if behind or not passing:
                return NOTHING
            if now - entry.asked >= self.rule.ttl + max(self.rule.stale_if_error, self.rule.stale_while_revalidate):
                return NOTHING
            entry.used = True
            self._stale += 1
            return entry.value

    def forget(self, key: Hashable) -> None:
        """Forget an answer, and those of calls under way: the place is kept, so that they are known to be old."""
        with self._lock:
            self._put(key, _Entry(NOTHING, 0.0, self._next()))

    def clear(self) -> None:
        """Forget every answer, and those of calls under way."""
        with self._lock:
            self._floor = self._next()
            self._entries.clear()

    @property
    def counts(self) -> dict[str, int]:
        """Calls since the start: `hit`, `miss`, `stale`, `error` (asked, and it may pass); answers `evicted`.

        A miss that failed is an `error` too, and `stale` as well when an old answer served.
        """
        with self._lock:
            self._looks += 1  # looking is counted by the counter too
            return {
                "hit": self._hit() - self._looks,
                "miss": self._misses,
                "stale": self._stale,
                "error": self._errors,
                "evicted": self._evicted,
            }

    def __len__(self) -> int:
        """Count the places taken."""
        return len(self._entries)

    def _next(self) -> int:
        self._ticket += 1
        return self._ticket

    def _put(self, key: Hashable, entry: _Entry) -> None:
        entries = self._entries
        entries.pop(key, None)
        chances = len(entries)
        while len(entries) >= self.rule.size:
            oldest, old = entries.popitem(last=False)
            if old.used and chances:
                chances -= 1
                old.used = False
                entries[oldest] = old
            else:
                self._evicted += 1
        entries[key] = entry
