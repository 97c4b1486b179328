"""Money is taken at most once an order, and what is given back stays given back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from .. import checks
from ..errors import AlreadyExists, NotFound, Refused, Unavailable
from ..seams import Store, Tx

if TYPE_CHECKING:
    import sqlite3

# The ledger is the truth about money: its index allows one capture and one refund an order, whatever the code does.
SCHEMA = """
CREATE TABLE IF NOT EXISTS payments (
  order_id TEXT PRIMARY KEY, key TEXT, state TEXT NOT NULL, amount INTEGER NOT NULL, currency TEXT NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS payments_by_key ON payments (key);
CREATE TABLE IF NOT EXISTS ledger (
  id INTEGER PRIMARY KEY, order_id TEXT NOT NULL, kind TEXT NOT NULL CHECK (kind IN ('capture', 'refund')),
  amount INTEGER NOT NULL CHECK (amount > 0), currency TEXT NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS ledger_once ON ledger (order_id, kind);
"""
_BY_ORDER = "SELECT * FROM payments WHERE order_id = ?"
LIMIT = 1_000_000  # minor units: every card of this shop's customers declines more


class PaymentState(StrEnum):
    """CAPTURED holds the money; REFUNDED gave it back; VOIDED never took it and never will."""

    CAPTURED = "CAPTURED"
    REFUNDED = "REFUNDED"
    VOIDED = "VOIDED"


@dataclass(frozen=True, slots=True)
class Payment:
    """What became of an order's money; `amount` is what was captured, in minor units."""

    order_id: str
    state: PaymentState
    amount: int
    currency: str


@dataclass(frozen=True, slots=True)
class Faults:
    """What to suffer from: `slow_seconds` before each capture, `fail_ratio` of captures (0 to 1) that fail."""

    slow_seconds: float = 0.0
    fail_ratio: float = 0.0


CALM: Final = Faults()


class Payments:
    """Charge and refund by order id: every call may be repeated, and come in any order.

    `faults` is asked at each charge, so a change of settings counts at once; `chance` gives numbers in [0, 1).
    """

    def __init__(
        self, db: Store, *, faults: Callable[[], Faults] = lambda: CALM, chance: Callable[[], float] = random.random
    ) -> None:
        self._db = db
        self._faults = faults
        self._chance = chance

    async def charge(self, order_id: str, amount: int, currency: str, *, key: str) -> Payment:
        """Take `amount` minor units, once.

        Raises `Refused` DECLINED above the card's limit and VOIDED when the order has been refunded or given up;
        `AlreadyExists` for another amount or key than the first time; `Unavailable` when the fault says so.
        """
        checks.identifier("order id", order_id)
        checks.idempotency_key(key)
        checks.whole("amount", amount, least=1, most=2**53)
        checks.matched("currency", currency, checks.CURRENCY, "three capital letters (ISO 4217)")
        if amount > LIMIT:
            raise Refused("the card was declined", reason="DECLINED")
        if (known := _known(await self._db.fetch(_BY_ORDER, (order_id,)), amount, currency, key)) is not None:
            return known
        await self._suffer()
        async with self._db.transaction() as tx:
            # Asked again inside: another instance may have charged, or given up, while this one was slow.
            if (known := _known(await tx.execute(_BY_ORDER, (order_id,)), amount, currency, key)) is not None:
                return known
            if await tx.execute("SELECT 1 FROM payments WHERE key = ?", (key,)):
                raise AlreadyExists("the idempotency key belongs to another order", reason="KEY_REUSED")
            await tx.execute(
                "INSERT INTO payments VALUES (?, ?, ?, ?, ?)", (order_id, key, PaymentState.CAPTURED, amount, currency)
            )
            await _book(tx, order_id, "capture", amount, currency)
        return Payment(order_id, PaymentState.CAPTURED, amount, currency)

    async def refund(self, order_id: str) -> Payment:
        """Give back what was taken; what was never taken is voided, so that a late charge is refused."""
        checks.identifier("order id", order_id)
        async with self._db.transaction() as tx:
            rows = await tx.execute(_BY_ORDER, (order_id,))
            if not rows:
                await tx.execute("INSERT INTO payments VALUES (?, NULL, ?, 0, '')", (order_id, PaymentState.VOIDED))
                return Payment(order_id, PaymentState.VOIDED, 0, "")
            payment = _payment(rows[0])
            if payment.state is not PaymentState.CAPTURED:
                return payment
            await tx.execute("UPDATE payments SET state = ? WHERE order_id = ?", (PaymentState.REFUNDED, order_id))
            await _book(tx, order_id, "refund", payment.amount, payment.currency)
        return replace(payment, state=PaymentState.REFUNDED)

    async def find(self, order_id: str) -> Payment:
        """Return what became of an order's money; raises `NotFound` when nobody ever asked for any."""
        checks.identifier("order id", order_id)
        rows = await self._db.fetch(_BY_ORDER, (order_id,))
        if not rows:
            raise NotFound("there is no payment for this order")
        return _payment(rows[0])

    async def _suffer(self) -> None:
        faults = self._faults()
        if faults.slow_seconds > 0:
            await asyncio.sleep(faults.slow_seconds)
        if faults.fail_ratio > 0 and self._chance() < faults.fail_ratio:
            raise Unavailable("the bank does not answer", reason="BANK_DOWN")


def _known(rows: Sequence[sqlite3.Row], amount: int, currency: str, key: str) -> Payment | None:
    if not rows:
        return None
    payment = _payment(rows[0])
    if payment.state is not PaymentState.CAPTURED:
        raise Refused("the order has been given up", reason="VOIDED")
    if (payment.amount, payment.currency, rows[0]["key"]) != (amount, currency, key):
        raise AlreadyExists("this order has been charged otherwise", reason="OTHER_CHARGE")
    return payment


def _payment(row: sqlite3.Row) -> Payment:
    return Payment(row["order_id"], PaymentState(row["state"]), row["amount"], row["currency"])


async def _book(tx: Tx, order_id: str, kind: str, amount: int, currency: str) -> None:
    await tx.execute(
        "INSERT INTO ledger (order_id, kind, amount, currency) VALUES (?, ?, ?, ?)", (order_id, kind, amount, currency)
    )
