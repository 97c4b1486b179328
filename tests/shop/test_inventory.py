"""Stock moves by order id, in any order, any number of times, and the sum stays."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from shop import laws
from shop.errors import AlreadyExists, Invalid, NotFound, Refused
from shop.inventory.service import HoldState, Inventory, Level
from tests.shop.town import Town, in_town


async def level(inventory: Inventory, sku: str = "TEA") -> tuple[int, int, int]:
    """Return on_hand, reserved and sold."""
    (found,) = await inventory.levels([sku])
    return found.on_hand, found.reserved, found.sold


def test_reserve_commit_release_move_the_same_units(tmp_path: Path) -> None:
    """A release after a sale is a return: the units go back to the shelf."""

    async def story(town: Town) -> None:
        shop = town.inventory
        await shop.reserve("o", [("TEA", 3), ("POT", 1)])
        assert await level(shop) == (97, 3, 0)
        await shop.commit("o")
        assert await level(shop) == (97, 0, 3)
        await shop.release("o")
        assert await level(shop) == (100, 0, 0)
        assert await level(shop, "POT") == (100, 0, 0)

    in_town(tmp_path, story)


def test_each_step_counts_once_however_often_it_is_asked(tmp_path: Path) -> None:
    """Callers ask again after a lost reply."""

    async def story(town: Town) -> None:
        shop = town.inventory
        for _ in range(3):
            assert await shop.reserve("o", [("TEA", 3)]) is HoldState.RESERVED
        for _ in range(3):
            assert await shop.commit("o") is HoldState.COMMITTED
        assert await shop.reserve("o", [("TEA", 3)]) is HoldState.COMMITTED
        assert await level(shop) == (97, 0, 3)
        for _ in range(3):
            assert await shop.release("o") is HoldState.RELEASED
        assert await level(shop) == (100, 0, 0)

    in_town(tmp_path, story)


def test_a_late_reserve_is_refused_after_release(tmp_path: Path) -> None:
    """Else a delayed request would hold stock for an order that was given up."""

    async def story(town: Town) -> None:
        await town.inventory.release("o")
        with pytest.raises(Refused) as refused:
            await town.inventory.reserve("o", [("TEA", 3)])
        assert refused.value.reason == "RELEASED"
        with pytest.raises(Refused):
            await town.inventory.commit("o")
        assert await level(town.inventory) == (100, 0, 0)

    in_town(tmp_path, story)


def test_all_lines_are_reserved_or_none(tmp_path: Path) -> None:
    """A basket that cannot be filled must not keep half of it from others."""

    async def story(town: Town) -> None:
        with pytest.raises(Refused) as refused:
            await town.inventory.reserve("o", [("TEA", 101), ("POT", 1)])
        assert refused.value.reason == "OUT_OF_STOCK"
        assert await level(town.inventory, "POT") == (100, 0, 0)
        assert await town.inventory.reserve("o", [("POT", 1)]) is HoldState.RESERVED

    in_town(tmp_path, story)


def test_the_last_units_are_sold_once(tmp_path: Path) -> None:
    """Two instances over one file take the same shelf at the same time."""

    async def story(town: Town) -> None:
        other = Inventory(town.stores["inventory"])
        asked = [
            each.reserve(f"o{n}", [("TEA", 30)])
            for n, each in zip(range(6), itertools.cycle([town.inventory, other]), strict=False)
        ]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert answers.count(HoldState.RESERVED) == 3
        assert await level(other) == (10, 90, 0)
        assert laws.stock(town.books.inventory).holds

    in_town(tmp_path, story)


def test_other_lines_for_the_same_order_are_refused(tmp_path: Path) -> None:
    """An order id stands for one basket."""

    async def story(town: Town) -> None:
        await town.inventory.reserve("o", [("TEA", 3)])
        with pytest.raises(AlreadyExists):
            await town.inventory.reserve("o", [("TEA", 4)])
        assert await level(town.inventory) == (97, 3, 0)

    in_town(tmp_path, story)


def test_a_delivery_is_counted_once(tmp_path: Path) -> None:
    """The lorry's papers are scanned twice as often as not."""

    async def story(town: Town) -> None:
        for _ in range(2):
            assert await town.inventory.receive("lorry-1", "TEA", 50) == Level("TEA", 150, 0, 0)
        with pytest.raises(AlreadyExists):
            await town.inventory.receive("lorry-1", "TEA", 51)
        assert laws.stock(town.books.inventory).holds

    in_town(tmp_path, story)


def test_nothing_to_commit_and_nothing_stocked_are_said(tmp_path: Path) -> None:
    """An unknown order or SKU is an answer, not a silent success."""

    async def story(town: Town) -> None:
        with pytest.raises(NotFound):
            await town.inventory.commit("o")
        with pytest.raises(NotFound) as refused:
            await town.inventory.reserve("o", [("CUP", 1)])
        assert refused.value.reason == "NOT_STOCKED"

    in_town(tmp_path, story)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [("TEA", 0)],
        [("TEA", -1)],
        [("TEA", 1001)],
        [("TEA", 1), ("TEA", 1)],
        [("tea", 1)],
        [("", 1)],
        [("T" * 33, 1)],
        [(f"S{n}", 1) for n in range(51)],
    ],
)
def test_bad_lines_touch_nothing(tmp_path: Path, lines: list[tuple[str, int]]) -> None:
    """Input is checked before the transaction begins."""

    async def story(town: Town) -> None:
        with pytest.raises(Invalid):
            await town.inventory.reserve("o", lines)
        assert not await town.stores["inventory"].fetch("SELECT * FROM holds")

    in_town(tmp_path, story)
