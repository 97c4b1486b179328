"""A world in which time is a heap of events: clients, one callee with a few workers, and the policies that ship.

The gates and plans are the real ones, driven as the drivers drive them. Simulated are only time, chance, and a callee
whose service times are exponential. Its model, and what it leaves out, is `docs/why/simulation.md`.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from msgov.call import MAYBE, NO, OK, Call, Outcome
from msgov.errors import CallFailed, DeadlineExceeded, Rejected
from msgov.pipeline import Policy
from msgov.policy import Gate, Plan, Waiting, classify

Then = Callable[[Outcome], None]


class World:
    """Time and chance: everything that happens does so at a time, by one seed."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.chance = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        """Let something happen."""
        self._serial += 1
        heapq.heappush(self._events, (self.now + seconds, self._serial, what))

    def run(self, until: float) -> None:
        """Let time pass."""
        while self._events and self._events[0][0] <= until:
            self.now, _, what = heapq.heappop(self._events)
            what()


class Walk:
    """One call through a list of gates, in and out: what a frame and its driver do, on simulated time."""

    def __init__(self, world: World, gates: Sequence[Gate[Any]], call: Call) -> None:
        self.world = world
        self.gates = gates
        self.call = call
        self.tickets: list[Any] = []

    def enter(self, inside: Callable[[], None], refused: Then) -> None:
        """Pass every gate, waiting where one says so, then go inside; or be refused, all settled."""
        world, call = self.world, self.call
        try:
            for gate in self.gates[len(self.tickets) :]:
                ticket = gate.admit(call, world.now)
                if ticket.__class__ is Waiting:
                    self._line(gate, ticket, inside, refused)
                    return
                self.tickets.append(ticket)
        except Rejected as error:
            self.leave(outcome := classify(call, error))
            refused(outcome)
            return
        inside()

    def _line(self, gate: Gate[Any], waiting: Waiting[Any], inside: Callable[[], None], refused: Then) -> None:
        left = False

        def end() -> None:
            nonlocal left
            if left:
                return
            left = True
            try:
                ticket = gate.withdraw(waiting, self.world.now)
                if ticket is None:
                    raise gate.late(waiting, self.world.now)
            except Rejected as error:
                self.leave(outcome := classify(self.call, error))
                refused(outcome)
                return
            self.tickets.append(ticket)
            self.enter(inside, refused)

        waiting.wake = lambda: self.world.after(0.0, end)
        if waiting.over:
            self.world.after(0.0, end)
        self.world.after(max(0.0, waiting.until - self.world.now), end)

    def leave(self, outcome: Outcome) -> None:
        """Settle what was passed, innermost first."""
        while self.tickets:
            self.gates[len(self.tickets) - 1].settle(self.tickets.pop(), outcome, self.world.now)


class Callee:
    """So many workers and a line before them; what is asked goes through the callee's own gates.

    As a server of threads a call meets the gates when a worker takes it up, and runs to its end whoever waits for it;
    to refuse it then costs the worker `refusing` of a mean service time, for nothing is free when CPU is what is short.
    As a server of a loop it meets them on arrival, and where a gate bounds its time it leaves the line, and the worker
    too, when that is over.
    """

    def __init__(
        self,
        world: World,
        gates: Sequence[Gate[Any]],
        *,
        workers: int = 16,
        seconds: float = 0.04,
        refusing: float = 0.1,
        threads: bool = True,
    ) -> None:
        self.world = world
        self.gates = gates
        self.idle = workers
        self.seconds = seconds
        self.refusing = refusing
        self.threads = threads
        self.bounds = not threads and any(getattr(gate, "narrows", False) for gate in gates)
        self.capacity = 1.0
        """The share of its speed that it has now; 0 is an outage, in which it refuses connections."""
        self._line: deque[Callable[[], None]] = deque()

    @property
    def waiting(self) -> int:
        """How many are in line."""
        return len(self._line)

    def ask(self, deadline: float | None, then: Then) -> None:
        """Take a call in; `then` is told what became of it, whether or not anybody still listens."""
        if self.capacity == 0:
            self.world.after(0.001, lambda: then(_down()))
            return
        call = Call("callee", "Do", deadline=deadline, idempotent=True)
        walk = Walk(self.world, self.gates, call)

        def refused(outcome: Outcome) -> None:
            self._work(self.refusing * self.seconds, lambda: then(_refusal(outcome)))

        if self.threads:
            self._queue(lambda: walk.enter(lambda: self._serve(walk, then), refused))
            return
        walk.enter(lambda: self._queue(lambda: self._serve(walk, then)), lambda outcome: then(_refusal(outcome)))

    def _queue(self, job: Callable[[], None]) -> None:
        if self.idle:
            self.idle -= 1
            job()
        else:
            self._line.append(job)

    def _serve(self, walk: Walk, then: Then) -> None:
        """Work for a call, on a worker that is taken already."""
        left = float("inf") if walk.call.deadline is None else walk.call.deadline - self.world.now
        if self.bounds and left <= 0:  # it left the line at its deadline: no worker was taken up with it
            walk.leave(_late())
            self._free()
            return
        seconds = self.world.chance.expovariate(1 / self.seconds)
        cut = self.bounds and left * self.capacity < seconds

        def end() -> None:
            outcome = _late() if cut else Outcome(OK, seconds=seconds)
            walk.leave(outcome)
            then(outcome)

        self._work(left * self.capacity if cut else seconds, end)

    def _work(self, seconds: float, end: Callable[[], None]) -> None:
        """Keep the worker for so much work; a slow callee takes longer for it."""

        def ended() -> None:
            end()
            self._free()

        self.world.after(seconds / (self.capacity or 1.0), ended)  # an outage lets what is under way end

    def _free(self) -> None:
        if self._line:
            self._line.popleft()()
        else:
            self.idle += 1


class Client:
    """One process that calls the callee through its own policies, and tells what became of each call."""

    def __init__(self, world: World, callee: Callee, chain: Sequence[Policy], *, patience: float | None = None) -> None:
        at = next((at for at, policy in enumerate(chain) if isinstance(policy, Plan)), len(chain))
        self.world = world
        self.callee = callee
        self.outer = [_gate(policy) for policy in chain[:at]]
        self.inner = [_gate(policy) for policy in chain[at + 1 :]]
        self.plan = chain[at] if at < len(chain) else None
        self.patience = patience
        """How long it waits for one attempt, where no policy says so."""

    def call(self, then: Then, sent: Callable[[], None] = lambda: None) -> None:
        """Call once, with all attempts; `sent` is told each time that one goes out."""
        call = Call("callee", "Do", idempotent=True)
        walk = Walk(self.world, self.outer, call)
        began = self.world.now

        def inside() -> None:
            if isinstance(self.plan, Plan):
                self.plan.next(call, 1, None, self.world.now)
            self._attempt(call, 1, end, sent)

        def end(outcome: Outcome) -> None:
            if call.deadline is not None and self.world.now > call.deadline:
                outcome = _late()  # the driver's timer rang meanwhile
            walk.leave(Outcome(outcome.verdict, error=outcome.error, seconds=self.world.now - began))
            then(outcome)

        walk.enter(inside, then)

    def _attempt(self, call: Call, tries: int, end: Then, sent: Callable[[], None]) -> None:
        walk = Walk(self.world, self.inner, call)

        def over(outcome: Outcome) -> None:
            if outcome.verdict is OK or not isinstance(self.plan, Plan):
                end(outcome)
                return
            delay = self.plan.next(call, tries, outcome, self.world.now)
            if delay is None:
                end(outcome)
                return
            call.attempt = tries + 1
            self.world.after(delay, lambda: self._attempt(call, tries + 1, end, sent))

        def inside() -> None:
            sent()
            self._send(walk, over)

        walk.enter(inside, over)

    def _send(self, walk: Walk, over: Then) -> None:
        """Send the attempt, and wait for its reply until its deadline and no longer."""
        world, call = self.world, walk.call
        began, answered = world.now, False
        deadline = call.deadline
        if self.patience is not None:
            deadline = began + self.patience if deadline is None else min(deadline, began + self.patience)

        def reply(outcome: Outcome) -> None:
            nonlocal answered
            if answered:
                return
            answered = True
            outcome.seconds = world.now - began
            walk.leave(outcome)
            over(outcome)

        self.callee.ask(deadline, reply)
        if deadline is not None:
            world.after(max(0.0, deadline - world.now), lambda: reply(_late()))


def _gate(policy: Policy) -> Gate[Any]:
    assert isinstance(policy, Gate), f"{policy!r}: this world drives gates and one plan"
    return policy


def _late() -> Outcome:
    error = DeadlineExceeded("no reply in time")
    return Outcome(error.verdict, error=error, sent=MAYBE, status="DEADLINE_EXCEEDED")


def _down() -> Outcome:
    error = CallFailed("connection refused", status="UNAVAILABLE", sent=NO)
    return Outcome(error.verdict, error=error, sent=NO, status="UNAVAILABLE")


def _refusal(outcome: Outcome) -> Outcome:
    """Bring the callee's own refusal over the wire: not sent, and overloaded where it says so."""
    refused = outcome.error
    assert isinstance(refused, Rejected)
    error = CallFailed(
        str(refused), status=refused.reason, sent=NO, overloaded=refused.overloaded, retry_after=refused.retry_after
    )
    return classify(Call("callee"), error)
