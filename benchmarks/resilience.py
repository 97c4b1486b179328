"""What a policy costs alone, what a refusal does, what threads cost each other, and what ten thousand rules."""

from __future__ import annotations

import asyncio
import random
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import circuitbreaker

from benchmarks import stacks
from benchmarks.harness import Case, Figure, anoop, measure, noop
from benchmarks.pipeline import resilience
from msgov.call import TRANSIENT, Call, Outcome
from msgov.config.policies import Policies
from msgov.config.rules import RuleBook
from msgov.errors import Rejected
from msgov.resilience import (
    Adaptive,
    Breaker,
    BreakerRule,
    Bulkhead,
    BulkheadRule,
    Limiter,
    LimiterRule,
    Shedder,
    State,
    Throttle,
    policies,
)

THREADS = 8


def _chain() -> tuple[Any, ...]:
    """Limiter, retry with budget, bulkhead, breaker: what pyresilience stacks."""
    return tuple(resilience()[1:])


def _open() -> Breaker:
    breaker = Breaker(BreakerRule(minimum_calls=1, open_seconds=300.0, open_cap=300.0))
    now = time.monotonic()
    breaker.settle(breaker.admit(Call("down"), now), Outcome(TRANSIENT), now)
    assert breaker.state is State.OPEN
    return breaker


def _spent() -> Limiter:
    return Limiter(LimiterRule(rate="1/day"))


def _full() -> Bulkhead:
    return Bulkhead(BulkheadRule(limit=1))


def _refused(governed: Callable[[], Any]) -> Callable[[], Any]:
    def call() -> None:
        try:
            governed()
        except Rejected:
            pass

    return call


def _arefused(governed: Callable[[], Any]) -> Callable[[], Any]:
    async def call() -> None:
        try:
            await governed()
        except Rejected:
            pass

    return call


async def asynchronous(rounds: int) -> list[Figure]:
    """Decorated coroutine functions: ours with the same policies as the peers'."""
    spent = policies(_spent())(anoop)
    await spent()
    cases = [
        Case("no policy", policies()(anoop), True),
        Case("breaker, time window", policies(Breaker())(anoop), True),
        Case("circuitbreaker", circuitbreaker.CircuitBreaker(name="async")(anoop), True),
        Case("limiter, retry + budget, bulkhead, breaker", policies(*_chain())(anoop), True),
        Case("the same and an enforced deadline", policies(*resilience())(anoop), True),
        Case("pyresilience: limiter, retry, bulkhead, breaker", stacks.pyresilient(anoop, timeout=False), True),
        Case("pyresilience with timeout", stacks.pyresilient(anoop, timeout=True), True),
        Case("tenacity, limits, semaphore, timeout, pybreaker", stacks.typical(anoop), True),
        Case("refused: breaker open", _arefused(policies(_open())(anoop)), True),
        Case("refused: rate", _arefused(spent), True),
    ]
    return await measure(cases, rounds=rounds)


async def blocking(rounds: int) -> list[Figure]:
    """The same on plain functions."""
    spent = policies(_spent())(noop)
    spent()
    cases = [
        Case("no policy", policies()(noop)),
        Case("breaker, time window", policies(Breaker())(noop)),
        Case("circuitbreaker", circuitbreaker.CircuitBreaker(name="sync")(noop)),
        Case("limiter", policies(Limiter(LimiterRule(rate=1e9, burst=1e9)))(noop)),
        Case("bulkhead", policies(Bulkhead())(noop)),
        Case("adaptive", policies(Adaptive())(noop)),
        Case("shedder", policies(Shedder())(noop)),
        Case("throttle", policies(Throttle())(noop)),
        Case("limiter, retry + budget, bulkhead, breaker", policies(*_chain())(noop)),
        Case("pyresilience: limiter, retry, bulkhead, breaker", stacks.pyresilient(noop, timeout=False)),
        Case("tenacity, limits, semaphore, pybreaker", stacks.typical_sync(noop)),
        Case("refused: breaker open", _refused(policies(_open())(noop))),
        Case("refused: rate", _refused(spent)),
    ]
    return await measure(cases, rounds=rounds)


def threads(rounds: int) -> None:
    """Print what eight threads through one breaker cost: asleep in wall time, busy in CPU."""
    breaker = Breaker()
    asleep: list[float] = []
    busy: list[float] = []
    guarded_sleep = policies(breaker)(lambda: time.sleep(0.01))
    guarded = policies(Breaker())(noop)
    for _ in range(rounds):
        bare = _wall(lambda: time.sleep(0.01), 25)
        asleep.append(_wall(guarded_sleep, 25) / bare)
        busy.append(_cpu(guarded, THREADS) / _cpu(guarded, 1))
    print(f"\n## {THREADS} threads through one breaker\n\n| what | ratio | quartiles |\n| --- | ---: | --- |")
    for name, ratios in (
        ("wall time to bare, 10 ms calls", asleep),
        ("CPU per call to one thread, empty calls", busy),
    ):
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"| {name} | {middle:.3f} | {low:.3f}-{high:.3f} |")


def _together(work: Callable[[], None], count: int) -> None:
    running = [threading.Thread(target=work) for _ in range(count)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def _wall(call: Callable[[], Any], calls: int) -> float:
    def work() -> None:
        for _ in range(calls):
            call()

    began = time.perf_counter()
    _together(work, THREADS)
    return time.perf_counter() - began


def _cpu(call: Callable[[], Any], count: int, calls: int = 40_000) -> float:
    def work() -> None:
        for _ in range(calls // count):
            call()

    began = time.process_time()
    _together(work, count)
    return (time.process_time() - began) / calls


def flat(rounds: int) -> None:
    """Print what it costs to find the policies of a call among so many rules."""
    print("\n## Finding the policies of a call\n\n| rules | known name, x 10 rules | new name, x 10 rules |")
    print("| ---: | ---: | ---: |")
    first: tuple[float, float] | None = None
    for size in (10, 100, 1_000, 10_000):
        told = {f"service-{at}/Method": {"deadline": 1.0} for at in range(size)}
        book = RuleBook.of({"call": told})
        made = Policies(book)
        names = [f"service-{random.randrange(size)}" for _ in range(1_000)]
        known, new = [], []
        for turn in range(rounds):
            for name in names[:50]:
                made.for_call(name, "Method")
            began = time.process_time()
            for _ in range(20):
                for name in names[:50]:
                    made.for_call(name, "Method")
            known.append(time.process_time() - began)
            began = time.process_time()
            for name in names:
                book.find("call", f"{name}/other-{turn}")
            new.append(time.process_time() - began)
        mine = statistics.median(known), statistics.median(new)
        first = first or mine
        print(f"| {size:,} | {mine[0] / first[0]:.2f} | {mine[1] / first[1]:.2f} |")


def run(rounds: int) -> dict[str, list[Figure]]:
    """Measure all of it."""
    figures = {
        "Policies, asyncio": asyncio.run(asynchronous(rounds)),
        "Policies, threads": asyncio.run(blocking(rounds)),
    }
    threads(rounds)
    flat(rounds)
    return figures
