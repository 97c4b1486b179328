"""What remembering keys costs, beside a plain dict of the same keys: `python -m benchmarks.limiter_memory`."""

from __future__ import annotations

import argparse
import gc
import time
import tracemalloc
from collections.abc import Callable

from msgov.call import Call
from msgov.errors import RateLimited
from msgov.resilience import Limiter, LimiterRule, Quota, QuotaRule

BUDGET = 24e6  # bytes for 100 000 keys


def run(keys: int) -> None:
    """Print the memory of full limiters, what rotating keys add to it, and the cost of a call at each size."""
    plain = _bytes(lambda: {_address(number): float(number) for number in range(keys)})
    print(f"\n## Memory of {keys:,} keys\n\n| what | MB | x plain dict | after others |")
    print("| --- | ---: | ---: | ---: |")  # of gcra ten times as many others, of the rest as many
    print(f"| dict of str to float | {plain / 1e6:.1f} | 1.00 | |")
    rules = {
        "gcra": LimiterRule(rate="1/day", keys_max=keys),
        "gcra, warm-up": LimiterRule(rate="1/day", keys_max=keys, warm_up=60.0),
        "leaky": LimiterRule(rate="1/day", keys_max=keys, algorithm="leaky"),
        "sliding window": LimiterRule(rate="1/day", keys_max=keys, algorithm="sliding_window"),
        "two limits": LimiterRule(rate="1/hour, 2/day", keys_max=keys),
    }
    for name, rule in rules.items():
        full, rotated = _filled(Limiter(rule), keys, others=10 * keys if name == "gcra" else keys)
        print(f"| {name} | {full / 1e6:.1f} | {full / plain:.2f} | {rotated / full:+.2%} |")
        if name == "gcra":
            assert full <= BUDGET * keys / 100_000, f"{full:,} bytes"
        assert rotated < full / 100, f"{rotated:,} bytes more"
    gate = Quota(QuotaRule(rate="1000000/day", keys_max=keys), name="quota")
    gate.reached(0.0)
    full, rotated = _filled(gate, keys, others=keys)
    print(f"| quota | {full / 1e6:.1f} | {full / plain:.2f} | {rotated / full:+.2%} |")
    print("\n## Cost of a call\n\n| keys | x one key |\n| ---: | ---: |")
    one = _cost(1)
    for size in (10, 1_000, 10_000):
        print(f"| {size:,} | {_cost(size) / one:.2f} |")


def _address(number: int) -> str:
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


def _bytes(make: Callable[[], object]) -> int:
    gc.collect()
    tracemalloc.start()
    kept = make()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del kept
    return used


def _filled(gate: Limiter | Quota, keys: int, *, others: int) -> tuple[int, int]:
    """Return the bytes of a full limiter, and what other keys add to them."""
    gc.collect()
    tracemalloc.start()
    for number in range(keys):
        _call(gate, _address(number))
    if isinstance(gate, Quota):
        gate.demand(0.0)
    full, _ = tracemalloc.get_traced_memory()
    for number in range(keys, keys + others):
        _call(gate, _address(number))
    gc.collect()
    rotated, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert gate.keys == keys
    return full, rotated - full


def _call(gate: Limiter | Quota, key: str) -> None:
    try:
        gate.admit(Call("", key=key), 0.0)
    except RateLimited:
        pass


def _cost(keys: int) -> float:
    """Return the seconds of a call among so many keys, the fastest of five rounds."""
    gate = Limiter(LimiterRule(rate=1e9, burst=1e9))
    calls = [Call("", key=_address(number)) for number in range(keys)]
    calls = (calls * (100_000 // keys + 1))[:100_000]
    times = []
    for _ in range(5):
        began = time.perf_counter()
        for call in calls:
            gate.admit(call, 1.0)
        times.append(time.perf_counter() - began)
    return min(times) / len(calls)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limiter_memory", description=__doc__)
    parser.add_argument("--keys", type=int, default=100_000, help="how many are remembered (100000)")
    run(parser.parse_args().keys)
