"""The whole shop in one process over files in a folder, with a hand on every wire and every commit."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from msgov.messaging.sqlite import Sqlite
from shop import laws
from shop.audit.service import Audit
from shop.inventory.service import Inventory
from shop.inventory.servicer import InventoryApi
from shop.local import Local
from shop.order.book import Order
from shop.order.service import Orders
from shop.order.servicer import OrderApi
from shop.payment.service import Faults, Payments
from shop.payment.servicer import PaymentApi
from shop.pb.inventory_pb2_grpc import InventoryStub
from shop.pb.order_pb2_grpc import OrderStub
from shop.pb.payment_pb2_grpc import PaymentStub
from shop.pb.product_pb2_grpc import ProductStub
from shop.pb.user_pb2_grpc import UserStub
from shop.product.service import Listing, Products
from shop.product.servicer import ProductApi
from shop.seams import Body, Params, PublishingTx, Store
from shop.stores import SCHEMAS, path, store
from shop.user.service import Users
from shop.user.servicer import UserApi

T = TypeVar("T")
PATIENCE = 10.0
LISTINGS = (
    Listing("TEA", "Tea", "drinks", 500),
    Listing("POT", "Pot", "things", 2_500),
    Listing("GOLD", "Gold teapot", "things", 600_000),
)


class Crash(BaseException):
    """The instance is dead from here on; no code of its own may catch that."""


class Fault(Enum):
    """What becomes of one call."""

    LOST_REQUEST = "the callee never saw it, the caller cannot know"
    LOST_REPLY = "the callee did it, the caller cannot know"
    UNSENT = "it was kept back, and the caller knows"


class KeptBack(Exception):
    """As msgov's own refusals look to a caller."""

    sent = SimpleNamespace(value="no")
    retry_after = 2.0


@dataclass
class Fuse:
    """Burns at every boundary an instance passes; at the `at`-th it dies (0: never), and stays dead."""

    at: int = 0
    burnt: int = 0

    def burn(self) -> None:
        """Pass a boundary."""
        self.burnt += 1
        if self.at and self.burnt >= self.at:
            raise Crash

    @property
    def blown(self) -> bool:
        """Whether the instance died."""
        return bool(self.at) and self.burnt >= self.at


Script = Callable[[str], Fault | None]
Gate = Callable[[str], Awaitable[None]]


class Wire:
    """A stub whose calls may be lost on the way, held up, or end with the caller's death."""

    def __init__(self, servicer: object, *, fuse: Fuse, script: Script, gate: Gate | None, calls: list[str]) -> None:
        self._local = Local(servicer)
        self._fuse = fuse
        self._script = script
        self._gate = gate
        self._calls = calls

    def __getattr__(self, method: str) -> Callable[[Message], Coroutine[object, None, Message]]:
        async def call(request: Message) -> Message:
            self._calls.append(method)
            self._fuse.burn()
            if self._gate is not None:
                await self._gate(method)
            fault = self._script(method)
            if fault is Fault.UNSENT:
                raise KeptBack
            if fault is not Fault.LOST_REQUEST:
                reply: Message = await getattr(self._local, method)(request)
            self._fuse.burn()
            if fault is not None:
                nothing = grpc.aio.Metadata()
                raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, "lost", None)
            return reply

        return call


class FusedStore:
    """A store whose user may die before it begins and after it committed."""

    def __init__(self, db: Sqlite, fuse: Fuse) -> None:
        self._db = db
        self._fuse = fuse

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[PublishingTx]:
        """Begin and commit, if alive."""
        self._fuse.burn()
        async with self._db.transaction() as tx:
            yield tx
        self._fuse.burn()

    async def fetch(self, sql: str, params: Params = (), /) -> Sequence[sqlite3.Row]:
        """Read."""
        return await self._db.fetch(sql, params)


