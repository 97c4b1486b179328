"""A thread that waits for a reply does meanwhile what others leave for it, each thing when its time has come."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from queue import Empty, SimpleQueue

from msgov.clock import Clock

Act = Callable[[], None]


class Alarm:
    """Something to do at a time, unless it is called off."""

    __slots__ = ("act",)

    def __init__(self, act: Act) -> None:
        self.act: Act | None = act

    def cancel(self) -> None:
        """Call it off."""
        self.act = None


class Desk:
    """Where the waiting thread finds what there is to do, and when."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._lock = threading.Lock()
        self._open = True
        self._box: SimpleQueue[Act] = SimpleQueue()
        self._times: list[tuple[float, int, Alarm]] = []
        self._order = count()

    def put(self, act: Act) -> None:
        """Leave something to do, from any thread; once nobody waits any more, do it here."""
        with self._lock:
            waited_for = self._open
            if waited_for:
                self._box.put(act)
        if not waited_for:
            act()

    def later(self, seconds: float, act: Act) -> Alarm:
        """Set a time; only by the waiting thread."""
        alarm = Alarm(act)
        heapq.heappush(self._times, (self.clock() + seconds, next(self._order), alarm))
        return alarm

    def work(self) -> None:
        """Do the next thing, waiting for it."""
        while self._times and self._times[0][2].act is None:
            heapq.heappop(self._times)
        left = self._times[0][0] - self.clock() if self._times else None
        act = self.take(left) if left is None or left > 0 else heapq.heappop(self._times)[2].act
        if act is not None:
            act()

    def take(self, seconds: float | None) -> Act | None:
        """Wait for what is put down, at most so long."""
        try:
            return self._box.get(timeout=seconds)
        except Empty:
            return None

    def close(self) -> None:
        """Stop waiting: do what was left, and let others do the rest where it happens."""
        with self._lock:
            self._open = False
        with suppress(Empty):
            while True:
                self._box.get_nowait()()
