"""One row for each event of each order; one that is recorded again is counted, never hidden."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .. import checks
from ..errors import Invalid
from ..seams import Event, Store, Tx

# `times` is 1 for ever where the inbox in front does its work; the checker of the books insists on it.
SCHEMA = """
CREATE TABLE IF NOT EXISTS audit (
  order_id TEXT NOT NULL, version INTEGER NOT NULL, type TEXT NOT NULL, payload TEXT NOT NULL,
  times INTEGER NOT NULL DEFAULT 1, PRIMARY KEY (order_id, version, type)
) WITHOUT ROWID;
"""
TOPIC = "order.events"


@dataclass(frozen=True, slots=True)
class Entry:
    """What happened to an order at one version; `payload` is the event as JSON."""

    order_id: str
    version: int
    type: str
    payload: str


class Audit:
    """Record what is heard, and read it back."""

    def __init__(self, db: Store) -> None:
        self._db = db

    async def record(self, event: Event, tx: Tx) -> None:
        """Write one event down, in the transaction that also remembers that it was heard.

        Raises `Invalid` for an event that can never be understood: it belongs with the dead letters.
        """
        entry = _entry(event)
        await tx.execute(
            "INSERT INTO audit (order_id, version, type, payload) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (order_id, version, type) DO UPDATE SET times = times + 1",
            (entry.order_id, entry.version, entry.type, entry.payload),
        )

    async def entries(self, order_id: str) -> Sequence[Entry]:
        """Return what happened to an order, by version."""
        checks.identifier("order id", order_id)
        rows = await self._db.fetch(
            "SELECT order_id, version, type, payload FROM audit WHERE order_id = ? ORDER BY version, type", (order_id,)
        )
        return [Entry(*row) for row in rows]


def _entry(event: Event) -> Entry:
    body = event.body
    try:
        fields = body if isinstance(body, Mapping) else json.loads(body)
        order_id, version, kind = fields["order_id"], fields["version"], fields["type"]
        payload = json.dumps(dict(fields), sort_keys=True, separators=(",", ":"))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Invalid(f"event {event.id!a} on {event.topic!a} is no order event") from error
    if not (isinstance(order_id, str) and isinstance(kind, str) and isinstance(version, int) and version > 0):
        raise Invalid(f"event {event.id!a} on {event.topic!a} has no order_id, version (1 or more) and type")
    return Entry(order_id, version, kind, payload)
