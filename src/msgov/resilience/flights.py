"""Say who leads, who joins and who goes alone, when several ask the same at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from types import TracebackType

from msgov.call import Call
from msgov.errors import DeadlineExceeded, DeadlineSpent
from msgov.rule import field, rule


@rule
class CoalesceRule:
    """How many different calls may be shared at once."""

    keys_max: int = field(
        default=10_000,
        ge=1,
        le=10_000_000,
        unit="keys",
        why="more than one process has under way; past it a call goes alone, as it would without",
    )


_DEFAULT = CoalesceRule()
_EARLY = 1e-6  # seconds: a loop may ring its timers early by its clock's resolution


class Flight:
    """One execution that several calls wait for; `call` is the one that is executed."""

    __slots__ = (
        "awaits", "call", "closed", "deadline", "error", "key", "landed", "over", "trace", "value", "wakes",
        "wanted",
    )  # fmt: skip

    def __init__(self, key: Hashable, call: Call, closed: Callable[[], bool] | None) -> None:
        self.key = key
        self.call = call
        self.deadline = call.deadline
        self.closed = closed  # whether the loop that it runs on is gone
        self.over = False
        self.landed = False  # over, with a reply or an error of its own
        self.wanted = 1  # those who wait for it
        self.value: object = None
        self.error: Exception | None = None
        self.trace: TracebackType | None = None
        self.wakes: list[Callable[[], object]] = []
        self.awaits: list[Flight] = []  # the flights that its own code waits for

    def speaks_to(self, call: Call, now: float) -> bool:
        """Whether its end says something to a call that joined it.

        One that was cut off says nothing, and neither does the deadline of the first caller to one that has more time.
        """
        if not self.landed:
            return False
        own = self.deadline
        if own is None or (call.deadline is not None and call.deadline <= own):
            return True
        if isinstance(self.error, DeadlineExceeded):
            return now < own - _EARLY  # then another, shorter deadline rang
        return not isinstance(self.error, DeadlineSpent)

    def reply(self, call: Call) -> object:
        """Return what it came to, or raise it: the one error, each time with the traceback it landed with."""
        call.status = self.call.status
        error, trace = self.error, self.trace
        if error is None:
            return self.value
        try:
            raise error.with_traceback(trace)
        finally:
            del self, error, trace  # the traceback holds this frame


class Flights:
    """Who is under way with what: bookkeeping under one short lock, for all threads and loops.

    Everyone who leads or joins comes back to `leave`, exactly once; who leads sees to it that the flight is landed.
    """

    def __init__(self, rule: CoalesceRule = _DEFAULT) -> None:
        self.rule = rule
        self.led = 0
        self.joined = 0
        self.alone = 0
        self._lock = threading.Lock()
        self._under_way: dict[Hashable, Flight] = {}

    def join(
        self, key: Hashable, call: Call, *, inside: Flight | None = None, closed: Callable[[], bool] | None = None
    ) -> tuple[Flight | None, bool]:
        """Return the flight of a key, and whether the caller leads it; None for one that must go alone.

        Alone goes who finds no room, and who asks from `inside` a flight for one that waits for it: each would wait for
        the other.
        """
        with self._lock:
            flight = self._under_way.get(key)
            leads = flight is None
            if flight is None:
                if len(self._under_way) >= self.rule.keys_max and not self._swept():
                    self.alone += 1
                    return None, False
                flight = self._under_way[key] = Flight(key, call, closed)
                self.led += 1
            elif inside is not None and _reaches(flight, inside):
                self.alone += 1
                return None, False
            else:
                flight.wanted += 1
                self.joined += 1
            if inside is not None:
                inside.awaits.append(flight)
            return flight, leads

    def watch(self, flight: Flight, wake: Callable[[], object]) -> bool:
        """Have `wake` called when the flight is over, from whatever thread ends it; False when it is over already."""
        with self._lock:
            if not flight.over:
                flight.wakes.append(wake)
            return not flight.over

    def land(self, flight: Flight, value: object = None, error: Exception | None = None) -> None:
        """End a flight with a reply or an error."""
        self._end(flight, True, value, error)

    def spoil(self, flight: Flight) -> None:
        """End a flight that was cut off, which says nothing to those who joined it."""
        self._end(flight, False, None, None)

    def leave(self, flight: Flight, *, inside: Flight | None = None, wake: Callable[[], object] | None = None) -> bool:
        """Want it no more; return whether it is under way and nobody wants it: then it is to be ended.

        Nobody joins it any more from then on. The last to leave takes along what it held, the error too, whose
        traceback holds the frames of those who waited.
        """
        with self._lock:
            flight.wanted -= 1
            if wake is not None and wake in flight.wakes:
                flight.wakes.remove(wake)
            if inside is not None:
                inside.awaits.remove(flight)
            if flight.wanted:
                return False
            self._remove(flight)
            flight.value = flight.error = flight.trace = None
            return not flight.over

    def __len__(self) -> int:
        """Count the flights under way."""
        return len(self._under_way)

    def _end(self, flight: Flight, landed: bool, value: object, error: Exception | None) -> None:
        with self._lock:
            if flight.over:
                return
            flight.over, flight.landed = True, landed
            if flight.wanted:
                flight.value, flight.error = value, error
                flight.trace = None if error is None else error.__traceback__
            self._remove(flight)
            wakes, flight.wakes = flight.wakes, []
        for wake in wakes:
            wake()

    def _remove(self, flight: Flight) -> None:
        if self._under_way.get(flight.key) is flight:
            del self._under_way[flight.key]

    def _swept(self) -> bool:
        """Let go of the flights of loops that were closed over them; return whether that made room."""
        gone = [key for key, flight in self._under_way.items() if flight.closed is not None and flight.closed()]
        for key in gone:
            del self._under_way[key]
        return bool(gone)


def _reaches(start: Flight, goal: Flight) -> bool:
    """Whether a flight is another, or waits for it, through however many; with the lock held."""
    todo, seen = [start], {start}
    while todo:
        flight = todo.pop()
        if flight is goal:
            return True
        fresh = {each for each in flight.awaits if each not in seen}
        seen |= fresh
        todo += fresh
    return False
