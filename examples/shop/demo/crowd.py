"""A crowd comes and orders at a steady rate, whether the shop is quick or not: a queue would hide a slow shop."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Coroutine
from typing import Final

from .shopper import Counter, NoAnswer, Shopper

FIRST: Final = 8  # shoppers who are there when the doors open
ABREAST: Final = 4  # of them at once: a password takes its time
LINGER: Final = 20.0  # seconds that those who are in the shop when the doors close may stay
MOST: Final = 250  # orders under way at once; more would measure this process, not the shop
NEWCOMERS, CHANGED_MINDS, CURIOUS, DEAR, CARELESS = 0.02, 0.08, 0.10, 0.03, 0.01
DECLINED: Final = {"MILL-ELECTRIC": 60}  # dearer than any card of this shop's customers


class Crowd:
    """Orders `rate` times a second from `doors_open` until `close`."""

    def __init__(self, counter: Counter, *, rate: float, chance: Callable[[], float] = random.random) -> None:
        self.shoppers: list[Shopper] = []
        self.held_back = 0
        self._counter = counter
        self._rate = rate
        self._chance = chance
        self._skus: list[str] = []
        self._under_way: set[asyncio.Task[None]] = set()
        self._closed = asyncio.Event()

    async def gather(self) -> None:
        """Let the first shoppers in; raises `NoAnswer` when the shop does not serve them."""
        door = asyncio.Semaphore(ABREAST)

        async def arrive() -> Shopper:
            async with door:
                return await Shopper.arrive(self._counter)

        self.shoppers = list(await asyncio.gather(*(arrive() for _ in range(FIRST))))
        self._skus = await self.shoppers[0].browse()
        if not self._skus:
            raise NoAnswer("GET /products has nothing for sale")

    async def shop(self) -> None:
        """Order until the doors close, then let everybody finish, for a while."""
        try:
            due = time.monotonic()
            while not self._closed.is_set():
                due = max(due + 1.0 / self._rate, time.monotonic() - 1.0)  # catch up, but not for more than a second
                if len(self._under_way) < MOST:
                    self._start(self._visit())
                else:
                    self.held_back += 1
                try:
                    async with asyncio.timeout(max(0.0, due - time.monotonic())):
                        await self._closed.wait()
                except TimeoutError:
                    pass
            if self._under_way:
                await asyncio.wait(self._under_way, timeout=LINGER)
        finally:
            for visit in self._under_way:
                visit.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)

    def close(self) -> None:
        """Let nobody in any more."""
        self._closed.set()

    def _start(self, visit: Coroutine[object, None, None]) -> None:
        task = asyncio.create_task(visit)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _visit(self) -> None:
        """Come, order, and perhaps do one thing more."""
        try:
            if self._chance() < NEWCOMERS:
                self.shoppers.append(await Shopper.arrive(self._counter))
            shopper = secrets.choice(self.shoppers)
            attempt = await shopper.place(self._basket())
            if not attempt.order_id:
                return
            what = self._chance()
            if what < CHANGED_MINDS:
                await shopper.cancel(attempt)
            elif what < CHANGED_MINDS + CURIOUS:
                await shopper.follow(attempt)
            elif what < CHANGED_MINDS + CURIOUS + CARELESS:
                await shopper.place({"SIEVE": 7}, key=attempt.key, reused=True)
        except NoAnswer:
            pass  # the order itself is asked for again at the end

    def _basket(self) -> dict[str, int]:
        if self._chance() < DEAR:
            return dict(DECLINED)
        wanted = random.SystemRandom().sample(self._skus, 1 + secrets.randbelow(3))
        return {sku: 1 + secrets.randbelow(3) for sku in wanted}
