"""An order goes forward until it is confirmed, or back until nothing is held or owed.

    PENDING     reserve stock -> charge -> commit stock -> CONFIRMED
                    | refused, or nobody knows
    CANCELLING  release stock, refund -> CANCELLED

Every step may be repeated, and the way back leaves marks that refuse a step forward that comes late. So it does no
harm when two instances run one saga, or when one dies anywhere: the row decides, and whoever comes next goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from ..calls import CallError, Failure, ask
from ..pb import inventory_pb2, money_pb2, payment_pb2
from ..pb.inventory_pb2_grpc import InventoryStub
from ..pb.payment_pb2_grpc import PaymentStub
from ..seams import Clock, Store
from . import book
from .book import Order, State

log = logging.getLogger(__name__)


class Saga:
    """Carry orders through; `tries` is how often a step is asked with the same key before nobody knows (1 or more)."""

    def __init__(self, db: Store, *, inventory: InventoryStub, payment: PaymentStub, wall: Clock, tries: int) -> None:
        self._db = db
        self._inventory = inventory
        self._payment = payment
        self._wall = wall
        self._tries = tries

    async def run(self, order: Order, *, fresh: bool) -> Order:
        """Carry `order` as far as it goes now; `fresh` when nobody can have charged for it before.

        What stays PENDING or CANCELLING could not be decided: run it again later.
        """
        if order.state is State.PENDING:
            order = await self._forward(order, fresh=fresh)
        if order.state is State.CANCELLING:
            order = await self._back(order)
        return order

    async def _forward(self, order: Order, *, fresh: bool) -> Order:
        lines = [inventory_pb2.StockLine(sku=line.sku, quantity=line.quantity) for line in order.lines]
        reserve = inventory_pb2.ReserveRequest(order_id=order.id, lines=lines)
        amount = money_pb2.Money(minor=order.total, currency=order.currency)
        charge = payment_pb2.ChargeRequest(order_id=order.id, amount=amount, idempotency_key=f"{order.id}:charge")
        commit = inventory_pb2.CommitRequest(order_id=order.id)
        maybe_charged = order.pay and not fresh
        try:
            await ask(lambda: self._inventory.Reserve(reserve), tries=self._tries)
        except CallError as error:
            return await self._give_up(order, "inventory", error.failure, maybe_charged=maybe_charged)
        if not order.pay:
            return await self._turn(order, "unpaid")
        try:
            await ask(lambda: self._payment.Charge(charge), tries=self._tries)
        except CallError as error:
            # Only a call that never left, or a card that was declined, is proof that nothing was taken.
            taken = error.maybe or (error.failure.answered and error.failure.reason != "DECLINED")
            maybe_charged = maybe_charged or taken
            return await self._give_up(order, "payment", error.failure, maybe_charged=maybe_charged)
        try:
            await ask(lambda: self._inventory.Commit(commit), tries=self._tries)
        except CallError as error:
            if not error.failure.answered:
                # Set aside and paid for, only the note is late: giving up now would do nothing but harm.
                return await book.load(self._db.fetch, order.id)
            return await self._give_up(order, "inventory", error.failure, maybe_charged=True)
        return await self._turn(order, "confirmed")

    async def _back(self, order: Order) -> Order:
        release = inventory_pb2.ReleaseRequest(order_id=order.id)
        refund = payment_pb2.RefundRequest(order_id=order.id)
        done = await self._done(lambda: self._inventory.Release(release))
        if order.owes_refund:
            done = await self._done(lambda: self._payment.Refund(refund)) and done
        if not done:
            return order
        return replace(await self._turn(order, "cancelled"), retry_after=order.retry_after)

    async def _done(self, step: Callable[[], Awaitable[object]]) -> bool:
        try:
            await ask(step, tries=self._tries)
        except CallError as error:
            log.warning("a step back is still to be done: %s", error)
            return False
        return True

    async def _turn(self, order: Order, kind: str) -> Order:
        """Make the turn, unless the order has been turned by somebody else meanwhile: then the row decides."""
        async with self._db.transaction() as tx:
            now = await book.load(tx.execute, order.id)
            return await book.turn(tx, now, kind, at=self._wall()) if now.version == order.version else now

    async def _give_up(self, order: Order, whose: str, failure: Failure, *, maybe_charged: bool) -> Order:
        reason = failure.reason.lower() if failure.answered and failure.reason else f"{whose}_{_why(failure)}"
        async with self._db.transaction() as tx:
            now = await book.load(tx.execute, order.id)
            if now.version != order.version:
                return now
            # What this run knows about its own charges is the whole truth only while nobody else took the order over.
            owes = maybe_charged or now.claim != order.claim
            turned = await book.turn(tx, replace(now, reason=reason, owes_refund=owes), "cancelling", at=self._wall())
        return replace(turned, retry_after=failure.retry_after)


def _why(failure: Failure) -> str:
    if failure.answered:
        return "refused"
    return "unknown" if failure.sent else "unavailable"
