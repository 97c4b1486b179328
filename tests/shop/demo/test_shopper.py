"""A shopper asks again with the same key until there is an answer, and remembers when there was doubt."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from shop.demo import shopper as shoppers
from shop.demo.shopper import Counter, NoAnswer, Shopper, read_back
from shop.demo.tally import Tally, Told
from shop.order.service import Orders
from shop.storefront.app import Storefront
from tests.shop.town import Town, in_town

Fate = Callable[[str, int], str]


class Line(httpx2.AsyncBaseTransport):
    """A way to the shop that may lose a request ("request") or an answer ("answer"), or say "busy" itself."""

    def __init__(self, town: Town, orders: Orders, fate: Fate) -> None:
        users, products, order = town.stubs(orders)
        app = Storefront(users=users, products=products, orders=order).app()
        self.keys: list[str] = []
        self._shop = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        self._fate = fate
        self._count: dict[str, int] = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Carry one request."""
        what = f"{request.method} {request.url.path}"
        self._count[what] = self._count.get(what, 0) + 1
        if "idempotency-key" in request.headers:
            self.keys.append(request.headers["idempotency-key"])
        fate = self._fate(what, self._count[what])
        if fate == "request":
            raise httpx2.ConnectError("nobody is there")
        if fate == "busy":
            return httpx2.Response(503, json={"status": 503})
        reply = await self._shop.handle_async_request(request)
        if fate == "answer":
            await reply.aread()
            raise httpx2.ReadError("the line broke")
        return reply


@asynccontextmanager
async def visiting(town: Town, fate: Fate, *, resting: float | None = None) -> AsyncIterator[tuple[Shopper, Line]]:
    """Let one shopper in, over such a line."""
    line = Line(town, town.orders(resting=resting), fate)
    counter = Counter(lambda: "http://shop", Tally(), transport=line)
    try:
        yield await Shopper.arrive(counter), line
    finally:
        await counter.aclose()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask again at once."""
    monkeypatch.setattr(shoppers, "PAUSE", 0.0)
    monkeypatch.setattr(shoppers, "LONGEST", 0.0)


def ordering(what: str) -> Callable[[str], Fate]:
    """Make a fate for the first time that an order is placed."""
    return lambda fate: lambda asked, time: fate if (asked, time) == (what, 1) else ""


first_order = ordering("POST /orders")


def test_all_goes_well(tmp_path: Path) -> None:
    """Arrive, look, order, follow, cancel, read back."""

    async def story(town: Town) -> None:
        async with visiting(town, lambda asked, time: "") as (shopper, _):
            assert "TEA" in await shopper.browse()
            attempt = await shopper.place({"TEA": 2})
            assert (attempt.told, attempt.doubt) == (Told.PLACED, False)
            await shopper.follow(attempt)
            await shopper.cancel(attempt)
            await read_back(shopper._counter, attempt)
            assert attempt.outcome() == "cancelled"

    in_town(tmp_path, story)


@pytest.mark.parametrize("fate", ["request", "answer", "busy"])
def test_what_was_not_answered_is_asked_again_with_the_same_key(tmp_path: Path, fate: str) -> None:
    """So it is placed once, however often it was asked for."""

    async def story(town: Town) -> None:
        async with visiting(town, first_order(fate)) as (shopper, line):
            attempt = await shopper.place({"TEA": 2})
            assert len(line.keys) == 2
            assert len(set(line.keys)) == 1
            assert attempt.told is Told.PLACED
            assert attempt.doubt
        await town.books_are_right(attempt.asked())
        assert len(await town.stores["order"].fetch("SELECT * FROM orders")) == 1

    in_town(tmp_path, story)


def test_a_declined_card_is_an_order_that_was_cancelled(tmp_path: Path) -> None:
    """The shop has promised to know of it."""

    async def story(town: Town) -> None:
        async with visiting(town, lambda asked, time: "") as (shopper, _):
            attempt = await shopper.place({"GOLD": 2})
            await read_back(shopper._counter, attempt)
            assert (attempt.told, attempt.outcome()) == (Told.PLACED, "cancelled")

    in_town(tmp_path, story)


def test_a_friendly_refusal_is_not_asked_again(tmp_path: Path) -> None:
    """It was an answer, at once; its time is counted by itself."""

    async def story(town: Town) -> None:
        async with visiting(town, lambda asked, time: "", resting=1.0) as (shopper, line):
            attempt = await shopper.place({"TEA": 1})
            tally = shopper._counter.tally
            assert (attempt.told, len(line.keys), len(tally.friendly)) == (Told.REFUSED, 1, 1)
            assert attempt.asked().told == "refused"

    in_town(tmp_path, story)


def test_a_refusal_after_a_lost_answer_is_no_proof(tmp_path: Path) -> None:
    """The first request may have placed what the second is told was not."""

    async def story(town: Town) -> None:
        async with visiting(town, first_order("request"), resting=1.0) as (shopper, _):
            attempt = await shopper.place({"TEA": 1})
            assert attempt.told is Told.NOTHING
            assert attempt.asked().told == "unknown"

    in_town(tmp_path, story)


def test_a_key_used_again_for_something_else_is_refused(tmp_path: Path) -> None:
    """And has no effect."""

    async def story(town: Town) -> None:
        async with visiting(town, lambda asked, time: "") as (shopper, _):
            attempt = await shopper.place({"TEA": 1})
            again = await shopper.place({"TEA": 3}, key=attempt.key, reused=True)
            assert again.told is Told.REFUSED
        await town.books_are_right(attempt.asked(), again.asked())

    in_town(tmp_path, story)


def test_what_was_never_answered_is_asked_for_at_the_end(tmp_path: Path) -> None:
    """Whoever got no answer at all finds out what there is."""
    down = [True]

    async def story(town: Town) -> None:
        fate: Fate = lambda asked, time: "answer" if down and asked == "POST /orders" else ""  # noqa: E731
        async with visiting(town, fate) as (shopper, line):
            attempt = await shopper.place({"TEA": 1})
            assert (attempt.told, len(line.keys)) == (Told.NOTHING, shoppers.TRIES)
            down.clear()
            await read_back(shopper._counter, attempt)
            assert attempt.outcome() == "confirmed"
        await town.books_are_right(attempt.asked())

    in_town(tmp_path, story)


def test_a_shop_that_never_answers_is_given_up(tmp_path: Path) -> None:
    """After a bounded number of tries."""

    async def story(town: Town) -> None:
        counter = Counter(
            lambda: "http://shop", Tally(), transport=Line(town, town.orders(), lambda asked, time: "request")
        )
        with pytest.raises(NoAnswer, match="POST /users was not answered in 8 tries"):
            await Shopper.arrive(counter)
        await counter.aclose()

    in_town(tmp_path, story)
