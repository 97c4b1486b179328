"""An order is placed once for each key, and is told about version by version."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from shop.errors import AlreadyExists, Invalid, NotFound, Refused, Unavailable
from shop.laws import Asked
from shop.order.book import Shipment, State
from tests.shop.town import PATIENCE, Crash, Fault, Fuse, Town, in_town


def test_an_order_is_reserved_charged_sold_and_audited(tmp_path: Path) -> None:
    """The sunny day, over every service."""

    async def story(town: Town) -> None:
        order = await town.place(town.orders(), TEA=2, POT=1)
        assert (order.state, order.total, order.currency) == (State.CONFIRMED, 3_500, "EUR")
        assert town.calls == ["Quote", "Reserve", "Charge", "Commit"]
        findings = await town.books_are_right(Asked("u", "k", "placed", order.id, {"TEA": 2, "POT": 1}))
        assert findings.counts["confirmed"] == findings.counts["captures"] == 1
        entries = await town.audit.entries(order.id)
        assert [(entry.version, entry.type) for entry in entries] == [(1, "placed"), (2, "confirmed")]

    in_town(tmp_path, story)


def test_the_same_key_gives_the_same_order(tmp_path: Path) -> None:
    """A shopper whose connection broke asks again, perhaps at another instance."""

    async def story(town: Town) -> None:
        first = await town.place(town.orders())
        again = await town.place(town.orders())
        assert again == first
        assert (await town.books_are_right()).counts["orders"] == 1

    in_town(tmp_path, story)


def test_the_same_key_from_two_at_once_gives_one_order(tmp_path: Path) -> None:
    """A double click lands on two instances in the same moment; both shoppers see it confirmed."""

    async def story(town: Town) -> None:
        placed = await asyncio.gather(*(town.place(town.orders()) for _ in range(4)))
        assert {(order.id, order.state) for order in placed} == {(placed[0].id, State.CONFIRMED)}
        findings = await town.books_are_right()
        assert findings.counts["orders"] == findings.counts["captures"] == 1

    in_town(tmp_path, story)


def test_the_same_key_for_another_basket_is_a_conflict_without_effect(tmp_path: Path) -> None:
    """Giving back the old order would sell the shopper something else than was asked."""

    async def story(town: Town) -> None:
        order = await town.place(town.orders(), TEA=2)
        others = [
            town.place(town.orders(), TEA=3),
            town.place(town.orders(), POT=2),
            town.place(town.orders(), pay=False, TEA=2),
        ]
        for other in others:
            with pytest.raises(AlreadyExists) as refused:
                await other
            assert refused.value.reason == "KEY_REUSED"
        kept = Asked("u", "k", "placed", order.id, {"TEA": 2})
        await town.books_are_right(kept, Asked("u", "k", "refused", lines={"TEA": 3}, reused=True))

    in_town(tmp_path, story)


def test_another_user_may_use_the_same_key(tmp_path: Path) -> None:
    """Keys are the shopper's own; nobody can probe or block those of others."""

    async def story(town: Town) -> None:
        mine = await town.place(town.orders())
        yours = await town.orders().place(key="k", user_id="v", lines=[("TEA", 1)])
        assert mine.id != yours.id
        await town.books_are_right()

    in_town(tmp_path, story)


def test_prices_are_fixed_when_the_order_is_placed(tmp_path: Path) -> None:
    """What is asked again later costs what it cost."""

    async def story(town: Town) -> None:
        first = await town.place(town.orders())
        (tea,) = await town.products.quote(["TEA"])
        await town.products.put(type(tea)(tea.sku, tea.name, tea.category, 999))
        assert (await town.place(town.orders())).total == first.total == 1_000

    in_town(tmp_path, story)


def test_unknown_products_and_missing_prices_leave_no_order(tmp_path: Path) -> None:
    """Before the row is written nothing has happened, and the shopper is told so."""

    async def story(town: Town) -> None:
        with pytest.raises(Invalid, match="not for sale: CUP"):
            await town.place(town.orders(), CUP=1)
        with pytest.raises(Unavailable) as refused:
            await town.place(town.orders(script=lambda method: Fault.UNSENT if method == "Quote" else None))
        assert refused.value.retry_after == 2.0
        assert (await town.books_are_right()).counts["orders"] == 0

    in_town(tmp_path, story)


@pytest.mark.parametrize("key", ["", "k" * 129, "two words", "kéy", "k\n"])
def test_bad_keys_are_named(tmp_path: Path, key: str) -> None:
    """A key is stored and logged: its form is limited."""

    async def story(town: Town) -> None:
        with pytest.raises(Invalid, match="idempotency key"):
            await town.place(town.orders(), key)

    in_town(tmp_path, story)


