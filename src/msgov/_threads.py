"""Wait in a thread: in a gate's line until its turn; hand a call's deadline down to what it calls.

A part of `msgov.sync`, in a file of its own for its length; on the event loop `msgov._loop` does the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import Token
from typing import TypeVar

from msgov import scope
from msgov.call import IGNORED, Call, Outcome
from msgov.clock import Clock
from msgov.errors import MsgovError
from msgov.pipeline import Frame, Tickets
from msgov.policy import Waiting

T = TypeVar("T")
Within = Token[scope.Scope]


def queue(frame: Frame, waiting: Waiting[object], call: Call, tickets: Tickets, clock: Clock) -> float:
    """Wait in every line of the frame; return the time at which the last one let the call in."""
    line: Waiting[object] | None = waiting
    now = clock()
    while line is not None:
        gate = frame.gate(tickets)
        woken = threading.Event()
        line.wake = woken.set
        try:
            if not line.over:
                woken.wait(max(0.0, line.until - now))
        except BaseException:
            with suppress(MsgovError):  # the line's own refusal, met while leaving for another reason
                got = gate.withdraw(line, clock())
                if got is not None:
                    gate.settle(got, Outcome(IGNORED), clock())
            raise
        now = clock()
        ticket = gate.withdraw(line, now)
        if ticket is None:
            raise gate.late(line, now)
        tickets.append(ticket)
        line = frame.enter(call, tickets, now)
    return now


def arm(call: Call, now: float) -> Within | None:
    """Hand the call's deadline down to what it calls, until the token is given back."""
    return None if call.deadline is None else scope.current.set(scope.current.get().by(call.deadline))


def bounded(handler: Callable[[Call], T], call: Call) -> T:
    """Hand `call.deadline` down to whatever the handler calls; nothing here interrupts it."""
    if call.deadline is None:
        return handler(call)
    token = scope.current.set(scope.current.get().by(call.deadline))
    try:
        return handler(call)
    finally:
        scope.current.reset(token)
