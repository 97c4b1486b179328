"""Where the shop meets msgov: each service is built of its store, its stubs and its settings, in a few lines."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, TypeVar

from msgov import Service
from msgov.messaging.message import Message
from msgov.messaging.sqlite import Sqlite

from . import stores
from .audit.service import TOPIC, Audit
from .audit.servicer import AuditApi
from .inventory.service import Inventory
from .inventory.servicer import InventoryApi
from .order.service import Orders
from .order.servicer import OrderApi
from .payment.service import Faults, Payments
from .payment.servicer import PaymentApi
from .pb.inventory_pb2_grpc import InventoryStub
from .pb.order_pb2_grpc import OrderStub
from .pb.payment_pb2_grpc import PaymentStub
from .pb.product_pb2_grpc import ProductStub
from .pb.user_pb2_grpc import UserStub
from .product.catalogue import CATALOGUE, STOCK
from .product.service import Products
from .product.servicer import ProductApi
from .resting import resting
from .storefront.app import Storefront
from .user.service import Users
from .user.servicer import UserApi

S = TypeVar("S")
T = TypeVar("T")

RULES: Final = Path(__file__).with_name("shop.toml")
RECOVER: Final = 0.5  # seconds between two looks for orders that were left lying

log = logging.getLogger(__name__)


class Stubs(Protocol):
    """How a service gets at another: over the wire, or in the same process."""

    def __call__(self, kind: type[S], target: str, /) -> S:
        """Make the stub of a service."""
        ...


@dataclass(frozen=True, slots=True)
class Given:
    """What a service is built of; `beside` takes what must run as long as it does."""

    svc: Service
    store: Sqlite
    stub: Stubs
    beside: list[Callable[[], Coroutine[object, None, None]]] = field(default_factory=list)


def service(name: str, *, folder: Path, instance: int) -> tuple[Service, Sqlite | None]:
    """Set up one instance's part in the house: registry, bus and config centre are files in `folder`."""
    store = stores.store(folder, name) if name in stores.SCHEMAS else None
    made = Service(
        name,
        config=RULES,
        database=store,
        registry=f"embedded:{folder / 'registry.db'}",
        bus=f"embedded:{folder / 'bus.db'}",
        centre=f"embedded:{folder / 'settings.db'}",
        logs="json",
        state=folder / "state" / f"{name}-{instance}",
    )
    return made, store


def user(given: Given) -> UserApi:
    """Accounts."""
    return UserApi(Users(given.store))


def product(given: Given) -> ProductApi:
    """The catalogue."""
    return ProductApi(Products(given.store))


def inventory(given: Given) -> InventoryApi:
    """The shelves."""
    return InventoryApi(Inventory(given.store))


def payment(given: Given) -> PaymentApi:
    """The till, with faults that the config centre switches."""
    slow = given.svc.config.handle("payment.slow_seconds", float, default=0.0, ge=0, le=60)
    fail = given.svc.config.handle("payment.fail_ratio", float, default=0.0, ge=0, le=1)
    return PaymentApi(Payments(given.store, faults=lambda: Faults(slow.value, fail.value)))


def audit(given: Given) -> AuditApi:
    """The trail: each event of each order once, whatever the bus delivers again."""
    trail = Audit(given.store)
    given.svc.on(TOPIC, key=_event)(trail.record)
    return AuditApi(trail)


def order(given: Given) -> OrderApi:
    """Orders, with a look now and then for those that another instance left behind."""
    orders = Orders(
        given.store,
        product=given.stub(ProductStub, "product"),
        inventory=given.stub(InventoryStub, "inventory"),
        payment=given.stub(PaymentStub, "payment"),
        patience=given.svc.config.value("order.patience", float, default=10.0, gt=0, le=600),
        tries=1,  # the channel asks again by its own rules
        resting=resting(given.svc, "payment", "/shop.v1.Payment/Charge"),
    )
    given.beside.append(lambda: _recovering(orders))
    return OrderApi(orders)


def storefront(svc: Service, stub: Stubs) -> Storefront:
    """The counter."""
    return Storefront(
        users=stub(UserStub, "user"), products=stub(ProductStub, "product"), orders=stub(OrderStub, "order")
    )


BUILD: Final[Mapping[str, Callable[[Given], object]]] = {
    # Whoever is called stands before whoever calls.
    "user": user,
    "product": product,
    "inventory": inventory,
    "payment": payment,
    "audit": audit,
    "order": order,
}


async def first_day(name: str, folder: Path) -> None:
    """Fill what must not be empty when the shop opens; harmless when repeated, by whichever instance."""
    if name == "product":
        async with stores.store(folder, name) as store:
            await Products(store).seed(CATALOGUE)
    elif name == "inventory":
        async with stores.store(folder, name) as store:
            shelf = Inventory(store)
            stocked = {level.sku for level in await shelf.levels([each.sku for each in CATALOGUE])}
            for listing in CATALOGUE:
                if listing.sku not in stocked:
                    await shelf.receive(f"first-day-{listing.sku}", listing.sku, STOCK)


async def _recovering(orders: Orders) -> None:
    while True:
        try:
            await orders.recover(time.monotonic())
        except Exception:
            log.exception("recovery goes on later")
        await asyncio.sleep(RECOVER)


def _event(message: Message) -> str:
    """Name an order's event: the same order at the same version is the same event, whoever sends it again."""
    body = json.loads(message.body)
    return f"{body['order_id']}/{body['version']}"
