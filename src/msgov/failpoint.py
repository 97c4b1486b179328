"""Named places where a test may break the code: one falsy global check when off.

Code under test says `failpoint("outbox.after_claim")` where a crash would hurt. A test arms that name with an action:
in code by `msgov.testing.armed`, in a child process by `MSGOV_FAILPOINTS="name=kill;other=raise@3;third=sleep(0.5)"`,
read only when that process calls `arm_from_env()`.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Mapping

from msgov import clock
from msgov.errors import Problem, RuleError

VARIABLE = "MSGOV_FAILPOINTS"
Action = Callable[[], object]

_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")
_ENTRY = re.compile(
    r"(?P<action>kill|raise|sleep\((?P<seconds>[0-9]{1,6}(\.[0-9]{1,6})?)\))(@(?P<at>[1-9][0-9]{0,8}))?"
)
_ALLOWED = "name=kill, name=raise or name=sleep(SECONDS), each with an optional @N for the Nth hit alone; ';' between"


class FailpointReached(RuntimeError):
    """What a failpoint armed with `raise` raises: a stand-in for any unforeseen error, so no `MsgovError`."""


class Failpoint:
    """One armed place: counts its `hits`, and does its action at each, or at the `at`th alone."""

    __slots__ = ("_lock", "action", "at", "hits", "name")

    def __init__(self, name: str, action: Action, *, at: int | None = None) -> None:
        if _NAME.fullmatch(name) is None:
            raise RuleError.at("failpoint", name, "lower-case words of a-z, 0-9 and _, joined by dots")
        if at is not None and at < 1:
            raise RuleError.at(f"failpoint {name}: at", at, "hits count from 1; None acts at each")
        self.name = name
        self.action = action
        self.at = at
        self.hits = 0
        self._lock = threading.Lock()

    def reach(self) -> None:
        """Count a hit, then act; whatever the action raises passes into the code that was reached."""
        with self._lock:
            self.hits += 1
            due = self.at is None or self.hits == self.at
        if due:
            self.action()


_armed: dict[str, Failpoint] = {}


def failpoint(name: str) -> None:
    """Do what a test armed for `name`; nothing otherwise."""
    if _armed:
        point = _armed.get(name)
        if point is not None:
            point.reach()


def arm(point: Failpoint) -> None:
    """Let `failpoint(point.name)` reach this point from now on, in every thread; `RuleError` if the name is armed."""
    if _armed.setdefault(point.name, point) is not point:
        raise RuleError.at("failpoint", point.name, "a name that is not armed already: disarm it first")


def disarm(point: Failpoint) -> None:
    """Make the place harmless again; a point that is not armed is left alone."""
    if _armed.get(point.name) is point:
        del _armed[point.name]


def arm_from_env(environ: Mapping[str, str] = os.environ) -> None:
    """Arm what `MSGOV_FAILPOINTS` names; with any mistake in it nothing, and `RuleError` names every mistake.

    What is armed already stays as it is, so that a second call does no harm.
    """
    for point in parse(environ.get(VARIABLE, "")):
        _armed.setdefault(point.name, point)


def parse(spec: str) -> list[Failpoint]:
    """Read `name=action[@hit]` entries parted by `;`, as `arm_from_env` does."""
    points: dict[str, Failpoint] = {}
    problems: list[Problem] = []
    for entry in filter(None, (part.strip() for part in spec.split(";"))):
        name, _, action = (part.strip() for part in entry.partition("="))
        found = _ENTRY.fullmatch(action)
        if found is None or _NAME.fullmatch(name) is None:
            problems.append(Problem(VARIABLE, entry, _ALLOWED))
        elif name in points:
            problems.append(Problem(VARIABLE, entry, "each name once"))
        else:
            points[name] = Failpoint(name, _action(name, found), at=int(found["at"]) if found["at"] else None)
    if problems:
        raise RuleError(problems, where="environment")
    return list(points.values())


def _action(name: str, found: re.Match[str]) -> Action:
    if found["seconds"]:
        return sleeps(float(found["seconds"]))
    return kill if found["action"] == "kill" else raises(FailpointReached(f"failpoint {name}"))


def kill() -> None:
    """End this process as `kill -9` would: no handler, no `finally`, no flush."""
    os.kill(os.getpid(), signal.SIGKILL)


def raises(error: BaseException) -> Action:
    """Raise this error in the code that was reached."""

    def act() -> None:
        raise error.with_traceback(None)  # raised at each hit: it must not grow a traceback per hit

    return act


def sleeps(seconds: float, *, sleep: Callable[[float], object] = clock.sleep) -> Action:
    """Stop the thread that was reached, an event loop with all its tasks included, as a long pause of the process does.

    `sleep` waits `seconds`: the real one by default, a `ManualClock`'s to wait without waiting.
    """
    return lambda: sleep(seconds)
