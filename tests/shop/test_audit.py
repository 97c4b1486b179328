"""Each event of an order stands in the trail once, and what stands there twice can be seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shop.errors import Invalid
from shop.seams import Body
from tests.shop.town import Heard, Town, in_town


async def hear(town: Town, body: Body) -> None:
    """Deliver one message."""
    async with town.stores["audit"].transaction() as tx:
        await town.audit.record(Heard("m1", "order.events", "o", body), tx)


def test_bytes_and_mappings_are_the_same_event(tmp_path: Path) -> None:
    """A bus in memory may hand over the mapping itself."""

    async def story(town: Town) -> None:
        body = {"order_id": "o", "version": 1, "type": "placed", "total": 5}
        await hear(town, body)
        await hear(town, json.dumps(body | {"version": 2}).encode())
        entries = await town.audit.entries("o")
        assert [entry.version for entry in entries] == [1, 2]
        assert json.loads(entries[0].payload) == body

    in_town(tmp_path, story)


def test_a_second_recording_is_counted_not_hidden(tmp_path: Path) -> None:
    """A row that swallowed repeats would make a broken inbox look well."""

    async def story(town: Town) -> None:
        body = {"order_id": "o", "version": 1, "type": "placed"}
        await hear(town, body)
        await hear(town, body)
        assert len(await town.audit.entries("o")) == 1
        ((times,),) = await town.stores["audit"].fetch("SELECT times FROM audit")
        assert times == 2

    in_town(tmp_path, story)


def test_the_row_goes_when_the_transaction_goes(tmp_path: Path) -> None:
    """Effect and memory of the message commit together; so they also vanish together."""

    async def story(town: Town) -> None:
        event = Heard("m1", "order.events", "o", {"order_id": "o", "version": 1, "type": "placed"})

        async def record_then_fail() -> None:
            async with town.stores["audit"].transaction() as tx:
                await town.audit.record(event, tx)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await record_then_fail()
        assert not await town.audit.entries("o")

    in_town(tmp_path, story)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b"[" * 100_000,
        {"order_id": "o", "version": 1},
        {"order_id": "o", "version": 0, "type": "placed"},
        {"order_id": "o", "version": "1", "type": "placed"},
        {"order_id": 7, "version": 1, "type": "placed"},
        {"order_id": "o", "version": 1, "type": "placed", "odd": object()},
    ],
)
def test_poison_is_named_and_leaves_no_row(tmp_path: Path, body: Body) -> None:
    """What can never be understood must not be retried for ever."""

    async def story(town: Town) -> None:
        with pytest.raises(Invalid, match=r"'m1' on 'order\.events'"):
            await hear(town, body)
        assert not await town.stores["audit"].fetch("SELECT * FROM audit")

    in_town(tmp_path, story)
