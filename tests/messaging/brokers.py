"""Buses that fail in the ways that real ones do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgov.messaging.bus import Bus, Letter, Subscription
from msgov.messaging.memory import Memory
from msgov.messaging.message import Message


class Flaky(Memory):
    """A bus whose `publish` does what it is told: `before` may raise or wait, and so may `after`, once it is stored."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Callable[[tuple[Message, ...]], object] = lambda messages: None
        self.after: Callable[[tuple[Message, ...]], object] = lambda messages: None
        self.stored: list[Message] = []

    async def publish(self, *messages: Message) -> None:
        """Store messages, between two accidents."""
        await _do(self.before, messages)
        await super().publish(*messages)
        self.stored += messages
        await _do(self.after, messages)


async def _do(accident: Callable[[tuple[Message, ...]], object], messages: tuple[Message, ...]) -> None:
    found = accident(messages)
    if asyncio.iscoroutine(found):
        await found


class Away(Bus):
    """A bus that nobody can subscribe to, until `back` is set to one."""

    retention = 0.0

    def __init__(self) -> None:
        self.back: Bus | None = None
        self.tries = 0

    @classmethod
    def from_url(cls, url: str) -> Away:
        """Make one."""
        return cls()

    async def publish(self, *messages: Message) -> None:
        """Refuse."""
        raise OSError("away")

    def subscribe(self, topic: str, *, group: str) -> Subscription:
        """Refuse, until it is back."""
        self.tries += 1
        if self.back is None:
            raise OSError("away")
        return self.back.subscribe(topic, group=group)

    async def letters(self, *, topic: str = "", group: str = "", after: int = 0, most: int = 100) -> list[Letter]:
        """Return none."""
        return []

    async def redrive(self, *numbers: int) -> int:
        """Redrive none."""
        return 0

    async def aclose(self) -> None:
        """Close nothing."""
