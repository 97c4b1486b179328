"""A call that goes well meets no loop: its walk is written out for each shape of pipeline.

It is done as dataclasses write their `__init__`. Only the success of a first attempt is written; a line to wait in, an
error or a faulty gate hands over to the driver's ordinary code, which goes on from there. What that buys stands in
docs/why/drivers.md.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from msgov.call import NOTHING, OK, Call, Outcome
from msgov.errors import Rejected
from msgov.pipeline import Answered, Segment
from msgov.policy import Gate, Plan, Shortcut, Waiting
from msgov.scope import current

Faults = list[BaseException]  # of one: popped before it is raised, so that no frame of its traceback holds it


class Line(BaseException):
    """A gate answered with a line to wait in; how the written walk tells the ordinary one."""

    def __init__(self, waiting: Waiting[object]) -> None:
        super().__init__()
        self.waiting = waiting


def line(faults: Faults) -> Waiting[object]:
    """Return the line that the written walk met; raise what else stopped it."""
    fault = faults.pop()
    try:
        if isinstance(fault, Line):
            return fault.waiting
        raise fault
    finally:
        del fault


@dataclass(frozen=True, slots=True)
class Entry:
    """A function that keeps its own signature under governance: how a call is made of its arguments.

    `key` is a function of the same arguments; without one the call has the key of the scope that it is made in.
    """

    function: Callable[..., Any]
    target: str
    idempotent: bool
    key: Callable[..., str] | None

    def call(self, args: tuple[object, ...], kwargs: dict[str, object]) -> Call:
        """Make a call; the written walk does the same, line by line."""
        around = current.get()
        made = Call(
            self.target,
            request=(args, kwargs),
            deadline=around.deadline,
            idempotent=self.idempotent,
            key=around.key if self.key is None else self.key(*args, **kwargs),
            attempts_left=around.attempts_left,
            criticality=around.criticality,
        )
        made.trace = around.trace
        return made


@dataclass(frozen=True, slots=True)
class _Step:
    waits: bool  # it may answer with a line
    learns: bool  # it has something to learn at the exit
    shortcut: Shortcut | None  # its lines, in place of calls


@dataclass(frozen=True, slots=True)
class _Shape:
    awaits: bool
    entered: bool  # with a function's own arguments
    keyed: bool  # which also tell the key
    answered_for: bool  # a substitute may answer a refusal
    outer: tuple[_Step, ...]
    planned: bool
    opening: tuple[str, ...] | None  # the plan's own lines for the start of a call
    inner: tuple[_Step, ...]
    timed: bool  # by a deadline outside the seam
    attempt_timed: bool  # and by one inside it


def straight(
    segment: Segment,
    handler: Callable[..., Any],
    *,
    awaits: bool,
    clock: Callable[[], float],
    judge: Callable[..., Outcome],
    resume: Callable[..., Any],
    arm: Callable[..., Any] | None,
    disarm: Callable[..., Any],
    entry: Entry | None = None,
) -> Callable[..., Any]:
    """Write the walk of a segment round a handler; `arm` starts a deadline, None where the handler keeps it itself.

    With an `entry` it takes that function's arguments, and calls it without a handler between.
    """
    outer, inner = _gates(segment.outer.steps), _gates(segment.inner.steps)
    shape = _Shape(
        awaits,
        entry is not None,
        entry is not None and entry.key is not None,
        len(outer) + len(inner) < len(segment.outer) + len(segment.inner),
        tuple(map(_step, outer)),
        segment.plan is not None,
        _opening(segment.plan),
        tuple(map(_step, inner)),
        arm is not None and segment.outer.narrows,
        arm is not None and segment.inner.narrows,
    )
    gates = [*outer, *inner]
    make = _written(shape)
    written: Callable[..., Any] = make(
        handler if entry is None else entry.function,
        entry,
        clock,
        resume,
        segment,
        partial(segment.turned_away, judge),
        segment.orphans,
        segment.plan,
        arm,
        disarm,
        gates,
    )
    return written


def _gates(steps: Sequence[object]) -> list[Gate[Any]]:
    return [step for step in steps if isinstance(step, Gate)]


def _opening(plan: Plan | None) -> tuple[str, ...] | None:
    own = getattr(plan, "next", None)
    replaced = getattr(own, "__func__", None) is not getattr(type(plan), "next", None)
    return None if replaced else type(plan).__dict__.get("opening")


def _step(gate: Gate[Any]) -> _Step:
    kind = type(gate)
    own = kind.__dict__.get("shortcut")  # not an heir's, whose methods may be others; nor where one was replaced
    for name in ("admit", "settle"):  # a look into the gate's own `__dict__` would slow each of its attributes for good
        if getattr(getattr(gate, name), "__func__", None) is not getattr(kind, name):
            own = None
    return _Step(gate.waits, gate.learns, own)


@lru_cache(maxsize=1024)
def _written(shape: _Shape) -> Callable[..., Any]:
    name, source = f"<msgov walk {abs(hash(shape)):x}>", _source(shape)
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)  # tracebacks show its lines
    space: dict[str, Any] = {
        "Answered": Answered, "Call": Call, "Line": Line, "NOTHING": NOTHING, "OK": OK, "Rejected": Rejected,
        "Waiting": Waiting, "here": current.get, "new": object.__new__,
    }  # fmt: skip
    exec(compile(source, name, "exec"), space)  # noqa: S102  our own text, with nothing in it from outside
    made: Callable[..., Any] = space["make"]
    return made


def _source(shape: _Shape) -> str:
    steps = [*shape.outer, *shape.inner]
    tickets = [f"t{at}" for at in range(len(steps))]
    colour, wait = ("async ", "await ") if shape.awaits else ("", "")
    walk: list[str] = []
    for at, step in enumerate(steps):
        if at == len(shape.outer):
            walk += _seam(shape)
        walk += _admit(at, step)
    if not shape.inner:
        walk += _seam(shape)
    walk += ["attempt_alarm = arm(call, started)"] if shape.attempt_timed else []
    given = "*args, **kwargs" if shape.entered else "call"
    walk += [f"reply = {wait}handler({given})", "ended = clock()"]
    walk += ["if attempt_alarm is not None:", "    disarm(attempt_alarm)"] if shape.attempt_timed else []
    walk += ["if alarm is not None:", "    disarm(alarm)"] if shape.timed else []
    lazily = all(step.shortcut is not None for step in steps if step.learns)  # few of them ask for the outcome
    way_out: list[str] = []
    for at in reversed(range(len(steps))):
        if steps[at].learns:
            way_out += [f"left = {at}", *_settle(at, steps[at], lazily=lazily)]
    passed = f"({', '.join(tickets)}{',' if len(tickets) == 1 else ''})"
    inside = f"{tickets[len(shape.outer) - 1]} is not None" if shape.outer else "True"
    alarms = ("alarm" if shape.timed else "None", "attempt_alarm" if shape.attempt_timed else "None")
    blank = [*tickets, *(each for each in alarms if each != "None")]
    lines = [
        "def make(handler, entry, clock, resume, segment, turned_away, orphans, plan,",
        "         arm, disarm, gates):",
        *(f"    g{at} = gates[{at}]" for at in range(len(steps))),
        *(f"    admit_{at}, settle_{at} = g{at}.admit, g{at}.settle" for at in range(len(steps))),
        *(["    plan_next = plan.next"] if shape.planned else []),
        *(["    target, idempotent, key = entry.target, entry.idempotent, entry.key"] if shape.entered else []),
        f"    {colour}def governed({given}):",
        *_indented(8, _entry(keyed=shape.keyed) if shape.entered else []),
        "        started = clock()",
        "        if orphans:",
        "            segment.drain(started)",
        *([f"        {' = '.join(blank)} = None"] if blank else []),
        "        try:",
        *_indented(12, walk),
        *_indented(8, _refusals(shape, tickets, passed)),
        "        except BaseException as error:",
        "            faults, delay = [error], None",
        "        else:",
        *_indented(12, _exit(way_out, passed, lazily=lazily)),
        "            return reply",
        f"        return {wait}resume(call, {passed}, {inside}, faults, started, {', '.join(alarms)}, delay)",
        "    return governed",
    ]
    return "\n".join(lines) + "\n"


def _entry(*, keyed: bool) -> list[str]:
    """Write how a call is made of the function's arguments: each value is stored once, and no function is called."""
    values = {
        "target": "target", "method": '""', "request": "(args, kwargs)", "deadline": "around.deadline",
        "idempotent": "idempotent", "key": "key(*args, **kwargs)" if keyed else "around.key", "metadata": "NOTHING",
        "attempts_left": "around.attempts_left", "criticality": "around.criticality", "attempt": "1",
        "instance": "None", "context": "None", "status": '""', "tried": "None", "trace": "around.trace",
    }  # fmt: skip
    assert set(values) == set(Call.__slots__)  # noqa: S101  when this is written, not when it runs
    return ["around = here()", "call = new(Call)", *(f"call.{name} = {value}" for name, value in values.items())]


