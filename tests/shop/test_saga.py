"""Whatever is lost, late or dead on the way: the order ends paid and sold, or not at all."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from shop.errors import ShopError
from shop.laws import Asked
from shop.order.book import State
from shop.order.service import Orders
from tests.shop.town import Crash, Fault, Fuse, Town, in_town


async def buy(town: Town, orders: Orders, key: str) -> None:
    """Go all the way."""
    await town.place(orders, key)


async def buy_too_much(town: Town, orders: Orders, key: str) -> None:
    """Go back for want of stock."""
    await town.place(orders, key, TEA=2, POT=500)


async def buy_too_dear(town: Town, orders: Orders, key: str) -> None:
    """Go back because the card is declined."""
    await town.place(orders, key, GOLD=2)


async def buy_and_return(town: Town, orders: Orders, key: str) -> None:
    """Go all the way, then all the way back."""
    order = await town.place(orders, key)
    await orders.cancel(order.id)


async def buy_and_pay_later(town: Town, orders: Orders, key: str) -> None:
    """Rest between stock and money."""
    order = await town.place(orders, key, pay=False)
    await orders.pay(order.id)


STORIES = (buy, buy_too_much, buy_too_dear, buy_and_return, buy_and_pay_later)


@pytest.mark.parametrize("act", STORIES, ids=lambda act: act.__name__)
def test_dying_at_any_boundary_leaves_the_books_right(
    tmp_path: Path, act: Callable[[Town, Orders, str], Coroutine[object, None, None]]
) -> None:
    """Before and after each call and each commit, one after the other, until a run survives to its end."""

    async def story(town: Town) -> int:
        for at in range(1, 100):
            fuse = Fuse(at=at)
            try:
                await act(town, town.orders(fuse=fuse), f"k{at}")
            except Crash:
                await town.books_are_right()
            else:
                await town.books_are_right()
                return at
        raise AssertionError("never survived")

    assert in_town(tmp_path, story) > 8


def test_dying_while_recovering_leaves_the_books_right(tmp_path: Path) -> None:
    """Who takes over may die as well."""

    async def story(town: Town) -> None:
        for at in range(1, 30):
            with pytest.raises(Crash):
                await town.place(town.orders(fuse=Fuse(at=8)), f"k{at}")
            fuse = Fuse(at=at)
            try:
                await town.place(town.orders(fuse=fuse), f"k{at}")
            except Crash:
                await town.books_are_right()
            else:
                return
        raise AssertionError("never survived")

    in_town(tmp_path, story)


@pytest.mark.parametrize("method", ["Reserve", "Charge", "Commit"])
@pytest.mark.parametrize("fault", [Fault.LOST_REQUEST, Fault.LOST_REPLY], ids=lambda fault: fault.name)
def test_an_unknown_outcome_is_asked_again_with_the_same_key(tmp_path: Path, method: str, fault: Fault) -> None:
    """One lost message costs a second question, not the order."""

    async def story(town: Town) -> None:
        faults = {method: [fault]}
        orders = town.orders(script=lambda name: faults[name].pop() if faults.get(name) else None)
        assert (await town.place(orders)).state is State.CONFIRMED
        assert town.calls.count(method) == 2
        assert (await town.books_are_right()).counts["captures"] == 1

    in_town(tmp_path, story)


@pytest.mark.parametrize("method", ["Reserve", "Charge"])
@pytest.mark.parametrize("fault", [Fault.LOST_REQUEST, Fault.LOST_REPLY], ids=lambda fault: fault.name)
def test_what_stays_unknown_is_taken_back(tmp_path: Path, method: str, fault: Fault) -> None:
    """Nobody knows whether the money was taken, so it is given back either way."""

    async def story(town: Town) -> None:
        orders = town.orders(script=lambda name: fault if name == method else None)
        order = await town.place(orders)
        whose = {"Reserve": "inventory", "Charge": "payment"}[method]
        assert (order.state, order.reason) == (State.CANCELLED, f"{whose}_unknown")
        assert ("Refund" in town.calls) is (method == "Charge")
        await town.books_are_right()

    in_town(tmp_path, story)


def test_an_unknown_commit_keeps_the_order_going(tmp_path: Path) -> None:
    """The shopper has paid and the stock is set aside: giving up would only do harm."""

    async def story(town: Town) -> None:
        orders = town.orders(script=lambda name: Fault.LOST_REPLY if name == "Commit" else None)
        assert (await town.place(orders)).state is State.PENDING
        assert (await town.books_are_right()).counts["confirmed"] == 1

    in_town(tmp_path, story)


def test_a_charge_that_never_left_needs_no_refund(tmp_path: Path) -> None:
    """An open breaker refuses at once: the order is off at once too, with the time to come back."""

    async def story(town: Town) -> None:
        orders = town.orders(script=lambda name: Fault.UNSENT if name in ("Charge", "Refund") else None)
        order = await town.place(orders)
        assert (order.state, order.reason, order.retry_after) == (State.CANCELLED, "payment_unavailable", 2.0)
        assert town.calls == ["Quote", "Reserve", "Charge", "Release"]
        await town.books_are_right()

    in_town(tmp_path, story)


def test_a_charge_that_never_left_is_no_proof_for_who_took_over(tmp_path: Path) -> None:
    """The instance before may have charged before it died."""

    async def story(town: Town) -> None:
        with pytest.raises(Crash):
            await town.place(town.orders(fuse=Fuse(at=8)))  # charged, reply not read
        assert town.calls[-1] == "Charge"
        assert await town.stores["payment"].fetch("SELECT * FROM ledger")
        order = await town.place(town.orders(script=lambda name: Fault.UNSENT if name == "Charge" else None))
        assert order.state is State.CANCELLED
        assert (await town.books_are_right()).counts["refunds"] == 1

    in_town(tmp_path, story)


def test_a_first_runner_that_was_overtaken_no_longer_trusts_itself(tmp_path: Path) -> None:
    """Its charge never left, but somebody else may have sent one since."""

    async def story(town: Town) -> None:
        held, go = asyncio.Event(), asyncio.Event()

        async def gate(method: str) -> None:
            if method == "Charge":
                held.set()
                await go.wait()

        slow = town.orders(gate=gate, script=lambda name: Fault.UNSENT if name == "Charge" else None)
        first = asyncio.create_task(town.place(slow))
        await held.wait()
        with pytest.raises(Crash):
            await town.place(town.orders(fuse=Fuse(at=7)))  # takes over, charges, dies
        assert await town.stores["payment"].fetch("SELECT * FROM ledger")
        go.set()
        assert (await first).state is State.CANCELLED
        assert (await town.books_are_right()).counts["refunds"] == 1

    in_town(tmp_path, story)


def test_a_charge_that_comes_after_the_cancel_takes_nothing(tmp_path: Path) -> None:
    """The shopper cancels while the charge is on its way."""

    async def story(town: Town) -> None:
        held, go = asyncio.Event(), asyncio.Event()

        async def gate(method: str) -> None:
            if method == "Charge":
                held.set()
                await go.wait()

        placing = asyncio.create_task(town.place(town.orders(gate=gate)))
        await held.wait()
        ((order_id,),) = await town.stores["order"].fetch("SELECT id FROM orders")
        assert (await town.orders().cancel(order_id)).state is State.CANCELLED
        go.set()
        assert (await placing).state is State.CANCELLED
        findings = await town.books_are_right()
        assert (findings.counts["captures"], findings.counts["cancelled"]) == (0, 1)

    in_town(tmp_path, story)


def test_a_reservation_that_comes_after_the_cancel_holds_nothing(tmp_path: Path) -> None:
    """As for the money, so for the stock."""

    async def story(town: Town) -> None:
        held, go = asyncio.Event(), asyncio.Event()

        async def gate(method: str) -> None:
            if method == "Reserve":
                held.set()
                await go.wait()

        placing = asyncio.create_task(town.place(town.orders(gate=gate)))
        await held.wait()
        ((order_id,),) = await town.stores["order"].fetch("SELECT id FROM orders")
        await town.orders().cancel(order_id)
        go.set()
        assert (await placing).state is State.CANCELLED
        await town.books_are_right()

    in_town(tmp_path, story)


def test_a_step_back_that_fails_is_taken_later(tmp_path: Path) -> None:
    """Stock is not kept because the bank is away; the order stays open until both are done."""

    async def story(town: Town) -> None:
        orders = town.orders(script=lambda name: Fault.LOST_REPLY if name == "Charge" else None)
        down = town.orders(script=lambda name: Fault.UNSENT if name == "Refund" else None)
        with pytest.raises(Crash):
            await town.place(town.orders(fuse=Fuse(at=8)))
        ((order_id,),) = await town.stores["order"].fetch("SELECT id FROM orders")
        assert (await down.cancel(order_id)).state is State.CANCELLING
        (tea,) = await town.inventory.levels(["TEA"])
        assert tea.on_hand == 100
        assert (await orders.cancel(order_id)).state is State.CANCELLED
        assert (await town.books_are_right()).counts["refunds"] == 1

    in_town(tmp_path, story)


def test_a_cancelled_caller_leaves_an_order_that_recovers(tmp_path: Path) -> None:
    """The caller's deadline ends the call in the middle of the saga."""

    async def story(town: Town) -> None:
        held = asyncio.Event()

        async def gate(method: str) -> None:
            if method == "Commit":
                held.set()
                await asyncio.Event().wait()

        placing = asyncio.create_task(town.place(town.orders(gate=gate)))
        await held.wait()
        placing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await placing
        assert (await town.books_are_right()).counts["confirmed"] == 1

    in_town(tmp_path, story)


