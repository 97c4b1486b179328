"""Stop calling what is down.

              too many failed, in a row or of the window                the open time has passed
    CLOSED --------------------------------------------> OPEN ------------------------------> HALF_OPEN
       ^                                                  ^                                       |
       |                                                  +-- too many probes failed, or hung ----+
       +--------------------------------------------------------- enough probes went well --------+

By hand, from anywhere and back: FORCED_OPEN refuses all, FORCED_CLOSED counts but never opens, DISABLED does neither.
The table of all turns stands in `breaker_states`, what it opens on in `breaker_evidence`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from types import MappingProxyType

from msgov import clock
from msgov.call import IGNORED, OK, TRANSIENT, Call, Outcome
from msgov.clock import Dice
from msgov.errors import Fact, RuleError
from msgov.event import Observers
from msgov.policy import Gate, Shortcut
from msgov.resilience.breaker_evidence import Evidence
from msgov.resilience.breaker_recovery import Absence, Probes, share_at
from msgov.resilience.breaker_rule import BreakerRule
from msgov.resilience.breaker_states import (
    ADMITS,
    AFTER,
    BY_HAND,
    BY_HAND_TO,
    CLOSED,
    COUNTS,
    DISABLED,
    FORCED_CLOSED,
    FORCED_OPEN,
    HALF_OPEN,
    OPEN,
    State,
)
from msgov.resilience.breaker_telling import News, Tally, refusal

__all__ = [
    "CLOSED",
    "DISABLED",
    "FORCED_CLOSED",
    "FORCED_OPEN",
    "HALF_OPEN",
    "OPEN",
    "Breaker",
    "BreakerRule",
    "State",
]

_NOBODY = 0  # the era of nobody: no ticket is 0
_PASSED = -1  # the ticket of a call that only the shadow let in: it says nothing

_DEFAULT = BreakerRule()
_NONE: Mapping[str, Fact] = MappingProxyType({})


class Breaker(Gate[int]):
    """A gate whose ticket is the era in which a call was let in, or the number of its probe.

    Each turn of the state begins a new era, and a call from an older one says nothing about today: a slow success
    cannot close a breaker that it never probed. OK and PERMANENT are answers and count as success, TRANSIENT counts as
    failure; IGNORED says nothing, and gives a probe its place back. Raises `BreakerOpen` with the seconds to wait.

    A healthy call takes no lock: it reads two attributes on its way in, and counts by one step on its way out.
    Observers are told "breaker.opened", "breaker.half_open", "breaker.closed", "breaker.forced_open",
    "breaker.forced_closed" and "breaker.disabled", with the states before and after, the reason, the era, the numbers;
    in shadow also "shadow.breaker", of the first call in each era that would have been refused.

    `name` and `target` label metrics. `key` says which of many it is (an instance, a tenant): it stands in events and
    refusals, never in a label. `dice` draws the open times and who is let in early, `observers` are told.

    Read at any time: `state`, `since` when it began (0 as long as it never turned), `counts`, `snapshot`.
    """

    def __init__(
        self,
        rule: BreakerRule = _DEFAULT,
        *,
        name: str = "",
        target: str = "",
        key: str = "",
        dice: Dice | None = None,
        observers: Observers | None = None,
    ) -> None:
        self.name = name
        self.target = target
        self.key = key
        self.state: State = CLOSED
        self.since = 0.0
        self._dice = dice or clock.dice()
        self._lock = threading.Lock()
        self._rule = rule
        self._evidence = Evidence(rule)
        self._window = self._evidence.window
        self._serial = 1  # numbers eras and probes alike, so that no ticket is ever used twice
        self._era = 1
        self._admits = True
        self._ramping = False
        self._calm = _NOBODY  # the era whose successes need no lock: they cannot open the breaker
        self._brisk = _NOBODY  # the same where slow calls count: its quick successes
        self._slow = 0.0  # seconds that a quick one takes at most
        self._tally = Tally()
        self._refused = self._tally.rejected.tick
        self._warned = False  # of this era's refusals in shadow
        self._probes = Probes()
        self._shut = -math.inf  # until then all are refused without a look at anything else
        self._absence = Absence(self._dice)
        self._who = " at ".join(part for part in (name or target, key) if part)
        self._said: Mapping[str, Fact] = {"state": CLOSED.value, "reason": "", "era": 1}  # why the state began
        self._news = News(observers or Observers(), name=name, target=target)
        self._relax(self._era)

    @property
    def observers(self) -> Observers:
        """Who is told when it turns."""
        return self._news.observers

    @property
    def rule(self) -> BreakerRule:
        """The rule in force; storing another keeps the window, the state and the probes under way."""
        return self._rule

    @rule.setter
    def rule(self, rule: BreakerRule) -> None:
        with self._lock:
            self._rule = rule
            self._evidence.govern(rule)
            self._window = self._evidence.window
            self._relax(_NOBODY)  # the next one to settle looks at the window with the new rule
            self._bar()

    @property
    def counts(self) -> Mapping[str, int]:
        """Calls since the start: success, failure, slow (of both), ignored, rejected, would_reject (in shadow)."""
        with self._lock:
            return self._tally.counts(self._evidence.ticked + self._window.ticked())

    def failure_rate(self, now: float) -> float:
        """Return the share of failures in the window, 0 to 1; 0 when it is empty."""
        with self._lock:
            self._window.roll(now)
            well, badly, _ = self._window.totals
        return badly / (well + badly) if well + badly else 0.0

    def snapshot(self, now: float) -> Mapping[str, Fact]:
        """Return all that it knows, for a console: the state and why, the window, the probes, when it lets in again.

        `share` is what part of the calls is let in now; `retry_after` is None where there is nothing to wait for.
        """
        with self._lock:
            let_in: dict[str, Fact] = {
                "share": self._share(now),
                "retry_after": self._left(now),
                "probes_out": len(self._probes.out),
            }
            about: dict[str, Fact] = {"key": self.key, "shadow": self._rule.shadow, "since": self.since}
            return MappingProxyType({**self._said, **about, **self._evidence.view(now), **let_in})

    def ready(self, now: float) -> bool:
        """Say, without taking a place, whether a call may be let in now: for whoever chooses an instance."""
        if self._admits or self._ramping or self._rule.shadow:
            return self.state is not FORCED_OPEN
        if self.state is OPEN:
            return now >= self._absence.until
        if self.state is HALF_OPEN:
            with self._lock:
                end = self._probes.next_end()
                return self._probes.room(self._rule) or (end is not None and end <= now)
        return False

    def force(self, state: State, *, now: float) -> None:
        """Take the breaker in hand: FORCED_OPEN, FORCED_CLOSED, DISABLED; CLOSED lets it decide again, from nothing.

        A hand is no trial: FORCED_OPEN refuses in shadow too. Raises `RuleError` for the states that it reaches only by
        itself.
        """
        if state not in BY_HAND_TO:
            raise RuleError.at("state", state, "FORCED_OPEN, FORCED_CLOSED, DISABLED, or CLOSED to let it decide again")
        with self._lock:
            self._turn(BY_HAND, now, hand=state)
        self._news.tell()

    def trip(self, facts: Mapping[str, Fact], *, now: float) -> bool:
        """Open on what other processes saw (`Pool`), with their numbers; say whether it did: only from closed.

        From here on it is as after any other opening: the open time, the probes, the ramp are its own.
        """
        with self._lock:
            closed = self.state is CLOSED
            if closed:
                self._turn("pool", now, facts)
        self._news.tell()
        return closed

    shortcut = Shortcut(
        admit=("era = {g}._era", "if {g}._admits:", "    {t} = era", "else:", "    {admit}"),
        settle=(
            "if {t} == {g}._calm and {now} < {g}._window.edge:",
            "    {g}._window.tick()",
            "else:",
            "    {settle}",
        ),
    )

    def admit(self, call: Call, now: float) -> int:
        """Let the call in, at once while closed; as a probe when the time has come."""
        era = self._era  # read before the door, so that it is never too young
        if self._admits:
            return era
        shut = self._shut
        if now < shut:
            self._refused()
            raise refusal(self._who or call.target, "open", shut - now, self._said)
        with self._lock:
            ticket = self._knock(call, now)
            if ticket is None:
                if not self._rule.shadow or self.state is FORCED_OPEN:
                    self._refused()
                    why = self._why(now)
                else:
                    ticket = self._pass(now)
        if self._news:
            self._news.tell()
        if ticket is None:
            left, share, facts = why
            raise refusal(self._who or call.target, str(facts["state"]), left, facts, share=share)
        return ticket

    def settle(self, ticket: int, outcome: Outcome, now: float) -> None:
        """Learn from a call of this era, or from a probe; pass over all others."""
        if ticket == self._calm and outcome.verdict is OK and now < self._window.edge:
            self._window.tick()
            return
        if (
            ticket == self._brisk
            and outcome.verdict is OK
            and outcome.seconds <= self._slow
            and now < self._window.edge
        ):
            self._window.tick()
            return
        with self._lock:
            if outcome.verdict is IGNORED:
                self._probes.give_back(ticket)
                self._tally.ignored += 1
            elif ticket == self._era and self.state in COUNTS:
                self._learn(outcome, now)
            elif self._probes.give_back(ticket):
                self._learn_probe(outcome, now)
            else:
                self._tally.ignored += 1
        if self._news:
            self._news.tell()

    def _knock(self, call: Call, now: float) -> int | None:
        """Let in what may go in when the door was not simply open; with the lock held, as all below."""
        if self.state is OPEN and now >= self._absence.until:
            self._turn("waited", now)
        if self.state is HALF_OPEN:
            hung = self._probes.expire(now)
            self._tally.failure += hung
            self._decide(now, "probe_hung" if hung else "probes_failed")  # a new rule may decide it too
        if self.state is HALF_OPEN:
            if not self._probes.room(self._rule):
                return None
            end = now + self._rule.probe_lease
            self._probes.lease(self._next(), end if call.deadline is None else min(end, call.deadline))
            return self._serial
        if self._ramping:
            part = self._share(now)
            if part >= 1:
                self._admits, self._ramping = True, False
            elif self._dice.random() >= part:
                return None
            return self._era
        return self._era if self._admits else None

    def _pass(self, now: float) -> int:
        """Let in what would be refused but for the shadow."""
        self._tally.would_reject += 1
        if not self._warned:
            self._warned = True
            left, _, facts = self._why(now)
            self._news.add("shadow.breaker", now, {**facts, "retry_after": left})
        return _PASSED

    def _learn(self, outcome: Outcome, now: float) -> None:
        criterion = self._evidence.learn(outcome.verdict is TRANSIENT, self._count(outcome, now), now)
        if criterion is not None and self.state is CLOSED:
            well, badly, slow = self._window.totals
            facts = {"calls": well + badly, "failures": badly, "slow": slow, "in_a_row": self._evidence.run}
            self._turn(criterion, now, facts)
        else:
            self._relax(self._era if self._evidence.calm else _NOBODY)

    def _learn_probe(self, outcome: Outcome, now: float) -> None:
        slow = self._count(outcome, now)
        self._probes.answer(failed=outcome.verdict is TRANSIENT, slow=slow)
        self._decide(now, "probes_failed")

    def _count(self, outcome: Outcome, now: float) -> bool:
        """Count how a call ended; say whether it was slow."""
        tally = self._tally
        if outcome.verdict is TRANSIENT:
            tally.failure += 1
            self._absence.asked(self._rule, now, outcome.retry_after)
        else:
            tally.success += 1
        slow = 0 < self._rule.slow_seconds < outcome.seconds
        tally.slow += slow
        return slow

    def _decide(self, now: float, failed: str) -> None:
        reason = self._probes.decide(self._rule)
        if reason is not None:
            self._turn(failed if reason == "probes_failed" else reason, now, self._probes.facts())

    def _turn(self, reason: str, now: float, numbers: Mapping[str, Fact] = _NONE, hand: State | None = None) -> None:
        before, rule = self.state, self._rule
        state = AFTER[before, reason] if hand is None else hand
        self._admits = self._ramping = False  # the door shuts first and opens last: nobody gets in on the wrong era
        self._era = self._next()
        self._relax(_NOBODY)
        self.state, self.since, self._warned = state, now, False
        self._probes.clear()
        if state is OPEN:
            self._absence.began(rule, now, again=before is not CLOSED)
        elif state in ADMITS:
            self._evidence.clear()
            self._absence.over(now)
            self._relax(self._era if state in COUNTS else _NOBODY)
            self._ramping = before is HALF_OPEN and hand is None and rule.ramp_seconds > 0
            self._admits = not self._ramping
        told: dict[str, Fact] = {"reason": reason, "era": self._era, **numbers}
        if state is OPEN:
            told["seconds"] = self._absence.until - now
        if self.key:
            told["key"] = self.key
        self._said = {"state": state.value, **told}
        if rule.shadow:
            told["shadow"] = True
        kind = "breaker.opened" if state is OPEN else f"breaker.{state.value}"
        self._news.add(kind, now, {"before": before.value, "after": state.value, **told})
        self._bar()

    def _relax(self, era: int) -> None:
        """Let the quick successes of an era go without the lock."""
        slow = self._rule.slow_seconds
        self._calm = self._brisk = _NOBODY
        if slow:
            self._slow, self._brisk = slow, era
        else:
            self._calm = era

    def _bar(self) -> None:
        """Refuse all at once for as long as nobody can be let in."""
        self._shut = self._absence.until if self.state is OPEN and not self._rule.shadow else -math.inf

    def _next(self) -> int:
        self._serial += 1
        return self._serial

    def _share(self, now: float) -> float:
        """Return what part of the calls is let in, probes apart."""
        return share_at(self._rule, now - self.since) if self._ramping else float(self._admits)

    def _left(self, now: float) -> float | None:
        """Return the seconds until it lets in again, as far as it knows."""
        if self.state is OPEN:
            return max(0.0, self._absence.until - now)
        if self._ramping:
            return max(0.0, self.since + self._rule.ramp_seconds - now)
        end = self._probes.next_end()
        return None if end is None else max(0.0, min(end - now, self._rule.open_seconds))

    def _why(self, now: float) -> tuple[float | None, float, Mapping[str, Fact]]:
        """Return the seconds to wait, the share let in, and the numbers, for a refusal."""
        if not self._ramping:
            return self._left(now), 0.0, self._said
        share = self._share(now)
        return self._left(now), share, {**self._said, "reason": "ramp_up", "share": share}
