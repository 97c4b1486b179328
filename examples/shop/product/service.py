"""A price is whole minor units of one currency, so that no sum is ever rounded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import checks
from ..errors import NotFound
from ..seams import Store

if TYPE_CHECKING:
    import sqlite3

SCHEMA = """
CREATE TABLE IF NOT EXISTS products (
  sku TEXT PRIMARY KEY, name TEXT NOT NULL, category TEXT NOT NULL,
  price INTEGER NOT NULL CHECK (price > 0), currency TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS products_by_category ON products (category, sku);
"""
PAGE = 20  # products on a page when nobody says otherwise
HIGHEST = 10_000_000  # minor units: a typing error above this sells nothing


@dataclass(frozen=True, slots=True)
class Listing:
    """One product for sale; `price` is of one, in minor units of `currency`."""

    sku: str
    name: str
    category: str
    price: int
    currency: str = "EUR"


class Products:
    """List, quote and change what is for sale."""

    def __init__(self, db: Store) -> None:
        self._db = db

    async def list(self, *, category: str = "", size: int = 0, after: str = "") -> tuple[Sequence[Listing], str]:
        """Return a page by SKU, and the token of the next one ("" at the end); `size` is 1 to 100, 0 for 20."""
        checks.whole("page size", size, least=0, most=100)
        if category:
            checks.text("category", category, least=1, most=40)
        if after:
            checks.matched("page token", after, checks.SKU, "one that an earlier page gave")
        wanted = size or PAGE
        rows = await self._db.fetch(
            "SELECT * FROM products WHERE sku > :after AND (:category = '' OR category = :category) "
            "ORDER BY sku LIMIT :limit",
            {"after": after, "category": category, "limit": wanted + 1},
        )
        page = [_listing(row) for row in rows[:wanted]]
        return page, page[-1].sku if len(rows) > wanted else ""

    async def categories(self) -> Sequence[str]:
        """Return the names of all categories that have a product."""
        return [row["category"] for row in await self._db.fetch("SELECT DISTINCT category FROM products ORDER BY 1")]

    async def quote(self, skus: Sequence[str]) -> Sequence[Listing]:
        """Return the listings of 1 to 50 SKUs, in the order asked; raises `NotFound` naming those not for sale."""
        checks.each_once("quote", skus)
        marks = ", ".join("?" * len(skus))
        rows = await self._db.fetch(f"SELECT * FROM products WHERE sku IN ({marks})", skus)  # noqa: S608  marks only
        found = {row["sku"]: _listing(row) for row in rows}
        if missing := [sku for sku in skus if sku not in found]:
            raise NotFound(f"not for sale: {', '.join(missing)}", reason="NOT_FOR_SALE")
        return [found[sku] for sku in skus]

    async def put(self, *listings: Listing) -> None:
        """Add products, or replace those of the same SKU."""
        for listing in listings:
            _checked(listing)
        async with self._db.transaction() as tx:
            for each in listings:
                await tx.execute(
                    "INSERT OR REPLACE INTO products VALUES (?, ?, ?, ?, ?)",
                    (each.sku, each.name, each.category, each.price, each.currency),
                )

    async def seed(self, listings: Iterable[Listing]) -> None:
        """Fill an empty catalogue; a catalogue that has been changed since is left as it is."""
        if not await self._db.fetch("SELECT 1 FROM products LIMIT 1"):
            await self.put(*listings)


def _checked(listing: Listing) -> None:
    checks.sku(listing.sku)
    checks.text("product name", listing.name, least=1, most=80)
    checks.text("category", listing.category, least=1, most=40)
    checks.whole("price", listing.price, least=1, most=HIGHEST)
    checks.matched("currency", listing.currency, checks.CURRENCY, "three capital letters (ISO 4217)")


def _listing(row: sqlite3.Row) -> Listing:
    return Listing(row["sku"], row["name"], row["category"], row["price"], row["currency"])