def test_an_unpaid_order_holds_stock_until_it_is_paid(tmp_path: Path) -> None:
    """Paying is asked for once and more, and takes the money once."""

    async def story(town: Town) -> None:
        orders = town.orders()
        order = await town.place(orders, pay=False)
        assert order.state is State.UNPAID
        await town.books_are_right()
        paid = await asyncio.gather(orders.pay(order.id), town.orders().pay(order.id))
        assert {each.state for each in paid} == {State.CONFIRMED}
        assert (await orders.pay(order.id)).state is State.CONFIRMED
        findings = await town.books_are_right()
        assert findings.counts["captures"] == 1
        types = [entry.type for entry in await town.audit.entries(order.id)]
        assert types == ["placed", "unpaid", "paying", "confirmed"]

    in_town(tmp_path, story)


def test_paying_for_an_order_that_is_still_being_placed_pays(tmp_path: Path) -> None:
    """Its instance died before the stock was set aside; the shopper, who has the id, must not be told to wait."""

    async def story(town: Town) -> None:
        with pytest.raises(Crash):
            await town.place(town.orders(fuse=Fuse(at=5)), pay=False)
        ((order_id,),) = await town.stores["order"].fetch("SELECT id FROM orders WHERE state = 'PENDING'")
        assert (await town.orders().pay(order_id)).state is State.CONFIRMED
        await town.books_are_right()

    in_town(tmp_path, story)


def test_cancelling_gives_back_money_and_stock(tmp_path: Path) -> None:
    """Whatever state the order rests in; and a second cancel changes nothing."""

    async def story(town: Town) -> None:
        orders = town.orders()
        paid = await town.place(orders, "a")
        unpaid = await town.place(orders, "b", pay=False)
        for order in (paid, unpaid, paid):
            cancelled = await orders.cancel(order.id)
            assert (cancelled.state, cancelled.reason) == (State.CANCELLED, "customer")
        with pytest.raises(Refused):
            await orders.pay(unpaid.id)
        findings = await town.books_are_right()
        assert (findings.counts["cancelled"], findings.counts["refunds"]) == (2, 1)
        (tea,) = await town.inventory.levels(["TEA"])
        assert tea.on_hand == 100

    in_town(tmp_path, story)


def test_a_shipment_goes_step_by_step(tmp_path: Path) -> None:
    """Each step is an event; a step already made is no error, a step left out is."""

    async def story(town: Town) -> None:
        orders = town.orders()
        order = await town.place(orders)
        with pytest.raises(Refused) as refused:
            await orders.ship(order.id, Shipment.SHIPPED)
        assert refused.value.reason == "STEP_LEFT_OUT"
        await orders.ship(order.id, Shipment.PACKED)
        shipped = await orders.ship(order.id, Shipment.SHIPPED)
        assert shipped.tracking
        assert await orders.ship(order.id, Shipment.PACKED) == shipped
        await orders.ship(order.id, Shipment.DELIVERED)
        found, history = await orders.find(order.id)
        assert found.shipment is Shipment.DELIVERED
        assert [step.type for step in history] == ["placed", "confirmed", "packed", "shipped", "delivered"]
        await town.books_are_right()

    in_town(tmp_path, story)


def test_what_is_shipped_cannot_be_cancelled_and_what_is_cancelled_cannot_be_shipped(tmp_path: Path) -> None:
    """The two meet in one row, so only one of them can win."""

    async def story(town: Town) -> None:
        orders = town.orders()
        gone, kept = await town.place(orders, "a"), await town.place(orders, "b")
        for step in (Shipment.PACKED, Shipment.SHIPPED):
            await orders.ship(gone.id, step)
        with pytest.raises(Refused) as refused:
            await orders.cancel(gone.id)
        assert refused.value.reason == "SHIPPED"
        await orders.cancel(kept.id)
        with pytest.raises(Refused) as refused:
            await orders.ship(kept.id, Shipment.PACKED)
        assert refused.value.reason == "NOT_CONFIRMED"
        await town.books_are_right()

    in_town(tmp_path, story)


def test_unknown_orders_are_not_found(tmp_path: Path) -> None:
    """Every way in says so the same way."""

    async def story(town: Town) -> None:
        orders = town.orders()
        for ask in (orders.pay("x"), orders.cancel("x"), orders.ship("x", Shipment.PACKED), orders.find("x")):
            with pytest.raises(NotFound):
                await ask

    in_town(tmp_path, story)


def test_state_and_event_are_written_together(tmp_path: Path) -> None:
    """A turn whose event cannot be put down is no turn."""

    async def story(town: Town) -> None:
        async with town.stores["order"].transaction() as tx:
            await tx.execute("ALTER TABLE msgov_outbox RENAME TO hidden")
        with pytest.raises(Exception, match="outbox"):
            await town.place(town.orders())
        assert not await town.stores["order"].fetch("SELECT * FROM orders")

    in_town(tmp_path, story)


