"""Any walk of calls, time and hands through a breaker ends where a plain model of it ends."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from msgov.call import IGNORED, OK, PERMANENT, TRANSIENT, Call, Outcome, Verdict
from msgov.errors import BreakerOpen
from msgov.resilience import Breaker, BreakerRule, State
from msgov.testing import LoadedDice

WIDTH, BUCKETS, LEASE = 4, 3, 8  # in quarters of a second, as all time here


@dataclass
class Model:
    """A breaker as one would explain it: lists, no ring, no lock, no tricks."""

    rate: float
    minimum: int
    probes: int
    state: State = State.CLOSED
    era: int = 0
    events: list[tuple[int, bool]] = field(default_factory=list)
    probing: dict[int, int] = field(default_factory=dict)
    well: int = 0
    badly: int = 0
    until: int = 0
    trips: int = 0
    closed_at: float = -math.inf
    probes_ever: int = 0

    def turn(self, state: State, now: int) -> None:
        """Begin a new era."""
        if state is State.OPEN:
            if self.state is State.CLOSED and now - self.closed_at >= WIDTH * BUCKETS:
                self.trips = 0
            self.until = now + min(16, 8 * 2**self.trips) // 2  # the dice rolls nought: half of the ceiling
            self.trips += 1
        if state in (State.CLOSED, State.FORCED_CLOSED, State.DISABLED):
            self.events, self.closed_at = [], now
        self.state, self.era = state, self.era + 1
        self.probing, self.well, self.badly = {}, 0, 0

    def admit(self, now: int) -> tuple[str, int] | None:
        """Let in as of an era, or as a probe, or not at all."""
        if self.state is State.OPEN and now >= self.until:
            self.turn(State.HALF_OPEN, now)
        if self.state is State.HALF_OPEN:
            hung = [probe for probe, end in self.probing.items() if end <= now]
            for probe in hung:
                del self.probing[probe]
            self.badly += len(hung)
            self.decide(now)
        if self.state is State.HALF_OPEN and self.well + self.badly + len(self.probing) < self.probes:
            self.probes_ever += 1
            self.probing[self.probes_ever] = now + LEASE
            return "probe", self.probes_ever
        return None if self.state in (State.OPEN, State.HALF_OPEN, State.FORCED_OPEN) else ("era", self.era)

    def settle(self, ticket: tuple[str, int], verdict: Verdict, now: int) -> None:
        """Learn from this era and from probes under way."""
        if ticket[0] == "probe":
            if self.probing.pop(ticket[1], None) is not None and verdict is not IGNORED:
                self.well += verdict is not TRANSIENT
                self.badly += verdict is TRANSIENT
                self.decide(now)
        elif ticket[1] == self.era and verdict is not IGNORED and self.state is not State.DISABLED:
            self.events.append((now, verdict is TRANSIENT))
            calls, failures = self.window(now)
            if self.state is State.CLOSED and calls >= self.minimum and failures / calls >= self.rate:
                self.turn(State.OPEN, now)

    def window(self, now: int) -> tuple[int, int]:
        """Count what is in the window."""
        alive = [failed for at, failed in self.events if at // WIDTH > now // WIDTH - BUCKETS]
        return len(alive), sum(alive)

    def decide(self, now: int) -> None:
        """Close or open once the probes still to come cannot change it."""
        if self.badly / self.probes >= self.rate:
            self.turn(State.OPEN, now)
        elif (self.probes - self.well) / self.probes < self.rate:
            self.turn(State.CLOSED, now)


class Walk(RuleBasedStateMachine):
    """Both get the same calls at the same time."""

    @initialize(rate=st.sampled_from([0.25, 0.5, 1.0]), minimum=st.integers(1, 4), probes=st.integers(1, 4))
    def begin(self, rate: float, minimum: int, probes: int) -> None:
        """Draw the rule."""
        self.gate = Breaker(
            BreakerRule(
                failure_rate=rate,
                minimum_calls=minimum,
                window=WIDTH * BUCKETS / 4,
                buckets=BUCKETS,
                open_seconds=2.0,
                open_growth=2.0,
                open_cap=4.0,
                probes=probes,
                probe_lease=LEASE / 4,
            ),
            dice=LoadedDice(0.0, cycle=True),
        )
        self.gate.failure_rate(0.0)  # the first look is where the first bucket begins
        self.model = Model(rate, minimum, probes)
        self.now = 0
        self.under_way: list[tuple[int, tuple[str, int]]] = []

    @rule(quarters=st.integers(0, 12))
    def wait(self, quarters: int) -> None:
        """Let time pass."""
        self.now += quarters

    @rule(at_once=st.none() | st.sampled_from(list(Verdict)), times=st.integers(1, 4))
    def come(self, at_once: Verdict | None, times: int) -> None:
        """Some calls at the door; they end at once, or stay under way."""
        for _ in range(times):
            expected = self.model.admit(self.now)
            ticket: int | None = None
            wait: float | None = None
            try:
                ticket = self.gate.admit(Call("shop"), self.now / 4)
            except BreakerOpen as refused:
                wait = refused.retry_after
            assert (ticket is None) == (expected is None)
            if ticket is None or expected is None:
                assert wait is None or wait >= 0
                continue
            self.under_way.append((ticket, expected))
            if at_once is not None:
                self.end(len(self.under_way) - 1, at_once)

    @rule(data=st.data(), verdict=st.sampled_from([OK, TRANSIENT, PERMANENT, IGNORED]))
    def end_one(self, data: st.DataObject, verdict: Verdict) -> None:
        """One of those under way ends, of whatever era it is."""
        if self.under_way:
            self.end(data.draw(st.integers(0, len(self.under_way) - 1)), verdict)

    def end(self, which: int, verdict: Verdict) -> None:
        """Settle it in both."""
        ticket, expected = self.under_way.pop(which)
        self.gate.settle(ticket, Outcome(verdict), self.now / 4)
        self.model.settle(expected, verdict, self.now)

    @rule(state=st.sampled_from([State.FORCED_OPEN, State.FORCED_CLOSED, State.DISABLED, State.CLOSED]))
    def force(self, state: State) -> None:
        """A hand takes it, or lets go."""
        self.gate.force(state, now=self.now / 4)
        self.model.turn(state, self.now)

    @invariant()
    def agrees(self) -> None:
        """The state is the same, and no more probes are out than there may be."""
        if hasattr(self, "gate"):
            assert self.gate.state is self.model.state
            assert len(self.gate._probing) <= self.model.probes
            if self.gate.state in (State.CLOSED, State.FORCED_CLOSED):
                calls, failures = self.model.window(self.now)
                assert self.gate.failure_rate(self.now / 4) == (failures / calls if calls else 0.0)


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
