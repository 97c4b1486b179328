"""One timer looks after all requests of a loop that are older than a tick: one each would cost more than they do."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Final, Protocol

TICK: Final = 0.05  # seconds; most requests are over by then


class Watched(Protocol):
    """What wants to be looked at once, when it is older than a tick."""

    def look(self) -> None:
        """Look."""
        ...


class Round:
    """Goes round once a tick while there is anybody to look at, and stops when there is nobody."""

    __slots__ = ("_context", "_new", "_old", "_timer", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._new: set[Watched] = set()
        self._old: set[Watched] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._context = contextvars.Context()  # an empty one: what is looked at is not part of whoever came first

    def add(self, watched: Watched) -> None:
        """Look at this one when it is older than a tick, and no older than two."""
        self._new.add(watched)
        if self._timer is None:
            self._timer = self.loop.call_later(TICK, self._turn, context=self._context)

    def remove(self, watched: Watched) -> None:
        """Forget it; twice is fine."""
        self._new.discard(watched)
        self._old.discard(watched)

    def _turn(self) -> None:
        due, self._old, self._new = self._old, self._new, set()
        self._timer = None
        if self._old or due:
            self._timer = self.loop.call_later(TICK, self._turn, context=self._context)
        for watched in due:
            watched.look()