def test_events_carry_what_a_reader_needs(tmp_path: Path) -> None:
    """Key and version let a consumer order and dedupe them; the rest spares it a call back."""

    async def story(town: Town) -> None:
        order = await town.place(town.orders())
        rows = await town.stores["order"].fetch("SELECT topic, key, body FROM msgov_outbox ORDER BY seq")
        assert {(row["topic"], row["key"]) for row in rows} == {("order.events", order.id)}
        bodies = [json.loads(row["body"]) for row in rows]
        assert [(body["version"], body["type"], body["state"]) for body in bodies] == [
            (1, "placed", "PENDING"),
            (2, "confirmed", "CONFIRMED"),
        ]
        assert all(body["user_id"] == "u" and body["total"] == 1_000 for body in bodies)

    in_town(tmp_path, story)


def test_recovery_waits_until_the_claim_has_stood_still(tmp_path: Path) -> None:
    """By the watcher's own clock: an order that somebody works on moves its claim, and is left alone."""

    async def story(town: Town) -> None:
        with pytest.raises(Crash):
            await town.place(town.orders(fuse=Fuse(at=6)))
        watcher = town.orders()
        assert await watcher.recover(100.0) == 0
        assert await watcher.recover(100.0 + PATIENCE - 0.1) == 0
        async with town.stores["order"].transaction() as tx:
            await tx.execute("UPDATE orders SET claim = claim + 1")  # a sign of life
        assert await watcher.recover(100.0 + PATIENCE) == 0
        assert await watcher.recover(100.0 + 2 * PATIENCE - 0.1) == 0
        assert await watcher.recover(100.0 + 2 * PATIENCE) == 1
        assert await watcher.recover(100.0 + 9 * PATIENCE) == 0
        await town.books_are_right()

    in_town(tmp_path, story)


def test_an_order_is_recovered_by_one_of_two_watchers(tmp_path: Path) -> None:
    """Both find it due in the same moment; the claim lets one of them through."""

    async def story(town: Town) -> None:
        with pytest.raises(Crash):
            await town.place(town.orders(fuse=Fuse(at=6)))
        watchers = [town.orders(), town.orders()]
        for watcher in watchers:
            await watcher.recover(0.0)
        town.calls.clear()
        await asyncio.gather(*(watcher.recover(PATIENCE) for watcher in watchers))
        assert town.calls == ["Reserve", "Charge", "Commit"]
        await town.books_are_right()

    in_town(tmp_path, story)


def test_one_order_that_cannot_go_on_does_not_stop_the_others(tmp_path: Path) -> None:
    """Recovery is a round, not a queue."""

    async def story(town: Town) -> None:
        for key in ("a", "b", "c"):
            with pytest.raises(Crash):
                await town.place(town.orders(fuse=Fuse(at=6)), key)
        async with town.stores["order"].transaction() as tx:
            await tx.execute("UPDATE orders SET shipment = 'NONSENSE' WHERE key = 'b'")
        watcher = town.orders()
        await watcher.recover(0.0)
        assert await watcher.recover(PATIENCE) == 2
        async with town.stores["order"].transaction() as tx:
            await tx.execute("UPDATE orders SET shipment = 'NONE' WHERE key = 'b'")
        assert (await town.books_are_right()).counts["confirmed"] == 3

    in_town(tmp_path, story)


def test_no_order_is_opened_while_charging_rests(tmp_path: Path) -> None:
    """What would be given up at once is not begun: no row, no call, only the time to come back."""

    async def story(town: Town) -> None:
        with pytest.raises(Refused) as caught:
            await town.place(town.orders(resting=1.5))
        assert (caught.value.reason, caught.value.retry_after) == ("PAYMENT_UNAVAILABLE", 1.5)
        assert town.calls == []
        assert not await town.stores["order"].fetch("SELECT * FROM orders")

    in_town(tmp_path, story)


def test_what_needs_no_charge_goes_on_while_charging_rests(tmp_path: Path) -> None:
    """Orders to be paid later, and a key that has an order already."""

    async def story(town: Town) -> None:
        done = await town.place(town.orders(), "done")
        rested = town.orders(resting=1.5)
        assert (await town.place(rested, "later", pay=False)).state is State.UNPAID
        assert (await town.place(rested, "done")).id == done.id

    in_town(tmp_path, story)


def test_an_unpaid_order_is_kept_while_charging_rests(tmp_path: Path) -> None:
    """A refusal that passes by itself must not cost the shopper what is set aside."""

    async def story(town: Town) -> None:
        order = await town.place(town.orders(), pay=False)
        with pytest.raises(Refused, match="Nothing was charged"):
            await town.orders(resting=1.5).pay(order.id)
        assert (await town.orders().find(order.id))[0].state is State.UNPAID
        assert (await town.orders().pay(order.id)).state is State.CONFIRMED

    in_town(tmp_path, story)
