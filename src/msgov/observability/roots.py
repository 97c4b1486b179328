"""Every line belongs to a trace, also where no request is under way.

Work in the background opens a trace of its own with `trace_root`; what happens outside of any belongs to the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from msgov import wire
from msgov.scope import Scope, Trace, current

task: ContextVar[str] = ContextVar("msgov.task", default="")
"""The name of the background work under way."""


@contextmanager
def trace_root(name: str) -> Iterator[Trace]:
    """Give a piece of background work its own trace, and its lines the field `task`.

    Open it round one turn of a loop, not round the loop, or everything that a process ever does is one trace. Nothing
    of the scope around it is inherited: a deadline of whoever started the loop means nothing to it.
    """
    trace = wire.child(None)
    scope_token = current.set(Scope(trace=trace))
    task_token = task.set(name)
    try:
        yield trace
    finally:
        task.reset(task_token)
        current.reset(scope_token)
