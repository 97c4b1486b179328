"""Stock moves between shelf, hold and sold, never out of the sum, once an order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from .. import checks
from ..errors import AlreadyExists, NotFound, Refused
from ..seams import Store, Tx

# The database itself keeps the law: whatever the code does, initial = on_hand + reserved + sold, none below zero.
SCHEMA = """
CREATE TABLE IF NOT EXISTS stock (
  sku TEXT PRIMARY KEY, initial INTEGER NOT NULL, on_hand INTEGER NOT NULL CHECK (on_hand >= 0),
  reserved INTEGER NOT NULL DEFAULT 0 CHECK (reserved >= 0), sold INTEGER NOT NULL DEFAULT 0 CHECK (sold >= 0),
  CHECK (initial = on_hand + reserved + sold)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS deliveries (
  id TEXT PRIMARY KEY, sku TEXT NOT NULL, quantity INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS holds (order_id TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hold_lines (
  order_id TEXT NOT NULL REFERENCES holds (order_id), sku TEXT NOT NULL REFERENCES stock (sku),
  quantity INTEGER NOT NULL CHECK (quantity > 0), PRIMARY KEY (order_id, sku)
) WITHOUT ROWID;
"""


class HoldState(StrEnum):
    """Where the stock of an order is: set aside, sold, or back on the shelf for good."""

    RESERVED = "RESERVED"
    COMMITTED = "COMMITTED"
    RELEASED = "RELEASED"


@dataclass(frozen=True, slots=True)
class Level:
    """How much there is of one SKU."""

    sku: str
    on_hand: int
    reserved: int
    sold: int


class Inventory:
    """Reserve, commit and release by order id: every call may be repeated, and come in any order."""

    def __init__(self, db: Store) -> None:
        self._db = db

    async def reserve(self, order_id: str, lines: Sequence[tuple[str, int]]) -> HoldState:
        """Set all lines aside, or none.

        Raises `Refused` OUT_OF_STOCK, or RELEASED when the order has been given up before; `NotFound` for a SKU that
        is not stocked; `AlreadyExists` when other lines are held for this order.
        """
        checks.identifier("order id", order_id)
        wanted = checks.lines("reservation", lines)
        async with self._db.transaction() as tx:
            state = await _state(tx, order_id)
            if state is HoldState.RELEASED:
                raise Refused("the order has been given up", reason="RELEASED")
            if state is not None:
                if await _held(tx, order_id) != wanted:
                    raise AlreadyExists("other lines are held for this order", reason="OTHER_LINES")
                return state
            await tx.execute("INSERT INTO holds VALUES (?, ?)", (order_id, HoldState.RESERVED))
            for sku, quantity in wanted.items():
                await _take(tx, sku, quantity)
                await tx.execute("INSERT INTO hold_lines VALUES (?, ?, ?)", (order_id, sku, quantity))
        return HoldState.RESERVED

    async def commit(self, order_id: str) -> HoldState:
        """Count what is set aside as sold; raises `NotFound` when nothing is, `Refused` RELEASED when given up."""
        checks.identifier("order id", order_id)
        async with self._db.transaction() as tx:
            state = await _state(tx, order_id)
            if state is None:
                raise NotFound("nothing is reserved for this order")
            if state is HoldState.RELEASED:
                raise Refused("the order has been given up", reason="RELEASED")
            if state is HoldState.RESERVED:
                for sku, quantity in (await _held(tx, order_id)).items():
                    await tx.execute(
                        "UPDATE stock SET reserved = reserved - :n, sold = sold + :n WHERE sku = :sku",
                        {"n": quantity, "sku": sku},
                    )
                await tx.execute("UPDATE holds SET state = ? WHERE order_id = ?", (HoldState.COMMITTED, order_id))
        return HoldState.COMMITTED

    async def release(self, order_id: str) -> HoldState:
        """Put back what was set aside or sold; what was never reserved is marked, so that a late reserve is refused."""
        checks.identifier("order id", order_id)
        async with self._db.transaction() as tx:
            state = await _state(tx, order_id)
            if state in (HoldState.RESERVED, HoldState.COMMITTED):
                reserved, sold = (1, 0) if state is HoldState.RESERVED else (0, 1)
                for sku, quantity in (await _held(tx, order_id)).items():
                    await tx.execute(
                        "UPDATE stock SET on_hand = on_hand + :n, reserved = reserved - :n * :reserved,"
                        " sold = sold - :n * :sold WHERE sku = :sku",
                        {"n": quantity, "reserved": reserved, "sold": sold, "sku": sku},
                    )
            if state is not HoldState.RELEASED:
                await tx.execute(
                    "INSERT INTO holds VALUES (:id, :state) ON CONFLICT (order_id) DO UPDATE SET state = :state",
                    {"id": order_id, "state": HoldState.RELEASED},
                )
        return HoldState.RELEASED

    async def receive(self, delivery_id: str, sku: str, quantity: int) -> Level:
        """Put a delivery of 1 to 1,000,000 on the shelf, once."""
        checks.identifier("delivery id", delivery_id)
        checks.sku(sku)
        checks.whole("delivered quantity", quantity, least=1, most=1_000_000)
        async with self._db.transaction() as tx:
            known = await tx.execute("SELECT sku, quantity FROM deliveries WHERE id = ?", (delivery_id,))
            if known and tuple(known[0]) != (sku, quantity):
                raise AlreadyExists("this delivery was another one", reason="OTHER_DELIVERY")
            if not known:
                await tx.execute("INSERT INTO deliveries VALUES (?, ?, ?)", (delivery_id, sku, quantity))
                await tx.execute(
                    "INSERT INTO stock (sku, initial, on_hand) VALUES (:sku, :n, :n) ON CONFLICT (sku)"
                    " DO UPDATE SET initial = initial + :n, on_hand = on_hand + :n",
                    {"sku": sku, "n": quantity},
                )
            rows = await tx.execute("SELECT sku, on_hand, reserved, sold FROM stock WHERE sku = ?", (sku,))
        return Level(*rows[0])

    async def levels(self, skus: Sequence[str]) -> Sequence[Level]:
        """Return what there is of 1 to 50 SKUs; those never stocked are left out."""
        checks.each_once("question", skus)
        marks = ", ".join("?" * len(skus))
        rows = await self._db.fetch(
            f"SELECT sku, on_hand, reserved, sold FROM stock WHERE sku IN ({marks}) ORDER BY sku",  # noqa: S608  marks
            skus,
        )
        return [Level(*row) for row in rows]


async def _state(tx: Tx, order_id: str) -> HoldState | None:
    rows = await tx.execute("SELECT state FROM holds WHERE order_id = ?", (order_id,))
    return HoldState(rows[0]["state"]) if rows else None


async def _held(tx: Tx, order_id: str) -> Mapping[str, int]:
    rows = await tx.execute("SELECT sku, quantity FROM hold_lines WHERE order_id = ? ORDER BY sku", (order_id,))
    return {row["sku"]: row["quantity"] for row in rows}


async def _take(tx: Tx, sku: str, quantity: int) -> None:
    taken = await tx.execute(
        "UPDATE stock SET on_hand = on_hand - :n, reserved = reserved + :n WHERE sku = :sku AND on_hand >= :n"
        " RETURNING sku",
        {"n": quantity, "sku": sku},
    )
    if not taken:
        if not await tx.execute("SELECT 1 FROM stock WHERE sku = ?", (sku,)):
            raise NotFound(f"{sku} is not stocked", reason="NOT_STOCKED")
        raise Refused(f"{sku} is out of stock", reason="OUT_OF_STOCK")
