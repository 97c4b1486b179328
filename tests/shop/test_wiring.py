"""The rules speak of what there is, and each service is built of what it is given."""

from __future__ import annotations

import asyncio
import tomllib
from pathlib import Path

import pytest

from msgov.config.file import File
from msgov.config.rules import RuleBook
from shop import apart, stores, wiring
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
