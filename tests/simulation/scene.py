"""The metastable case: a crowd of clients, a trigger of ten seconds, and what is left of the goodput afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgov.call import OK, Outcome
from msgov.clock import Dice
from msgov.pipeline import Policy
from msgov.policy import Gate
from tests.simulation.world import Callee, Client, World

# 200 calls a second at most, `scale` times that. Fewer workers have lines of a second at 90 % load by chance alone.
CLIENTS, WORKERS, SECONDS = 10, 8, 0.04
WARM = 20.0  # seconds before the trigger

Outgoing = Callable[[Dice], Sequence[Policy]]
Incoming = Callable[[], Sequence[Gate[Any]]]


@dataclass(frozen=True)
class Arm:
    """One way of governing: what stands before each client's calls, what before the callee's work."""

    outgoing: Outgoing
    incoming: Incoming = list
    patience: float | None = None


@dataclass(frozen=True)
class Trigger:
    """What goes wrong, and for how long: a share of the capacity, a multiple of the load."""

    capacity: float = 1.0
    load: float = 1.0
    seconds: float = 10.0


@dataclass
class Told:
    """What happened, second by second; a call counts in the second in which it began."""

    ended: float
    """When the trigger was over."""
    offered: list[int] = field(default_factory=list)
    good: list[int] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    """Attempts that reached the callee."""

    def goodput(self, start: float, end: float) -> float:
        """Return the share of calls of those seconds that went well."""
        a, b = int(start), int(end)
        return sum(self.good[a:b]) / max(1, sum(self.offered[a:b]))

    @property
    def recovery(self) -> float:
        """Seconds after the trigger until 98 % go well, and go on doing so, of any three seconds; inf for never."""
        bad = [s for s in range(int(self.ended), len(self.offered) - 2) if self.goodput(s, s + 3) < 0.98]
        if not bad:
            return 0.0
        return float("inf") if bad[-1] >= len(self.offered) - 4 else bad[-1] + 1 - self.ended

    @property
    def tail(self) -> float:
        """Goodput of the last ten seconds."""
        return self.goodput(len(self.offered) - 10, len(self.offered))

    @property
    def amplification(self) -> float:
        """The most attempts a call, of the calls of any five seconds together."""
        starts = range(int(WARM) - 5, len(self.offered) - 5)
        return max(sum(self.sent[s : s + 5]) / max(1, sum(self.offered[s : s + 5])) for s in starts)


def play(
    arm: Arm,
    trigger: Trigger,
    *,
    load: float,
    seed: int,
    after: float = 40.0,
    threads: bool = True,
    scale: int = 1,
) -> Told:
    """Play the scene: warm up, trigger, and `after` seconds more."""
    world = World(seed)
    callee = Callee(world, arm.incoming(), workers=WORKERS * scale, seconds=SECONDS, threads=threads)
    chains = [arm.outgoing(world.chance) for _ in range(CLIENTS * scale)]
    clients = [Client(world, callee, chain, patience=arm.patience) for chain in chains]
    ended = WARM + trigger.seconds
    until = int(ended + after)
    told = Told(ended, [0] * until, [0] * until, [0] * until)
    rate = load * WORKERS * scale / SECONDS

    def arrive() -> None:
        second = int(world.now)
        if second >= until:
            return
        told.offered[second] += 1

        def sent() -> None:
            told.sent[second] += 1

        def then(outcome: Outcome) -> None:
            told.good[second] += outcome.verdict is OK

        world.chance.choice(clients).call(then, sent)
        factor = trigger.load if WARM <= world.now < ended else 1.0
        world.after(world.chance.expovariate(rate * factor), arrive)

    world.after(WARM, lambda: setattr(callee, "capacity", trigger.capacity))
    world.after(ended, lambda: setattr(callee, "capacity", 1.0))
    world.after(0.0, arrive)
    world.run(until + 5.0)  # what began last may still end
    return told
