"""A failpoint is armed for a block, and for no longer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from msgov.failpoint import Action, Failpoint, FailpointReached, arm, disarm, kill, raises, sleeps

__all__ = ["Action", "Failpoint", "FailpointReached", "armed", "kill", "raises", "sleeps"]


@contextmanager
def armed(name: str, action: Action, *, at: int | None = None) -> Iterator[Failpoint]:
    """Do `action` whenever the block reaches `failpoint(name)`, in any thread; with `at`, at that hit alone, from 1.

    An action is any function without arguments; `kill`, `raises(error)` and `sleeps(seconds)` are ready. Look at `hits`
    of what is yielded: a name that nothing reaches, perhaps a misspelt one, has 0. Raises `RuleError` for a name of the
    wrong form or one armed already, and for `at` below 1.
    """
    point = Failpoint(name, action, at=at)
    arm(point)
    try:
        yield point
    finally:
        disarm(point)
