"""One thread waits for all timers of a process's blocking channels, and goes when none is left."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from itertools import count
from queue import Empty, SimpleQueue

from msgov.clock import monotonic
from msgov.event import unraisable

IDLE = 1.0  # seconds without a timer after which the thread ends


class Alarm:
    """A timer that can be called off."""

    __slots__ = ("act",)

    def __init__(self, act: Callable[[], object]) -> None:
        self.act: Callable[[], object] | None = act

    def cancel(self) -> None:
        """Call it off; too late is no error."""
        self.act = None


class Timers:
    """Act later, on one shared thread; acts must be short.

    `later` takes no lock, so that a finaliser may call it wherever the collector runs one. Should two threads ever wait
    at once, for that very reason, each serves what it has taken: nothing depends on there being one.
    """

    def __init__(self) -> None:
        self._new: SimpleQueue[tuple[float, int, Alarm]] = SimpleQueue()  # its put is reentrant by promise
        self._turn = count()
        self._thread: threading.Thread | None = None

    def later(self, seconds: float, act: Callable[[], object]) -> Alarm:
        """Call `act` after so many seconds; raises RuntimeError when the interpreter is ending."""
        alarm = Alarm(act)
        self._new.put((monotonic() + seconds, next(self._turn), alarm))
        if self._thread is None:
            thread = self._thread = threading.Thread(target=self._run, name="msgov-timers", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                self._thread = None
                raise
        return alarm

    def _run(self) -> None:
        heap: list[tuple[float, int, Alarm]] = []
        while True:
            wait = IDLE
            while heap:
                wait = 0.0 if heap[0][2].act is None else heap[0][0] - monotonic()
                if wait > 0:
                    break
                _act(heapq.heappop(heap)[2])
                wait = IDLE
            try:
                heapq.heappush(heap, self._new.get(timeout=wait))
            except Empty:
                if heap:
                    continue
                self._thread = None
                if self._new.empty():
                    return
                self._thread = threading.current_thread()  # one came in between, and saw this thread at work


def _act(alarm: Alarm) -> None:
    act = alarm.act
    if act is not None:
        try:
            act()
        except Exception as fault:  # noqa: BLE001  one faulty act must not stop the others
            unraisable(fault, act)


timers = Timers()
