"""An order changes only by a turn: state, version, history row and event in one transaction, or none of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from ..errors import AlreadyExists, NotFound
from ..seams import PublishingTx, Read, Tx

SCHEMA = """
CREATE TABLE IF NOT EXISTS orders (
  id TEXT PRIMARY KEY, user_id TEXT NOT NULL, key TEXT NOT NULL, digest TEXT NOT NULL, state TEXT NOT NULL,
  reason TEXT NOT NULL, pay INTEGER NOT NULL, owes_refund INTEGER NOT NULL, total INTEGER NOT NULL,
  currency TEXT NOT NULL, shipment TEXT NOT NULL, tracking TEXT NOT NULL, version INTEGER NOT NULL,
  claim INTEGER NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS orders_by_key ON orders (user_id, key);
CREATE INDEX IF NOT EXISTS orders_open ON orders (claim) WHERE state IN ('PENDING', 'CANCELLING');
CREATE TABLE IF NOT EXISTS order_lines (
  order_id TEXT NOT NULL REFERENCES orders (id), sku TEXT NOT NULL, quantity INTEGER NOT NULL, price INTEGER NOT NULL,
  PRIMARY KEY (order_id, sku)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS order_history (
  order_id TEXT NOT NULL REFERENCES orders (id), version INTEGER NOT NULL, type TEXT NOT NULL, at REAL NOT NULL,
  PRIMARY KEY (order_id, version)
) WITHOUT ROWID;
"""
TOPIC = "order.events"


class State(StrEnum):
    """PENDING and CANCELLING are being worked on; the others rest."""

    PENDING = "PENDING"
    UNPAID = "UNPAID"
    CONFIRMED = "CONFIRMED"
    CANCELLING = "CANCELLING"
    CANCELLED = "CANCELLED"


class Shipment(StrEnum):
    """How far a confirmed order has come, in this order."""

    NONE = "NONE"
    PACKED = "PACKED"
    SHIPPED = "SHIPPED"
    DELIVERED = "DELIVERED"


# Every change of state there is: the event's type, from where, to where.
TURNS: Final[Mapping[str, tuple[frozenset[State], State]]] = {
    "unpaid": (frozenset({State.PENDING}), State.UNPAID),
    "paying": (frozenset({State.UNPAID}), State.PENDING),
    "confirmed": (frozenset({State.PENDING}), State.CONFIRMED),
    "cancelling": (frozenset({State.PENDING, State.UNPAID, State.CONFIRMED}), State.CANCELLING),
    "cancelled": (frozenset({State.CANCELLING}), State.CANCELLED),
    "packed": (frozenset({State.CONFIRMED}), State.CONFIRMED),
    "shipped": (frozenset({State.CONFIRMED}), State.CONFIRMED),
    "delivered": (frozenset({State.CONFIRMED}), State.CONFIRMED),
}


@dataclass(frozen=True, slots=True)
class Line:
    """One SKU of an order; `price` is of one, as it was when the order was placed."""

    sku: str
    quantity: int
    price: int


@dataclass(frozen=True, slots=True)
class Order:
    """An order as it stood at `version`.

    `pay` says that the saga goes on to charge. `owes_refund` says that a charge may have been sent. `claim` moves with
    every write: who remembers an old one knows that somebody else has been at work. `retry_after` is not stored: it is
    the hint of the call that made this value, in seconds.
    """

    id: str
    user_id: str
    lines: tuple[Line, ...]
    total: int
    currency: str
    state: State = State.PENDING
    reason: str = ""
    pay: bool = True
    owes_refund: bool = False
    shipment: Shipment = Shipment.NONE
    tracking: str = ""
    version: int = 1
    claim: int = 1
    retry_after: float | None = None


def digest(lines: Mapping[str, int], *, pay: bool) -> str:
    """Fingerprint what was asked, so that a key used for something else is noticed."""
    return hashlib.sha256(json.dumps([sorted(lines.items()), pay]).encode()).hexdigest()


async def load(read: Read, order_id: str) -> Order:
    """Read an order; raises `NotFound`."""
    rows = await read("SELECT * FROM orders WHERE id = ?", (order_id,))
    if not rows:
        raise NotFound("there is no such order")
    row = rows[0]
    lines = await read("SELECT sku, quantity, price FROM order_lines WHERE order_id = ? ORDER BY sku", (order_id,))
    return Order(
        id=row["id"],
        user_id=row["user_id"],
        lines=tuple(Line(*line) for line in lines),
        total=row["total"],
        currency=row["currency"],
        state=State(row["state"]),
        reason=row["reason"],
        pay=bool(row["pay"]),
        owes_refund=bool(row["owes_refund"]),
        shipment=Shipment(row["shipment"]),
        tracking=row["tracking"],
        version=row["version"],
        claim=row["claim"],
    )


async def placed(read: Read, user_id: str, key: str, fingerprint: str) -> Order | None:
    """Find the order that a user placed with `key`; raises `AlreadyExists` when it was for something else."""
    rows = await read("SELECT id, digest FROM orders WHERE user_id = ? AND key = ?", (user_id, key))
    if not rows:
        return None
    if rows[0]["digest"] != fingerprint:
        raise AlreadyExists("this idempotency key was used for another order", reason="KEY_REUSED")
    return await load(read, rows[0]["id"])


async def claim(tx: Tx, order: Order) -> Order:
    """Move the claim, so that whoever watches or worked on it knows that the work is in other hands now."""
    await tx.execute("UPDATE orders SET claim = claim + 1 WHERE id = ?", (order.id,))
    return replace(order, claim=order.claim + 1)


async def open_new(tx: PublishingTx, order: Order, *, key: str, fingerprint: str, at: float) -> None:
    """Write a new order down."""
    await tx.execute(
        "INSERT INTO orders VALUES (:id, :user_id, :key, :digest, :state, :reason, :pay, :owes_refund, :total,"
        " :currency, :shipment, :tracking, :version, :claim)",
        {**_columns(order), "user_id": order.user_id, "key": key, "digest": fingerprint, "total": order.total}
        | {"currency": order.currency, "version": order.version, "claim": order.claim},
    )
    for line in order.lines:
        await tx.execute("INSERT INTO order_lines VALUES (?, ?, ?, ?)", (order.id, line.sku, line.quantity, line.price))
    await _tell(tx, order, "placed", at)


async def turn(tx: PublishingTx, order: Order, kind: str, *, at: float) -> Order:
    """Make the change `kind` to `order`, which was loaded in this transaction and carries the new facts."""
    origins, state = TURNS[kind]
    if order.state not in origins:
        raise ValueError(f"an order that is {order.state} cannot be {kind}")
    turned = replace(order, state=state, version=order.version + 1, claim=order.claim + 1)
    await tx.execute(
        "UPDATE orders SET state = :state, reason = :reason, pay = :pay, owes_refund = :owes_refund,"
        " shipment = :shipment, tracking = :tracking, version = version + 1, claim = claim + 1 WHERE id = :id",
        _columns(turned),
    )
    await _tell(tx, turned, kind, at)
    return turned


async def _tell(tx: PublishingTx, order: Order, kind: str, at: float) -> None:
    await tx.execute("INSERT INTO order_history VALUES (?, ?, ?, ?)", (order.id, order.version, kind, at))
    body = {"order_id": order.id, "version": order.version, "type": kind, "state": order.state, "reason": order.reason}
    body |= {"user_id": order.user_id, "total": order.total, "currency": order.currency, "at": at}
    await tx.publish(TOPIC, body, key=order.id)


def _columns(order: Order) -> dict[str, str | int | float | None]:
    return {
        "id": order.id,
        "state": order.state,
        "reason": order.reason,
        "pay": order.pay,
        "owes_refund": order.owes_refund,
        "shipment": order.shipment,
        "tracking": order.tracking,
    }
