"""Any walk of calls, time, answers and rules through a pace ends where a plain model of it ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from msgov.call import IGNORED, OK, PERMANENT, TRANSIENT, Call, Outcome, Verdict
from msgov.policy import Waiting
from msgov.resilience import Pace, Paced, PaceRule

TICK = 1 / 16  # seconds: all time here is in sixteenths of a second
CLOSE = 1e-6

rules = st.builds(
    PaceRule,
    beta=st.sampled_from([0.3, 0.7, 0.9]),
    scale=st.sampled_from([0.05, 0.4, 8.0]),
    smoothing=st.sampled_from([0.5, 0.8, 1.0]),
    ceiling=st.sampled_from([1.5, 2.0, 50.0]),
    floor=st.sampled_from([0.5, 3.0]),
    max_wait=st.sampled_from([0.0, 0.3, 5.0]),
)


@dataclass
class Model:
    """A pace as one would explain it: the list of all calls, the curve as a function, no lock, no tricks."""

    rule: PaceRule
    sent: list[float] = field(default_factory=list)
    halves: list[tuple[float, float]] = field(default_factory=list)  # from when to when it was looked
    smooth: float = 0.0
    since: float | None = None
    peak: float | None = None  # None: off
    cut_at: float = 0.0
    curve: Callable[[float], float] = lambda now: math.inf  # of the seconds since the cut
    turns: list[float] = field(default_factory=list)  # since the cut
    judged: float = -math.inf
    last: float = 0.0
    limit: float = math.inf
    under_way: int = 0  # in the half second that is not over

    def look(self, now: float) -> None:
        """Close the half second that is over."""
        half = now - now % 0.5
        if self.since is None:
            self.since = half
        elif half > self.since:
            mean = self.under_way / (half - self.since)
            self.smooth = self.rule.smoothing * mean + (1 - self.rule.smoothing) * self.smooth
            self.since, self.under_way = half, 0

    @property
    def rate(self) -> float:
        """What is sent."""
        return max(self.smooth, 2.0 * self.under_way)

    def send(self, now: float) -> None:
        """Count a call."""
        self.sent.append(now)
        self.under_way += 1

    def wait(self, now: float) -> float:
        """Return how long a call that comes now would wait; it is sent if that is short enough."""
        self.look(now)
        if self.peak is None:
            return 0.0
        curve = self.curve(now - self.cut_at)
        self.last = now
        if max(self.turns) <= now and curve >= self.rule.ceiling * self.rate and curve >= self.rule.ceiling * self.peak:
            self.peak, self.limit = None, math.inf
            return 0.0
        self.limit = max(self.rule.floor, min(curve, self.rule.ceiling * self.rate))
        saved = max(1.0, self.limit)  # calls that the bucket holds
        return max(self.turns[-1] + 1 / self.limit, now - (saved - 1) / self.limit) - now

    def slow(self, ticket: float, now: float) -> bool:
        """Hear "slow down"; say whether it was news."""
        if ticket <= self.judged:
            return False
        self.look(now)
        peak, beta, scale = min(self.rate, self.limit), self.rule.beta, self.rule.scale
        k = math.pow(peak * (1 - beta) / scale, 1 / 3)
        self.peak, self.cut_at, self.last = peak, now, now
        self.curve = lambda seconds: scale * (seconds - k) ** 3 + peak
        self.limit = max(self.rule.floor, beta * peak)
        self.judged = max([now, *self.turns[-1:]])
        self.turns = [self.judged]
        return True

    def change(self, new: PaceRule) -> None:
        """Go by another rule: on another curve find the place with the same rate, by halving."""
        if self.peak is not None and new.scale != self.rule.scale:
            peak, level = self.peak, self.curve(self.last - self.cut_at)
            low, high = -1e4, 1e4
            for _ in range(200):
                middle = (low + high) / 2
                low, high = (middle, high) if new.scale * middle**3 + peak < level else (low, middle)
            shift = low - (self.last - self.cut_at)
            self.curve = lambda seconds: new.scale * (seconds + shift) ** 3 + peak
        self.rule = new


class Walk(RuleBasedStateMachine):
    """A pace beside its model: the same calls go, at the same times, at the same rate."""

    @initialize(first=rules)
    def begin(self, first: PaceRule) -> None:
        """Draw the rule."""
        self.gate, self.model = Pace(first, name="stock"), Model(first)
        self.now = 0.0
        self.line: list[Waiting[float]] = []
        self.inside: list[float] = []
        self.counts = {"rejected": 0, "queued": 0, "slowed": 0}

    @rule(ticks=st.one_of(st.integers(1, 16), st.integers(16, 400)))
    def pass_time(self, ticks: int) -> None:
        """Let time pass; whose turn has come goes."""
        self.now += ticks * TICK
        for place in [each for each in self.line if each.until <= self.now]:
            self.line.remove(place)
            assert self.gate.withdraw(place, self.now) == place.until
            self.inside.append(place.until)

    @rule(times=st.integers(1, 8), left=st.one_of(st.none(), st.sampled_from([0.0, 0.1, 1.0])))
    def call(self, times: int, left: float | None) -> None:
        """Come to the door."""
        for _ in range(times):
            wait = self.model.wait(self.now)
            most = self.model.rule.max_wait if left is None else min(left, self.model.rule.max_wait)
            try:
                got = self.gate.admit(Call("stock", deadline=None if left is None else self.now + left), self.now)
            except Paced as error:
                assert wait > most - CLOSE
                assert error.retry_after == pytest.approx(wait - most, abs=CLOSE)
                self.counts["rejected"] += 1
                continue
            assert wait <= most + CLOSE or wait <= CLOSE
            self.model.send(self.now)
            turn = got.until if isinstance(got, Waiting) else self.now
            assert turn == pytest.approx(self.now + max(0.0, wait), abs=CLOSE)
            if self.model.peak is not None:
                self.model.turns.append(turn if isinstance(got, Waiting) else self.now + min(0.0, wait))
            if isinstance(got, Waiting):
                assert self.now < got.until <= self.now + most + CLOSE
                assert not self.line or got.until > self.line[-1].until  # first come, first served
                self.counts["queued"] += 1
                self.line.append(got)
            else:
                assert not self.line
                self.inside.append(got)

    @precondition(lambda self: self.inside)
    @rule(data=st.data(), verdict=st.sampled_from([OK, TRANSIENT, PERMANENT, IGNORED]), overloaded=st.booleans())
    def end(self, data: st.DataObject, verdict: Verdict, overloaded: bool) -> None:
        """End a call in whatever way."""
        ticket = self.inside.pop(data.draw(st.integers(0, len(self.inside) - 1)))
        self.gate.settle(ticket, Outcome(verdict, overloaded=overloaded), self.now)
        if overloaded and verdict is TRANSIENT:
            self.counts["slowed"] += self.model.slow(ticket, self.now)

    @precondition(lambda self: self.inside)
    @rule()
    def slow_down(self) -> None:
        """Hear it of the call that went last."""
        ticket = self.inside.pop()
        self.gate.settle(ticket, Outcome(TRANSIENT, overloaded=True), self.now)
        self.counts["slowed"] += self.model.slow(ticket, self.now)

    @precondition(lambda self: self.line)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """Give a place in line up."""
        place = self.line.pop(data.draw(st.integers(0, len(self.line) - 1)))
        assert (self.gate.withdraw(place, self.now) is None) == (self.now < place.until - 1e-3)

    @rule(new=rules, whole=st.booleans())
    def change(self, new: PaceRule, whole: bool) -> None:
        """Store another rule."""
        new = new if whole else replace(self.model.rule, scale=new.scale)
        before = self.gate.limit
        self.gate.rule = new
        self.model.change(new)
        assert self.gate.limit == before

    @invariant()
    def both_are_where_they_are(self) -> None:
        """The rate and every counter."""
        if not hasattr(self, "gate"):
            return
        gate, model = self.gate, self.model
        assert gate.limit == pytest.approx(model.limit, rel=1e-6)
        assert gate.admitted == len(model.sent)
        assert {name: getattr(gate, name) for name in self.counts} == self.counts
        assert gate.limit >= min(model.rule.floor, gate.limit)


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
