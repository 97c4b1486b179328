"""Turn away what matters least while the process has too much to do, so that the rest is done well.

The rule is that of aegis' bbr (go-kratos) and go-zero's shedder, after TCP BBR: more in flight than the best throughput
times the best round trip only waits. Whom it meets follows the SRE book (ch. 21), DAGOR (SoCC 2018) and failsafe-go.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable

from msgov import clock
from msgov.call import OK, PERMANENT, Call, Outcome
from msgov.clock import Dice
from msgov.errors import Shed
from msgov.event import Observers
from msgov.policy import Gate
from msgov.resilience.shed_levels import Levels
from msgov.resilience.shed_rule import ShedRule
from msgov.scope import Criticality

__all__ = ["ShedRule", "Shedder"]

_DEFAULT = ShedRule()
_TURN = 1.0  # seconds: how long a threshold stands, and how long it is looked at after the last call was shed (aegis)
_STOP = 2  # times the ceiling: there all stop, whatever the threshold says
_LAST = 4  # times the ceiling: there CRITICAL_PLUS stops too; at 3 a burst of its own costs it 1 % (simulated)
_LEAST = 0.1  # of what can be done is let in to drain a crowd, so that nobody is locked out
_TELLS = 0.2  # seconds after which the one under way says something
_QUIET = 1.0  # seconds between two events of one gate in shadow
_PLUS = Criticality.CRITICAL_PLUS
_KINDS = tuple((why, each.name.lower()) for why in ("cpu", "lag", "delay", "recent") for each in Criticality)


class Shedder(Gate[float]):
    """Sheds by criticality, and fairly between tenants, while a reading is above its mark.

    The ticket is the time at which a call was let in. `sense` is told the readings; a `Load` does that. While one is
    above the mark of the rule, and for a second after the last call was shed, a call is let in if fewer than `ceiling`
    are in flight: the best throughput of a second times the best round trip, never less than one. Past it, only a call
    whose level is not below `threshold` is let in, which is set anew each second so that what comes in is what can be
    done, and none past twice the ceiling (four times for CRITICAL_PLUS). A level is the criticality, then how little
    its tenant, `call.key`, had lately, then a lot. Until a whole second was seen there is no ceiling.

    `criticality` is a function of the call; by default what the call says. Raises `Shed` with the numbers that decided.

    Read at any time: `inflight`, `ceiling`, `threshold`, the readings `cpu`, `lag` and `delay`, `strained` (which of
    them is above its mark, "" for none); counters `rejected`, `shed` (the same by what was too high, "recent" for the
    second after, and by criticality), `would_reject` (in shadow). Events: "shadow.shed", at most one a second.
    """

    def __init__(
        self,
        rule: ShedRule = _DEFAULT,
        *,
        criticality: Callable[[Call], Criticality] | None = None,
        name: str = "",
        target: str = "",
        dice: Dice | None = None,
        observers: Observers | None = None,
    ) -> None:
        self.name = name
        self.target = target
        self.observers = observers or Observers()
        self.inflight = 0
        self.ceiling = math.inf
        self.threshold = 0.0
        self.cpu = 0.0
        self.lag = 0.0
        self.delay = 0.0
        self.strained = ""
        self.rejected = 0
        self.shed = dict.fromkeys(_KINDS, 0)
        self.would_reject = 0
        self._criticality = criticality or _said
        self._lock = threading.Lock()
        self._levels = Levels(dice or clock.dice())
        self._rule = rule
        self._held = -math.inf  # until then the last call shed still counts
        self._came = 0
        self._turns = -math.inf  # when the threshold is set anew
        self._told = -math.inf
        self._done = 0  # in the second under way
        self._taken = 0.0  # seconds, by those
        self._edge = -math.inf  # when it ends; the first has not begun
        self._rates: deque[float] = deque(maxlen=rule.window)
        self._usual: deque[float] = deque(maxlen=rule.window)

    @property
    def rule(self) -> ShedRule:
        """The rule in force; storing another keeps what was seen."""
        return self._rule

    @rule.setter
    def rule(self, rule: ShedRule) -> None:
        with self._lock:
            self._rule = rule
            self._rates = deque(self._rates, maxlen=rule.window)
            self._usual = deque(self._usual, maxlen=rule.window)

    def sense(self, *, cpu: float = 0.0, lag: float = 0.0, delay: float = 0.0) -> None:
        """Take the latest readings: `cpu`, the share in use, 0 to 1; `lag` of the loop and `delay` of threads, in s."""
        rule = self._rule
        self.cpu, self.lag, self.delay = cpu, lag, delay
        self.strained = "cpu" if cpu > rule.cpu else "lag" if lag > rule.lag else "delay" if delay > rule.delay else ""

    def admit(self, call: Call, now: float) -> float:
        """Let the call in, or raise `Shed`."""
        with self._lock:
            if not self.strained and now >= self._held:
                self.inflight += 1
                return now
            level, row, fits = self._weigh(call, now)
            if fits:
                self.inflight += 1
                self._levels.let_in(row)
                return now
            facts, quiet = self._facts(call, level), now < self._told + _QUIET
            left, shadow = max(0.0, self._turns - now), self._rule.shadow
            if shadow:
                self.inflight += 1
                self._levels.let_in(row)
                self.would_reject += 1
                if not quiet:
                    self._told = now
            else:
                self.rejected += 1
                self.shed[self.strained or "recent", str(facts["criticality"])] += 1
                self._held = now + _TURN
        if not shadow:
            raise Shed(
                f"{self.name or call.target}: {facts['criticality']} call shed, "
                f"{facts['inflight']} in flight of {facts['ceiling']}, "
                f"level {level:.3f} below {facts['threshold']:.3f}, {facts['because']} too high",
                retry_after=left,
                **facts,
            )
        if not quiet:
            self.observers.tell("shadow.shed", self.name, self.target, now, reason="shed", **facts)
        return now

    def settle(self, ticket: float, outcome: Outcome, now: float) -> None:
        """Count what was done, and how long it took."""
        with self._lock:
            self.inflight -= 1
            if now >= self._edge:
                self._look(now)
            if outcome.verdict is OK or outcome.verdict is PERMANENT:
                self._done += 1
                self._taken += now - ticket

    def _weigh(self, call: Call, now: float) -> tuple[float, int, bool]:
        """Return the call's level, its tenant's row, and whether there is room for it; lock held, as for all below."""
        if now >= self._turns:
            self._turn(now)
        self._came += 1
        criticality = self._criticality(call)
        level, row = self._levels.level(criticality, call.key, now)
        if self.inflight < self.ceiling:
            return level, row, True
        stop = self.ceiling * (_LAST if criticality is _PLUS else _STOP)
        return level, row, level >= self.threshold and self.inflight < stop

    def _turn(self, now: float) -> None:
        """Set the threshold so that of what comes in as much is let in as can be done, less what is in flight too many.

        In the first second there is nothing to go by: everything up to twice the ceiling is let in.
        """
        seconds = now - self._turns + _TURN
        offered = self._came / seconds
        self.threshold = 0.0
        if self._rates and offered:
            begun = now - self._edge + 1.0  # the second under way: what it shows already is better than old calm
            best = max(*self._rates, self._done / begun if begun >= _TELLS else 0.0)
            room = max(best - max(0.0, self.inflight - self.ceiling), best * _LEAST)
            self.threshold = self._levels.below(1.0 - room / offered)
        self._levels.fade()
        self._came = 0
        self._turns = now + _TURN

    def _look(self, now: float) -> None:
        """End a second: find the ceiling, of the best throughput and the best round trip.

        While strained a round trip is learnt only if it is better than the usual: else the crowd would become usual.
        """
        seconds, done = now - self._edge + 1.0, self._done
        if done:
            self._rates.append(done / seconds)
            usual = self._taken / done
            if not self.strained or not self._usual or usual < min(self._usual):
                self._usual.append(usual)
            self.ceiling = max(1, int(max(self._rates) * min(self._usual) + 0.5))
        self._done, self._taken = 0, 0.0
        self._edge = now + 1.0

    def _facts(self, call: Call, level: float) -> dict[str, float | str]:
        return {
            "because": self.strained or "shed just now",
            "criticality": self._criticality(call).name.lower(),
            "level": level,
            "threshold": self.threshold,
            "inflight": self.inflight,
            "ceiling": self.ceiling,
            "cpu": self.cpu,
            "lag": self.lag,
            "delay": self.delay,
        }


def _said(call: Call) -> Criticality:
    return call.criticality
