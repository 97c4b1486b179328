"""The rules speak of what there is, and each service is built of what it is given."""

from __future__ import annotations

import asyncio
import tomllib
from pathlib import Path

import pytest

from msgov.config.file import File
from msgov.config.rules import RuleBook
from msgov.messaging.embedded import Embedded
from msgov.messaging.message import Message
from shop import apart, stores, wiring
from shop.audit.service import TOPIC
from shop.pb import (
    audit_pb2,
    inventory_pb2,
    order_pb2,
    payment_pb2,
    product_pb2,
    user_pb2,
)

PROTOS = (audit_pb2, inventory_pb2, order_pb2, payment_pb2, product_pb2, user_pb2)
METHODS = {
    name.lower(): {method.name for method in service.methods}
    for proto in PROTOS
    for name, service in proto.DESCRIPTOR.services_by_name.items()
}


def test_the_rules_can_be_used() -> None:
    """What a reader copies must work."""
    book = RuleBook.of(File(wiring.RULES).now())
    found = book.find("call", "payment/Charge")
    assert found is not None
    assert found.rules.breaker is not None


@pytest.mark.parametrize("kind", ["call", "server"])
def test_the_rules_speak_of_methods_that_exist(kind: str) -> None:
    """A rule for a misspelt method governs nothing, and nobody is told."""
    for pattern in tomllib.loads(wiring.RULES.read_text())[kind]:
        if pattern == "*" or " " in pattern:
            continue
        service, _, method = pattern.removeprefix("/shop.v1.").partition("/")
        assert service.lower() in METHODS
        assert method == "*" or method in METHODS[service.lower()], pattern


def test_every_service_is_built_stored_and_served() -> None:
    """One list in three places: a new service is forgotten in none."""
    assert set(wiring.BUILD) == set(stores.SCHEMAS) == set(apart.ADD) == set(METHODS)


def test_the_first_day_comes_once(tmp_path: Path) -> None:
    """Two instances, or a restart, stock the shelves no second time."""

    async def story() -> int:
        await asyncio.gather(*(wiring.first_day("inventory", tmp_path) for _ in range(2)))
        await wiring.first_day("inventory", tmp_path)
        async with stores.store(tmp_path, "inventory") as store:
            (row,) = await store.fetch("SELECT count(*) AS skus, max(initial) AS most FROM stock")
            assert row["skus"] == len(wiring.CATALOGUE)
            return int(row["most"])

    assert asyncio.run(story()) == wiring.STOCK


def test_audit_records_an_event_once_under_whatever_id_it_comes(tmp_path: Path) -> None:
    """A relay that died sends it again with the id it had, a replay with a new one: it is the same event."""

    async def story() -> list[tuple[str, int, int]]:
        svc, store = wiring.service("audit", folder=tmp_path, instance=1)
        assert store is not None
        wiring.audit(wiring.Given(svc, store, lambda kind, target: kind()))
        events = [
            Message.of(TOPIC, {"order_id": "o1", "version": version, "type": "placed"}, key="o1")
            for version in (1, 1, 2, 2, 3)
        ]
        async with svc.opened(), Embedded(tmp_path / "bus.db") as bus:
            await bus.publish(*events)
            async with asyncio.timeout(20):
                while True:
                    rows = await store.fetch("SELECT order_id, version, times FROM audit ORDER BY version")
                    if len(rows) == 3:
                        break
                    await asyncio.sleep(0.01)
            assert await bus.letters() == []
        svc.close()
        return [tuple(row) for row in rows]

    assert asyncio.run(story()) == [("o1", 1, 1), ("o1", 2, 1), ("o1", 3, 1)]
