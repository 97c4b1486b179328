"""Hold back here what the callee would only refuse, in proportion to what it refuses.

The client-side throttle of "Site Reliability Engineering" (O'Reilly 2016), chapter 21, "Handling Overload": of `n`
calls in the window the callee took `s`, and as long as n <= K s nothing is held back; beyond, a call is refused with
the chance (n - K s) / (n + 1). It has no states to be wedged in: it gives way as the callee gives way.
"""

from __future__ import annotations

import threading
from typing import Final

from msgov import clock
from msgov._rolling import Rolling
from msgov.call import IGNORED, OK, Call, Outcome
from msgov.clock import Dice
from msgov.errors import Shed
from msgov.event import Observers
from msgov.policy import Gate
from msgov.rule import field, rule


class Throttled(Shed):
    """The callee refuses much of what it is sent, so this call was held back here."""

    reason = "throttled"


@rule
class ThrottleRule:
    """How much the callee may refuse before calls are held back, and how many at most."""

    multiplier: float = field(
        default=2.0,
        ge=1,
        le=100,
        why="the book's K: so many calls are sent for each that is taken; less holds back sooner, more wastes the "
        "callee's time on refusals",
    )
    window: float = field(default=120.0, ge=1, le=3600, unit="s", why="the book's two minutes")
    buckets: int = field(
        default=40, ge=2, le=120, unit="buckets", why="the window moves by three seconds: it forgets smoothly"
    )
    ceiling: float = field(
        default=0.9, gt=0, lt=1, why="never hold back all: somebody must find out that the callee is well again"
    )
    minimum_rate: float = field(
        default=5.0,
        ge=0,
        le=1e6,
        unit="calls/s",
        why="with less traffic a share is noise, and a refusal costs nobody much",
    )
    pass_every: float = field(
        default=1.0,
        gt=0,
        le=3600,
        unit="s",
        why="after so long with nothing let through the next call goes, whatever chance says (go-zero's googlebreaker)",
    )
    shadow: bool = field(
        default=False, why="decide, count and tell, but refuse nothing: to try a rule on real traffic before it bites"
    )


_DEFAULT = ThrottleRule()
_IN: Final = 1  # the ticket: a call is known by its outcome alone
_TAKEN, _REFUSED, _HELD = 0, 1, 2  # what the window counts


def rejection(calls: int, taken: int, *, multiplier: float) -> float:
    """Return the chance to hold a call back when of so many calls so many were taken, 0 to 1."""
    return max(0.0, (calls - multiplier * taken) / (calls + 1))


class Throttle(Gate[int]):
    """Refuse calls by a chance that follows how many of them the callee refuses.

    Stands outside the retry, one for each callee. Only an outcome that is `overloaded` counts as refused: an error is
    an answer too, and a breaker's business. IGNORED counts as nothing, so that our own refusals inside, and callers who
    left, do not feed it. Calls in flight count when they end, so that a burst is not taken for an overload. Raises
    `Throttled`, with the chance, the numbers that made it, and in `retry_after` the seconds until a call goes anyway.

    While nothing is held back a call that goes well takes no lock. Counters: `taken` and `refused` by the callee,
    `held` back here, `would_reject` in shadow, where "shadow.throttle" is told for the first of each `pass_every`.
    """

    def __init__(
        self,
        rule: ThrottleRule = _DEFAULT,
        *,
        name: str = "",
        target: str = "",
        dice: Dice | None = None,
        observers: Observers | None = None,
    ) -> None:
        self.name = name
        self.target = target
        self.observers = observers or Observers()
        self.refused = 0
        self.held = 0
        self.would_reject = 0
        self._dice = dice or clock.dice()
        self._lock = threading.Lock()
        self._rule = rule
        self._window = Rolling(3, seconds=rule.window, buckets=rule.buckets)
        self._calm = True  # nothing is held back, and no success can change that
        self._taken = 0
        self._went = float("-inf")  # when one was last let through while others were held back
        self._warned = float("-inf")

    @property
    def rule(self) -> ThrottleRule:
        """The rule in force; storing another keeps the window."""
        return self._rule

    @rule.setter
    def rule(self, rule: ThrottleRule) -> None:
        with self._lock:
            if (rule.window, rule.buckets) != (self._rule.window, self._rule.buckets):
                self._window.reshape(seconds=rule.window, buckets=rule.buckets)
            self._rule = rule
            self._calm = False  # the next one looks at the window with the new rule

    @property
    def taken(self) -> int:
        """How many calls the callee has taken."""
        with self._lock:
            return self._taken + self._window.ticked()

    def chance(self, now: float) -> float:
        """Return the share of calls that is held back at `now`, 0 to the rule's `ceiling`."""
        with self._lock:
            return self._chance(now)

    def admit(self, call: Call, now: float) -> int:
        """Let the call in, at once while nothing is held back; else by chance, but one in each `pass_every` surely."""
        if self._calm:
            return _IN
        warn = False
        with self._lock:
            chance, rule = self._chance(now), self._rule
            if not chance:
                return _IN
            again = self._went + rule.pass_every
            if now >= again or self._dice.random() >= chance:
                self._went = now
                return _IN
            taken, refused, held = self._window.totals
            if rule.shadow:
                self.would_reject += 1
                warn = now >= self._warned + rule.pass_every
                if warn:
                    self._warned = now
            else:
                self.held += 1
                self._window.add(_HELD, now)
        facts = {"chance": round(chance, 4), "calls": taken + refused + held, "taken": taken}
        if not rule.shadow:
            raise Throttled(
                f"{self.name or call.target}: {chance:.0%} of the calls are held back, for it took {taken} of "
                f"{taken + refused + held}",
                retry_after=again - now,
                **facts,
            )
        if warn:
            self.observers.tell("shadow.throttle", self.name, self.target, now, reason="throttled", **facts)
        return _IN

    def settle(self, ticket: int, outcome: Outcome, now: float) -> None:
        """Learn whether the callee took the call."""
        if outcome.verdict is OK and self._calm and now < self._window.edge:
            self._window.tick()
            return
        if outcome.verdict is IGNORED:
            return
        with self._lock:
            if outcome.overloaded:
                self.refused += 1
                self._window.add(_REFUSED, now)
            else:
                self._taken += 1
                self._window.add(_TAKEN, now)
            taken, refused, held = self._window.totals
            self._calm = taken + refused + held <= self._rule.multiplier * taken

    def _chance(self, now: float) -> float:
        """Return the share that is held back; with the lock held."""
        window, rule = self._window, self._rule
        window.roll(now)
        calls = sum(window.totals)
        if calls < rule.minimum_rate * len(window) * rule.window / rule.buckets:
            return 0.0
        return min(rule.ceiling, rejection(calls, window.totals[_TAKEN], multiplier=rule.multiplier))
