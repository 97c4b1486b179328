"""An order is placed once for each key, and whatever happens on the way, it ends paid and sold or not at all."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from .. import checks
from ..calls import CallError, ask
from ..errors import Invalid, Refused, Unavailable
from ..pb import product_pb2
from ..pb.inventory_pb2_grpc import InventoryStub
from ..pb.payment_pb2_grpc import PaymentStub
from ..pb.product_pb2_grpc import ProductStub
from ..seams import Clock, Store
from . import book
from .book import Line, Order, Shipment, State
from .saga import Saga

WATCHED = 500  # open orders looked at in one round of recovery, those least often tried first
AT_ONCE = 8  # sagas recovered side by side

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """One change of an order: its version, the event's type, and when, in seconds since 1970."""

    version: int
    type: str
    at: float


class Orders:
    """Place, pay, cancel, ship, find; and recover what another instance left behind.

    The stubs are called with what they bring along: deadlines, retries and breakers are the channel's business.
    `patience` is how many seconds an open order may lie untouched before `recover` takes it over (default 10: longer
    than all steps of a saga at their deadlines; too short does no harm but double work). `tries` is how often a step
    whose outcome is unknown is asked for before the order is given up (default 2; 1 where the channel asks again).
    `resting` is asked before an order is opened: for how many seconds no charge will be let through, None when one may
    be tried. `wall` stamps the history.
    """

    def __init__(
        self,
        db: Store,
        *,
        product: ProductStub,
        inventory: InventoryStub,
        payment: PaymentStub,
        patience: float = 10.0,
        tries: int = 2,
        resting: Callable[[], float | None] = lambda: None,
        wall: Clock = time.time,
    ) -> None:
        self._db = db
        self._product = product
        self._saga = Saga(db, inventory=inventory, payment=payment, wall=wall, tries=tries)
        self._patience = patience
        self._resting = resting
        self._wall = wall
        self._watched: dict[str, tuple[int, float]] = {}

    async def place(self, *, key: str, user_id: str, lines: Sequence[tuple[str, int]], pay: bool = True) -> Order:
        """Place an order, or find the one that this user placed with this key, and carry it as far as it goes.

        An order that ends CANCELLED is an answer: `reason` says why. Raises `Invalid`; `AlreadyExists` when the key was
        used for something else; `Refused` PAYMENT_UNAVAILABLE while charging rests, `Unavailable` when prices cannot be
        had (nothing has been done then).
        """
        checks.idempotency_key(key)
        checks.identifier("user id", user_id)
        basket = checks.lines("order", lines)
        fingerprint = book.digest(basket, pay=pay)
        known = await book.placed(self._db.fetch, user_id, key, fingerprint)
        if known is None:
            if pay:
                self._may_charge()
            priced, currency = await self._priced(basket)  # before the transaction: never wait inside one
            total = sum(line.quantity * line.price for line in priced)
            order = Order(uuid.uuid4().hex, user_id, priced, total, currency, pay=pay)
            async with self._db.transaction() as tx:
                known = await book.placed(tx.execute, user_id, key, fingerprint)  # somebody may have been quicker
                if known is None:
                    await book.open_new(tx, order, key=key, fingerprint=fingerprint, at=self._wall())
            if known is None:
                return await self._saga.run(order, fresh=True)
        return await self._go_on(known.id)

    async def pay(self, order_id: str) -> Order:
        """Charge for an order that was placed unpaid; raises `NotFound`, `Refused` CANCELLED, PAYMENT_UNAVAILABLE."""
        checks.identifier("order id", order_id)
        order = await self._go_on(order_id)  # one that is still being placed comes to rest first
        if order.state in (State.CANCELLING, State.CANCELLED):
            raise Refused("the order has been cancelled", reason="CANCELLED")
        if order.state is State.UNPAID:
            self._may_charge()
        async with self._db.transaction() as tx:
            order = await book.load(tx.execute, order_id)
            if unpaid := order.state is State.UNPAID:
                order = await book.turn(tx, replace(order, pay=True), "paying", at=self._wall())
        return await self._saga.run(order, fresh=True) if unpaid else await self._go_on(order_id)

    async def cancel(self, order_id: str) -> Order:
        """Give stock and money back, until the order is shipped; raises `NotFound`, `Refused` SHIPPED."""
        checks.identifier("order id", order_id)
        async with self._db.transaction() as tx:
            order = await book.load(tx.execute, order_id)
            if order.shipment in (Shipment.SHIPPED, Shipment.DELIVERED):
                raise Refused("the order has been shipped: send it back instead", reason="SHIPPED")
            if order.state not in (State.CANCELLING, State.CANCELLED):
                given_up = replace(order, reason="customer", owes_refund=order.pay)
                await book.turn(tx, given_up, "cancelling", at=self._wall())
        return await self._go_on(order_id)

    async def ship(self, order_id: str, to: Shipment) -> Order:
        """Move the shipment of a confirmed order one step on; a step already made is left as it is.

        Raises `NotFound`, `Invalid`, and `Refused` NOT_CONFIRMED or STEP_LEFT_OUT.
        """
        checks.identifier("order id", order_id)
        if to is Shipment.NONE:
            raise Invalid("a shipment cannot be undone: PACKED, SHIPPED or DELIVERED is allowed")
        async with self._db.transaction() as tx:
            order = await book.load(tx.execute, order_id)
            if order.state is not State.CONFIRMED:
                raise Refused(f"the order is {order.state}, not CONFIRMED", reason="NOT_CONFIRMED")
            steps = list(Shipment)
            made, wanted = steps.index(order.shipment), steps.index(to)
            if wanted <= made:
                return order
            if wanted > made + 1:
                raise Refused(f"the order is {order.shipment}: {steps[made + 1]} comes next", reason="STEP_LEFT_OUT")
            tracking = uuid.uuid4().hex[:12].upper() if to is Shipment.SHIPPED else order.tracking
            return await book.turn(tx, replace(order, shipment=to, tracking=tracking), to.lower(), at=self._wall())

    async def find(self, order_id: str) -> tuple[Order, Sequence[Step]]:
        """Return an order and all that happened to it; raises `NotFound`."""
        checks.identifier("order id", order_id)
        order = await book.load(self._db.fetch, order_id)
        rows = await self._db.fetch(
            "SELECT version, type, at FROM order_history WHERE order_id = ? AND version <= ? ORDER BY version",
            (order_id, order.version),
        )
        return order, [Step(*row) for row in rows]

    async def recover(self, now: float) -> int:
        """Go on with orders that nobody has touched for `patience` seconds; return how many came to rest.

        Call it every second or so with a monotonic clock. An order's claim moves with every write on it; this instance
        measures by its own clock how long it has stood still, so no two clocks are ever compared.
        """
        rows = await self._db.fetch(
            "SELECT id, claim FROM orders WHERE state IN ('PENDING', 'CANCELLING') ORDER BY claim, rowid LIMIT ?",
            (WATCHED,),
        )
        before, self._watched = self._watched, {}
        for order_id, claim in rows:
            seen = before.get(order_id)
            self._watched[order_id] = seen if seen is not None and seen[0] == claim else (claim, now)
        left = [(each, claim) for each, (claim, since) in self._watched.items() if now - since >= self._patience]
        turn = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as group:
            sagas = [group.create_task(self._take_over(each, claim, turn)) for each, claim in left]
        return sum(saga.result() for saga in sagas)

    async def _take_over(self, order_id: str, claim: int, turn: asyncio.Semaphore) -> bool:
        async with turn:
            try:
                order = await self._go_on(order_id, claim=claim)
            except Exception:
                log.exception("order %s stays open", order_id)  # one that cannot go on must not stop the others
                return False
        return order.state not in (State.PENDING, State.CANCELLING)

    async def _go_on(self, order_id: str, *, claim: int | None = None) -> Order:
        """Carry an open order on; not when its claim is no longer `claim`, for then somebody else does."""
        async with self._db.transaction() as tx:
            order = await book.load(tx.execute, order_id)
            if order.state not in (State.PENDING, State.CANCELLING) or claim not in (None, order.claim):
                return order
            order = await book.claim(tx, order)
        return await self._saga.run(order, fresh=False)

    def _may_charge(self) -> None:
        """Refuse at once what would reserve stock only to give it back; raises `Refused` PAYMENT_UNAVAILABLE."""
        wait = self._resting()
        if wait is not None:
            told = "Payments are not possible just now. Nothing was charged."
            raise Refused(told, reason="PAYMENT_UNAVAILABLE", retry_after=wait)

    async def _priced(self, basket: dict[str, int]) -> tuple[tuple[Line, ...], str]:
        quote = product_pb2.QuoteRequest(skus=list(basket))
        try:
            listings = (await ask(lambda: self._product.Quote(quote))).products
        except CallError as error:
            failure = error.failure
            if failure.answered and failure.reason:
                raise Invalid(failure.message, reason=failure.reason) from error
            raise Unavailable("prices cannot be had now", retry_after=failure.retry_after) from error
        currencies = {listing.price.currency for listing in listings}
        if len(currencies) != 1:
            raise Invalid("an order is paid in one currency", reason="CURRENCIES_MIXED")
        return tuple(Line(each.sku, basket[each.sku], each.price.minor) for each in listings), currencies.pop()
