"""A pipeline is a list of policies, first outermost, flattened once into frames.

A frame is a run of gates, substitutes and deadlines that one driver function walks: in by `enter`, out by `leave`.
The one seam is the plan (retry, hedge): what stands before it acts once per call, what stands after it per attempt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

from msgov.call import IGNORED, OK, YES, Call, Outcome
from msgov.errors import MsgovError, Rejected, RuleError, explain, explainer
from msgov.event import unraisable
from msgov.policy import Answer, Around, Classify, Gate, Plan, Substitute, Waiting, classify

# A frame hands each gate its own tickets back: what they are is nobody else's business, hence Any.
Step: TypeAlias = "Gate[Any] | Substitute"
Layer: TypeAlias = "Around | Callable[..., object]"
Policy: TypeAlias = "Gate[Any] | Substitute | Plan | Layer"
Tickets: TypeAlias = "list[object]"
Orphans: TypeAlias = "deque[tuple[Frame, Tickets]]"


class Answered(Outcome):
    """The outcome of a reply, made on every call that goes well: it costs less than half.

    No Python function is called to make it. What policies look at on that way is stored from outside (`verdict`,
    `error`, `status`, `seconds`); the rest is the class's own.
    """

    __slots__ = ()

    retry_after = None
    sent = YES
    overloaded = False

    __init__ = object.__init__  # in C


def answered(status: str, seconds: float) -> Outcome:
    """Return the outcome of a reply that took so long."""
    well: Outcome = Answered()
    well.verdict = OK
    well.error = None
    well.status = status
    well.seconds = seconds
    return well


_DROPPED = Outcome(IGNORED, status="abandoned")


class Frame:
    """A run of steps walked together; settles what it admitted exactly once, innermost first.

    `tickets` is the walk's own memory: as long as a step's ticket stands in it, that step is owed a settle. What was
    left to the garbage collector comes back through `abandon`, which takes no lock: the next enter or leave settles it.
    """

    __slots__ = ("_admits", "_orphans", "_settles", "_size", "narrows", "steps")

    def __init__(self, steps: Iterable[Step], orphans: Orphans | None = None) -> None:
        self.steps = tuple(steps)
        self.narrows = any(getattr(step, "narrows", False) for step in self.steps)
        self._admits = tuple(step.admit if isinstance(step, Gate) else _pass for step in self.steps)
        self._settles = tuple(step.settle if isinstance(step, Gate) else _learn_nothing for step in self.steps[::-1])
        self._size = len(self.steps)
        self._orphans: Orphans = deque() if orphans is None else orphans

    def enter(self, call: Call, tickets: Tickets, now: float) -> Waiting[object] | None:
        """Walk in from where `tickets` left off; return the `Waiting` to wait on, None when all are passed.

        Raises `Rejected` with the steps passed so far still in `tickets`: hand them to `leave`.
        """
        if self._orphans:
            drain(self._orphans, now)
        admits = self._admits
        if tickets:
            admits = admits[len(tickets) :]
        for admit in admits:
            ticket = admit(call, now)
            if ticket.__class__ is Waiting:
                return ticket  # narrowed by class: isinstance costs ten times as much
            tickets.append(ticket)
        return None

    def gate(self, tickets: Tickets) -> Gate[object]:
        """Return the gate at which the walk stands: the one a `Waiting` came from."""
        step = self.steps[len(tickets)]
        assert isinstance(step, Gate)  # noqa: S101  only gates return a Waiting
        return step

    def settle(self, tickets: Tickets, outcome: Outcome, now: float) -> None:
        """Walk all the way out, settling each step; substitutes are passed by."""
        pop, settles = tickets.pop, self._settles
        if len(tickets) != self._size:
            settles = settles[self._size - len(tickets) :]
        for settle in settles:
            try:
                settle(pop(), outcome, now)
            except Exception as fault:  # noqa: BLE001  a faulty gate must not cost the others their settle
                unraisable(fault, settle)
            except BaseException:  # an interrupt: the next enter or leave settles those that are left
                self.abandon(tickets)
                raise

    def leave(self, call: Call, tickets: Tickets, outcome: Outcome, now: float) -> Answer | None:
        """Walk out of a failed call, settling each step; stop at a substitute that will answer, return its answer.

        For the steps that remain call it again when the answer failed too, or `settle` when it went well.
        """
        if self._orphans:
            drain(self._orphans, now)
        error = outcome.error
        if len(tickets) < self._size and isinstance(error, Rejected):
            explain(self.steps[len(tickets)], error)  # the step at whose door the walk ended
        while tickets:
            ticket, step = tickets.pop(), self.steps[len(tickets)]
            try:
                if isinstance(step, Gate):
                    step.settle(ticket, outcome, now)
                elif outcome.error is not None:
                    answer = step.instead(call, outcome, now)
                    if answer is not None:
                        return answer
            except Exception as fault:  # noqa: BLE001  as in settle
                unraisable(fault, step)
            except BaseException:  # as in settle
                self.abandon(tickets)
                raise
        return None

    def abandon(self, tickets: Tickets) -> None:
        """Take what a finaliser found, without a lock; the next enter or leave settles it as IGNORED."""
        if tickets:
            self._orphans.append((self, tickets))

    def held(self, tickets: Iterable[object]) -> Tickets:
        """Return what a walk holds that took `tickets` at the gates, None at the first it did not pass."""
        given = iter(tickets)
        held: Tickets = []
        for step in self.steps:
            ticket = next(given) if isinstance(step, Gate) else _pass
            if ticket is None:
                break
            held.append(ticket)
        return held

    def __len__(self) -> int:
        """Count the steps."""
        return self._size

    def __repr__(self) -> str:
        """List the steps, outermost first."""
        return f"Frame({', '.join(type(step).__name__ for step in self.steps)})"


def forsake(gate: Gate[Any], waiting: Waiting[Any], now: float, *, status: str = "") -> None:
    """Leave a gate's line for a reason of one's own; what was granted at that very moment is given back."""
    with suppress(MsgovError):  # the line's own refusal, met while leaving
        got = gate.withdraw(waiting, now)
        if got is not None:
            gate.settle(got, Outcome(IGNORED, status=status), now)


def drain(orphans: Orphans, now: float) -> None:
    """Settle what finalisers left."""
    while orphans:
        try:
            frame, tickets = orphans.popleft()
        except IndexError:  # another thread took it
            return
        frame.settle(tickets, _DROPPED, now)


def _pass(call: Call, now: float) -> object:
    """Let by: a substitute has nothing to say at the door."""
    return _pass


def _learn_nothing(ticket: object, outcome: Outcome, now: float) -> None:
    """Let by: nor has it anything to learn at the exit."""


class Segment:
    """One seam with its two frames: `outer` per call, then `plan`, then `inner` per attempt.

    `layers` wrap whatever comes after the segment: an `Around`, or a user's own `Handler -> Handler`.
    """

    __slots__ = ("_explains", "_outer_gates", "gates", "inner", "layers", "orphans", "outer", "plan")

    def __init__(
        self,
        outer: Iterable[Step],
        plan: Plan | None,
        inner: Iterable[Step],
        layers: Sequence[Layer] = (),
    ) -> None:
        self.orphans: Orphans = deque()
        self.outer = Frame(outer, self.orphans)
        self.plan = plan
        self.inner = Frame(inner, self.orphans)
        self.layers = tuple(layers)
        around = [step for step in self.outer.steps if isinstance(step, Gate)]
        self._outer_gates = len(around)
        self.gates = (*around, *(step for step in self.inner.steps if isinstance(step, Gate)))
        self._explains = tuple(map(explainer, self.gates))

    @property
    def outside(self) -> Segment:
        """What stands before the seam, alone: for a driver that makes the attempts by other means."""
        return Segment(self.outer.steps, None, ())

    def drain(self, now: float) -> None:
        """Settle what finalisers left."""
        drain(self.orphans, now)

    def held(self, tickets: Sequence[object]) -> tuple[Tickets, Tickets]:
        """Return what a written walk holds of each frame."""
        gates = self._outer_gates
        return self.outer.held(tickets[:gates]), self.inner.held(tickets[gates:])

    def turned_away(
        self,
        judge: Callable[[Call, BaseException, float], Outcome],
        call: Call,
        error: Rejected,
        tickets: Sequence[object],
        started: float,
        now: float,
    ) -> float | None:
        """Settle a call that one of our own gates refused on its first attempt, where no substitute may answer for it.

        Return the seconds until the next attempt, with the outer frame still held; None when the call is over.
        """
        seam, at = len(self.outer), tickets.index(None)
        self._explains[at](error)
        inside = self.plan is not None and at >= seam
        if at == 0 and not inside:
            return None  # nobody has anything to learn
        outcome, delay = judge(call, error, now - started), None
        try:
            if inside and self.plan is not None:
                self.inner.settle(list(tickets[seam:at]), outcome, now)
                delay = self.plan.next(call, 1, outcome, now)
        finally:  # whatever a plan at fault raises in its place
            if delay is None:
                self.outer.settle(list(tickets[: min(at, seam)]), outcome, now)
        return delay

    def unsettled(
        self, fault: BaseException, left: int, tickets: Sequence[object], outcome: Outcome, now: float
    ) -> None:
        """Finish a way out on which a gate raised: the first `left` gates of both frames are still owed a settle."""
        owed = [*tickets[:left], *[None] * (len(tickets) - left)]
        outer, inner = self.held(owed)
        if not isinstance(fault, Exception):  # an interrupt: the next call settles those that are left
            self.inner.abandon(inner)
            self.outer.abandon(outer)
            raise fault
        unraisable(fault, self.gates[left].settle)
        self.inner.settle(inner, outcome, now)
        self.outer.settle(outer, outcome, now)


class Pipeline:
    """Policies in order, first outermost, with the function that judges an error.

    Raises `RuleError` when two plans stand in it, or a thing that is no policy: a retry inside a retry multiplies.
    """

    __slots__ = ("classify", "policies", "segments")

    def __init__(self, policies: Iterable[Policy] = (), *, classify: Classify = classify) -> None:
        self.policies = tuple(policies)
        self.classify = classify
        self.segments = tuple(_segments(self.policies))

    @property
    def flat(self) -> Segment:
        """The whole pipeline as one segment, for edges that hold a call without a coroutine.

        Raises `RuleError` when a plain layer stands in it: such an edge has no handler to wrap.
        """
        if len(self.segments) != 1 or self.segments[0].layers:
            raise RuleError.at("policies", self, "gates, plans and substitutes only: a channel has no handler to wrap")
        return self.segments[0]

    def judge(self, call: Call, error: BaseException, seconds: float) -> Outcome:
        """Judge an error with `classify`; a classifier that raises is reported, and the default judges instead."""
        try:
            outcome = self.classify(call, error)
        except Exception as fault:  # noqa: BLE001  the user's classifier must not cost a settle
            unraisable(fault, self.classify)
            outcome = classify(call, error)
        outcome.error = error
        outcome.seconds = seconds
        return outcome

    def __repr__(self) -> str:
        """List the policies, outermost first."""
        names = (getattr(p, "__name__", type(p).__name__) for p in self.policies)
        return f"Pipeline({', '.join(names)})"


def _segments(policies: tuple[Policy, ...]) -> Iterable[Segment]:
    seen: Plan | None = None
    steps: list[Step] = []
    outer: list[Step] | None = None
    plan: Plan | None = None

    def cut(layers: Sequence[Layer] = ()) -> Segment:
        if plan is None:
            return Segment(steps, None, (), layers)
        return Segment(outer or (), plan, steps, layers)

    for at, policy in enumerate(policies):
        if isinstance(policy, Plan):
            if seen is not None:
                raise RuleError.at(f"policies[{at}]", policy, "one plan per pipeline: nested retries multiply")
            seen = plan = policy
            outer, steps = steps, []
        elif isinstance(policy, Gate | Substitute):
            steps.append(policy)
        elif isinstance(policy, Around) or (callable(policy) and not isinstance(policy, type)):
            yield cut([policy])
            steps, outer, plan = [], None, None
        else:
            raise RuleError.at(
                f"policies[{at}]", policy, "a Gate, a Plan, a Substitute or a layer (handler -> handler)"
            )
    yield cut()


def last_error(error: BaseException, real: BaseException | None, tries: int) -> BaseException:
    """Say what a call ended with: a rejection of a later attempt must not hide the failure before it.

    Returns it, for raising it here would tie the error and this frame into a knot that only the collector undoes.
    """
    ended = real if real is not None and isinstance(error, Rejected) else error
    if tries > 1 and isinstance(ended, Exception):
        note = f"after {tries} attempts"
        if note not in getattr(ended, "__notes__", ()):  # one error object raised again and again must not grow
            ended.add_note(note)
    return ended
