"""Wait in a thread: in a gate's line until its turn; hand a call's deadline down to what it calls.

A part of `msgov.sync`, in a file of its own for its length; on the event loop `msgov._loop` does the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import Token
from typing import TypeVar

from msgov import scope
from msgov.call import Call
from msgov.clock import Clock
from msgov.pipeline import Frame, Tickets, forsake
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
            forsake(gate, line, clock())
            raise
        now = clock()
        ticket = gate.withdraw(line, now)
        if ticket is None:
            raise gate.late(line, now)
        tickets.append(ticket)
        line = frame.enter(call, tickets, now)
    return now


def arm(call: Call, now: float = 0.0) -> Within | None:
    """Hand the call's deadline down to what it calls, until the token is given back; no timer is started at `now`."""
    return None if call.deadline is None else scope.current.set(scope.current.get().by(call.deadline))


def bounded(handler: Callable[[Call], T], call: Call) -> T:
    """Hand `call.deadline` down to whatever the handler calls; nothing here interrupts it."""
    token = arm(call)
    try:
        return handler(call)
    finally:
        if token is not None:
            scope.current.reset(token)
