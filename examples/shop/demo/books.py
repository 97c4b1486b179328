"""The shop's databases, looked at from outside: what work is left, and whether the books are right."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from msgov.messaging import outbox
from msgov.messaging.embedded import Embedded

from .. import laws, stores

PATIENCE: Final = 30.0  # seconds until all must have come to rest; recovery begins after three


@dataclass(frozen=True, slots=True)
class Left:
    """What is still to be done: orders on their way, messages not sent, events that audit has not recorded."""

    open: int
    unsent: int
    unheard: int

    @property
    def nothing(self) -> bool:
        """Whether all is at rest."""
        return not (self.open or self.unsent or self.unheard)


def left(folder: Path) -> Left:
    """Count what is left; raises sqlite3.Error when a database cannot be read."""
    with _opened(folder, "order") as orders, _opened(folder, "audit") as audit:
        (open_now,) = _row(orders, "SELECT count(*) FROM orders WHERE state IN ('PENDING', 'CANCELLING')")
        (events,) = _row(orders, "SELECT count(*) FROM order_history")
        (recorded,) = _row(audit, "SELECT count(*) FROM audit")
        return Left(open_now, _unsent(orders), events - recorded)


async def settle(folder: Path) -> Left:
    """Wait until all is at rest, or the patience ends; return what is left then."""
    loop = asyncio.get_running_loop()
    until = loop.time() + PATIENCE
    while True:
        found = await asyncio.to_thread(left, folder)
        if found.nothing or loop.time() >= until:
            return found
        await asyncio.sleep(0.1)


async def check(folder: Path, asked: Iterable[laws.Asked]) -> laws.Findings:
    """Check all laws."""
    books = laws.Books(**{name: stores.path(folder, name) for name in ("order", "inventory", "payment", "audit")})
    async with Embedded(folder / "bus.db") as bus:
        dead = len(await bus.letters(most=1000))
    with _opened(folder, "order") as orders:
        unsent = _unsent(orders)
    return await asyncio.to_thread(laws.check, books, asked=list(asked), unsent=unsent, dead=dead)


def _unsent(orders: sqlite3.Connection) -> int:
    (refused,) = _row(orders, "SELECT count(*) FROM msgov_outbox_refused")
    return outbox.backlog(orders)[0] + int(refused)


def _opened(folder: Path, service: str) -> closing[sqlite3.Connection]:
    uri = f"{stores.path(folder, service).as_uri()}?mode=ro"
    return closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=5.0))


def _row(connection: sqlite3.Connection, sql: str) -> tuple[int, ...]:
    found: tuple[int, ...] = connection.execute(sql).fetchone()
    return found
