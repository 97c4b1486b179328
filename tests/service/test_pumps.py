"""A rule that needs to be told something from outside is told it, for as long as its service runs and no longer."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from msgov.errors import RateLimited, RuleError
from msgov.resilience.adaptive import Adaptive
from msgov.resilience.quota import Quota
from msgov.resilience.shed import Shedder
from msgov.service import Service
from tests.servers import Server
from tests.service.quiet import gate, run, service, until

SHED = '[server."*"]\nshed = {lag = 0.01}\n'
QUOTA = '[function.api]\nbreaker = false\ndeadline = false\nquota = {rate = "200/hour", lease = 20, processes = 4}\n'


async def stalled(fact: Callable[[], object]) -> None:
    """Hold the loop up, as a handler does that computes for too long, until somebody has noticed."""
    async with asyncio.timeout(20):
        while not fact():
            time.sleep(0.15)  # noqa: ASYNC251  holding the loop up is what is asked for
            await asyncio.sleep(0.02)


def test_a_shedder_that_a_change_brings_is_fed_and_none_is_after_the_end(tmp_path: Path) -> None:
    """No old reading may go on shedding, and no restart is needed to begin."""

    async def main() -> None:
        svc = service("echo", tmp_path)
        async with svc.opened():
            svc.policies.for_server("/a/B")
            assert not any(isinstance(each, Shedder) for each in svc.policies.state)
            (tmp_path / "echo.toml").write_text(SHED)
            await until(lambda: any(isinstance(each, Shedder) for each in svc.policies.state))
            shedder = gate(svc, Shedder)
            await stalled(lambda: shedder.strained == "lag")
            assert shedder.lag > 0.01
        assert (shedder.lag, shedder.strained) == (0.0, "")
        svc.close()

    run(main)


def test_a_shedder_whose_rule_is_gone_is_told_no_more(tmp_path: Path) -> None:
    """Who holds it still must not hear from it that all is busy."""

    async def main() -> None:
        svc = service("echo", tmp_path, SHED + "adaptive = true\n")
        svc.policies.for_server("/a/B")
        async with svc.opened():
            shedder, adaptive = gate(svc, Shedder), gate(svc, Adaptive)
            await stalled(lambda: shedder.lag)
            assert adaptive.lag > 0
            (tmp_path / "echo.toml").write_text('[server."*"]\nadaptive = true\n')
            await until(lambda: len(svc.policies.state) == 2)
            held = shedder.lag
            await stalled(lambda: adaptive.lag > held)
            assert shedder.lag == held
        svc.close()

    run(main)


def test_a_service_of_threads_knows_how_long_its_pool_makes_wait(tmp_path: Path) -> None:
    """Its loop is never late: only the pool tells that it is out of threads."""
    svc = service("echo", tmp_path, '[server."*"]\nshed = {cpu = 1, lag = 60, delay = 0.05}\n')
    go, held = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        go.wait(20)

    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool, interceptors=svc.sync.grpc.interceptors())
        svc.policies.for_server("/a/B")
        shedder = gate(svc, Shedder)
        with svc.sync.running(server, pool=pool):
            pool.submit(hold)
            assert held.wait(10)
            end = time.monotonic() + 20
            while shedder.strained != "delay" and time.monotonic() < end:
                time.sleep(0.01)
            assert shedder.strained == "delay"
            go.set()
        assert shedder.strained == ""
    svc.close()


def api(svc: Service) -> Callable[[], Coroutine[Any, Any, None]]:
    """Guard a function that does nothing."""

    @svc.guarded("api")
    async def called() -> None:
        pass

    return called


async def drain(*calls: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Call until all say that the quota is used up; return how many got in."""
    got, open_ = 0, list(calls)
    async with asyncio.timeout(30):
        while open_:
            for call in tuple(open_):
                try:
                    await call()
                    got += 1
                except RateLimited as refused:
                    if (refused.retry_after or 0) > 1.0:
                        open_.remove(call)
            await asyncio.sleep(0)
    return got


