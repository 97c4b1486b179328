"""Send as fast as the callee last took it, once it has said "slow down".

The client send rate of botocore's adaptive retry mode: nothing until the first answer that says so, then a token bucket
whose rate follows CUBIC, then nothing again.
"""

from __future__ import annotations

import math
import threading
from typing import Final

from msgov.call import TRANSIENT, Call, Outcome
from msgov.errors import RateLimited
from msgov.policy import Gate, Waiting
from msgov.resilience.pace_rate import Cubic, Sent
from msgov.rule import field, rule

_EARLY = 1e-3  # a timer may ring this much too soon
_GRAIN = 1e-9  # seconds: a turn so far away has come, whatever floats say
_BURST = 1.0  # seconds' worth of calls that an idle bucket saves up, botocore's


class Paced(RateLimited):
    """The callee asked for less, and the call's turn at the rate it takes would come too late."""


@rule
class PaceRule:
    """How far a "slow down" cuts the rate, how it comes back, and how long a call waits for its turn."""

    beta: float = field(default=0.7, gt=0, lt=1, why="what a cut leaves of the rate, as in RFC 9438 and botocore")
    scale: float = field(
        default=0.4,
        gt=0,
        le=1000,
        unit="calls/s^4",
        why="C of the curve, as in RFC 9438 and botocore: 100 calls/s are back 4.2 s after a cut",
    )
    smoothing: float = field(
        default=0.8,
        gt=0,
        le=1,
        why="what the last half second weighs in the measured rate (botocore); the rest is all before it",
    )
    ceiling: float = field(
        default=2.0,
        gt=1,
        le=100,
        why="times the measured rate, at most (botocore): what is not sent says nothing of what the callee takes",
    )
    floor: float = field(
        default=0.5,
        gt=0,
        le=1e9,
        unit="calls/s",
        why="never less, or nobody would find out that the callee is well again (botocore)",
    )
    max_wait: float = field(
        default=1.0,
        ge=0,
        le=600,
        unit="s",
        why="as long as a caller still wants the answer; it bounds the line, which has rate times this places",
    )


_DEFAULT: Final = PaceRule()


class Pace(Gate[float]):
    """Let calls go one by one, at a rate that the callee's own "slow down" has taught.

    Off, and nearly free, until a call fails that is TRANSIENT and `overloaded`. Then the rate is cut to `beta` times
    what was being sent, and comes back along a cubic curve. A call waits for its turn, at most `max_wait` seconds and
    never past its deadline; where its turn comes later `Paced` is raised, with the numbers, and in `retry_after` the
    seconds until it would fit. What an idle second left unused may go at once. A turn that was given stands, whatever
    becomes of the rate; one that was given up is not given to another.

    One cut for all that was sent at the same rate: the ticket is the time of the call's turn, and a refusal of one
    whose turn was given before the last cut says nothing about the rate since. Off again once the curve is at `ceiling`
    times both the rate of the last "slow down" and what is sent, with nobody in line: then it binds nobody.

    Counters: `admitted` (with those in line), `rejected`, `queued` (had to wait), `slowed` (cuts).
    """

    waits = True
    learns = False  # time alone moves the curve: only a "slow down" has something to say

    def __init__(self, rule: PaceRule = _DEFAULT, *, name: str = "", target: str = "") -> None:
        self.name = name
        self.target = target
        self.rejected = 0
        self.queued = 0
        self.slowed = 0
        self._lock = threading.Lock()
        self._rule = rule
        self._cubic = Cubic(scale=rule.scale)
        self._sent = Sent()
        self._tick = self._sent.tick
        self._edge = -math.inf  # until when a call only counts: never while on
        self._limit = math.inf  # the rate in force, in calls a second
        self._last = -math.inf  # when it was last looked at
        self._turn = -math.inf  # of the call that went last; earlier than its time where it used what was saved up
        self._judged = -math.inf  # turns up to here were given at another rate

    @property
    def rule(self) -> PaceRule:
        """The rule in force; storing another keeps the rate, which goes on from where it is."""
        return self._rule

    @rule.setter
    def rule(self, rule: PaceRule) -> None:
        with self._lock:
            if rule.scale != self._rule.scale:
                if self._limit < math.inf:
                    self._cubic.bend(rule.scale, self._last)
                else:
                    self._cubic.scale = rule.scale
            self._rule = rule

    @property
    def limit(self) -> float:
        """The rate in force when it was last looked at, in calls a second; infinite while off."""
        return self._limit

    @property
    def admitted(self) -> int:
        """How many calls were let in, with those that wait for their turn."""
        with self._lock:
            return self._sent.total

    def admit(self, call: Call, now: float) -> float | Waiting[float]:
        """Let the call in, at once while off; else give it a turn, or raise `Paced` where that comes too late."""
        if now < self._edge:
            self._tick()
            return now
        with self._lock:
            limit = self._look(now)
            if limit == math.inf:
                self._edge = self._sent.edge
                self._tick()
                return now
            step = 1 / limit
            turn = max(self._turn + step, now - max(0.0, _BURST - step))
            wait, most, peak = turn - now, self._rule.max_wait, self._cubic.peak
            if call.deadline is not None:
                most = min(most, max(0.0, call.deadline - now))
            fits = wait <= most + _GRAIN
            if fits:
                self._turn = turn
                self._tick()
                self.queued += wait > _GRAIN
            else:
                self.rejected += 1
        if not fits:
            raise Paced(
                f"{self.name or call.target}: its turn at {limit:.4g} calls/s is {wait:.3f} s away, and it can wait "
                f"for {most:.3f} s",
                retry_after=wait - most,
                limit=limit,
                peak=peak,
                wait=wait,
                max_wait=most,
            )
        return Waiting(since=now, until=turn) if wait > _GRAIN else now

    def settle(self, ticket: float, outcome: Outcome, now: float) -> None:
        """Cut the rate if the callee said "slow down" to what was sent at it."""
        if not outcome.overloaded or outcome.verdict is not TRANSIENT:
            return
        with self._lock:
            if ticket <= self._judged:
                return
            rule, sent, cubic = self._rule, self._sent, self._cubic
            sent.roll(now, smoothing=rule.smoothing)
            cubic.cut(min(sent.rate(), self._limit), now, beta=rule.beta)
            self._limit = max(rule.floor, cubic.at(now))
            self._last = now
            self._turn = self._judged = max(self._turn, now)  # nothing is saved up any more
            self._edge = -math.inf
            self.slowed += 1

    def withdraw(self, waiting: Waiting[float], now: float) -> float | None:
        """Leave the line: with a ticket when the turn has come, with None before."""
        return waiting.until if now >= waiting.until - _EARLY else None

    def _look(self, now: float) -> float:
        """Return the rate in force at `now`, infinite while off; with the lock held."""
        rule, sent, cubic = self._rule, self._sent, self._cubic
        sent.roll(now, smoothing=rule.smoothing)
        if self._limit == math.inf:
            return math.inf
        rate, curve = sent.rate(), cubic.at(now)
        if self._turn <= now and curve >= rule.ceiling * max(rate, cubic.peak):
            self._limit = math.inf
        else:
            self._limit = max(rule.floor, min(curve, rule.ceiling * rate))
        self._last = now
        return self._limit
