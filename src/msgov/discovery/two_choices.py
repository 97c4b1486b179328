"""Of two instances drawn at random, the one that will answer sooner gets the call.

Two choices come near the best of all at the price of two looks, and do not send every client to the same best one
(Mitzenmacher, 2001). The cost is that of Finagle's PeakEwma, with go-zero's share of successes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import exp
from statistics import median
from typing import Final

from msgov.call import IGNORED, TRANSIENT, Call, Outcome
from msgov.clock import Dice
from msgov.clock import dice as fair
from msgov.discovery.balance import Admits, Balancer, nobody
from msgov.discovery.instance import Instance, Snapshot
from msgov.errors import RuleError

LEAST: Final = 1e-6  # seconds; so that calls in flight still count where every latency has faded to nothing
WORST: Final = 0.01  # the lowest share of successes that a cost is divided by
FADE: Final = 0.9  # the most that the share keeps at one answer: a burst of failures shows within ten of them
DRAWS: Final = 3  # draws for an instance that fits, before all are looked through


class Node:
    """What is known of one instance: `latency` in seconds as of `stamp`, calls in flight, share of successes."""

    __slots__ = ("begun", "instance", "known", "last", "latency", "pending", "share", "stamp", "success")

    def __init__(self, instance: Instance, *, latency: float, now: float) -> None:
        self.instance = instance
        self.share = 1.0 / instance.weight
        self.latency = latency
        self.stamp = now
        self.known = False
        self.success = 1.0
        self.pending = 0
        self.begun = 0.0  # the sum of when the calls in flight began: gives their mean age in one step
        self.last = now


Flight = tuple[Node, float]


class TwoChoices(Balancer[Flight]):
    """Cost is peak EWMA of latency x (calls in flight + 1) / (weight x share of successes); the lower of two wins.

    Latency follows a slower answer at once and a faster one by `tau`, and fades when nothing is heard. While calls are
    in flight for longer than it, their mean age counts instead, up to `failed`. A failed call counts as at least
    `failed`, or an instance that fails fast would look like the fastest. An instance not heard of yet stands at the
    median of the others: neither flooded nor starved.

    One that lost and has been idle for `idle` is called all the same, once in `idle` over all instances: so a slow one
    that has recovered is found out, at a bounded cost.

    Args:
        tau: Seconds in which latency fades to 37 %; default 10, Finagle's.
        failed: Seconds that a failed call counts as at least; default 1, a usual time-out between services.
        idle: Seconds; default 1, go-zero's.
        dice: Chance, given by tests and simulations.

    Raises `RuleError` for what is not above 0 and at most 3600 s.
    """

    __slots__ = ("_forced", "_lock", "_nodes", "_pool", "_roll", "failed", "idle", "tau")

    def __init__(self, *, tau: float = 10.0, failed: float = 1.0, idle: float = 1.0, dice: Dice | None = None) -> None:
        for name, value in (("tau", tau), ("failed", failed), ("idle", idle)):
            if not 0 < value <= 3600:
                raise RuleError.at(name, value, "above 0 and at most 3600 s")
        self.tau = tau
        self.failed = failed
        self.idle = idle
        self._roll = (dice or fair()).random
        self._lock = threading.Lock()
        self._nodes: dict[str, Node] = {}
        self._pool: tuple[Snapshot | None, tuple[Node, ...]] = (None, ())
        self._forced = float("-inf")

    def pick(self, snapshot: Snapshot, call: Call, now: float, *, admits: Admits | None = None) -> Instance:
        """Draw two and take the one with the lower cost."""
        known, pool = self._pool
        if known is not snapshot:
            pool = self._prepared(snapshot, now)
        size = len(pool)
        if admits is not None or call.tried:
            return self._fitting(snapshot, pool, call, now, admits).instance
        if size < 2:
            if size:
                return pool[0].instance
            raise nobody(snapshot)
        roll = self._roll
        one = int(roll() * size)
        two = int(roll() * (size - 1))
        return self._better(pool[one], pool[two + (two >= one)], now).instance

    def begin(self, instance: Instance, now: float) -> Flight:
        """Count one more in flight."""
        node = self._nodes.get(instance.id)
        if node is None:  # it has left since it was picked: what the call brings is of no use to anyone
            node = Node(instance, latency=0.0, now=now)
        with self._lock:
            node.pending += 1
            node.begun += now
            node.last = now
        return node, now

    def done(self, ticket: Flight, outcome: Outcome, now: float) -> None:
        """Count one less; learn from the answer, unless it says nothing about the instance."""
        node, began = ticket
        with self._lock:
            node.pending -= 1
            node.begun = node.begun - began if node.pending else 0.0
            if outcome.verdict is not IGNORED:
                self._learn(node, outcome, now)

    def cost(self, instance: Instance, now: float) -> float | None:
        """Return what an instance costs at present, in seconds; None for one that is not known."""
        node = self._nodes.get(instance.id)
        return None if node is None else self._cost(node, now)

    def _cost(self, node: Node, now: float) -> float:
        latency = node.latency * exp((node.stamp - now) / self.tau)
        pending = node.pending
        if pending:
            age = now - node.begun / pending
            if age > latency:
                latency = max(latency, min(age, self.failed))
        return (latency + LEAST) * (pending + 1) * node.share / node.success

    def _better(self, one: Node, two: Node, now: float) -> Node:
        if self._cost(two, now) < self._cost(one, now):
            one, two = two, one
        if now - two.last >= self.idle and now - self._forced >= self.idle:
            self._forced = now
            return two
        return one

    def _fitting(
        self, snapshot: Snapshot, pool: tuple[Node, ...], call: Call, now: float, admits: Admits | None
    ) -> Node:
        """Choose of two that were not tried and may be called; if all were tried, that may be called."""
        tried = {endpoint.id for endpoint in call.tried or ()}

        def fresh(node: Node) -> bool:
            return node.instance.id not in tried and (admits is None or admits(node.instance, now))

        def allowed(node: Node) -> bool:
            return admits is None or admits(node.instance, now)

        found = self._of_two(pool, fresh, now) if tried else None
        found = found or self._of_two(pool, allowed, now)
        if found is None:
            raise nobody(snapshot)
        return found

    def _of_two(self, pool: tuple[Node, ...], fits: Callable[[Node], bool], now: float) -> Node | None:
        one = self._draw(pool, fits)
        if one is None:
            return None
        two = self._draw(pool, lambda node: node is not one and fits(node))
        return one if two is None else self._better(one, two, now)

    def _draw(self, pool: tuple[Node, ...], fits: Callable[[Node], bool]) -> Node | None:
        size = len(pool)
        if not size:
            return None
        for _ in range(DRAWS):
            node = pool[int(self._roll() * size)]
            if fits(node):
                return node
        at = int(self._roll() * size)  # most do not fit: look through all, from anywhere
        return next((node for step in range(size) if fits(node := pool[at + step - size])), None)

    def _learn(self, node: Node, outcome: Outcome, now: float) -> None:
        failed = outcome.verdict is TRANSIENT
        took = outcome.seconds if outcome.first is None else outcome.first  # how long a stream is tells nothing
        seconds = max(took, self.failed) if failed else max(took, 0.0)
        kept = min(1.0, exp((node.stamp - now) / self.tau))
        faded = node.latency * kept
        if not node.known:
            if not any(other.known for other in self._nodes.values()):  # the first answer of all: a guess for the rest
                for other in self._nodes.values():
                    other.latency, other.stamp = seconds, now
            node.known = True
            node.latency = seconds
        else:
            node.latency = seconds if seconds >= faded else faded + seconds * (1.0 - kept)
        node.stamp = now
        kept = min(kept, FADE)
        node.success = max(WORST, node.success * kept + (0.0 if failed else 1.0 - kept))

    def _prepared(self, snapshot: Snapshot, now: float) -> tuple[Node, ...]:
        """Carry what is known over to a new snapshot."""
        with self._lock:
            old = self._nodes
            known = [node for instance in snapshot.instances if (node := old.get(instance.id)) and node.known]
            middle = median(node.latency * exp((node.stamp - now) / self.tau) for node in known) if known else 0.0
            nodes: dict[str, Node] = {}
            for instance in snapshot.instances:
                node = old.get(instance.id)
                if node is None:
                    node = Node(instance, latency=middle, now=now)
                else:
                    node.instance = instance
                    node.share = 1.0 / instance.weight
                nodes[instance.id] = node
            pool = tuple(node for node in nodes.values() if node.instance.eligible)
            self._nodes, self._pool = nodes, (snapshot, pool)
            return pool
