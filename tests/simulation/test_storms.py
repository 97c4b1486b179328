"""Permits in are permits out: through any pipeline of the policies that ship, whatever storm of cancellations passes.

`tests/drivers/test_settled_once.py` asks it of the drivers with gates that write everything down; here the real ones
stand in line, many calls are under way at once, and afterwards each must be at rest and let a call through.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from msgov import aio, sync
from msgov.call import Call, Outcome
from msgov.clock import Clock, dice, monotonic
from msgov.pipeline import Pipeline, Policy
from msgov.policy import Gate, Waiting
from msgov.resilience import (
    Adaptive,
    AdaptiveRule,
    Breaker,
    BreakerRule,
    Budget,
    BudgetRule,
    Bulkhead,
    BulkheadRule,
    Cache,
    CacheRule,
    Coalesce,
    Deadline,
    Fallback,
    Fault,
    FaultRule,
    Hedge,
    HedgeRule,
    Limiter,
    LimiterRule,
    Retry,
    RetryRule,
    Shedder,
    Throttle,
)
from msgov.testing import run

SEEDS = st.integers(0, 2**32 - 1)
QUIET = 1_000.0  # seconds after which every window is empty, every lease over


class Counted(Gate[Any]):
    """A real gate, with every ticket counted that it hands out and takes back."""

    def __init__(self, gate: Gate[Any]) -> None:
        self.gate = gate
        self.narrows = getattr(gate, "narrows", False)
        self.granted = 0
        self.returned = 0
        self._lock = threading.Lock()

    def admit(self, call: Call, now: float) -> Any:
        """Count what is let in at once."""
        ticket = self.gate.admit(call, now)
        if ticket.__class__ is not Waiting:
            self._grant()
        return ticket

    def withdraw(self, waiting: Waiting[Any], now: float) -> Any:
        """Count what is let in after a wait."""
        ticket = self.gate.withdraw(waiting, now)
        if ticket is not None:
            self._grant()
        return ticket

    def late(self, waiting: Waiting[Any], now: float) -> Any:
        """Refuse as the gate does."""
        return self.gate.late(waiting, now)

    def settle(self, ticket: Any, outcome: Outcome, now: float) -> None:
        """Count what comes back."""
        self.gate.settle(ticket, outcome, now)
        with self._lock:
            self.returned += 1

    def _grant(self) -> None:
        with self._lock:
            self.granted += 1


Make = Callable[[float, int], Policy]  # of the length of a second, and a seed

GATES: Mapping[str, Make] = {
    "deadline": lambda s, _: Deadline(0.6 * s),
    "limiter": lambda s, _: Limiter(LimiterRule(rate=20 / s, burst=5)),
    "throttle": lambda s, seed: Throttle(dice=dice(seed)),
    "bulkhead": lambda s, _: Bulkhead(BulkheadRule(limit=2, queue=3, max_wait=0.3 * s)),
    "adaptive": lambda s, _: Adaptive(AdaptiveRule(initial=2, queue=3, max_wait=0.3 * s)),
    "shed": lambda s, seed: Shedder(dice=dice(seed)),
    "breaker": lambda s, seed: Breaker(
        BreakerRule(minimum_calls=3, open_seconds=0.3 * s, open_cap=0.3 * s, probes=2, probe_lease=0.4 * s),
        dice=dice(seed),
    ),
    "late": lambda s, seed: Fault(FaultRule(share=0.3, latency=0.2 * s), allowed=True, dice=dice(seed)),
    "failing": lambda s, seed: Fault(FaultRule(share=0.3, status="UNAVAILABLE"), allowed=True, dice=dice(seed)),
}
OTHERS: Mapping[str, Make] = {
    "fallback": lambda s, _: Fallback("instead", on=(ConnectionError,)),
    "cache": lambda s, _: Cache(CacheRule(ttl=0.3 * s, stale_if_error=0.3 * s)),
    "coalesce": lambda s, _: Coalesce(),
}
PLANS: Mapping[str, Make] = {
    "retry": lambda s, seed: Retry(
        RetryRule(base=0.1 * s, cap=0.2 * s), budget=Budget(BudgetRule(ratio=0.5)), dice=dice(seed)
    ),
    "hedge": lambda s, _: Hedge(
        HedgeRule(attempts=3, initial=max(0.001, 0.1 * s), load=4.0), budget=Budget(BudgetRule(ratio=1.0))
    ),
}
ALL: Mapping[str, Make] = {**GATES, **OTHERS, **PLANS}


@dataclass(frozen=True)
class Asked:
    """One call of the storm, in tenths of a second."""

    begins: int
    takes: int
    fails: bool
    leaves: int | None
    """How long after its beginning its caller leaves."""
    key: str


CALLS = st.lists(
    st.builds(
        Asked,
        st.integers(0, 12),
        st.integers(0, 9),
        st.booleans(),
        st.one_of(st.none(), st.integers(0, 9)),
        st.sampled_from(["a", "b"]),
    ),
    min_size=1,
    max_size=25,
)


@st.composite
def chains(draw: st.DrawFn, plans: Sequence[str]) -> list[str]:
    """Draw names of policies in any order, with one plan at most."""
    names = draw(st.lists(st.sampled_from([*GATES, *OTHERS]), max_size=6, unique=True))
    plan = draw(st.sampled_from([None, *plans]))
    if plan is not None:
        names.insert(draw(st.integers(0, len(names))), plan)
    return names


def build(names: Sequence[str], second: float, seed: int) -> tuple[Pipeline, list[Counted]]:
    """Build a pipeline, each gate counted."""
    made = [ALL[name](second, seed + at) for at, name in enumerate(names)]
    counted = [Counted(policy) if isinstance(policy, Gate) else policy for policy in made]
    return Pipeline(counted), [policy for policy in counted if isinstance(policy, Counted)]


def at_rest(gates: Sequence[Counted]) -> None:
    """Check that all that was handed out came back, and that the gate itself says so."""
    for gate in gates:
        name = type(gate.gate).__name__
        assert gate.granted == gate.returned, name
        assert getattr(gate.gate, "inflight", 0) == 0, name
        assert getattr(gate.gate, "depth", 0) == 0, name


async def ask(governed: Callable[[Call], Any], asked: Asked, clock: Clock) -> None:
    """Call, and leave early where it says so."""
    await asyncio.sleep(asked.begins / 10)
    call = Call("shop", "buy", asked, idempotent=True, key=asked.key)

    async def one() -> object:
        return await governed(call)

    task = asyncio.ensure_future(one())
    if asked.leaves is not None:
        asyncio.get_running_loop().call_later(asked.leaves / 10, task.cancel)
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()
    assert call.deadline is None


@given(names=chains(["retry", "hedge"]), storm=CALLS, seed=SEEDS)
def test_every_permit_is_back_after_a_storm_under_asyncio(names: list[str], storm: list[Asked], seed: int) -> None:
    """Whoever left, from whatever line, backoff, attempt or joined flight; then the next call goes through."""
    pipeline, gates = build(names, 1.0, seed)
    running = 0

    async def handler(call: Call) -> object:
        nonlocal running
        asked = call.request
        assert isinstance(asked, Asked)
        running += 1
        try:
            await asyncio.sleep(asked.takes / 10)
            if asked.fails:
                raise ConnectionError("down")
            return "reply"
        finally:
            running -= 1

    async def scene() -> None:
        clock = asyncio.get_running_loop().time
        governed = aio.govern(pipeline, handler, clock=clock)
        await asyncio.gather(*(ask(governed, asked, clock) for asked in storm))
        await asyncio.sleep(1.0)
        at_rest(gates)
        assert running == 0
        for _ in range(30):  # a fault of a share, a throttle by chance
            await asyncio.sleep(QUIET)
            with suppress(Exception):
                if await governed(Call("shop", "buy", Asked(0, 0, False, None, "c"), key="c")) == "reply":
                    break
        else:
            raise AssertionError("no call goes through any more")
        at_rest(gates)

    run(scene())


@given(names=chains(["retry"]), storm=CALLS, seed=SEEDS)
@settings(max_examples=25)
def test_every_permit_is_back_after_a_storm_of_threads(names: list[str], storm: list[Asked], seed: int) -> None:
    """The same for blocking code, in real threads a hundred times as fast; a caller who leaves is interrupted."""
    pipeline, gates = build(names, 0.01, seed)

    def handler(call: Call) -> object:
        asked = call.request
        assert isinstance(asked, Asked)
        time.sleep(asked.takes / 1000)
        if asked.leaves is not None:
            raise KeyboardInterrupt
        if asked.fails:
            raise ConnectionError("down")
        return "reply"

    governed = sync.govern(pipeline, handler, clock=monotonic)

    def caller(mine: Sequence[Asked]) -> None:
        for asked in mine:
            call = Call("shop", "buy", asked, idempotent=True, key=asked.key)
            with suppress(BaseException):
                governed(call)
            assert call.deadline is None

    threads = [threading.Thread(target=caller, args=(storm[at::4],)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    at_rest(gates)
