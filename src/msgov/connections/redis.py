"""One Redis: as it is, or as `limits` keeps counters in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgov.errors import MissingExtra, RuleError

try:
    from limits.aio.storage import RedisStorage
    from redis.asyncio import ConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError
except ImportError as missing:
    raise MissingExtra(missing.name or "redis", extra="redis") from missing

__all__ = ["Counters", "Redis", "RedisError", "connected", "counters"]

Counters = RedisStorage


@asynccontextmanager
async def connected(url: str, *, timeout: float) -> AsyncIterator[Redis]:
    """Open a client of the Redis at "redis://[:password@]host:port/db" ("rediss:" for TLS); nothing is sent yet.

    An answer that takes longer than `timeout` seconds is an error, and none is tried again here: who asks decides.
    Errors are `RedisError`. Raises `RuleError` for a URL that cannot be.
    """
    pool = _pool(url, timeout)
    try:
        yield Redis(connection_pool=pool)
    finally:
        await pool.disconnect()


@asynccontextmanager
async def counters(url: str, *, timeout: float) -> AsyncIterator[Counters]:
    """Open the counters at such a URL, under the same terms as `connected`."""
    pool = _pool(url, timeout)
    try:
        # `limits` would take coredis by default; the pool is what its own type for options does not know.
        yield RedisStorage(f"async+{url}", implementation="redispy", key_prefix="msgov:quota", connection_pool=pool)  # type: ignore[arg-type]
    finally:
        await pool.disconnect()


def _pool(url: str, timeout: float) -> ConnectionPool:
    where = url.rpartition("@")[2]  # what an error may show
    if not url.startswith(("redis://", "rediss://")):
        raise RuleError.at("url", where, "redis://host:port/db, or rediss: for TLS")
    try:
        return ConnectionPool.from_url(
            url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=Retry(NoBackoff(), 0)
        )
    except ValueError as error:
        raise RuleError.at("url", where, f"redis://host:port/db: {error}") from None
