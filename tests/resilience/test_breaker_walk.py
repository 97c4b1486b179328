"""Any walk of calls, time, rules and hands through a breaker ends where a plain model of it ends."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from msgov.call import IGNORED, OK, PERMANENT, TRANSIENT, Call, Outcome, Verdict
from msgov.errors import BreakerOpen
from msgov.event import Event, Observers
from msgov.resilience import Breaker, BreakerRule, State
from msgov.resilience.breaker_evidence import wilson
from msgov.resilience.breaker_states import TURNS, Turn
from msgov.testing import LoadedDice

TICK = 0.25  # seconds: all time here is in quarters of a second
WIDTH, BUCKETS = 4, 3
LASTS = 6  # calls, where the window counts those
BASE: dict[str, float | int] = {
    "window": WIDTH * BUCKETS * TICK,
    "buckets": BUCKETS,
    "open_seconds": 2.0,
    "open_growth": 2.0,
    "open_cap": 4.0,
    "probe_lease": 2.0,
    "retry_after_cap": 5.0,
}
FORCED = (State.FORCED_OPEN, State.FORCED_CLOSED, State.DISABLED, State.CLOSED)

criteria = st.fixed_dictionaries(
    {
        "failure_rate": st.sampled_from([0.0, 0.25, 0.5, 1.0]),
        "minimum_calls": st.integers(1, 6),
        "wilson_calls": st.sampled_from([0, 1, 3]),
        "consecutive_failures": st.sampled_from([0, 0, 1, 4]),
        "slow_seconds": st.sampled_from([0.0, 1.0]),
        "slow_rate": st.sampled_from([0.5, 1.0]),
        "probes": st.integers(1, 4),
        "ramp_seconds": st.sampled_from([0.0, 2.0]),
        "shadow": st.sampled_from([False, False, True]),
    }
).filter(lambda rule: rule["failure_rate"] or rule["slow_seconds"] or rule["consecutive_failures"])


@dataclass(frozen=True)
class Seen:
    """A call in the window."""

    at: int
    failed: bool
    slow: bool


@dataclass
class Model:
    """A breaker as one would explain it: lists, no ring, no lock, no tricks."""

    rule: BreakerRule
    roll: float
    state: State = State.CLOSED
    era: int = 0
    since: int = 0
    ramping: bool = False
    seen: list[Seen] = field(default_factory=list)
    in_a_row: int = 0
    probing: dict[int, float] = field(default_factory=dict)
    answers: list[tuple[bool, bool]] = field(default_factory=list)
    until: float = 0
    asked: float = 0
    trips: int = 0
    closed_at: float = -math.inf
    probes_ever: int = 0
    rejected: int = 0
    would_reject: int = 0

    def turn(self, state: State, now: int, *, by_hand: bool = False) -> None:
        """Begin a new era."""
        before = self.state
        if state is State.OPEN:
            if before is State.CLOSED and now - self.closed_at >= WIDTH * BUCKETS:
                self.trips = 0
            top = min(4.0, 2.0 * 2**self.trips) / TICK
            self.until = max(now + top / 2 + top / 2 * self.roll, self.asked)
            self.trips += 1
        if state in (State.CLOSED, State.FORCED_CLOSED, State.DISABLED):
            self.seen, self.in_a_row, self.closed_at = [], 0, now
        self.ramping = (
            before is State.HALF_OPEN and not by_hand and state is State.CLOSED and self.rule.ramp_seconds > 0
        )
        self.state, self.era, self.since = state, self.era + 1, now
        self.probing, self.answers = {}, []

    def admit(self, now: int) -> tuple[str, int] | None:
        """Let in as of an era, or as a probe, or for the shadow, or not at all."""
        ticket = self.knock(now)
        if ticket is None and self.rule.shadow and self.state is not State.FORCED_OPEN:
            self.would_reject += 1
            return "shadow", 0
        self.rejected += ticket is None
        return ticket

    def knock(self, now: int) -> tuple[str, int] | None:
        """Let in as if there were no shadow."""
        if self.state is State.OPEN and now >= self.until:
            self.turn(State.HALF_OPEN, now)
        if self.state is State.HALF_OPEN:
            for probe in [probe for probe, end in self.probing.items() if end <= now]:
                del self.probing[probe]
                self.answers.append((True, False))
            self.decide(now)
        if self.state is State.HALF_OPEN:
            if len(self.answers) + len(self.probing) >= self.rule.probes:
                return None
            self.probes_ever += 1
            self.probing[self.probes_ever] = now + self.rule.probe_lease / TICK
            return "probe", self.probes_ever
        if self.ramping:
            over = self.rule.ramp_seconds / TICK
            share = max(0.1, (now - self.since) / over) if over else 1.0
            if share >= 1:
                self.ramping = False
            elif self.roll >= share:
                return None
        return None if self.state in (State.OPEN, State.FORCED_OPEN) else ("era", self.era)

    def settle(self, ticket: tuple[str, int], verdict: Verdict, slow: bool, asks: float | None, now: int) -> None:
        """Learn from this era and from probes under way."""
        known = (
            self.probing.pop(ticket[1], None) is not None
            if ticket[0] == "probe"
            else ticket == ("era", self.era) and self.state is not State.DISABLED
        )
        if not known or verdict is IGNORED:
            return
        failed, slow = verdict is TRANSIENT, slow and self.rule.slow_seconds > 0
        if failed and asks is not None:
            self.asked = max(self.asked, now + min(asks, 5.0) / TICK)
        if ticket[0] == "probe":
            self.answers.append((failed, slow))
            self.decide(now)
            return
        self.seen.append(Seen(now, failed, slow))
        self.in_a_row = self.in_a_row + 1 if failed else 0
        if self.state is State.CLOSED and self.met(now):
            self.turn(State.OPEN, now)

    def window(self, now: int) -> tuple[int, int, int]:
        """Count what is in the window: calls, failures, slow ones."""
        if self.rule.last_calls:
            alive = self.seen[-LASTS:]
        else:
            alive = [call for call in self.seen if call.at // WIDTH > now // WIDTH - BUCKETS]
        return len(alive), sum(call.failed for call in alive), sum(call.slow for call in alive)

    def met(self, now: int) -> bool:
        """Whether any criterion is."""
        rule = self.rule
        calls, failures, slow = self.window(now)
        rates = [(failures, rule.failure_rate)] * (rule.failure_rate > 0) + [(slow, rule.slow_rate)] * (
            rule.slow_seconds > 0
        )
        by_rate = calls >= rule.minimum_calls and any(n / calls >= rate for n, rate in rates)
        by_bound = 0 < rule.wilson_calls <= calls and any(wilson(n, calls) >= rate for n, rate in rates)
        return by_rate or by_bound or 0 < rule.consecutive_failures <= self.in_a_row

    def decide(self, now: int) -> None:
        """Close or open once the probes still to come cannot change it."""
        probes, left = self.rule.probes, self.rule.probes - len(self.answers)
        failures = sum(failed for failed, _ in self.answers)
        rates = [(failures, self.rule.failure_rate or 0.5)]
        if self.rule.slow_seconds:
            rates.append((sum(slow for _, slow in self.answers), self.rule.slow_rate))
        if any(n / probes >= rate for n, rate in rates):
            self.turn(State.OPEN, now)
        elif all((n + left) / probes < rate for n, rate in rates):
            self.turn(State.CLOSED, now)


class Walk(RuleBasedStateMachine):
    """Both get the same calls at the same time."""

    @initialize(values=criteria, by_calls=st.booleans(), roll=st.sampled_from([0.0, 0.5]))
    def begin(self, values: dict[str, float], by_calls: bool, roll: float) -> None:
        """Draw the rule."""
        made = BreakerRule(**BASE, **values, last_calls=LASTS if by_calls else 0)  # type: ignore[arg-type]
        self.turns: list[Event] = []
        self.gate = Breaker(made, dice=LoadedDice(roll, cycle=True), observers=Observers(self.turns.append))
        self.gate.failure_rate(0.0)  # the first look is where the first bucket begins
        self.model = Model(made, roll)
        self.now = 0
        self.under_way: list[tuple[int, tuple[str, int]]] = []

    @rule(values=criteria)
    def rule_anew(self, values: dict[str, float]) -> None:
        """Somebody edits the rules file."""
        self.gate.rule = self.model.rule = replace(self.gate.rule, **values)  # type: ignore[arg-type]

    @rule(quarters=st.integers(0, 12))
    def wait(self, quarters: int) -> None:
        """Let time pass."""
        self.now += quarters

    @rule(
        at_once=st.none() | st.sampled_from(list(Verdict)),
        times=st.integers(1, 4),
        slow=st.booleans(),
        asks=st.sampled_from([None, None, None, 3.0, 60.0, -1.0]),
    )
    def come(self, at_once: Verdict | None, times: int, slow: bool, asks: float | None) -> None:
        """Some calls at the door; they end at once, or stay under way."""
        for _ in range(times):
            ready = self.gate.ready(self.now * TICK)
            expected = self.model.admit(self.now)
            ticket: int | None = None
            wait: float | None = None
            try:
                ticket = self.gate.admit(Call("shop"), self.now * TICK)
            except BreakerOpen as refused:
                wait = refused.retry_after
            assert (ticket is None) == (expected is None)
            assert ready or ticket is None  # what is let in was ready
            if ticket is None or expected is None:
                assert wait is None or wait >= 0
                continue
            self.under_way.append((ticket, expected))
            if at_once is not None:
                self.end(len(self.under_way) - 1, at_once, slow, asks)

    @rule(data=st.data(), verdict=st.sampled_from([OK, TRANSIENT, PERMANENT, IGNORED]), slow=st.booleans())
    def end_one(self, data: st.DataObject, verdict: Verdict, slow: bool) -> None:
        """One of those under way ends, of whatever era it is."""
        if self.under_way:
            self.end(data.draw(st.integers(0, len(self.under_way) - 1)), verdict, slow, None)

    def end(self, which: int, verdict: Verdict, slow: bool, asks: float | None) -> None:
        """Settle it in both."""
        ticket, expected = self.under_way.pop(which)
        self.gate.settle(ticket, Outcome(verdict, seconds=1.5 if slow else 1.0, retry_after=asks), self.now * TICK)
        self.model.settle(expected, verdict, slow, asks, self.now)

    @rule(state=st.sampled_from(FORCED))
    def force(self, state: State) -> None:
        """A hand takes it, or lets go."""
        self.gate.force(state, now=self.now * TICK)
        self.model.turn(state, self.now, by_hand=True)

    @invariant()
    def agrees(self) -> None:
        """The state is the same, no more probes are out than there may be, every turn is one of the table."""
        if not hasattr(self, "gate"):
            return
        view = self.gate.snapshot(self.now * TICK)
        assert self.gate.state is self.model.state
        assert view["probes_out"] == len(self.model.probing)
        assert self.gate.counts["rejected"] == self.model.rejected
        assert self.gate.counts["would_reject"] == self.model.would_reject
        if self.gate.state in (State.CLOSED, State.FORCED_CLOSED):
            calls = (view["window_calls"], view["window_failures"], view["window_slow"], view["failures_in_a_row"])
            assert calls == (*self.model.window(self.now), self.model.in_a_row)
        for event in self.turns:
            if event.kind != "shadow.breaker":
                before, after = (State(event.facts[key]) for key in ("before", "after"))
                assert Turn(before, str(event.facts["reason"]), after) in TURNS
        self.turns.clear()


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
