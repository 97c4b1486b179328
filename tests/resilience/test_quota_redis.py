"""Quotas on a real Redis: shared, lost, found again, under asyncio and in threads."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from msgov.call import Call
from msgov.errors import RateLimited, RuleError
from msgov.event import Event, Observers
from msgov.policy import Waiting
from msgov.resilience import Quota, QuotaRule
from msgov.resilience.quota_redis import QuotaPump
from tests.servers import Server

PATIENCE = 20.0  # seconds until a claim must have come true


async def until(claim: Callable[[], bool]) -> None:
    """Wait until a claim is true."""
    async with asyncio.timeout(PATIENCE):
        while not claim():
            await asyncio.sleep(0.005)


def admits(gate: Quota, key: str = "") -> bool:
    """Say whether one more call gets in at once."""
    try:
        return not isinstance(gate.admit(Call("shop", key=key), time.monotonic()), Waiting)
    except RateLimited:
        return False


async def drain(*gates: Quota, key: str = "") -> int:
    """Call until all gates say that the quota is used up; return how many got in."""
    got = 0
    async with asyncio.timeout(PATIENCE):
        while True:
            used_up = 0
            for gate in gates:
                try:
                    gate.admit(Call("shop", key=key), time.monotonic())
                    got += 1
                except RateLimited as refused:
                    used_up += (refused.retry_after or 0) > 1.0
            if used_up == len(gates):
                return got
            await asyncio.sleep(0)


RULE = QuotaRule(rate="200/hour", lease=20, processes=4)


async def _shared(url: str) -> None:
    one, two = Quota(RULE, name="api"), Quota(RULE, name="api")
    async with QuotaPump(url, one), QuotaPump(url, two):
        await until(lambda: not one.lost and not two.lost)
        got = await drain(one, two)
        assert 200 <= got <= 200 + 2 * 20
        assert one.by_part == two.by_part == 0
        assert await drain(one, two, key="another") >= 200
    assert one.lost
    assert one.wake is None


def test_two_gates_share_a_quota_within_the_stated_overshoot(redis_server: Server) -> None:
    """Each with a pump and connections of its own, as two processes have."""
    asyncio.run(_shared(redis_server.url))


CHILD = """
import asyncio, sys, time
from msgov.call import Call
from msgov.errors import RateLimited
from msgov.resilience import Quota, QuotaRule
from msgov.resilience.quota_redis import QuotaPump

async def main():
    gate, got = Quota(QuotaRule(rate="200/hour", lease=20, processes=4), name="api"), 0
    async with QuotaPump(sys.argv[1], gate):
        while gate.lost:
            await asyncio.sleep(0.005)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        while True:
            try:
                gate.admit(Call("shop"), time.monotonic())
                got += 1
            except RateLimited as refused:
                if refused.retry_after > 1.0:
                    break
            await asyncio.sleep(0)
    print(got, flush=True)

