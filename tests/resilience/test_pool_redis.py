"""Pools on a real Redis: heard, poisoned in vain, lost, found again, under asyncio and in threads."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from msgov.call import OK, TRANSIENT, Call, Outcome, Verdict
from msgov.connections.redis import connected
from msgov.errors import BreakerOpen, RuleError
from msgov.resilience import Breaker, BreakerRule, Pool, PoolRule, State
from msgov.resilience.pool_evidence import Report, Seen
from msgov.resilience.pool_redis import PoolPump, decode, encode
from tests.servers import Server

PATIENCE = 20.0  # seconds until a claim must have come true
CALL = Call("payment")
QUICK = PoolRule(period=0.03, stale=1.0)
ALONE = BreakerRule(minimum_calls=20, wilson_calls=0, consecutive_failures=0, open_seconds=60, open_cap=60)
NAME = "pay/payment"


async def until(claim: Callable[[], bool]) -> None:
    """Wait until a claim is true."""
    async with asyncio.timeout(PATIENCE):
        while not claim():
            await asyncio.sleep(0.005)


def process() -> tuple[Breaker, Pool]:
    """Make what each process has: a breaker that needs twenty calls, and its pool."""
    gate = Breaker(ALONE, name="pay", target="payment")
    return gate, Pool(gate, name="shop", rule=QUICK)


def call(gate: Breaker, verdict: Verdict, times: int = 1) -> None:
    """Make calls that are over at once."""
    for _ in range(times):
        gate.settle(gate.admit(CALL, time.monotonic()), Outcome(verdict), time.monotonic())


def is_open(gate: Breaker) -> bool:
    """Say whether it is."""
    return gate.state is State.OPEN


async def _three(url: str) -> None:
    (one, first), (two, second), (three, third) = process(), process(), process()
    async with PoolPump(url, first), PoolPump(url, second), PoolPump(url, third):
        await until(lambda: first.members == second.members == third.members == 2)
        call(one, TRANSIENT, 10)
        await asyncio.sleep(5 * QUICK.period)
        assert not is_open(three)  # one alone may have a network of its own
        call(two, TRANSIENT, 10)
        await until(lambda: is_open(one) and is_open(two) and is_open(three))
    assert three.counts["failure"] == 0
    with pytest.raises(BreakerOpen) as refused:
        three.admit(CALL, time.monotonic())
    assert {"reason": "pool", "calls": 20, "failures": 20, "witnesses": 2}.items() <= refused.value.facts.items()
    assert third.lost


def test_two_of_three_see_failures_and_the_third_opens_without_a_failed_call_of_its_own(redis_server: Server) -> None:
    """Each with a pump and a connection of its own, as three processes have."""
    asyncio.run(_three(redis_server.url))


async def _killed(server: Server) -> None:
    (one, first), (two, second), (three, third) = process(), process(), process()
    pools = (first, second, third)
    async with PoolPump(server.url, first), PoolPump(server.url, second), PoolPump(server.url, third):
        await until(lambda: all(pool.members == 2 for pool in pools))
        server.kill()
        await until(lambda: all(pool.lost for pool in pools))
        call(one, TRANSIENT, 10)
        call(two, TRANSIENT, 10)
        call(three, OK, 8)
        assert not any(is_open(gate) for gate in (one, two, three))
        call(one, TRANSIENT, 10)
        assert one.snapshot(time.monotonic())["reason"] == "failure_rate"  # its own twenty are enough
        server.start()
        await until(lambda: all(pool.members == 2 for pool in pools))
        await until(lambda: is_open(two))
        assert two.snapshot(time.monotonic())["reason"] == "pool"
        await until(lambda: third.vetoed > 0)
        assert not is_open(three)


def test_redis_killed_leaves_each_its_own_calls_and_is_heard_again_when_it_is_back(redis_server: Server) -> None:
    """Nothing opens for it, nothing waits for it; afterwards all that was seen meanwhile is told."""
    asyncio.run(_killed(redis_server))


async def _absent() -> None:
    gate, pool = process()
    async with PoolPump("redis://127.0.0.1:1/0", pool):
        call(gate, OK, 100)
        await asyncio.sleep(0.3)
        assert pool.lost
        assert gate.state is State.CLOSED


def test_redis_that_is_away_at_the_start_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """A service starts without it, and its owner reads so once."""
    asyncio.run(_absent())
    assert [record.message.partition(":")[0] for record in caplog.records if record.name == "msgov.pool"] == [
        "the store of pool shop is lost, each process decides alone"
    ]


CHILD = """
import asyncio, sys, time
from msgov.call import TRANSIENT, Call, Outcome
from msgov.resilience import Breaker, BreakerRule, Pool, PoolRule
from msgov.resilience.pool_redis import PoolPump

