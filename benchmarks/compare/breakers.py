"""One adapter a library, each set up as well as its own options allow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta
from importlib import import_module
from typing import Any

from msgov.testing.breakers import Guard, Make, Target

Call = Callable[[Target], Any]


class Through:
    """A guard made of one function."""

    def __init__(self, call: Call) -> None:
        self._call = call

    async def call(self, target: Target) -> object:
        return await self._call(target)


def msgov(failures: int, recovery: float, probes: int) -> Guard:
    from msgov import aio
    from msgov.call import Call
    from msgov.pipeline import Pipeline
    from msgov.resilience import Breaker, BreakerRule

    rule = BreakerRule(
        minimum_calls=failures, open_seconds=recovery, open_cap=recovery, probes=probes, probe_lease=recovery
    )
    pipeline, clock = Pipeline([Breaker(rule)]), asyncio.get_running_loop().time
    return Through(lambda target: aio.govern(pipeline, lambda call: target(), clock=clock)(Call("callee")))


def nopanic(failures: int, recovery: float, probes: int) -> Guard:
    breaker = import_module("nopanic").CircuitBreaker(
        failure_threshold=0.5, min_calls=failures, reset_timeout=recovery, half_open_max_calls=probes
    )
    return Through(breaker.acall)


def redress(failures: int, recovery: float, probes: int) -> Guard:
    library = import_module("redress")
    breaker = library.CircuitBreaker(
        failure_threshold=failures, recovery_timeout_s=recovery, trip_on=set(library.ErrorClass)
    )
    return Through(library.AsyncPolicy(circuit_breaker=breaker).call)


def resilix(failures: int, recovery: float, probes: int) -> Guard:
    breaker = import_module("resilix").CircuitBreaker(
        failures=failures, reset_timeout=recovery, half_open_max=probes, window=60.0
    )
    return Through(lambda target: breaker(target)())


def aioresilience(failures: int, recovery: float, probes: int) -> Guard:
    library = import_module("aioresilience")
    config = library.CircuitConfig(
        failure_threshold=failures,
        recovery_timeout=recovery,
        success_threshold=max(1, probes // 2),
        half_open_max_calls=probes,
    )
    return Through(library.CircuitBreaker(name="callee", config=config).call)


def pyresilience(failures: int, recovery: float, probes: int) -> Guard:
    library = import_module("pyresilience")
    config = library.CircuitBreakerConfig(
        recovery_timeout=recovery,
        success_threshold=max(1, probes // 2),
        sliding_window_size=20,
        failure_rate_threshold=0.5,
        minimum_calls=failures,
    )

    async def call(target: Target) -> object:
        return await target()

    return Through(library.resilient(circuit_breaker=config)(call))


def aiobreaker(failures: int, recovery: float, probes: int) -> Guard:
    breaker = import_module("aiobreaker").CircuitBreaker(
        fail_max=failures, timeout_duration=timedelta(seconds=recovery)
    )
    return Through(breaker.call_async)


def hyx(failures: int, recovery: float, probes: int) -> Guard:
    breaker = import_module("hyx.circuitbreaker").consecutive_breaker(
        failure_threshold=failures, recovery_time_secs=recovery, recovery_threshold=max(1, probes // 2)
    )
    return Through(lambda target: breaker(target)())


def circuitbreaker(failures: int, recovery: float, probes: int) -> Guard:
    breaker = import_module("circuitbreaker").CircuitBreaker(
        failure_threshold=failures, recovery_timeout=recovery, name="callee"
    )
    return Through(lambda target: breaker(target)())


def purgatory(failures: int, recovery: float, probes: int) -> Guard:
    factory = import_module("purgatory").AsyncCircuitBreakerFactory(default_threshold=failures, default_ttl=recovery)
    return Through(lambda target: factory("callee")(target)())


def pybreaker(failures: int, recovery: float, probes: int) -> Guard:
    breaker = import_module("pybreaker").CircuitBreaker(
        fail_max=failures, reset_timeout=recovery, success_threshold=max(1, probes // 2)
    )

    async def call(target: Target) -> object:  # its own asyncio support needs tornado
        with breaker.calling():
            return await target()

    return Through(call)


LIBRARIES: Mapping[str, Make] = {
    make.__name__: make
    for make in (
        msgov,
        nopanic,
        redress,
        resilix,
        aioresilience,
        pyresilience,
        aiobreaker,
        hyx,
        circuitbreaker,
        purgatory,
        pybreaker,
    )
}
