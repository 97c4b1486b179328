"""Whatever happens between claim and mark, everything committed goes out, in order, at least once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from msgov.call import PERMANENT
from msgov.errors import DeliveryError
from msgov.event import Event, Observers
from msgov.messaging import outbox
from msgov.messaging.message import Message, Poison
from msgov.messaging.relay import Relay
from msgov.messaging.sqlite import Sqlite
from msgov.testing import armed, no_leaks, raises
from tests.messaging.brokers import Flaky
from tests.messaging.waiting import until

LEASE = 0.3


def on_shop(test: Callable[[Sqlite, Flaky], Awaitable[None]]) -> Callable[[Path], None]:
    """Run a case on a fresh database and bus, and see that it leaves nothing."""

    def run(tmp_path: Path) -> None:
        async def main() -> None:
            async with no_leaks(), Sqlite(tmp_path / "shop.db") as db, Flaky() as bus:
                await test(db, bus)

        asyncio.run(main())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


async def write(db: Sqlite, *bodies: str, key: str = "k") -> None:
    """Publish, each in a transaction of its own."""
    for body in bodies:
        async with db.transaction() as tx:
            await tx.publish("t", body.encode(), key=key)


async def pending(db: Sqlite) -> int:
    """Count what waits."""
    return (await db.read(outbox.backlog))[0]


def drained(db: Sqlite) -> Callable[[], Awaitable[bool]]:
    """Make the condition that nothing waits."""

    async def empty() -> bool:
        return await pending(db) == 0

    return empty


def first_seen(messages: list[Message]) -> list[str]:
    """Return what an idempotent reader makes of it: each message once, where it came first."""
    return list(dict.fromkeys(message.body.decode() for message in messages))


NUMBERS = [str(n) for n in range(10)]


@on_shop
async def test_committed_messages_go_out_in_order(db: Sqlite, bus: Flaky) -> None:
    """What was there before and what comes later."""
    await write(db, *NUMBERS[:5])
    async with Relay(db, bus, batch=2) as relay:
        await write(db, *NUMBERS[5:])
        await until(drained(db))
        await until(lambda: relay.published == 10)
        assert relay.live
        assert (relay.pending, relay.oldest_age, relay.lost) == (0, 0.0, 0)
    assert [message.body.decode() for message in bus.stored] == NUMBERS
    assert not relay.live


@on_shop
async def test_what_is_left_goes_out_when_the_relay_stops(db: Sqlite, bus: Flaky) -> None:
    """The last event of a service must not wait for its next start."""
    async with Relay(db, bus):
        await write(db, *NUMBERS)
    assert first_seen(bus.stored) == NUMBERS
    assert await pending(db) == 0


@pytest.mark.parametrize(
    "point", ["outbox.after_claim", "outbox.after_publish_before_confirm", "outbox.after_confirm_before_mark"]
)
def test_error_at_any_step_means_again_never_left_out(tmp_path: Path, point: str) -> None:
    """And never out of order: what comes twice was first seen in its place."""

    async def main() -> None:
        async with no_leaks(), Sqlite(tmp_path / "shop.db") as db, Flaky() as bus:
            with armed(point, raises(OSError("accident")), at=2) as accident:
                async with Relay(db, bus, batch=3) as relay:
                    await write(db, *NUMBERS)
                    await until(drained(db))
            assert accident.hits >= 2
            assert relay.failures == 1
            assert first_seen(bus.stored) == NUMBERS

    asyncio.run(main())


@on_shop
async def test_bus_that_is_away_keeps_the_messages_here(db: Sqlite, bus: Flaky) -> None:
    """Nothing is lost while it is away; the numbers tell; when it is back, all goes out by itself."""
    events: list[Event] = []

    def away(messages: object) -> None:
        raise DeliveryError("the bus is away")

    bus.before = away
    async with Relay(db, bus, observers=Observers(events.append)) as relay:
        await write(db, *NUMBERS)
        await until(lambda: relay.failures >= 2 and relay.pending == 10)
        assert not relay.live
        assert isinstance(relay.error, DeliveryError)
        assert events[0].kind == "outbox.failed"
        bus.before = lambda messages: None
        await until(drained(db))
        await until(lambda: relay.live)
    assert first_seen(bus.stored) == NUMBERS


@on_shop
async def test_confirmation_that_is_lost_means_again(db: Sqlite, bus: Flaky) -> None:
    """Stored, and nobody knows: marking it sent without the confirmation would be a guess."""
    lost = iter([True, True, False])

    def after(messages: object) -> None:
        if next(lost, False):
            raise DeliveryError("connection reset")

    bus.after = after
    async with Relay(db, bus):
        await write(db, *NUMBERS)
        await until(drained(db))
    assert first_seen(bus.stored) == NUMBERS
    assert len(bus.stored) > len(NUMBERS)


@on_shop
async def test_bus_that_hangs_is_given_up_after_the_timeout(db: Sqlite, bus: Flaky) -> None:
    """A dead connection must not hold the outbox for ever."""
    hanging = iter([True, False])

    def before(messages: object) -> object:
        return asyncio.sleep(3600) if next(hanging, False) else None

    bus.before = before
    async with Relay(db, bus, timeout=0.1) as relay:
        await write(db, "x")
        await until(drained(db))
        assert relay.failures == 1


@on_shop
async def test_message_that_the_bus_never_takes_stands_aside(db: Sqlite, bus: Flaky) -> None:
    """One poisonous message must not stop all others."""

    def before(messages: tuple[Message, ...]) -> None:
        if any(message.body == b"4" for message in messages):
            raise Poison("larger than this broker takes")

    bus.before = before
    events: list[Event] = []
    async with Relay(db, bus, observers=Observers(events.append)) as relay:
        await write(db, *NUMBERS)
        await until(drained(db))
    assert first_seen(bus.stored) == [n for n in NUMBERS if n != "4"]
    assert relay.refused == 1
    assert [event.kind for event in events] == ["outbox.refused"]
    (row,) = await db.fetch("SELECT body, cause FROM msgov_outbox_refused")
    assert row["body"] == b"4"


@on_shop
async def test_only_what_the_bus_never_takes_stands_aside(db: Sqlite, bus: Flaky) -> None:
    """A bus that goes away while the poison is looked for has said nothing about the others."""

    def before(messages: tuple[Message, ...]) -> None:
        if any(message.body == b"1" for message in messages):
            raise Poison("larger than this broker takes")
        bus.before = away

    def away(messages: tuple[Message, ...]) -> None:
        bus.before = poison
        raise DeliveryError("the bus is away")

    def poison(messages: tuple[Message, ...]) -> None:
        if any(message.body == b"1" for message in messages):
            raise Poison("larger than this broker takes")

    bus.before = before
    await write(db, *NUMBERS)
    async with Relay(db, bus) as relay:
        await until(drained(db))
    assert first_seen(bus.stored) == [n for n in NUMBERS if n != "1"]
    assert (relay.refused, relay.failures) == (1, 1)


@on_shop
async def test_two_relays_send_each_message_once_and_in_order(db: Sqlite, bus: Flaky) -> None:
    """One at a time is at it, whichever was nudged."""
    async with Sqlite(db.path) as other, Relay(db, bus, batch=2) as one, Relay(other, bus, batch=2) as two:
        for n in range(40):
            await write(db if n % 3 else other, str(n), key=str(n % 4))
        await until(drained(db))
        await until(lambda: one.published + two.published >= 40)
    assert [message.body.decode() for message in bus.stored] == [str(n) for n in range(40)]
    assert one.lost == two.lost == 0


@on_shop
async def test_relay_that_stops_in_the_middle_is_replaced(db: Sqlite, bus: Flaky) -> None:
    """After the lease; what it sends late is a repetition, and first seen it is all in order."""
    stopped, go_on = asyncio.Event(), asyncio.Event()

    async def stop(messages: object) -> None:
        bus.before = lambda messages: None
        stopped.set()
        await go_on.wait()

    async with Sqlite(db.path) as other:
        frozen = Frozen(db)
        async with Relay(frozen, bus, batch=3, lease=LEASE, timeout=60) as one:
            bus.before = stop
            await write(db, *NUMBERS)
            await stopped.wait()
            frozen.still.clear()  # the whole process stands: it renews nothing
            async with Relay(other, bus, batch=3, lease=LEASE) as two:
                await until(drained(other))
                await until(lambda: two.published == 10)
                with armed("outbox.lease_expired_while_publishing", lambda: None) as noticed:
                    frozen.still.set()
                    go_on.set()
                    await until(lambda: one.lost == 1)
                assert noticed.hits > 0
    assert first_seen(bus.stored) == NUMBERS
    assert 10 < len(bus.stored) <= 13  # the first batch came twice, however many were in it


class Frozen:
    """A database as a process sees it that may be stopped at any moment."""

    def __init__(self, db: Sqlite) -> None:
        self.still = asyncio.Event()
        self.still.set()
        self._db = db
        self.read = db.read
        self.listening = db.listening

    async def write(self, fn: Callable[..., object]) -> object:
        """Wait until the process goes on."""
        await self.still.wait()
        return await self._db.write(fn)


@on_shop
async def test_relay_killed_with_the_lease_is_replaced(db: Sqlite, bus: Flaky) -> None:
    """It cannot give it up any more."""
    await write(db, *NUMBERS)
    await db.write(lambda connection: outbox.advance(connection, "a dead one", done=(), most=3))
    async with Relay(db, bus, lease=LEASE):
        await until(drained(db))
    assert first_seen(bus.stored) == NUMBERS


@on_shop
async def test_relay_that_stops_waits_for_the_lease_of_a_dead_one(db: Sqlite, bus: Flaky) -> None:
    """Within its time; or the last event of a service waits for its next start."""
    await write(db, *NUMBERS)
    await db.write(lambda connection: outbox.advance(connection, "a dead one", done=(), most=3))
    async with Relay(db, bus, lease=LEASE):
        pass
    assert first_seen(bus.stored) == NUMBERS


def test_verdict_of_poison_is_what_sets_a_message_aside() -> None:
    """A full bus may take it later; only what is PERMANENT never will."""
    assert Poison("x").verdict is PERMANENT
    assert DeliveryError("x").verdict is not PERMANENT
