"""Each attempt goes to an instance of its own choosing, without asking the registry."""

from __future__ import annotations

from typing import TypeVar

from msgov.call import Call, Outcome
from msgov.discovery.balance import Admits, Balancer
from msgov.discovery.instance import Snapshot
from msgov.errors import NoInstance, SourceError
from msgov.latest import Latest
from msgov.policy import Gate

T = TypeVar("T")


class Pick(Gate[T]):
    """Choose where this attempt goes: sets `call.instance`, and remembers it in `call.tried`.

    It stands inside the seam, so that a retry and a hedge go elsewhere. It reads what is known and asks nobody.

    Args:
        latest: What is known of the service.
        balancer: Who chooses, and learns from each attempt; one for each service.
        admits: Whether an instance may be called at present: its own breaker, or an ejection. None for all.

    Refuses with `NoInstance` when nothing is known, or when nobody may be called.
    """

    __slots__ = ("admits", "balancer", "latest")

    def __init__(self, latest: Latest[Snapshot], balancer: Balancer[T], *, admits: Admits | None = None) -> None:
        self.latest = latest
        self.balancer = balancer
        self.admits = admits

    def admit(self, call: Call, now: float) -> T:
        """Choose, and count the attempt at the instance."""
        try:
            snapshot = self.latest.value
        except SourceError as error:
            raise NoInstance(str(error)) from error
        instance = self.balancer.pick(snapshot, call, now, admits=self.admits)
        call.instance = instance
        if call.tried is None:
            call.tried = [instance]
        else:
            call.tried.append(instance)
        return self.balancer.begin(instance, now)

    def settle(self, ticket: T, outcome: Outcome, now: float) -> None:
        """Tell the balancer what became of the attempt."""
        self.balancer.done(ticket, outcome, now)