asyncio.run(main())
"""


def test_processes_share_a_quota_within_the_stated_overshoot(redis_server: Server) -> None:
    """Two real ones, started together at the same moment."""
    command = [sys.executable, "-c", CHILD, redis_server.url]
    pipe = subprocess.PIPE
    children = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        said = []
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        for child in children:
            out, _ = child.communicate(timeout=PATIENCE)
            said.append(int(out))
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert 200 <= sum(said) <= 200 + 2 * 20


async def _killed(server: Server) -> None:
    told: list[Event] = []
    rule = QuotaRule(rate="4000/hour", lease=20, processes=4)
    gate = Quota(rule, name="api", observers=Observers(told.append))
    async with QuotaPump(server.url, gate):
        await until(lambda: not gate.lost)
        for _ in range(5):
            assert admits(gate)
        server.kill()
        # Nobody is refused for it: what is leased is spent, and a call that asks for more finds the store lost.
        await until(lambda: admits(gate) and gate.lost)
        before = gate.by_part
        got = sum(admits(gate, "fresh") for _ in range(2000))
        assert got == 1000
        assert gate.by_part == before + 2000
        server.start()
        await until(lambda: not gate.lost)
        before = gate.by_part
        got = await drain(gate, key="fresh")
        assert 4000 <= got <= 4020
        assert gate.by_part == before
    kinds = [event.kind for event in told]
    assert kinds == ["quota.found", "quota.lost", "quota.found", "quota.lost"]


def test_redis_killed_midway_leaves_the_local_share_and_is_used_again_when_it_is_back(redis_server: Server) -> None:
    """Not fail-closed, not fail-open: a quarter each, and the leases once more."""
    asyncio.run(_killed(redis_server))


async def _absent() -> None:
    gate = Quota(RULE, name="api")
    async with QuotaPump("redis://127.0.0.1:1/0", gate):
        assert sum(admits(gate) for _ in range(100)) == 50
        await asyncio.sleep(0.3)
        assert gate.lost


def test_redis_that_is_away_at_the_start_is_no_error() -> None:
    """A service starts without it, on its local share."""
    asyncio.run(_absent())


async def _window(url: str) -> None:
    gate = Quota(QuotaRule(rate="6/2s", lease=2), name="api")
    async with QuotaPump(url, gate):
        await until(lambda: not gate.lost)
        got = 0
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    gate.admit(Call("shop"), time.monotonic())
                    got += 1
                except RateLimited as refused:
                    wait = refused.retry_after or 0.0
                    if wait > 0.06:
                        break
                await asyncio.sleep(0)
        assert 6 <= got <= 8
        assert wait <= 2.0
        await asyncio.sleep(wait)
        await until(lambda: admits(gate))


def test_used_up_quota_begins_anew_when_the_store_says_so(redis_server: Server) -> None:
    """`retry_after` is the store's own time to live."""
    asyncio.run(_window(redis_server.url))


async def _waits(url: str) -> None:
    gate = Quota(QuotaRule(rate="5/hour", lease=1, unknown="wait", patience=5.0), name="strict")
    async with QuotaPump(url, gate):
        await until(lambda: not gate.lost)
        places = [gate.admit(Call("shop"), time.monotonic()) for _ in range(8)]
        await until(lambda: all(isinstance(place, Waiting) and place.over for place in places))
        assert sum(isinstance(place, Waiting) and place.ticket is not None for place in places) == 5


def test_strict_quota_waits_for_the_store_and_lets_in_no_more(redis_server: Server) -> None:
    """With nothing on credit and nothing carried over there is nothing too much."""
    asyncio.run(_waits(redis_server.url))


def test_service_of_threads_keeps_one_thread_for_it(redis_server: Server) -> None:
    """Eight threads spend, one loop in one thread fetches, and ends with the block."""
    gate = Quota(RULE, name="api")
    got: list[bool] = []

    def work() -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                gate.admit(Call("shop"), time.monotonic())
                got.append(True)
            except RateLimited as refused:
                if (refused.retry_after or 0.0) > 1.0:
                    return
                time.sleep(0.001)

    with QuotaPump(redis_server.url, gate):
        deadline = time.monotonic() + PATIENCE
        while gate.lost and time.monotonic() < deadline:
            time.sleep(0.005)
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert 200 <= len(got) <= 220
    assert gate.by_part == 0


@pytest.mark.parametrize("url", ["http://x", "redis://user:secret@h:port/0", ""])
def test_url_that_cannot_be_is_refused_without_its_password(url: str) -> None:
    """At entering, in both colours."""
    with pytest.raises(RuleError, match="url") as refused, QuotaPump(url, Quota(RULE, name="api")):
        pass
    assert "secret" not in str(refused.value)

    async def entered() -> None:
        async with QuotaPump(url, Quota(RULE, name="api")):
            pass

    with pytest.raises(RuleError, match="url"):
        asyncio.run(entered())


def test_quota_without_a_name_is_refused() -> None:
    """All nameless quotas of all services would be one in the store."""
    with pytest.raises(RuleError, match="name"):
        QuotaPump("redis://127.0.0.1:1", Quota(RULE))
