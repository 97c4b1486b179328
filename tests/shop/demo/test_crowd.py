"""The crowd keeps its rate, has its habits, and goes home when the doors close."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import cycle
from pathlib import Path

from shop.demo.crowd import DECLINED, FIRST, Crowd
from shop.demo.shopper import Counter
from shop.demo.tally import Tally
from tests.shop.demo.test_shopper import Line
from tests.shop.town import LISTINGS, Town, in_town

# Seven rolls against three per visit: whoever comes between whom, each habit meets each question. They are: nothing,
# use the key again, nothing, cancel, follow, a stranger or a dear basket or cancel, nothing.
HABITS = cycle([0.5, 0.185, 0.9, 0.05, 0.15, 0.01, 0.5])


@asynccontextmanager
async def crowded(town: Town, *, rate: float) -> AsyncIterator[Crowd]:
    """Gather a crowd."""
    line = Line(town, town.orders(), lambda asked, time: "")
    counter = Counter(lambda: "http://shop", Tally(), transport=line)
    crowd = Crowd(counter, rate=rate, chance=lambda: next(HABITS))
    await crowd.gather()
    try:
        yield crowd
    finally:
        await counter.aclose()


def test_a_crowd_orders_and_the_books_stay_right(tmp_path: Path) -> None:
    """All habits on the way; whoever is in the shop when the doors close still gets an answer."""

    async def story(town: Town) -> None:
        async with crowded(town, rate=100) as crowd:
            assert len(crowd.shoppers) == FIRST
            shopping = asyncio.create_task(crowd.shop())
            tally = crowd._counter.tally
            async with asyncio.timeout(20):
                while len(tally.attempts) < 40 or not any(attempt.reused for attempt in tally.attempts):
                    await asyncio.sleep(0.01)
            crowd.close()
            await shopping
        assert not crowd._under_way
        assert all(attempt.told for attempt in tally.attempts)
        await town.books_are_right(*(attempt.asked() for attempt in tally.attempts))

    in_town(tmp_path, story)


def test_a_crowd_that_is_sent_away_leaves_nothing_running(tmp_path: Path) -> None:
    """As on Ctrl-C."""

    async def story(town: Town) -> None:
        async with crowded(town, rate=50) as crowd:
            shopping = asyncio.create_task(crowd.shop())
            while not crowd._under_way:
                await asyncio.sleep(0)
            shopping.cancel()
            await asyncio.wait([shopping])
            assert not crowd._under_way

    in_town(tmp_path, story)


def test_the_dear_basket_is_dear() -> None:
    """More than any card of this shop's customers allows, in the shop's own catalogue."""
    from shop.payment.service import LIMIT
    from shop.product.catalogue import CATALOGUE

    prices = {each.sku: each.price for each in CATALOGUE}
    assert sum(prices[sku] * quantity for sku, quantity in DECLINED.items()) > LIMIT
    assert not DECLINED.keys() & {each.sku for each in LISTINGS}
