"""One instance of a small service, to be killed: it places orders, relays their events, and audits all of them.

    python -m tests.messaging.worker FOLDER FIRST STEP COUNT

places the orders FIRST, FIRST + STEP, ... below COUNT that are not placed yet, and ends when the books are complete.
Order 7 is poison.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from msgov.failpoint import arm_from_env
from msgov.messaging.consumer import Consumer
from msgov.messaging.consumption import ConsumerRule
from msgov.messaging.embedded import Embedded
from msgov.messaging.message import Message, Poison
from msgov.messaging.relay import Relay
from msgov.messaging.sqlite import Sqlite
from msgov.messaging.transaction import Tx

POISON = 7
KEYS = 5
LEASE = 0.5
ORDERS = ("CREATE TABLE IF NOT EXISTS placed (n INTEGER PRIMARY KEY)",)
AUDIT = ("CREATE TABLE IF NOT EXISTS effect (id INTEGER PRIMARY KEY, n INTEGER, key TEXT)",)


async def record(event: Message, tx: Tx) -> None:
    """Have the effect."""
    n = event.json()["n"]
    await tx.execute("INSERT INTO effect (n, key) VALUES (?, ?)", (n, event.key))
    if n == POISON:
        raise Poison("unwanted")


async def place(orders: Sqlite, n: int) -> None:
    """Place an order with its event, unless it is placed."""
    async with orders.transaction() as tx:
        if await tx.execute("SELECT 1 FROM placed WHERE n = ?", (n,)):
            return
        await tx.execute("INSERT INTO placed VALUES (?)", (n,))
        await tx.publish("order", {"n": n}, key=str(n % KEYS))


async def main(folder: Path, first: int, step: int, count: int) -> None:
    """Work until the books are complete."""
    async with (
        Embedded(folder / "bus.db", lease=LEASE) as bus,
        Sqlite(folder / "orders.db", schema=ORDERS) as orders,
        Sqlite(folder / "audit.db", schema=AUDIT) as audit,
        Relay(orders, bus, batch=3, lease=LEASE),
        Consumer(
            bus,
            "order",
            record,
            group="audit",
            database=audit,
            rule=ConsumerRule(delays=(0.0, 0.05, 0.05, 0.05), concurrency=4),
        ) as consumer,
    ):
        for n in range(first, count, step):
            await place(orders, n)
        while True:
            await asyncio.sleep(0.05)
            (unsent,) = (await orders.fetch("SELECT count(*) FROM msgov_outbox"))[0]
            (done,) = (await audit.fetch("SELECT count(DISTINCT n) FROM effect"))[0]
            if unsent == 0 and done >= count - 1 and await bus.letters() and consumer.live and consumer.lag == 0:
                return


if __name__ == "__main__":
    arm_from_env()
    asyncio.run(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))
