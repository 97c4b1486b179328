"""The checker lets a right history pass, and rejects every wrong one by the law it breaks."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from shop import laws
from shop.laws import Asked, Books
from shop.order.book import Shipment
from tests.shop.town import Town, in_town

KEPT = Asked("u", "kept", "placed", lines={"TEA": 2, "POT": 1})
CONFLICT = Asked("u", "kept", "refused", lines={"TEA": 3}, reused=True)
NEVER = Asked("u", "never", "refused")
SILENT = Asked("u", "silent", "unknown", lines={"TEA": 1})


@dataclass
class History:
    """A right history to spoil: one order confirmed and shipped, one cancelled, one unpaid, one declined."""

    books: Books
    asked: list[Asked]
    unsent: int = 0
    dead: int = 0
    poisoned: int = 0

    def run(self, book: str, sql: str) -> None:
        """Change one database behind the backs of all rules."""
        with closing(sqlite3.connect(getattr(self.books, book), isolation_level=None)) as connection:
            connection.execute("PRAGMA ignore_check_constraints=ON")
            assert connection.execute(sql).rowcount != 0, "nothing was spoilt"

    def check(self) -> laws.Findings:
        """Look."""
        return laws.check(self.books, asked=self.asked, unsent=self.unsent, dead=self.dead, poisoned=self.poisoned)


@pytest.fixture
def history(tmp_path: Path) -> History:
    """Live it for real."""

    async def story(town: Town) -> History:
        orders = town.orders()
        kept = await town.place(orders, "kept", TEA=2, POT=1)
        await orders.ship(kept.id, Shipment.PACKED)
        gone = await town.place(orders, "gone", TEA=5)
        await orders.cancel(gone.id)
        await town.place(orders, "later", pay=False, TEA=7)
        await town.place(orders, "dear", GOLD=2)
        await town.books_are_right()
        asked = [replace(KEPT, order_id=kept.id), Asked("u", "gone", "placed", gone.id), CONFLICT, NEVER, SILENT]
        return History(town.books, asked)

    return in_town(tmp_path, story)


def of(key: str) -> str:
    """Name an order in SQL."""
    return f"(SELECT id FROM orders WHERE key = '{key}')"


def test_a_right_history_passes_and_is_counted(history: History) -> None:
    """Every state is in it, so a law that is too strict shows here."""
    findings = history.check()
    assert findings.hold, findings.laws
    assert findings.counts == {
        "orders": 4,
        "pending": 0,
        "unpaid": 1,
        "confirmed": 1,
        "cancelling": 0,
        "cancelled": 2,
        "captures": 2,
        "refunds": 1,
        "double_charges": 0,
        "events": 12,
        "audited": 12,
    }


def spoil(book: str, *statements: str) -> Callable[[History], None]:
    """Make a change to one database."""

    def spoiling(history: History) -> None:
        for sql in statements:
            history.run(book, sql)

    return spoiling


def amend(**facts: int) -> Callable[[History], None]:
    """Make a change to what was seen outside the databases."""

    def amending(history: History) -> None:
        for name, value in facts.items():
            setattr(history, name, value)

    return amending


def told(asked: Asked) -> Callable[[History], None]:
    """Make a change to what a shopper says."""
    return lambda history: history.asked.append(asked)


BAD = {
    "L1: a unit vanished": ("L1", spoil("inventory", "UPDATE stock SET on_hand = on_hand - 1 WHERE sku = 'TEA'")),
    "L1: more sold than there was": (
        "L1",
        spoil("inventory", "UPDATE stock SET on_hand = -1, sold = sold + on_hand + 1 WHERE sku = 'POT'"),
    ),
    "L1: stock still held for nobody": (
        "L1",
        spoil("inventory", "UPDATE stock SET on_hand = on_hand - 1, reserved = reserved + 1 WHERE sku = 'POT'"),
    ),
    "L1: sold without an order": (
        "L1",
        spoil("inventory", "UPDATE stock SET on_hand = on_hand - 1, sold = sold + 1 WHERE sku = 'POT'"),
    ),
    "L1: a sale that was never committed": (
        "L1",
        spoil("inventory", "UPDATE holds SET state = 'RESERVED' WHERE state = 'COMMITTED'"),
    ),
    "L1: a cancelled order without its mark": (
        "L1",
        spoil("inventory", "DELETE FROM holds WHERE state = 'RELEASED'"),
    ),
    "L1: other goods held than ordered": (
        "L1",
        spoil("inventory", "UPDATE hold_lines SET sku = 'GOLD' WHERE sku = 'POT'"),
    ),
    "L1: held for an order that is not": (
        "L1",
        spoil("inventory", "INSERT INTO holds VALUES ('ghost', 'RESERVED')"),
    ),
    "L2: charged twice": (
        "L2",
        spoil(
            "payment",
            "DROP INDEX ledger_once",
            "INSERT INTO ledger (order_id, kind, amount, currency)"
            " SELECT order_id, kind, amount, currency FROM ledger WHERE kind = 'capture' ORDER BY id LIMIT 1",
        ),
    ),
    "L2: confirmed and not charged": ("L2", spoil("payment", "DELETE FROM ledger WHERE id = 1")),
    "L2: charged too little": ("L2", spoil("payment", "UPDATE ledger SET amount = amount - 1 WHERE id = 1")),
    "L2: charged in another currency": ("L2", spoil("payment", "UPDATE ledger SET currency = 'XXX' WHERE id = 1")),
    "L2: cancelled and not given back": ("L2", spoil("payment", "DELETE FROM ledger WHERE kind = 'refund'")),
    "L2: given back too much": ("L2", spoil("payment", "UPDATE ledger SET amount = 9999 WHERE kind = 'refund'")),
    "L2: an unpaid order was charged": (
        "L2",
        lambda history: history.run("order", "UPDATE orders SET state = 'UNPAID' WHERE key = 'kept'"),
    ),
    "L2: charged for an order that is not": (
        "L2",
        spoil("payment", "INSERT INTO ledger (order_id, kind, amount, currency) VALUES ('ghost', 'capture', 1, 'EUR')"),
    ),
    "L3: a promised order is lost": ("L3", told(Asked("u", "kept", "placed", "lost"))),
    "L3: a promised key has no order": ("L3", told(Asked("u", "other", "placed", "lost"))),
    "L3: two orders for one key": (
        "L3",
        spoil("order", "DROP INDEX orders_by_key", "UPDATE orders SET key = 'kept' WHERE key = 'gone'"),
    ),
    "L3: refused and yet placed": ("L3", told(Asked("u", "kept", "refused"))),
    "L3: another basket than asked": ("L3", told(Asked("u", "gone", "unknown", lines={"TEA": 6}))),
    "L3: a refused basket took the place of the first": (
        "L3",
        told(Asked("u", "kept", "refused", lines={"TEA": 2, "POT": 1}, reused=True)),
    ),
    "L3: half done": ("L3", spoil("order", "UPDATE orders SET state = 'PENDING' WHERE key = 'kept'")),
    "L3: half undone": ("L3", spoil("order", "UPDATE orders SET state = 'CANCELLING' WHERE key = 'gone'")),
    "L4: an event was not audited": ("L4", spoil("audit", "DELETE FROM audit WHERE type = 'confirmed'")),
    "L4: an event was audited that never was": (
        "L4",
        spoil("audit", "UPDATE audit SET type = 'delivered' WHERE type = 'packed'"),
    ),
    "L4: an event was recorded twice": ("L4", spoil("audit", "UPDATE audit SET times = 2 WHERE type = 'packed'")),
    "L4: two events of one version": (
        "L4",
        spoil(
            "audit", "INSERT INTO audit SELECT order_id, version, 'twin', payload, 1 FROM audit WHERE type = 'packed'"
        ),
    ),
    "L4: a gap in the versions": ("L4", spoil("audit", "UPDATE audit SET version = 9 WHERE type = 'packed'")),
    "L5: a message was not sent": ("L5", amend(unsent=1)),
    "L5: a dead letter that was no poison": ("L5", amend(dead=1)),
    "L5: poison that did not die": ("L5", amend(poisoned=1)),
    "L5: a state without its event": (
        "L5",
        spoil("order", "UPDATE orders SET version = version + 1 WHERE key = 'kept'"),
    ),
    "L5: an event without its state": (
        "L5",
        spoil("order", f"INSERT INTO order_history VALUES ({of('kept')}, 4, 'shipped', 0)"),
    ),
    "L5: an event of an order that is not": (
        "L5",
        spoil("order", "INSERT INTO order_history VALUES ('ghost', 1, 'placed', 0)"),
    ),
}


@pytest.mark.parametrize(("law", "bad"), BAD.values(), ids=BAD)
def test_a_wrong_history_is_rejected_by_its_law(history: History, law: str, bad: Callable[[History], None]) -> None:
    """A green checker that has never been red proves nothing."""
    bad(history)
    findings = history.check()
    assert not findings.hold
    assert not findings.laws[law].holds
    assert findings.laws[law].violations


def test_one_fault_breaks_no_law_it_does_not_touch(history: History) -> None:
    """Else a violation would say nothing about where to look."""
    history.run("audit", "UPDATE audit SET times = 2 WHERE type = 'packed'")
    broken = [name for name, law in history.check().laws.items() if not law.holds]
    assert broken == ["L4"]


def test_double_charges_are_counted(history: History) -> None:
    """A demonstration prints the number."""
    BAD["L2: charged twice"][1](history)
    assert history.check().counts["double_charges"] == 1


def test_known_poison_is_no_violation(history: History) -> None:
    """Exactly what was put in must lie among the dead letters."""
    history.dead = history.poisoned = 3
    assert history.check().hold


def test_stock_can_be_checked_at_any_moment(history: History) -> None:
    """It needs one file and one snapshot."""
    assert laws.stock(history.books.inventory) == laws.Law(holds=True, violations=[])
    BAD["L1: a unit vanished"][1](history)
    (violation,) = laws.stock(history.books.inventory).violations
    assert "TEA" in violation


def test_many_violations_are_told_in_few_lines(history: History) -> None:
    """The first ones show where to look; the number shows how bad it is."""
    history.asked += [Asked("u", f"k{n}", "placed", "lost") for n in range(100)]
    violations = history.check().laws["L3"].violations
    assert len(violations) == laws.SHOWN + 1
    assert violations[-1] == "and 80 more"
