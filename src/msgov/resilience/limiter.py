"""Admit so many calls a second for each key, and remember one number per key.

GCRA, the generic cell rate algorithm of ITU-T I.371: a key's number is the time at which its bucket will be full again,
and a call that would push it further ahead than the burst allows is early by exactly that much.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Iterable
from hashlib import blake2b

from msgov.call import Call, Outcome
from msgov.errors import Problem, RateLimited
from msgov.policy import Gate
from msgov.rule import field, rule

_RATE = re.compile(r"\s*(\d{1,12}(?:\.\d{1,9})?)\s*/\s*(\d{1,6})?\s*([a-z]+?)s?\s*", re.ASCII)
_UNITS = {
    "": 1.0, "s": 1.0, "sec": 1.0, "second": 1.0, "m": 60.0, "min": 60.0, "minute": 60.0,
    "h": 3600.0, "hour": 3600.0, "d": 86400.0, "day": 86400.0,
}  # fmt: skip
_RATES = 'calls a second (> 0, <= 1e9), or text like "100/minute", "5/s", "1000/10 minutes"'


def _read(rate: float | str) -> tuple[float, float] | None:
    """Return the calls and the seconds that a rate speaks of; None for what is no rate."""
    if not isinstance(rate, str):
        return (rate, 1.0) if 0 < rate <= 1e9 else None
    found = _RATE.fullmatch(rate)
    if found is None or found[3] not in _UNITS:
        return None
    calls, seconds = float(found[1]), float(found[2] or 1) * _UNITS[found[3]]
    return (calls, seconds) if seconds and 0 < calls / seconds <= 1e9 else None


@rule
class LimiterRule:
    """How many calls, how many at once, for how many keys."""

    rate: float | str = field(
        default=100.0,
        unit="calls/s",
        why='a number of calls a second, or text like "100/minute"; the default is a guess that every service replaces',
    )
    burst: float | None = field(
        default=None,
        unit="calls",
        why='how many at once; by default what the rate says: 100 of "100/minute", of a number a second\'s worth',
    )
    keys_max: int = field(
        default=100_000,
        ge=1,
        le=10_000_000,
        unit="keys",
        why="about 20 MB; past it new keys share one bucket, none is forgiven",
    )

    def lint(self) -> Iterable[Problem]:
        """Check what no single field can see."""
        if _read(self.rate) is None:
            yield Problem("rate", self.rate, _RATES)
        if self.burst is not None and not 1 <= self.burst <= 1e9:
            yield Problem("burst", self.burst, "at least 1, at most 1e9 calls")

    @property
    def per_second(self) -> float:
        """The rate in calls a second."""
        calls, seconds = _read(self.rate) or (1.0, 1.0)
        return calls / seconds

    @property
    def at_once(self) -> float:
        """The burst in force, in calls."""
        calls, _ = _read(self.rate) or (1.0, 1.0)
        return max(1.0, calls) if self.burst is None else self.burst


_DEFAULT = LimiterRule()
_Name = str | bytes

_IN = 1  # the ticket: a limiter has nothing to learn at the exit
_SWEEP = 4  # keys looked at for each new one: memory follows the active keys, and no call pays for all of them
_PLAIN = 32  # characters up to which a key is kept as it is; a longer one costs its 16-byte digest
_SHARED = b""  # the bucket of all for whom there is no room; no digest is empty


class Limiter(Gate[int]):
    """Refuse what comes faster than the rate, each key for itself.

    Keys are `call.key`, or what the `key` function makes of the call. At most `keys_max` are remembered, and only one
    whose bucket is full again is forgotten, so that forgetting frees nobody: rotating a million keys never frees a
    limited one. When all are in use, new keys share one bucket. Raises `RateLimited`, whose `retry_after` is exact.

    Counters: `admitted`, `rejected`, `overflowed` (calls decided by the shared bucket).
    """

    def __init__(
        self,
        rule: LimiterRule = _DEFAULT,
        *,
        key: Callable[[Call], str] | None = None,
        name: str = "",
        target: str = "",
    ) -> None:
        self.name = name
        self.target = target
        self.admitted = 0
        self.rejected = 0
        self.overflowed = 0
        self._key = key
        self._lock = threading.Lock()
        self._full: dict[_Name, float] = {}  # when each key's bucket will be full again
        self._hand: deque[_Name] = deque()  # the remembered keys, in the order in which they are looked at
        self._last = 0.0
        self._set(rule)

    @property
    def rule(self) -> LimiterRule:
        """The rule in force; storing another keeps what each key has used, counted in calls."""
        return self._rule

    @rule.setter
    def rule(self, rule: LimiterRule) -> None:
        with self._lock:
            last, stretch = self._last, self._rule.per_second / rule.per_second
            for name, full in self._full.items():
                if full > last:
                    self._full[name] = last + (full - last) * stretch
            self._set(rule)

    def _set(self, rule: LimiterRule) -> None:
        self._rule = rule
        self._step = 1.0 / rule.per_second
        self._ahead = rule.at_once * self._step
        # Who comes back after `retry_after` is admitted, whatever floats say; it never adds up to a call more.
        self._grain = min(1e-6, self._step / 100)

    @property
    def limit(self) -> float:
        """The rate in force, in calls a second."""
        return self._rule.per_second

    @property
    def keys(self) -> int:
        """How many keys are remembered."""
        return len(self._hand)

    def admit(self, call: Call, now: float) -> int:
        """Let the call in, or raise `RateLimited` with the seconds until it would fit."""
        key = call.key if self._key is None else self._key(call)
        name = key if len(key) <= _PLAIN else blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        with self._lock:
            self._last = now
            full = self._full.get(name)
            if full is None:
                if self._room(now):
                    self._hand.append(name)
                else:
                    self.overflowed += 1
                    name = _SHARED
                    full = self._full.get(name)
            if full is None or full < now:
                full = now
            full += self._step
            early = full - self._ahead - now
            if early <= self._grain:
                self._full[name] = full
                self.admitted += 1
                return _IN
            self.rejected += 1
            rule = self._rule
        raise RateLimited(
            f"{self.name or call.target}: more than {rule.per_second:g} calls/s, {rule.at_once:g} at once",
            retry_after=early,
            limit=rule.per_second,
            burst=rule.at_once,
        )

    def settle(self, ticket: int, outcome: Outcome, now: float) -> None:
        """Learn nothing: what was admitted was spent."""

    def _room(self, now: float) -> bool:
        """Forget a few keys whose bucket is full again; say whether there is room for one more."""
        hand = self._hand
        for _ in range(min(_SWEEP, len(hand))):
            name = hand.popleft()
            if self._full[name] <= now:
                del self._full[name]
            else:
                hand.append(name)
        return len(hand) < self._rule.keys_max
