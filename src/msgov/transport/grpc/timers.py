"""One thread waits for all timers of a process's blocking channels, and goes when none is left."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from itertools import count

from msgov.clock import monotonic
from msgov.event import unraisable

IDLE = 1.0  # seconds without a timer after which the thread ends


class Alarm:
    """A timer that can be called off."""

    __slots__ = ("act",)

    def __init__(self, act: Callable[[], None]) -> None:
        self.act: Callable[[], None] | None = act

    def cancel(self) -> None:
        """Call it off; too late is no error."""
        self.act = None


class Timers:
    """Act later, on one shared thread; acts must be short."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Alarm]] = []
        self._turn = count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def later(self, seconds: float, act: Callable[[], None]) -> Alarm:
        """Call `act` after so many seconds."""
        alarm = Alarm(act)
        with self._changed:
            heapq.heappush(self._heap, (monotonic() + seconds, next(self._turn), alarm))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="msgov-timers", daemon=True)
                self._thread.start()
            self._changed.notify()
        return alarm

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._heap and self._heap[0][2].act is None:
                    heapq.heappop(self._heap)
                if not self._heap and not self._changed.wait_for(lambda: bool(self._heap), IDLE):
                    self._thread = None
                    return
                left = self._heap[0][0] - monotonic()
                if left > 0:
                    self._changed.wait(left)
                    continue
                act = heapq.heappop(self._heap)[2].act
            if act is not None:
                try:
                    act()
                except Exception as fault:  # noqa: BLE001  one faulty act must not stop the others
                    unraisable(fault, act)


timers = Timers()
