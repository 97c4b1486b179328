"""Let the processes of a service hear each other through one Redis, off the way of every call.

One hash a pool, a field a process: each period one round trip writes the own field and reads them all. Nobody's clock
but the reader's own is asked: a field counts while the serial in it moves. What a dead process left is removed by the
others, and the hash of a dead pool expires.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Final, Self

from msgov.backoff import Backoff
from msgov.clock import Clock, Dice, dice, monotonic
from msgov.connections.redis import Redis, RedisError, connected
from msgov.connections.threaded import Threaded
from msgov.resilience.pool import Pool
from msgov.resilience.pool_evidence import Report, Seen

__all__ = ["PoolPump", "decode", "encode"]

_log = logging.getLogger("msgov.pool")
_TIMEOUT: Final = 0.5  # seconds for an exchange: half a period
_LIFE: Final = 600  # seconds that the hash outlives its last member
_LONGEST: Final = 1_000_000  # bytes of a report: some 10,000 breakers
_MANY: Final = 1_000_000_000  # calls in a window
_NONE: Final = Report(-1, {})


def encode(report: Report) -> bytes:
    """Write a report, as the value of a field."""
    return json.dumps({"serial": report.serial, "seen": report.seen}, separators=(",", ":")).encode()


def decode(value: bytes) -> Report:
    """Read a report; what is none says nothing, and never moves, for another version's must not stop this process."""
    try:
        match json.loads(value) if len(value) <= _LONGEST else None:
            case {"serial": int(serial), "seen": dict(seen)}:
                return Report(serial, {label: found for label, each in seen.items() if (found := _seen(each))})
    except (ValueError, RecursionError):
        pass
    return _NONE


def _seen(value: object) -> Seen | None:
    match value:
        case [int(well), int(badly)] if 0 <= well <= _MANY and 0 <= badly <= _MANY:
            return Seen(well, badly)
    return None


class PoolPump(Threaded):
    """Lets a pool speak and hear through the Redis at `url`, for as long as its block lasts.

    `async with PoolPump(url, pool)` works in the running loop; `with PoolPump(url, pool)` is for a service of threads,
    and keeps one thread with a loop of its own. A Redis that is away is no error: each process decides by its own calls
    until it answers again. Raises `RuleError` for a URL that cannot be.
    """

    thread = "msgov-pool"

    def __init__(self, url: str, pool: Pool, *, clock: Clock = monotonic, chance: Dice | None = None) -> None:
        self._url = url
        self._pool = pool
        self._clock = clock
        self._key = f"msgov:pool:{pool.name}"
        self._member = secrets.token_hex(8).encode()
        self._backoff = Backoff(chance or dice(), base=0.1, cap=2.0)
        self._open = AsyncExitStack()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Open the store, and begin; does not wait for it to answer."""
        store = await self._open.enter_async_context(connected(self._url, timeout=_TIMEOUT))
        self._task = asyncio.create_task(self._main(store), name="pool pump")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, and let each breaker decide by its own calls from now on."""
        assert self._task is not None  # noqa: S101  set on entering
        self._task.cancel()
        async with self._open:
            with suppress(asyncio.CancelledError):
                await self._task

    async def _main(self, store: Redis) -> None:
        pool, told = self._pool, False
        try:
            while True:
                try:
                    async with asyncio.timeout(_TIMEOUT):
                        said = await self._exchange(store, pool.report(self._clock()))
                except (RedisError, OSError) as error:  # a timeout is an OSError
                    if not told:
                        _log.warning("the store of pool %s is lost, each process decides alone: %r", pool.name, error)
                    told = True
                    pool.unreachable()
                    await asyncio.sleep(self._backoff.next())
                else:
                    told = False
                    self._backoff.reset()
                    pool.hear(said, self._clock())
                    await asyncio.sleep(pool.rule.period)
        finally:
            pool.unreachable()

    async def _exchange(self, store: Redis, report: Report) -> Mapping[str, Report]:
        """Write what was seen; return what the others wrote."""
        trip = store.pipeline(transaction=False)
        trip.hset(self._key, self._member, encode(report))
        if gone := self._pool.gone():
            trip.hdel(self._key, *gone)
        trip.expire(self._key, _LIFE)
        trip.hgetall(self._key)
        fields: dict[bytes, bytes] = (await trip.execute())[-1]
        return {
            member.decode(): decode(fields[member]) for member in fields if member != self._member and member.isascii()
        }
