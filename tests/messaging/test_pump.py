"""Whoever waits is woken: by a publish, a redrive, a halt; polling is for hints that were lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from msgov.messaging import pump
from msgov.messaging.bus import Bus, Subscription
from msgov.messaging.embedded import Embedded
from msgov.messaging.memory import Memory
from msgov.messaging.message import Message

Make = Callable[[Path], Bus]
Act = Callable[[Bus, Subscription], Awaitable[object]]

MAKERS = [lambda folder: Memory(), lambda folder: Embedded(folder / "bus.db")]


@pytest.fixture(params=MAKERS, ids=["memory", "embedded"])
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Give a way to make a bus whose poll would come far too late."""
    monkeypatch.setattr(pump, "POLL", 3600.0)
    found: Make = request.param
    return found


def waits(make: Make, folder: Path, act: Act, *, before: Act | None = None) -> int:
    """Let a fetch wait, act, and return how many messages the fetch found; fails if it sleeps on."""

    async def main() -> int:
        async with make(folder) as bus, bus.subscribe("t", group="g") as group:
            if before is not None:
                await before(bus, group)
            waiting = asyncio.create_task(group.fetch(1, wait=3600))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            await act(bus, group)
            return len(await asyncio.wait_for(waiting, 5))

    return asyncio.run(main())


async def publish(bus: Bus, group: Subscription) -> None:
    """Publish a message."""
    await bus.publish(Message("t"))


async def redrive(bus: Bus, group: Subscription) -> None:
    """Redrive the one dead letter."""
    (letter,) = await bus.letters()
    await bus.redrive(letter.number)


async def bury(bus: Bus, group: Subscription) -> None:
    """Make one dead letter."""
    await bus.publish(Message("t"))
    (held,) = await group.fetch(1, wait=1)
    await group.dead(held, "poison")


async def halt(bus: Bus, group: Subscription) -> None:
    """Halt the subscription."""
    group.halt()


def test_publish_wakes(make: Make, tmp_path: Path) -> None:
    """An event waits for no poll."""
    assert waits(make, tmp_path, publish) == 1


def test_redrive_wakes(make: Make, tmp_path: Path) -> None:
    """An operator watches it."""
    assert waits(make, tmp_path, redrive, before=bury) == 1


def test_halt_wakes(make: Make, tmp_path: Path) -> None:
    """A service that stops has no time to wait."""
    assert waits(make, tmp_path, halt) == 0


def test_delay_ends_by_itself(make: Make, tmp_path: Path) -> None:
    """Nobody rings when a delay is over: the fetch knows the time."""

    async def main() -> None:
        async with make(tmp_path) as bus, bus.subscribe("t", group="g") as group:
            await bus.publish(Message("t"))
            (held,) = await group.fetch(1, wait=1)
            await group.retry_later(held, 0.05)
            assert len(await asyncio.wait_for(group.fetch(1, wait=3600), 5)) == 1

    asyncio.run(main())


def test_message_is_found_by_the_poll_where_the_bell_is_lost(tmp_path: Path) -> None:
    """The hint is a hint: without it a message is late, not lost."""

    async def main() -> None:
        async with Embedded(tmp_path / "bus.db") as bus, bus.subscribe("t", group="g") as group:
            bus._backend.ring = lambda bells: None  # type: ignore[method-assign]
            waiting = asyncio.create_task(group.fetch(1, wait=10))
            await asyncio.sleep(0.02)
            await bus.publish(Message("t"))
            assert len(await asyncio.wait_for(waiting, 5)) == 1

    asyncio.run(main())