def _refusals(shape: _Shape, tickets: list[str], passed: str) -> list[str]:
    """Write what a refusal at one of our own doors costs, where nobody may answer in the callee's place: not much."""
    if shape.answered_for or not tickets:
        return []
    return [
        "except Rejected as error:",
        "    delay, faults = None, [error]",
        f"    if {tickets[-1]} is None:",
        *(
            ["        if alarm is not None:", "            disarm(alarm)", "            alarm = None"]
            if shape.timed
            else []
        ),
        "        faults = []",  # or the frame would hold the error that holds it
        f"        delay = turned_away(call, error, {passed}, started, clock())",
        "        if delay is None:",
        "            raise",
    ]


def _seam(shape: _Shape) -> list[str]:
    """Write what stands between the two frames: the deadline begins, the plan is asked."""
    seam = ["alarm = arm(call, started)"] if shape.timed else []
    if shape.planned:
        lines = shape.opening
        seam += (
            ["plan_next(call, 1, None, started)"]
            if lines is None
            else [line.format(p="plan", now="started") for line in lines]
        )
    return seam


def _exit(way_out: list[str], passed: str, *, lazily: bool) -> list[str]:
    if not way_out:
        return []
    return [
        *(["outcome = None"] if lazily else _OUTCOME),
        "try:",
        *_indented(4, way_out),
        "except BaseException as fault:",
        *_indented(4, _ASKED if lazily else []),
        f"    segment.unsettled(fault, left, {passed}, outcome, ended)",
    ]


