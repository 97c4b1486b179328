"""Redis is opened without a word, does what it is told, and is closed whole."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest

from msgov.connections.redis import RedisError, connected, counters
from msgov.errors import RuleError
from tests.servers import Server


def test_counters_count_by_an_amount_and_expire(redis_server: Server) -> None:
    """All that a quota needs of them."""

    async def main() -> None:
        async with counters(redis_server.url, timeout=5.0) as store:
            assert await store.check()
            assert [await store.incr("a", 60, 5), await store.incr("a", 60, 7), await store.incr("b", 60, 1)] == [
                5,
                12,
                1,
            ]
            assert await store.get_expiry("a") > 0

    asyncio.run(main())


def test_opening_sends_nothing_and_an_absent_server_is_an_error_of_the_first_use() -> None:
    """Nobody listens there."""

    async def main() -> None:
        async with counters("redis://127.0.0.1:1/0", timeout=1.0) as store:
            assert not await store.check()

    asyncio.run(main())


def test_client_is_of_the_same_terms(redis_server: Server) -> None:
    """Plain commands; an absent server is an error of the first use."""

    async def main() -> None:
        async with connected(redis_server.url, timeout=5.0) as store:
            assert await store.set("a", 1)
            assert await store.get("a") == b"1"
        async with connected("redis://127.0.0.1:1/0", timeout=1.0) as store:
            with pytest.raises(RedisError):
                await store.get("a")

    asyncio.run(main())


@pytest.mark.parametrize("opened", [connected, counters])
@pytest.mark.parametrize("url", ["", "memory:", "http://host", "redis://user:secret@host:port/0"])
def test_url_that_cannot_be_is_refused_without_its_password(
    opened: Callable[..., AbstractAsyncContextManager[object]], url: str
) -> None:
    """With what may stand there."""

    async def main() -> None:
        async with opened(url, timeout=1.0):
            pass

    with pytest.raises(RuleError, match="redis://") as refused:
        asyncio.run(main())
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("package", ["redis", "limits"])
def test_missing_package_names_the_extra(package: str) -> None:
    """What to install, and where."""
    code = f"import sys; sys.modules[{package!r}] = None; import msgov.resilience.quota_redis"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 1
    assert "pip install 'msgov[redis]'" in run.stderr
    assert "MissingExtra" in run.stderr


def test_the_gate_itself_needs_neither() -> None:
    """A service that has quotas in its rules starts without the extra, on its local share."""
    code = (
        "import sys; sys.modules['redis'] = sys.modules['limits'] = None; from msgov.resilience import Quota; Quota()"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)
