"""Times small things in a way that can be trusted on a machine with neighbours.

Each case runs in many slices of about 5 ms; before and after each slice the bare function runs in the same kind of
loop, so that every ratio compares measurements a few milliseconds apart. Cases are interleaved and reshuffled each
round. The figure is CPU time of the whole process, helper threads included; medians over rounds are printed. `quiet` is
the bare function on the machine at its best (the 10th percentile of its slices): `ns` = median ratio x quiet.
"""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import repeat
from typing import Any

CHUNK = 1000  # operations between two yields to the loop


@dataclass
class Case:
    """One thing to time: `op` is called, and awaited when `is_async`; `reset` runs untimed every `every` operations."""

    name: str
    op: Callable[[], Any]
    is_async: bool = False
    reset: Callable[[], Any] | None = None
    every: int = 0


@dataclass
class Figure:
    """What came out: nanoseconds, the ratio to bare, and its quartiles relative to it."""

    name: str
    ns: float
    ratio: float
    spread: float


def noop() -> int:
    return 1


async def anoop() -> int:
    return 1


async def _sync(op: Callable[[], Any], n: int) -> int:
    began = time.process_time_ns()
    for _ in repeat(None, n):
        op()
    return time.process_time_ns() - began


async def _async(op: Callable[[], Awaitable[Any]], n: int) -> int:
    began = time.process_time_ns()
    while n > 0:
        for _ in repeat(None, min(n, CHUNK)):
            await op()
        n -= CHUNK
        await asyncio.sleep(0)  # lets cancelled timers be collected, as a server would
    return time.process_time_ns() - began


async def _slice(case: Case, n: int) -> int:
    loop = _async if case.is_async else _sync
    if case.reset is None:
        return await loop(case.op, n)
    cpu = 0
    while n > 0:
        made = case.reset()
        if asyncio.iscoroutine(made):
            await made
        cpu += await loop(case.op, min(n, case.every))
        n -= case.every
    return cpu


async def measure(cases: list[Case], *, rounds: int) -> list[Figure]:
    """Measure all cases, which must be of one colour."""
    is_async = cases[0].is_async
    bare = Case("bare", anoop if is_async else noop, is_async)
    n_bare = 20_000 if is_async else 60_000
    counts = {}
    for case in cases:
        n = 20
        while (cpu := await _slice(case, n)) < 2_000_000 and n < 1_000_000:
            n *= 3
        counts[case.name] = max(20, int(n * 5e6 / max(cpu, 1)))
    ratios: dict[str, list[float]] = {case.name: [] for case in cases}
    quiet: list[float] = []
    gc.collect()
    gc.freeze()
    for turn in range(rounds):
        order = cases[:]
        random.Random(turn).shuffle(order)
        for case in order:
            gc.collect(0)
            before = await _slice(bare, n_bare) / n_bare
            mine = await _slice(case, counts[case.name]) / counts[case.name]
            after = await _slice(bare, n_bare) / n_bare
            quiet += [before, after]
            ratios[case.name].append(mine / ((before + after) / 2))
    gc.unfreeze()
    floor = sorted(quiet)[len(quiet) // 10]
    figures = [Figure("bare", floor, 1.0, 0.0)]
    for case in cases:
        low, middle, high = statistics.quantiles(ratios[case.name], n=4)
        figures.append(Figure(case.name, middle * floor, middle, (high - low) / middle))
    return figures