async def main():
    gate = Breaker(BreakerRule(minimum_calls=20, wilson_calls=0, consecutive_failures=0), name="pay", target="payment")
    async with PoolPump(sys.argv[1], Pool(gate, name="shop", rule=PoolRule(period=0.03, stale=1.0))):
        for _ in range(10):
            now = time.monotonic()
            gate.settle(gate.admit(Call("payment"), now), Outcome(TRANSIENT), now)
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@contextmanager
def child(url: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process that saw ten failures, killed at the end of the block."""
    with subprocess.Popen([sys.executable, "-c", CHILD, url], stdout=subprocess.PIPE, text=True) as started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline() == "ready\n"
            yield started
        finally:
            started.kill()


async def _heard(url: str) -> None:
    gate, pool = process()
    async with PoolPump(url, pool):
        await until(lambda: is_open(gate))
    assert gate.counts["failure"] == 0


def test_two_other_processes_open_the_breaker_of_this_one(redis_server: Server) -> None:
    """Real ones."""
    with child(redis_server.url), child(redis_server.url):
        asyncio.run(_heard(redis_server.url))


async def _died(url: str, killed: Callable[[], None]) -> None:
    (one, first), (three, third) = process(), process()
    async with PoolPump(url, first), PoolPump(url, third):
        await until(lambda: third.members == 2)
        killed()
        await until(lambda: third.members == 1)
        call(one, TRANSIENT, 10)
        await asyncio.sleep(5 * QUICK.period)
        assert not is_open(three)
        async with connected(url, timeout=5.0) as store:
            assert await store.hlen("msgov:pool:shop") == 3
            await until(lambda: bool(third.gone()))
            async with asyncio.timeout(PATIENCE):
                while await store.hlen("msgov:pool:shop") != 2:
                    await asyncio.sleep(0.005)
            assert 0 < await store.ttl("msgov:pool:shop") <= 600


def test_killed_process_is_no_witness_and_leaves_nothing_behind(redis_server: Server) -> None:
    """A real one, killed in the middle of its outage: its last words grow old, and others remove them."""
    with child(redis_server.url) as started:
        asyncio.run(_died(redis_server.url, started.kill))


async def _rubbish(url: str) -> None:
    (one, first), (two, second) = process(), process()
    async with connected(url, timeout=5.0) as store:
        rubbish = {"a": b"\xff", b"\xff": b"{}", "c": b"[]", "d": b'{"serial": 1}', "e": b"[" * 100_000}
        await store.hset("msgov:pool:shop", mapping=rubbish)  # type: ignore[arg-type]  # bytes are names too
        async with PoolPump(url, first), PoolPump(url, second):
            await until(lambda: first.members == second.members == 1)
            call(one, TRANSIENT, 10)
            call(two, TRANSIENT, 10)
            await until(lambda: is_open(one) and is_open(two))


def test_what_is_no_report_disturbs_nobody(redis_server: Server) -> None:
    """Another version's, or a stranger's."""
    asyncio.run(_rubbish(redis_server.url))


async def _wrong(url: str) -> None:
    gate, pool = process()
    async with connected(url, timeout=5.0) as store:
        await store.set("msgov:pool:shop", "a string")
        async with PoolPump(url, pool):
            await asyncio.sleep(0.2)
            assert pool.lost
            call(gate, OK)
            await store.delete("msgov:pool:shop")
            await until(lambda: not pool.lost)
            await store.set("msgov:pool:shop", "a string")
            await until(lambda: pool.lost)


def test_key_of_another_kind_is_a_store_that_is_lost(redis_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """And is found again when it is gone; each loss is logged once."""
    asyncio.run(_wrong(redis_server.url))
    assert sum(record.name == "msgov.pool" for record in caplog.records) == 2


def test_service_of_threads_keeps_one_thread_for_it(redis_server: Server) -> None:
    """Which ends with the block."""
    (one, first), (two, second), (three, third) = process(), process(), process()
    with PoolPump(redis_server.url, first), PoolPump(redis_server.url, second), PoolPump(redis_server.url, third):
        assert sum(thread.name == "msgov-pool" for thread in threading.enumerate()) == 3
        call(one, TRANSIENT, 10)
        call(two, TRANSIENT, 10)
        deadline = time.monotonic() + PATIENCE
        while not is_open(three) and time.monotonic() < deadline:
            time.sleep(0.005)
        assert is_open(three)
    assert not any(thread.name == "msgov-pool" for thread in threading.enumerate())


@pytest.mark.parametrize("url", ["http://x", "redis://user:secret@h:port/0", ""])
def test_url_that_cannot_be_is_refused_without_its_password(url: str) -> None:
    """At entering, in both colours."""
    with pytest.raises(RuleError, match="url") as refused, PoolPump(url, process()[1]):
        pass
    assert "secret" not in str(refused.value)

    async def entered() -> None:
        async with PoolPump(url, process()[1]):
            pass

    with pytest.raises(RuleError, match="url"):
        asyncio.run(entered())


# Bytes


def test_report_is_read_as_it_was_written() -> None:
    """Whatever a breaker is called."""
    report = Report(7, {NAME: Seen(3, 4), 'a "b" ü/\n': Seen(0, 1)})
    assert decode(encode(report)) == report


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b"7",
        b"{",
        b"\xff\xfe",
        b'{"serial": "7", "seen": {}}',
        b'{"serial": 7, "seen": []}',
        b"[" * 99_999,
    ],
)
def test_what_is_no_report_says_nothing_and_never_moves(value: bytes) -> None:
    """It is silent until the others remove it."""
    assert decode(value) == Report(-1, {})


@pytest.mark.parametrize("value", ["x", [1], [1, 2, 3], [-1, 2], [1, 1.5], [1, 10**400], None])
def test_counts_that_cannot_be_are_left_out_and_the_others_stay(value: object) -> None:
    """One that is too large would be no number to divide by."""
    written = json.dumps({"serial": 7, "seen": {"a": value, "b": [1, 2]}, "more": True}).encode()
    assert decode(written) == Report(7, {"b": Seen(1, 2)})


def test_report_without_end_is_not_read() -> None:
    """Each member reads it each period."""
    assert decode(encode(Report(1, {f"breaker {n}": Seen(1, 1) for n in range(60_000)}))) == Report(-1, {})
