"""What a pipeline with everything on costs per call, in process, beside its peers."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from typing import Any

from benchmarks import stacks
from benchmarks.harness import Case, Figure, anoop, measure, noop
from msgov import aio, sync
from msgov.call import Call
from msgov.discovery.instance import Instance, Snapshot
from msgov.discovery.pick import Pick
from msgov.discovery.two_choices import TwoChoices
from msgov.latest import Latest
from msgov.observability.edges import Rpc
from msgov.observability.setup import observability
from msgov.pipeline import Pipeline, Policy
from msgov.resilience import (
    Breaker,
    Budget,
    Bulkhead,
    BulkheadRule,
    Deadline,
    Limiter,
    LimiterRule,
    Retry,
    RetryRule,
)


def resilience() -> list[Policy]:
    """Deadline, rate limit, retry with budget, bulkhead, breaker."""
    return [
        Deadline(5.0),
        Limiter(LimiterRule(rate=1e6, burst=1_000_000)),
        Retry(RetryRule(), budget=Budget()),
        Bulkhead(BulkheadRule(limit=64)),
        Breaker(),
    ]


def everything(observe: Any) -> list[Policy]:
    """The same with metrics, trace context and one JSON line per call."""
    edge = Rpc("server")
    policies = resilience()
    return [*observe.gates(edge), *policies[:3], *observe.attempts(edge), *policies[3:]]


def _governed(policies: list[Policy], *, native: bool) -> Callable[[], Any]:
    async def target(call: Call) -> int:
        return 1

    handler = aio.govern(Pipeline(policies), target, native=native)
    return lambda: handler(Call("echo", "/echo.Echo/Echo", idempotent=True))


def _governed_sync(policies: list[Policy]) -> Callable[[], Any]:
    handler = sync.govern(Pipeline(policies), lambda call: 1)
    return lambda: handler(Call("echo", "/echo.Echo/Echo", idempotent=True))


async def asynchronous(rounds: int, observe: Any) -> list[Figure]:
    noop_span = stacks.Observed(stacks.provider(None))
    one_percent = stacks.Observed(stacks.provider(0.01))
    cases = [
        Case("msgov, resilience, deadline sent on", _governed(resilience(), native=True), True),
        Case("msgov, resilience, deadline enforced", _governed(resilience(), native=False), True),
        Case("pyresilience, no timeout", stacks.pyresilient(anoop, timeout=False), True),
        Case("pyresilience, timeout", stacks.pyresilient(anoop, timeout=True), True),
        Case("cheapest of each kind", stacks.cheapest(anoop), True),
        Case("typical stack", stacks.typical(anoop), True),
        Case("msgov, all on", _governed(everything(observe), native=False), True),
        Case("cheapest, all on, no SDK", noop_span.around(stacks.cheapest(anoop)), True),
        Case("typical, all on, no SDK", noop_span.around(stacks.typical(anoop)), True),
        Case("typical, all on, SDK 1 %", one_percent.around(stacks.typical(anoop)), True),
    ]
    return await measure(cases, rounds=rounds)


async def blocking(rounds: int, observe: Any) -> list[Figure]:
    noop_span = stacks.Observed(stacks.provider(None))
    cases = [
        Case("msgov, resilience", _governed_sync(resilience())),
        Case("pyresilience, no timeout", stacks.pyresilient(noop, timeout=False)),
        Case("typical stack", stacks.typical_sync(noop)),
        Case("msgov, all on", _governed_sync(everything(observe))),
        Case("typical, all on, no SDK", noop_span.around_sync(stacks.typical_sync(noop))),
    ]
    return await measure(cases, rounds=rounds)


async def picking(rounds: int) -> list[Figure]:
    def pick(count: int) -> Callable[[], Any]:
        latest: Latest[Snapshot] = Latest("echo")
        instances = tuple(Instance("echo", "127.0.0.1", 10_000 + at) for at in range(count))
        latest.put(Snapshot("echo", instances), 0.0)
        gate = Pick(latest, TwoChoices())
        settle = gate.settle
        from msgov.call import OK, Outcome

        outcome = Outcome(OK, seconds=0.001)
        now = 0.0

        def once() -> None:
            nonlocal now
            now += 1e-5
            settle(gate.admit(Call("echo"), now), outcome, now)

        return once

    ports = list(range(100))
    cases = [
        Case("pick of two among 10, with settle", pick(10)),
        Case("pick of two among 100, with settle", pick(100)),
        Case("random.choice among 100", lambda: random.choice(ports)),
    ]
    return await measure(cases, rounds=rounds)


def run(rounds: int) -> dict[str, list[Figure]]:
    """Measure all of it; log lines go nowhere."""
    with open(os.devnull, "wb") as nowhere:
        observe = observability("bench", logs="json", fd=nowhere.fileno())
        try:
            return {
                "asyncio, per call": asyncio.run(asynchronous(rounds, observe)),
                "threads, per call": asyncio.run(blocking(rounds, observe)),
                "picking an instance": asyncio.run(picking(rounds)),
            }
        finally:
            observe.shutdown()