def test_two_instances_share_a_quota_and_another_service_has_its_own(redis_server: Server, tmp_path: Path) -> None:
    """Within a lease each of the rate; the same rule elsewhere means another quota."""

    async def main() -> None:
        one, two = (service("shop", tmp_path, QUOTA, quota=redis_server.url) for _ in range(2))
        other = service("other", tmp_path, f'{QUOTA}[service]\nquota = "{redis_server.url}"\n')
        calls = [api(each) for each in (one, two, other)]
        async with one.opened(), two.opened(), other.opened():
            await until(lambda: not any(gate(each, Quota).lost for each in (one, two, other)))
            assert 200 <= await drain(*calls[:2]) <= 200 + 2 * 20
            assert gate(one, Quota).by_part == gate(two, Quota).by_part == 0
            assert 200 <= await drain(calls[2]) <= 200 + 20
        assert gate(one, Quota).lost
        for each in (one, two, other):
            each.close()

    run(main)


def test_a_quota_that_a_change_brings_is_fed_and_one_that_goes_is_let_go(redis_server: Server, tmp_path: Path) -> None:
    """Live, as all else."""

    async def main() -> None:
        svc = service("shop", tmp_path, quota=redis_server.url)
        call = api(svc)
        async with svc.opened():
            await call()
            (tmp_path / "shop.toml").write_text(QUOTA)
            await until(lambda: any(isinstance(each, Quota) for each in svc.policies.state))
            quota = gate(svc, Quota)
            await until(lambda: not quota.lost)
            assert 200 <= await drain(call) <= 220
            assert quota.by_part == 0
            (tmp_path / "shop.toml").write_text("[function.api]\nbreaker = false\n")
            await until(lambda: quota.lost)
            assert quota.wake is None
            await call()
        svc.close()

    run(main)


def test_a_threaded_service_feeds_its_quotas_too(redis_server: Server, tmp_path: Path) -> None:
    """By the loop that its other pumps have."""
    svc = service("shop", tmp_path, QUOTA, quota=redis_server.url)
    got = 0

    @svc.guarded("api")
    def called() -> None:
        pass

    with svc.sync.running():
        end = time.monotonic() + 20
        while gate(svc, Quota).lost and time.monotonic() < end:
            time.sleep(0.005)
        while time.monotonic() < end:
            try:
                called()
                got += 1
            except RateLimited as refused:
                if (refused.retry_after or 0) > 1.0:
                    break
        assert gate(svc, Quota).by_part == 0
    assert 200 <= got <= 220
    svc.close()


def test_a_store_that_is_away_keeps_no_service_from_starting(tmp_path: Path) -> None:
    """Its part of the quota decides: a quarter of 200."""

    async def main() -> None:
        svc = service("shop", tmp_path, QUOTA, quota="redis://127.0.0.1:1/0")
        call = api(svc)
        async with svc.running():
            assert await drain(call) == 50
            assert gate(svc, Quota).lost
        svc.close()

    run(main)


def test_a_quota_without_a_store_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Who writes a quota thinks of all processes."""

    async def main() -> None:
        svc = service("shop", tmp_path, QUOTA)
        call = api(svc)
        async with svc.opened():
            assert await drain(call) == 50
            svc.policies.for_function("another")
            await asyncio.sleep(0)
        svc.close()

    with caplog.at_level(logging.WARNING, logger="msgov.quota"):
        run(main)
    assert [record.getMessage() for record in caplog.records] == [
        "quota api: no store is set (service.quota): this process's part decides"
    ]


def test_a_store_that_cannot_be_is_refused_at_the_start(tmp_path: Path) -> None:
    """A typing error is no outage; and what was open already is closed."""

    async def main() -> None:
        svc = service("shop", tmp_path, quota="memcached://here")
        with pytest.raises(RuleError, match="redis://host:port/db"):
            async with svc.opened():
                pass
        svc.close()

    run(main)


MISSING = """
import asyncio, sys
sys.modules["limits"] = sys.modules["limits.aio"] = sys.modules["limits.aio.storage"] = None
from msgov import MissingExtra, Service
svc = Service("shop", quota="redis://127.0.0.1:1/0", logs="off", environ={})

async def main():
    async with svc.opened():
        pass

try:
    asyncio.run(main())
except MissingExtra as missing:
    print(missing)
"""


def test_a_store_without_its_client_names_the_extra() -> None:
    """At the start, and not at the first call."""
    ran = subprocess.run([sys.executable, "-c", MISSING], capture_output=True, text=True, timeout=60, check=True)
    assert "pip install 'msgov[redis]'" in ran.stdout