_OUTCOME = [
    "outcome = Answered()",
    "outcome.verdict = OK",
    "outcome.error = None",
    "outcome.status = call.status",
    "outcome.seconds = ended - started",
]
_ASKED = ["if outcome is None:", *("    " + line for line in _OUTCOME)]


def _admit(at: int, step: _Step) -> list[str]:
    """Write how a gate is passed: by its method, or by its own lines."""
    asked = [f"t{at} = admit_{at}(call, started)"]
    if step.waits:
        # isinstance costs ten times as much
        asked += [f"if type(t{at}) is Waiting:", f"    met, t{at} = t{at}, None", "    raise Line(met)"]
    return asked if step.shortcut is None else _filled(step.shortcut.admit, at, "started", "{admit}", asked)


def _settle(at: int, step: _Step, *, lazily: bool) -> list[str]:
    """Write how a gate is left."""
    told = [*(_ASKED if lazily else []), f"settle_{at}(t{at}, outcome, ended)"]
    return told if step.shortcut is None else _filled(step.shortcut.settle, at, "ended", "{settle}", told)


def _filled(lines: Sequence[str], at: int, now: str, mark: str, called: list[str]) -> list[str]:
    filled: list[str] = []
    for line in lines:
        if line.strip() == mark:
            filled += _indented(len(line) - len(line.lstrip()), called)
        else:
            filled.append(line.format(g=f"g{at}", t=f"t{at}", now=now))
    return filled


def _indented(by: int, lines: list[str]) -> list[str]:
    return [" " * by + line for line in lines]
