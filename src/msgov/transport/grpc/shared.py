"""A flight that several threads share: one turn at a time, and callbacks only after it.

Whoever asks, grpc's own threads, the timers' thread and gates that wake it from anywhere take turns under one lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from msgov.call import Call
from msgov.pipeline import Pipeline, Segment

from .flight import Flight
from .landing import tell
from .port import N, Port

P = ParamSpec("P")
R = TypeVar("R")


def turn(act: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Make a method take its turn under the flight's lock."""

    def taken(self: SharedFlight[Any], /, *args: P.args, **options: P.kwargs) -> R:
        with self._lock:  # reentrant: a call that is over already lands in the turn that began it
            self._depth += 1
            try:
                result = act(self, *args, **options)
            finally:
                self._depth -= 1
            due: list[Callable[[], None]] = []
            if self.over and not self._depth:
                due, self._callbacks = self._callbacks, due
        tell(due)
        return result

    return taken


class SharedFlight(Flight[N]):
    """The life of one logical call, watched and steered from many threads."""

    __slots__ = ("_depth", "_lock")

    def __init__(self, port: Port[N], pipeline: Pipeline, segment: Segment, call: Call) -> None:
        super().__init__(port, pipeline, segment, call)
        self._lock = threading.RLock()
        self._depth = 0

    begin = turn(Flight.begin)
    cancel = turn(Flight.cancel)
    commit = turn(Flight.commit)
    hear = turn(Flight.hear)
    unhear = turn(Flight.unhear)
    done = turn(Flight.done)
    _granted = turn(Flight._granted)
    _reached = turn(Flight._reached)
    _ring = turn(Flight._ring)
    _landed = turn(Flight._landed)
    _replied = turn(Flight._replied)

    def _tell(self) -> None:
        """Wait for the end of the turn."""
