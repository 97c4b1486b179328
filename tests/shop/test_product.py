"""The catalogue is read in pages, quoted in the order asked, and changed whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from shop.errors import Invalid, NotFound
from shop.product.catalogue import CATALOGUE
from shop.product.service import Listing, Products
from tests.shop.town import LISTINGS, Town, in_town


def test_pages_follow_each_other_without_gap_or_repeat(tmp_path: Path) -> None:
    """The token is the last SKU, so products that come and go meanwhile shift nothing."""

    async def story(town: Town) -> None:
        await town.products.put(*CATALOGUE)
        seen, after = [], ""
        while True:
            page, after = await town.products.list(size=7, after=after)
            seen += [listing.sku for listing in page]
            if not after:
                break
        assert seen == sorted({listing.sku for listing in (*CATALOGUE, *LISTINGS)})

    in_town(tmp_path, story)


def test_a_category_is_listed_alone(tmp_path: Path) -> None:
    """Categories are those that have a product."""

    async def story(town: Town) -> None:
        page, after = await town.products.list(category="things")
        assert ([listing.sku for listing in page], after) == (["GOLD", "POT"], "")
        assert await town.products.categories() == ["drinks", "things"]

    in_town(tmp_path, story)


def test_a_quote_keeps_the_order_asked_and_names_what_is_missing(tmp_path: Path) -> None:
    """A basket with one unknown product is not priced at all."""

    async def story(town: Town) -> None:
        assert [listing.sku for listing in await town.products.quote(["TEA", "GOLD", "POT"])] == ["TEA", "GOLD", "POT"]
        with pytest.raises(NotFound, match="not for sale: CUP, FORK"):
            await town.products.quote(["CUP", "TEA", "FORK"])

    in_town(tmp_path, story)


def test_seeding_fills_an_empty_catalogue_only(tmp_path: Path) -> None:
    """A restart must not undo a change of price."""

    async def story(town: Town) -> None:
        async with town.stores["product"].transaction() as tx:
            await tx.execute("DELETE FROM products")
        products = Products(town.stores["product"])
        await products.seed(CATALOGUE)
        first = CATALOGUE[0]
        await products.put(Listing(first.sku, first.name, first.category, 1))
        await products.seed(CATALOGUE)
        assert (await products.quote([first.sku]))[0].price == 1

    in_town(tmp_path, story)


@pytest.mark.parametrize(
    "listing",
    [
        Listing("tea", "Tea", "drinks", 1),
        Listing("TEA", "", "drinks", 1),
        Listing("TEA", "Tea", "", 1),
        Listing("TEA", "Tea", "drinks", 0),
        Listing("TEA", "Tea", "drinks", 10_000_001),
        Listing("TEA", "Tea", "drinks", 1, "euro"),
    ],
)
def test_bad_listings_are_refused(tmp_path: Path, listing: Listing) -> None:
    """Among good ones too: all are put or none."""

    async def story(town: Town) -> None:
        with pytest.raises(Invalid):
            await town.products.put(Listing("CUP", "Cup", "things", 1), listing)
        with pytest.raises(NotFound):
            await town.products.quote(["CUP"])

    in_town(tmp_path, story)


@pytest.mark.parametrize(("size", "after"), [(-1, ""), (101, ""), (0, "' OR 1=1 --"), (0, "x")])
def test_bad_pages_are_refused(tmp_path: Path, size: int, after: str) -> None:
    """A page is bounded, and a token is a SKU."""

    async def story(town: Town) -> None:
        with pytest.raises(Invalid):
            await town.products.list(size=size, after=after)

    in_town(tmp_path, story)