@pytest.mark.parametrize("seed", range(4))
def test_a_bad_day_leaves_the_books_right(tmp_path: Path, seed: int) -> None:
    """Everything at once: lost messages, deaths, double clicks and changes of mind, at three instances."""

    async def story(town: Town) -> None:
        choices = [*([None] * 12), *Fault]
        asked: list[Asked] = []

        def instance(dice: random.Random) -> Orders:
            fuse = Fuse(at=dice.choice([0, 0, dice.randrange(1, 16)]))
            return town.orders(fuse=fuse, script=lambda _: dice.choice(choices))

        async def shop(number: int) -> None:
            dice = random.Random(f"{seed}/{number}")
            lines = dice.choice([{"TEA": 2}, {"TEA": 9, "POT": 4}, {"GOLD": 2}, {"POT": 900}])
            key, pay, order = f"k{number}", dice.random() < 0.8, None
            for _ in range(dice.randrange(1, 4)):
                try:
                    order = await instance(dice).place(key=key, user_id="u", lines=list(lines.items()), pay=pay)
                    if dice.random() < 0.2:
                        await instance(dice).cancel(order.id)
                    elif order.state is State.UNPAID:
                        await instance(dice).pay(order.id)
                except (Crash, ShopError):
                    continue
            told = Asked("u", key, "placed", order.id, lines) if order else Asked("u", key, "unknown", lines=lines)
            asked.append(told)

        async def recover() -> None:
            for now in range(4):
                try:
                    await instance(random.Random(f"{seed}/{now}")).recover(now * 100.0)
                except* Crash:
                    pass  # the watcher died too: the next one takes over

        await asyncio.gather(recover(), *(shop(number) for number in range(25)))
        findings = await town.books_are_right(*asked)
        assert findings.counts["confirmed"] > 0 < findings.counts["cancelled"]

    in_town(tmp_path, story)
