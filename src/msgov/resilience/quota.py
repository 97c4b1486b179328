"""Share a limit between processes without asking anybody on a call's way.

The gate spends what this process has leased. It says what it wants (`demand`), and somebody who may wait fetches it
(`quota_redis`) and says what came of it: `counted`, or `unreachable`, and after that `reached`. As long as the store
cannot be reached, or nobody fetches, this process's part of the limit decides.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from msgov.call import Call, Outcome
from msgov.errors import RateLimited, Rejected, RuleError
from msgov.event import Observers
from msgov.policy import Waiting
from msgov.resilience.limiter import Cost, Limiter, LimiterRule
from msgov.resilience.limiter_keys import PLAIN, SHARED, Keys, digest
from msgov.resilience.quota_lease import Ask, Lease
from msgov.resilience.quota_rule import QuotaRule
from msgov.resilience.standing import Metered, Standing

__all__ = ["Ask", "Quota", "QuotaRule"]

_DEFAULT: Final = QuotaRule()
_SILENT = 1.0  # seconds without an answer after which nobody is thought to fetch
_SOON = 0.05  # seconds after which to come back, or ask again: an answer takes a few milliseconds
_EARLY = 1e-3  # a timer may ring this much too soon
_LINE = 10_000  # calls of one key that wait; what comes beyond is decided by this process's part
_BY_PART = -1.0  # the ticket of a call that this process's part let in


class Quota(Metered[float]):
    """Refuse what all processes together have no room for, each key for itself.

    Keys and costs are as a `Limiter`'s; a call may cost as much as the process holds of its lease. A pump must fetch
    (`msgov.resilience.quota_redis.QuotaPump`). Without one, and while the store is lost, this process's part of the
    limit decides: calls are neither all refused nor held up. `scope` stands before its name in the store, where the
    name alone would meet another's. Raises `RateLimited`.

    Counters: `admitted`, `rejected`, `by_part` (those of both that this process's part decided), `overflowed` (calls
    decided by the quota of all for whom there is no room), `losses`. `lost` says that the part decides now. Events:
    "quota.lost", "quota.found".
    """

    waits = True  # a new rule may say so
    learns = False

    def __init__(
        self,
        rule: QuotaRule = _DEFAULT,
        *,
        key: Callable[[Call], str] | None = None,
        cost: Cost | None = None,
        name: str = "",
        target: str = "",
        scope: str = "",
        observers: Observers | None = None,
    ) -> None:
        self.name = name
        self.target = target
        self.scope = scope
        self.admitted = self.rejected = self.by_part = self.overflowed = self.losses = 0
        self.lost = True
        self.wake: Callable[[], None] | None = None
        self._key = key
        self._cost = cost
        self._observers = observers or Observers()
        self._lock = threading.Lock()
        self._keys = Keys(self._idle, rule.keys_max)
        self._wanted: dict[str, None] = {}
        self._waiting: dict[Waiting[float], tuple[Call, float]] = {}
        self._since = math.inf  # when the store was reached last: what was asked before has no answer
        self._part = Limiter(_part(rule), key=key, cost=cost, name=name, target=target)
        self._set(rule)

    @property
    def rule(self) -> QuotaRule:
        """The rule in force; storing another keeps what is leased, and what is counted as long as the window stays."""
        return self._rule

    @rule.setter
    def rule(self, rule: QuotaRule) -> None:
        self._part.rule = _part(rule)
        with self._lock:
            self._keys.most = rule.keys_max
            self._set(rule)

    def _set(self, rule: QuotaRule) -> None:
        self._rule = rule
        self._quota, self._window = rule.limit.quota, rule.limit.window
        self._held, self._credit = float(rule.held), float(rule.credit)
        self._low = self._held / 2  # more is asked for before the last is spent

    @property
    def limit(self) -> float:
        """The rate in force, in calls a second, of all processes together."""
        return self._quota / self._window

    @property
    def keys(self) -> int:
        """How many keys are remembered."""
        return len(self._keys)

    def admit(self, call: Call, now: float) -> float | Waiting[float]:
        """Let the call in, or raise `RateLimited`; a rule that says so answers with a place in line."""
        if self.lost:
            return self._by_part(call, now)
        key = call.key if self._key is None else self._key(call)
        name = key if len(key) <= PLAIN else digest(key)
        cost = 1.0 if self._cost is None else self._costs(self._cost, call)
        found: float | Waiting[float] | None = None
        wake = None
        with self._lock:
            name, lease = self._known(name, now)
            lease.seen = now
            lease.turn(now, self._quota)
            under_way = lease.asked >= self._since
            left = lease.balance - cost
            if left >= 0 or (left >= -self._credit and not lease.until):
                lease.balance = left
                self.admitted += 1
                found = lease.left + max(0.0, left)
            elif not lease.until and cost <= self._held:
                silent = under_way and now - lease.asked > _SILENT
                if silent or (not self._credit and len(lease.line) >= _LINE):
                    found = _BY_PART
                elif not self._credit:
                    found = Waiting(since=now, until=now + self._rule.patience)
                    lease.line.append(found)
                    self._waiting[found] = call, cost
            if lease.balance <= self._low and not lease.until and not under_way:
                wake = self._want(name, lease, now)
            if found is None:
                self.rejected += 1
                until = lease.until
        if wake is not None:
            wake()
        if found is None:
            raise self._refused(call, cost, until, now)  # in no variable of the frame that it holds
        return self._by_part(call, now) if found == _BY_PART else found

    def _known(self, name: str, now: float) -> tuple[str, Lease]:
        """Return the key that decides, and its lease: the shared one for a new key when there is no room."""
        lease: Lease | None = self._keys.find(name)
        if lease is None:
            if self._keys.room(now):
                self._keys.add(name)
            else:
                self.overflowed += 1
                name = SHARED
                lease = self._keys.find(name)
            if lease is None:
                lease = self._keys.states[name] = Lease(self._quota)
        return name, lease

    def _idle(self, lease: Lease) -> float:
        """Say when a key may be forgotten: the window that it was last used in is over by then."""
        return math.inf if lease.asked >= self._since else max(lease.seen + self._window, lease.until)

    def _want(self, name: str, lease: Lease, now: float) -> Callable[[], None] | None:
        """Ask for more of a key; return whom to wake after the lock."""
        lease.asked = now
        self._wanted[name] = None
        return self.wake if len(self._wanted) == 1 else None

    def _costs(self, cost: Cost, call: Call) -> float:
        found = cost(call)
        if not 0 <= found < math.inf:  # NaN is neither
            raise RuleError.at("cost", found, "what `cost` returns is a number of calls, 0 or more", where=self.name)
        return found

    def _refused(self, call: Call, cost: float, until: float, now: float) -> RateLimited:
        who = self.name or call.target
        facts: dict[str, Any] = {"limiter": self.name, "limit": self.limit, "burst": self._held}
        if cost > self._held:
            return RateLimited(
                f"{who}: the call costs {cost:g} and a process holds {self._held:g} at most: it will never fit",
                retry_after=None,
                **facts,
                cost=cost,
            )
        wait = until - now if until else _SOON
        return RateLimited(
            f"{who}: more than {self._quota} in {self._window} s by all processes",
            retry_after=wait,
            **facts,
            quota=self._quota,
            window=self._window,
            remaining=0,
            reset=wait,
        )

    def _by_part(self, call: Call, now: float) -> float:
        """Let this process's part of the limit decide."""
        try:
            self._part.admit(call, now)
        except Rejected:
            with self._lock:
                self.by_part += 1
                self.rejected += 1
            raise
        with self._lock:
            self.by_part += 1
            self.admitted += 1
        return _BY_PART

    def settle(self, ticket: float, outcome: Outcome, now: float) -> None:
        """Learn nothing: what was admitted was spent."""

    def withdraw(self, waiting: Waiting[float], now: float) -> float | None:
        """Leave the line: by the answer that came, or after `patience` by what this process's part says."""
        with self._lock:
            held = self._waiting.pop(waiting, None)
        if held is None:
            return super().withdraw(waiting, now)
        return self._by_part(held[0], now) if now >= waiting.until - _EARLY else None

    def standings(self, ticket: float, now: float) -> Sequence[Standing]:
        """Return what was left when the store was last asked and nobody else has used since; nothing while it is lost.

        When the window ends is known only once it is used up: until then `reset` is the longest that it can be.
        """
        if ticket < 0:
            return ()
        return (Standing(self.name, self._quota, self._window, int(ticket), float(self._window)),)

    # What the pump asks for, and what it answers.

    def demand(self, now: float) -> list[Ask]:
        """Take what is wanted: each is answered by `counted`, or all by `unreachable`."""
        with self._lock:
            wanted, self._wanted = self._wanted, {}
            return [self._ask(name, lease) for name in wanted if (lease := self._keys.find(name)) is not None]

    def _ask(self, name: str, lease: Lease) -> Ask:
        line = sum(self._waiting[each][1] for each in lease.line if each in self._waiting)
        amount = max(1, math.ceil(self._held - lease.balance + line))
        kept = name if len(name) > PLAIN else digest(name)  # in the store each key has one length, and no secret in it
        return Ask(name, f"{self.scope}{self.name}:{self._window}:{kept[1:]}", amount, self._quota, self._window)

    def counted(self, ask: Ask, count: int, now: float, *, ends: float | None = None) -> None:
        """Learn that the store has counted an ask, and what it counts now; above the quota also when the window ends.

        `ends` is in seconds from now; None for as long as a window lasts.
        """
        woken: list[Waiting[float]] = []
        with self._lock:
            lease: Lease | None = self._keys.find(ask.name)
            if lease is None:
                return
            lease.fill(ask, count, now, max(_SOON, ask.window if ends is None else ends))
            line, lease.line = lease.line, []
            for waiting in line:
                held = self._waiting.get(waiting)
                if held is None:  # it left the line
                    continue
                call, cost = held
                if lease.balance < cost and not lease.until:
                    lease.line.append(waiting)
                    continue
                del self._waiting[waiting]
                woken.append(waiting)
                if lease.balance >= cost:
                    lease.balance -= cost
                    self.admitted += 1
                    waiting.resolve(ticket=lease.left + lease.balance)
                else:
                    self.rejected += 1
                    waiting.resolve(error=self._refused(call, cost, lease.until, now))
            wake = self._want(ask.name, lease, now) if lease.line else None
        for waiting in woken:
            waiting.rouse()
        if wake is not None:
            wake()

    def unreachable(self, now: float, *, error: str = "") -> None:
        """Learn that the store is lost: from now on this process's part decides, also for those in line."""
        with self._lock:
            if self.lost:
                return
            self.lost = True
            self.losses += 1
            self._wanted = {}
            line, self._waiting = self._waiting, {}
            for waiting, (call, _) in line.items():
                self.by_part += 1
                try:
                    self._part.admit(call, now)
                except Rejected as refused:
                    self.rejected += 1
                    waiting.resolve(error=refused)
                else:
                    self.admitted += 1
                    waiting.resolve(ticket=_BY_PART)
        for waiting in line:
            waiting.rouse()
        self._observers.tell("quota.lost", self.name, self.target, now, error=error, part=self._part.limit)

    def reached(self, now: float) -> None:
        """Learn that the store can be asked: leases decide again."""
        with self._lock:
            if not self.lost:
                return
            self.lost, self._since = False, now
        self._observers.tell("quota.found", self.name, self.target, now)


def _part(rule: QuotaRule) -> LimiterRule:
    """Return what one process lets in by itself: its part of the same window, at least a call."""
    part = max(rule.limit.quota / rule.processes, 1e-3)
    rate = f"{part:.6f}/{rule.limit.window}s"
    return LimiterRule(rate=rate, algorithm="sliding_window", keys_max=rule.keys_max)
