"""Any walk of calls, deaths, recoveries and losses of the store opens the breakers that a plain model opens."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from msgov.call import OK, TRANSIENT
from msgov.resilience import Breaker, Pool, PoolRule, State
from msgov.resilience.breaker_evidence import wilson
from msgov.resilience.pool_evidence import Report, Seen
from tests.resilience.breaking import call, calls, small

ENOUGH = small(minimum_calls=10).rule  # the rule that the pool decides by
NEVER = small(minimum_calls=1000).rule  # of the time between: so that every opening is the pool's
WINDOW, STALE = 10, 3  # seconds
SCRIPTS = ["", "", "S", "SSS", "SSSSSS", "F", "FF", "FFF", "FFF", "FFFFFF", "FFFFFFFFF", "FFFFS", "SSF"]


@dataclass
class Process:
    """One process, and what a plain model of its pool remembers: lists of calls and of what it heard."""

    gate: Breaker
    pool: Pool
    alive: bool = True
    open: bool = False
    fresh: list[bool] = field(default_factory=list)  # calls since the last report: whether they failed
    seen: list[tuple[int, bool]] = field(default_factory=list)
    returned: int | None = None  # when it came back, until the next report
    back: int = -1000
    heard: dict[int, tuple[int, int | None, list[bool]]] = field(default_factory=dict)  # serial, when it moved, calls
    last: int = -1000

    def report(self, now: int) -> list[bool]:
        """Tell the calls of the window."""
        self.seen += [(now, failed) for failed in self.fresh]
        self.fresh = []
        if self.returned is not None:
            self.seen, self.back, self.returned = [], self.returned, None
        return self.recent(now)

    def recent(self, now: int) -> list[bool]:
        """Return the calls of the window: whether they failed."""
        return [failed for at, failed in self.seen if at > now - WINDOW]

    def hear(self, said: dict[int, tuple[int, list[bool]]], now: int, rule: PoolRule) -> bool:
        """Say whether it opens now."""
        if now - self.last > STALE:
            self.heard = {}
        self.last = now
        for other, (serial, recent) in said.items():
            known = self.heard.get(other)
            if known is None:
                self.heard[other] = (serial, None, [])
            elif known[0] != serial:
                self.heard[other] = (serial, now, recent)
        own = self.recent(now)
        others = [told for _, moved, told in self.heard.values() if moved is not None and now - moved <= STALE]
        if self.open or now - self.back < WINDOW:
            return False
        everything = [failed for each in (own, *others) for failed in each]
        voices = [each for each in (own, *others) if len(each) >= rule.member_calls]
        agree = [each for each in voices if sum(each) * 2 >= len(each)]
        denied = len(own) >= rule.veto_calls and 1 - wilson(len(own) - sum(own), len(own)) < 0.5
        enough = len(everything) >= 10 and sum(everything) * 2 >= len(everything)
        quorum = len(agree) >= rule.witnesses and len(agree) >= rule.quorum * len(voices)
        return enough and quorum and not denied


class Walk(RuleBasedStateMachine):
    """The processes and their models get the same calls, and the same store."""

    @initialize(
        size=st.integers(2, 5),
        quorum=st.sampled_from([0.25, 0.5, 1.0]),
        witnesses=st.sampled_from([2, 2, 3]),
        veto=st.sampled_from([1, 5, 8]),
    )
    def begin(self, size: int, quorum: float, witnesses: int, veto: int) -> None:
        """Start them."""
        self.rule = PoolRule(quorum=quorum, witnesses=witnesses, veto_calls=veto)
        self.now = 1000
        self.store: dict[int, tuple[Report, list[bool]]] = {}
        self.all: list[Process] = []
        for _ in range(size):
            gate = small(minimum_calls=1000)
            self.all.append(Process(gate, Pool(gate, name="shop", rule=self.rule)))

    @rule(scripts=st.lists(st.sampled_from(SCRIPTS), min_size=5, max_size=5), seconds=st.integers(1, 3))
    def live(self, scripts: list[str], seconds: int) -> None:
        """Each makes some calls, and they tell each other."""
        for process, script in zip(self.all, scripts, strict=False):
            if not process.open:
                calls(process.gate, script, float(self.now))
                process.fresh += [letter == "F" for letter in script]
        self.exchange(seconds, 1, True)

    @rule(which=st.integers(0, 4), alive=st.sampled_from([True, True, False]))
    def stop_or_go_on(self, which: int, alive: bool) -> None:
        """What it wrote stays in the store."""
        self.all[which % len(self.all)].alive = alive

    @rule(which=st.integers(0, 4))
    def remove(self, which: int) -> None:
        """Its field is taken out of the store; if it lives it writes it anew."""
        self.store.pop(which, None)

    @rule(
        seconds=st.sampled_from([1, 1, 1, 2, 3, 4, 12]),
        times=st.integers(1, 3),
        there=st.sampled_from([True, True, False]),
    )
    def exchange(self, seconds: int, times: int, there: bool) -> None:
        """Time passes, all who live write, then read and decide; or the store is not there."""
        for _ in range(times):
            self.now += seconds
            live = [(which, process) for which, process in enumerate(self.all) if process.alive]
            for which, process in live:
                report, recent = process.pool.report(float(self.now)), process.report(self.now)
                told = report.seen.get("pay/payment", Seen(0, 0))
                assert told == (len(recent) - sum(recent), sum(recent))
                if there:
                    self.store[which] = (report, recent)
                else:
                    process.pool.unreachable()
            for which, process in live if there else []:
                self.hear(which, process)

    def hear(self, which: int, process: Process) -> None:
        """Let one hear all others, and open exactly when its model does."""
        others = {other: told for other, told in self.store.items() if other != which}
        process.heard = {other: known for other, known in process.heard.items() if other in others}
        said = {other: (report.serial, recent) for other, (report, recent) in others.items()}
        opens = process.hear(said, self.now, self.rule)
        process.gate.rule = ENOUGH
        process.pool.hear({str(other): report for other, (report, _) in others.items()}, float(self.now))
        process.gate.rule = NEVER
        process.open |= opens
        assert (process.gate.state is State.OPEN) is process.open
        assert process.gate.snapshot(float(self.now))["reason"] in ("", "pool", "probes_failed", "probes_passed")

    @rule(back=st.booleans())
    def probe(self, back: bool) -> None:
        """All that are open ask the callee, once."""
        self.now += 3
        for process in self.all:
            if process.open:
                call(process.gate, OK if back else TRANSIENT, float(self.now))
                process.fresh.append(not back)
                if back:
                    process.open, process.returned = False, self.now


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
