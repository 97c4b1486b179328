"""Each service has one SQLite file of its own, shared by its instances, with its outbox and inbox in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from msgov.messaging.sqlite import Sqlite

from .audit.service import SCHEMA as AUDIT
from .inventory.service import SCHEMA as INVENTORY
from .order.book import SCHEMA as ORDER
from .payment.service import SCHEMA as PAYMENT
from .product.service import SCHEMA as PRODUCT
from .user.service import SCHEMA as USER

SCHEMAS: Final[Mapping[str, str]] = {
    "user": USER,
    "product": PRODUCT,
    "inventory": INVENTORY,
    "order": ORDER,
    "payment": PAYMENT,
    "audit": AUDIT,
}


def path(folder: Path, service: str) -> Path:
    """Say which file is a service's."""
    return folder / f"{service}.db"


def store(folder: Path, service: str) -> Sqlite:
    """Make a service's store, to be opened with `async with`; raises `KeyError` for a service that keeps nothing."""
    statements = [statement for statement in SCHEMAS[service].split(";") if statement.strip()]
    return Sqlite(path(folder, service), schema=statements, source=service)
