"""A callee of so many servers, calls that come at random, and a gate between: M/M/c on virtual time."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush

from msgov.call import Call
from msgov.errors import Rejected
from msgov.pipeline import answered
from msgov.policy import Gate, Waiting

CALL = Call("shop")


@dataclass
class Callee:
    """`servers` that take `service` seconds each on average; who finds them busy waits inside, first come first."""

    servers: int = 10
    service: float = 0.05
    seed: int = 1
    busy: int = 0
    begun: int = 0
    line: deque[tuple[Call, float, float]] = field(default_factory=deque)
    done: list[tuple[float, Call, float]] = field(default_factory=list)  # when, which, its round trip
    refused: list[tuple[float, Call]] = field(default_factory=list)
    ends: list[tuple[float, int, Call, float, float]] = field(default_factory=list)  # of the calls being served

    @property
    def capacity(self) -> float:
        """Calls a second, at most."""
        return self.servers / self.service

    def serve(
        self,
        gate: Gate[float],
        *,
        load: float,
        seconds: float,
        start: float = 0.0,
        who: Callable[[random.Random], Call] = lambda dice: CALL,
        tick: Callable[[float], None] = lambda now: None,
    ) -> Callee:
        """Offer `load` times the capacity for so long; `tick` is called each 100 ms."""
        dice = random.Random(self.seed)
        rate = load * self.capacity
        ends, arrival, beat, end = self.ends, start + dice.expovariate(rate), start, start + seconds

        def begin(call: Call, ticket: float, came: float, now: float) -> None:
            self.busy += 1
            self.begun += 1
            heappush(ends, (now + dice.expovariate(1 / self.service), self.begun, call, ticket, came))

        while True:
            at = min(arrival, beat, ends[0][0] if ends else end)
            if at >= end:
                break
            if at == beat:
                beat += 0.1
                tick(at)
            elif at == arrival:
                arrival += dice.expovariate(rate)
                call = who(dice)
                try:
                    ticket = gate.admit(call, at)
                except Rejected:
                    self.refused.append((at, call))
                    continue
                assert not isinstance(ticket, Waiting)
                if self.busy < self.servers:
                    begin(call, ticket, at, at)
                else:
                    self.line.append((call, ticket, at))
            else:
                _, _, call, ticket, came = heappop(ends)
                self.busy -= 1
                self.done.append((at, call, at - came))
                gate.settle(ticket, answered("", at - came), at)
                if self.line:
                    begin(*self.line.popleft(), at)
        return self

    def goodput(self, since: float, until: float) -> float:
        """Calls done a second, between two times."""
        return sum(since <= at < until for at, _, _ in self.done) / (until - since)

    def round_trip(self, since: float) -> float:
        """The mean round trip from then on, in seconds."""
        found = [rtt for at, _, rtt in self.done if at >= since]
        return sum(found) / len(found)
