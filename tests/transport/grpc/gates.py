"""The smallest policies that show what an edge does with them."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from msgov.call import Call, Outcome
from msgov.errors import NoInstance
from msgov.policy import Gate, Plan, Waiting


class Count(Gate[int]):
    """Counts what is in and remembers how it ended."""

    def __init__(self) -> None:
        self.inside = 0
        self.entered = 0
        self.outcomes: list[Outcome] = []
        self._lock = threading.Lock()

    def admit(self, call: Call, now: float) -> int:
        with self._lock:
            self.inside += 1
        self.entered += 1
        return self.entered

    def settle(self, ticket: int, outcome: Outcome, now: float) -> None:
        with self._lock:
            self.inside -= 1
        self.outcomes.append(outcome)

    @property
    def verdicts(self) -> list[str]:
        return [outcome.verdict.name for outcome in self.outcomes]


class Again(Plan):
    """Tries three times, at once, what may run twice or was never sent."""

    def next(self, call: Call, tries: int, outcome: Outcome | None, now: float) -> float | None:
        if outcome is None or tries >= 3 or outcome.verdict.name != "TRANSIENT":
            return None
        return 0.001 if call.idempotent or outcome.sent.name == "NO" else None


@dataclass(frozen=True)
class At:
    """Where a call goes."""

    id: str
    host: str
    port: int


class Pick(Gate[At]):
    """Picks in turn."""

    def __init__(self, *ports: int) -> None:
        self.all = [At(str(port), "127.0.0.1", port) for port in ports]
        self.turn = 0

    def admit(self, call: Call, now: float) -> At:
        if not self.all:
            raise NoInstance("none")
        call.instance = self.all[self.turn % len(self.all)]
        self.turn += 1
        return self.all[0]

    def settle(self, ticket: At, outcome: Outcome, now: float) -> None:
        """Learn nothing."""


class Turnstile(Gate[int]):
    """Lets so many in at once, the others wait in line for a while."""

    def __init__(self, permits: int, patience: float) -> None:
        self.permits = self.free = permits
        self.patience = patience
        self._line: deque[Waiting[int]] = deque()
        self._lock = threading.Lock()

    def admit(self, call: Call, now: float) -> int | Waiting[int]:
        with self._lock:
            if self.free:
                self.free -= 1
                return 1
            place: Waiting[int] = Waiting(since=now, until=now + self.patience)
            self._line.append(place)
            return place

    def settle(self, ticket: int, outcome: Outcome, now: float) -> None:
        with self._lock:
            if not self._line:
                self.free += 1
                return
            place = self._line.popleft()
            place.resolve(ticket=1)
        place.rouse()

    def withdraw(self, waiting: Waiting[int], now: float) -> int | None:
        with self._lock:
            if waiting.ticket is None:
                self._line.remove(waiting)
        return waiting.ticket
