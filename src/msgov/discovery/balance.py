"""The next call goes to an instance that takes calls, and elsewhere than where it has just failed.

A balancer sees whole snapshots and keeps what it learned of an instance for as long as the instance is in them. What a
pick may draw from is prepared once per snapshot, so that a pick costs the same among ten and among ten thousand.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import count
from typing import Generic, TypeVar

from msgov.call import Call, Outcome
from msgov.clock import dice
from msgov.discovery.instance import Instance, Snapshot
from msgov.errors import NoInstance

T = TypeVar("T")

Admits = Callable[[Instance, float], bool]
"""Whether an instance may be called now, asked before it is picked: its own breaker, or an ejection."""


class Balancer(ABC, Generic[T]):
    """Chooses an instance, and learns from what became of the call there; one for each service.

    `begin` returns a ticket, which `done` takes back exactly once. Safe to share between threads and loops. Every
    choice prefers an instance that this call has not tried and that may be called, then one that may be called;
    draining and unhealthy ones are never chosen.
    """

    @abstractmethod
    def pick(self, snapshot: Snapshot, call: Call, now: float, *, admits: Admits | None = None) -> Instance:
        """Choose; raises `NoInstance` when there is none to choose."""

    @abstractmethod
    def begin(self, instance: Instance, now: float) -> T:
        """Count a call that begins at the instance; return its ticket."""

    @abstractmethod
    def done(self, ticket: T, outcome: Outcome, now: float) -> None:
        """Learn what became of it."""


class RoundRobin(Balancer[Instance]):
    """Each in turn, whatever their weights: for instances that are alike, and calls that cost the same.

    `start` is where the first turn begins; by default anywhere, or all clients would begin with the same instance.
    """

    __slots__ = ("_eligible", "_turn")

    def __init__(self, *, start: int | None = None) -> None:
        self._turn = count(int(dice().random() * 65536) if start is None else start)
        self._eligible: tuple[Snapshot | None, tuple[Instance, ...]] = (None, ())

    def pick(self, snapshot: Snapshot, call: Call, now: float, *, admits: Admits | None = None) -> Instance:
        """Take the next in turn that was not tried and may be called; if all were tried, that may be called."""
        known, eligible = self._eligible
        if known is not snapshot:
            eligible = tuple(instance for instance in snapshot.instances if instance.eligible)
            self._eligible = (snapshot, eligible)
        if not eligible:
            raise nobody(snapshot)
        at = next(self._turn) % len(eligible)
        if admits is None and not call.tried:
            return eligible[at]
        tried = {endpoint.id for endpoint in call.tried or ()}
        second: Instance | None = None
        for step in range(len(eligible)):
            instance = eligible[at + step - len(eligible)]
            if admits is None or admits(instance, now):
                if instance.id not in tried:
                    return instance
                second = second or instance
        if second is None:
            raise nobody(snapshot)
        return second

    def begin(self, instance: Instance, now: float) -> Instance:
        """Learn nothing."""
        return instance

    def done(self, ticket: Instance, outcome: Outcome, now: float) -> None:
        """Learn nothing."""


def nobody(snapshot: Snapshot) -> NoInstance:
    """Say why there is none to choose."""
    known = len(snapshot.instances)
    eligible = sum(instance.eligible for instance in snapshot.instances)
    if not known:
        why = "no instance is known"
    elif not eligible:
        why = f"of {known} instances none takes calls: all are draining or unhealthy"
    else:
        why = f"of {eligible} instances none may be called now: each has been failing"
    return NoInstance(f"{snapshot.service}: {why}", known=known, eligible=eligible)
