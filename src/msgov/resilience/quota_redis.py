"""Fetch what quotas want from one Redis, off the way of every call.

Counters are those of `limits`, a fixed window each (`incr` by an amount, which expires). A trip is made when a lease
runs low, not for each call; while a quota is used up, none is made for it until its window ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from msgov.backoff import Backoff
from msgov.clock import Clock, Dice, dice, monotonic, wall
from msgov.connections.redis import Counters, counters
from msgov.connections.threaded import Threaded
from msgov.errors import RuleError
from msgov.resilience.quota import Ask, Quota

__all__ = ["QuotaPump"]

_log = logging.getLogger("msgov.quota")
_TIMEOUT: Final = 0.5  # seconds for an answer: below the silence after which a gate stops waiting for one
_AT_ONCE: Final = 32  # asks under way at a time, each on a connection


class QuotaPump(Threaded):
    """Keeps quotas fed from the Redis at `url`, for as long as its block lasts.

    `async with QuotaPump(url, gate)` works in the running loop; `with QuotaPump(url, gate)` is for a service of
    threads, and keeps one thread with a loop of its own. A Redis that is away is no error: the gates go on with this
    process's part, and with their leases once it answers. Raises `RuleError` for a URL that cannot be and for a gate
    without a name, which is its key in the store.
    """

    thread = "msgov-quota"

    def __init__(self, url: str, *gates: Quota, clock: Clock = monotonic, chance: Dice | None = None) -> None:
        self._url = url
        self._gates = _named(gates)
        self._clock = clock
        self._wake: Callable[[], None] | None = None
        self._there = False  # the store answers
        self._backoff = Backoff(chance or dice(), base=0.1, cap=2.0)
        self._task: asyncio.Task[None] | None = None

    def keep(self, gates: Iterable[Quota]) -> None:
        """Feed these from now on, and no others: those that come are, those that go decide by their process's part.

        To be called in the pump's own loop. Raises `RuleError` for a gate without a name.
        """
        before, self._gates = self._gates, _named(gates)
        for gate in before:
            if gate not in self._gates:
                self._let_go(gate, "no longer fed")
        for gate in self._gates:
            if gate not in before:
                gate.wake = self._wake
                if self._there:
                    gate.reached(self._clock())

    def _let_go(self, gate: Quota, why: str) -> None:
        gate.wake = None
        gate.unreachable(self._clock(), error=why)

    async def __aenter__(self) -> Self:
        """Open the store, and begin; does not wait for it to answer."""
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._main(opened), name="quota pump")
        try:
            await opened
        except BaseException:
            self._task.cancel()
            with suppress(asyncio.CancelledError, RuleError):
                await self._task
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, and let each process's part decide from now on."""
        assert self._task is not None  # noqa: S101  set on entering
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _main(self, opened: asyncio.Future[None]) -> None:
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(woken.set)

        try:
            async with counters(self._url, timeout=_TIMEOUT) as store:
                opened.set_result(None)
                self._wake = wake
                for gate in self._gates:
                    gate.wake = wake
                while True:
                    await self._reach(store)
                    await self._serve(store, woken)
        except RuleError as error:
            if opened.done():
                raise
            opened.set_exception(error)
        finally:
            self._wake, self._there = None, False
            for gate in self._gates:
                self._let_go(gate, "the pump has stopped")

    async def _reach(self, store: Counters) -> None:
        """Return once the store answers."""
        while not await self._answers(store):
            await asyncio.sleep(self._backoff.next())
        self._backoff.reset()
        self._there = True
        for gate in self._gates:
            gate.reached(self._clock())

    async def _answers(self, store: Counters) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(_TIMEOUT):
                return await store.check()
        return False

    async def _serve(self, store: Counters, woken: asyncio.Event) -> None:
        """Fetch what is wanted; return when the store is lost."""
        while True:
            await woken.wait()
            woken.clear()
            asks = [(gate, ask) for gate in self._gates for ask in gate.demand(self._clock())]
            for at in range(0, len(asks), _AT_ONCE):
                error = await self._fetch(store, asks[at : at + _AT_ONCE])
                if error is not None:
                    _log.warning("the store of quotas is lost: %s", error)
                    self._there = False
                    for gate in self._gates:
                        gate.unreachable(self._clock(), error=type(error).__name__)
                    return

    async def _fetch(self, store: Counters, asks: Sequence[tuple[Quota, Ask]]) -> BaseException | None:
        """Count some asks at once; return what one failed with."""
        done = await asyncio.gather(*(self._count(store, gate, ask) for gate, ask in asks), return_exceptions=True)
        return next((each for each in done if each is not None), None)

    async def _count(self, store: Counters, gate: Quota, ask: Ask) -> None:
        async with asyncio.timeout(_TIMEOUT):
            count = await store.incr(ask.key, ask.window, ask.amount)
            ends = None
            if count > ask.quota:
                ends = await store.get_expiry(ask.key) - wall()  # `limits` adds the wall clock to the time to live
        gate.counted(ask, count, self._clock(), ends=ends)


def _named(gates: Iterable[Quota]) -> tuple[Quota, ...]:
    found = tuple(gates)
    for gate in found:
        if not gate.name:
            raise RuleError.at("name", gate.name, "a quota's name: processes share it by that")
    return found
