"""Fail on purpose, where it is allowed, so that what happens then is known before it happens."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from typing import Final

from msgov import clock
from msgov.call import Call, Outcome
from msgov.clock import Dice
from msgov.errors import CallFailed, DeadlineExceeded, Problem
from msgov.event import Observers
from msgov.policy import Gate, Waiting
from msgov.rule import field, rule

ENV: Final = "MSGOV_FAULTS"
_EARLY = 1e-3  # seconds: a timer may ring early by its clock's resolution
_KINDS = "latency (seconds), hang (true), or status (text such as 503 or UNAVAILABLE)"


@rule
class FaultRule:
    """Which calls fail, and how."""

    share: float = field(
        ge=0, le=1, unit="of the calls", why="has no default: how much is broken is never found out by accident"
    )
    latency: float = field(
        default=0.0, ge=0, le=600, unit="s", why="how much later the call begins; with a status, it then fails"
    )
    hang: bool = field(default=False, why="no answer at all, until the call's deadline or `longest`")
    status: str = field(
        default="", max_length=64, why='fail as if the callee had said so: "UNAVAILABLE", "503"; empty does not fail'
    )
    header: str = field(
        default="",
        max_length=256,
        why="only calls whose metadata has it, from where it is trusted, so that a test breaks its own calls alone",
    )
    value: str = field(default="", max_length=256, why="what that metadata must be; empty for anything")
    longest: float = field(
        default=30.0, gt=0, le=600, unit="s", why="a hung call holds a worker: past half a minute a test has seen it"
    )

    def lint(self) -> Iterable[Problem]:
        """Check what no single field can see."""
        if not (self.latency or self.hang or self.status):
            yield Problem("", "nothing to inject", _KINDS)
        if self.hang and (self.latency or self.status):
            yield Problem("hang", True, "without latency and status: what hangs neither begins later nor answers")
        if self.latency > self.longest:
            yield Problem("latency", self.latency, f"at most `longest`, {self.longest:g} s")
        if self.value and not self.header:
            yield Problem("value", self.value, "with a header that it is the value of")


def _nobody(call: Call) -> bool:
    return False


class Fault(Gate[float]):
    """Make a share of the calls late, failed or hung: the innermost gate, so that every other policy sees it happen.

    Off unless allowed: by `allowed=True` in code, or where that is not said by MSGOV_FAULTS=1 in the environment, read
    when the gate is made. A rule alone, from a file or a config centre, injects nothing.

    A status raises `CallFailed`, or what `error` makes of the call: TRANSIENT, and `sent`, as the real one would be. A
    hang raises `DeadlineExceeded` at the call's deadline, after `longest` at the latest, and so does latency that the
    deadline has no room for. Latency counts as the callee's own time for the policies outside. With a `header` in the
    rule only calls whose metadata has it are touched, and of these only those that `trusted` says may ask for it: by
    default nobody.

    Each is told as `fault.injected`. Read at any time: `allowed`; counters `delayed`, `failed`, `hung`.
    """

    def __init__(
        self,
        rule: FaultRule,
        *,
        allowed: bool | None = None,
        error: Callable[[Call], Exception] | None = None,
        trusted: Callable[[Call], bool] = _nobody,
        name: str = "",
        target: str = "",
        dice: Dice | None = None,
        observers: Observers | None = None,
    ) -> None:
        self.rule = rule
        self.allowed = os.environ.get(ENV) == "1" if allowed is None else allowed
        self.name = name
        self.target = target
        self.observers = observers or Observers()
        self.delayed = 0
        self.failed = 0
        self.hung = 0
        self.waits = self.learns = self.allowed
        self._error = error
        self._trusted = trusted
        self._dice = dice or clock.dice()
        self._lock = threading.Lock()
        self._late: dict[Waiting[float], tuple[FaultRule, Call]] = {}

    def admit(self, call: Call, now: float) -> float | Waiting[float]:
        """Let the call by, fail it, or make it wait."""
        rule = self.rule
        if not self.allowed or not self._chosen(rule, call):
            return 0.0
        if not (rule.hang or rule.latency):
            with self._lock:
                self.failed += 1
            self._tell(call, now, "error", 0.0)
            raise self._failure(rule, call)
        seconds = rule.longest if rule.hang else rule.latency
        until = now + seconds
        if call.deadline is not None and call.deadline < until:
            until = call.deadline
        waiting: Waiting[float] = Waiting(since=now, until=until)
        with self._lock:
            self._late[waiting] = (rule, call)
            if rule.hang:
                self.hung += 1
            else:
                self.delayed += 1
        self._tell(call, now, "hang" if rule.hang else "latency", until - now)
        return waiting

    def settle(self, ticket: float, outcome: Outcome, now: float) -> None:
        """Let the injected time count as the callee's."""
        if ticket:
            outcome.seconds += ticket

    def withdraw(self, waiting: Waiting[float], now: float) -> float | None:
        """Leave: None before the time is over, then the seconds it took; raises what the fault ends with."""
        with self._lock:
            rule, call = self._late.pop(waiting)
            if now < waiting.until - _EARLY:
                return None
            cut = waiting.until < waiting.since + rule.latency - _EARLY
            fails = bool(rule.status) and not cut
            self.failed += fails
        took = now - waiting.since
        if rule.hang or cut:
            raise DeadlineExceeded(
                f"{call.target} {call.method}".rstrip() + f": injected fault, no answer in {took:.3f} s",
                seconds=took,
                injected=True,
            )
        if fails:
            self._tell(call, now, "error", 0.0)
            raise self._failure(rule, call)
        return took

    def _chosen(self, rule: FaultRule, call: Call) -> bool:
        if rule.header:
            said = call.metadata.get(rule.header.lower())
            if said is None or (rule.value and said != rule.value) or not self._trusted(call):
                return False
        return rule.share >= 1 or self._dice.random() < rule.share

    def _failure(self, rule: FaultRule, call: Call) -> Exception:
        if self._error is not None:
            return self._error(call)
        asked = f"{call.target} {call.method}".rstrip()
        return CallFailed(f"{asked}: injected fault {rule.status}", status=rule.status, injected=True)

    def _tell(self, call: Call, now: float, what: str, seconds: float) -> None:
        self.observers.tell("fault.injected", self.name, self.target or call.target, now, what=what, seconds=seconds)