@dataclass(frozen=True)
class Heard:
    """A message as a consumer gets it."""

    id: str
    topic: str
    key: str
    body: Body
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Town:
    """Every service once, and as many order instances as a test wants."""

    books: laws.Books
    stores: Mapping[str, Sqlite]
    users: Users
    products: Products
    inventory: Inventory
    payments: Payments
    audit: Audit
    faults: Faults = field(default_factory=Faults)
    calls: list[str] = field(default_factory=list)

    def orders(
        self,
        *,
        fuse: Fuse | None = None,
        script: Script | None = None,
        gate: Gate | None = None,
        resting: float | None = None,
    ) -> Orders:
        """Start one more order instance."""
        burning = fuse or Fuse()

        def wire(servicer: object) -> Wire:
            return Wire(servicer, fuse=burning, script=script or (lambda _: None), gate=gate, calls=self.calls)

        store: Store = FusedStore(self.stores["order"], burning)
        return Orders(
            store,
            product=cast("ProductStub", wire(ProductApi(self.products))),
            inventory=cast("InventoryStub", wire(InventoryApi(self.inventory))),
            payment=cast("PaymentStub", wire(PaymentApi(self.payments))),
            patience=PATIENCE,
            resting=lambda: resting,
            wall=lambda: 1_700_000_000.0,
        )

    def stubs(self, orders: Orders) -> tuple[UserStub, ProductStub, OrderStub]:
        """Return what a storefront needs."""
        users, products = Local(UserApi(self.users)), Local(ProductApi(self.products))
        return cast("UserStub", users), cast("ProductStub", products), cast("OrderStub", Local(OrderApi(orders)))

    async def place(self, orders: Orders, key: str = "k", *, pay: bool = True, **lines: int) -> Order:
        """Place an order for user u."""
        return await orders.place(key=key, user_id="u", lines=list((lines or {"TEA": 2}).items()), pay=pay)

    async def settle(self) -> None:
        """Let one fresh instance recover all that lies open, as often as it takes, and deliver all events."""
        orders, now = self.orders(), 0.0
        for _ in range(5):
            await orders.recover(now)
            now += PATIENCE
        rows = await self.stores["order"].fetch("SELECT * FROM msgov_outbox ORDER BY seq")
        for row in rows:
            async with self.stores["audit"].transaction() as tx:
                await self.audit.record(Heard(row["id"], row["topic"], row["key"], row["body"]), tx)
            async with self.stores["order"].transaction() as tx:
                await tx.execute("DELETE FROM msgov_outbox WHERE seq = ?", (row["seq"],))

    async def check(self, *asked: laws.Asked) -> laws.Findings:
        """Look into the books."""
        (row,) = await self.stores["order"].fetch("SELECT count(*) AS n FROM msgov_outbox")
        return laws.check(self.books, asked=asked, unsent=row["n"], dead=0)

    async def books_are_right(self, *asked: laws.Asked) -> laws.Findings:
        """Settle, then insist on every law."""
        await self.settle()
        findings = await self.check(*asked)
        assert findings.hold, findings.laws
        return findings

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path) -> AsyncIterator[Self]:
        """Open all databases, fill shelf and catalogue, close everything at the end."""
        async with AsyncExitStack() as stack:
            stores = {name: await stack.enter_async_context(store(folder, name)) for name in SCHEMAS}
            books = laws.Books(**{name: path(folder, name) for name in ("order", "inventory", "payment", "audit")})
            town = cls(
                books,
                stores,
                Users(stores["user"], cost=2),
                Products(stores["product"]),
                Inventory(stores["inventory"]),
                Payments(stores["payment"], faults=lambda: town.faults),
                Audit(stores["audit"]),
            )
            await town.products.put(*LISTINGS)
            for listing in LISTINGS:
                await town.inventory.receive(f"first-{listing.sku}", listing.sku, 100)
            yield town


def in_town(folder: Path, story: Callable[[Town], Coroutine[Any, Any, T]]) -> T:
    """Run a story in a town of its own."""

    async def tell() -> T:
        async with Town.open(folder) as town:
            return await story(town)

    return asyncio.run(tell())
