"""The books are read from outside, and what is still to be done is seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from msgov.messaging.embedded import Embedded
from msgov.messaging.message import Message
from shop.demo import books
from shop.demo.books import Left
from shop.laws import Asked
from tests.shop.town import Crash, Fuse, Town, in_town


def test_what_is_left_is_counted(tmp_path: Path) -> None:
    """Orders on their way, messages in the outbox, events that audit has not heard."""

    async def story(town: Town) -> None:
        assert books.left(tmp_path).nothing
        await town.place(town.orders(), "done")
        with pytest.raises(Crash):
            await town.place(town.orders(fuse=Fuse(at=6)), "open")
        assert books.left(tmp_path) == Left(open=1, unsent=3, unheard=3)
        await town.settle()
        assert await books.settle(tmp_path) == Left(0, 0, 0)

    in_town(tmp_path, story)


def test_settling_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shop that never comes to rest is told of, not waited for for ever."""
    monkeypatch.setattr(books, "PATIENCE", 0.2)

    async def story(town: Town) -> None:
        await town.place(town.orders())
        assert not (await books.settle(tmp_path)).nothing

    in_town(tmp_path, story)


def test_all_laws_are_checked_with_what_bus_and_outbox_hold(tmp_path: Path) -> None:
    """A dead letter and an unsent message break L5, a lost promise L3."""

    async def story(town: Town) -> None:
        order = await town.place(town.orders())
        await town.settle()
        assert (await books.check(tmp_path, [Asked("u", "k", "placed", order.id)])).hold
        async with Embedded(tmp_path / "bus.db") as bus, bus.subscribe("t", group="g") as reader:
            await bus.publish(Message("t", b"{}"))
            (delivery,) = await reader.fetch(1, wait=5.0)
            await reader.dead(delivery, "poison")
        await town.place(town.orders(), "unsent")
        found = await books.check(tmp_path, [Asked("u", "k", "placed", "other")])
        broken = {name for name, law in found.laws.items() if not law.holds}
        assert broken == {"L3", "L4", "L5"}

    in_town(tmp_path, story)
