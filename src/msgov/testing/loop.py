"""Time on this event loop jumps to the next timer instead of waiting for it."""

from __future__ import annotations

import asyncio
import math
import selectors
import threading
from collections.abc import Callable, Coroutine
from contextlib import closing
from typing import NoReturn, TypeVar

from msgov.testing._census import standing
from msgov.testing._number import positive
from msgov.testing.leaks import Leaked

T = TypeVar("T")

WEEK = 7 * 86_400.0

# Real seconds in which a thread or a socket may still wake a loop that has nothing else to wait for.
_PATIENCE = 1.0
# Loop turns, and virtual seconds, that tasks get to end by themselves, and after cancellation.
_TURNS = 100
_MERCY = 60.0


class Deadlock(RuntimeError):
    """Nothing can move any more: everyone waits, and nobody is left to wake them."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop on virtual time, from 0.0: a day of one-second timers passes in a second or two.

    Pass its `time` as the clock of whatever runs on it. When nothing is ready it jumps to the next timer; when there is
    no timer either, it raises `Deadlock` (real time is waited for only then, a second at most and only if a thread or a
    socket could still wake it). `limit`, in virtual seconds (a week by default), turns a wait that would never end
    beside a periodic timer into a `Deadlock` too. Ready sockets are served in the order of their descriptors, so that a
    run is the same each time. Sockets work if both ends live on this loop.

    Threads do not advance virtual time, so `run_in_executor`, and with it `asyncio.to_thread` and the look-up of host
    names, raises `RuntimeError`.
    """

    def __init__(self, *, limit: float = WEEK) -> None:
        self._jumps = _Jumps(limit)
        super().__init__(self._jumps)
        try:
            positive("VirtualLoop: limit", limit)
        except ValueError:
            self.close()  # a loop made by half warns when it is collected
            raise

    def time(self) -> float:
        """Tell virtual time, in seconds since the loop was made."""
        return self._jumps.now

    def run_in_executor(self, executor: object, func: Callable[..., object], *args: object) -> NoReturn:
        """Refuse: a thread takes real time."""
        raise RuntimeError(
            f"run_in_executor({func!r}): threads do not advance virtual time; call it directly, or use a real loop"
        )


class _Jumps(selectors.DefaultSelector):
    """Advances `now` instead of waiting."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.now = 0.0
        self._limit = limit

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            # The loop's own wake-up pipe is always there: anything beyond it may still bring something.
            outside = len(self.get_map()) > 1 or threading.active_count() > 1
            ready = super().select(_PATIENCE) if outside else []
            if not ready:
                raise Deadlock(f"nothing is scheduled and nothing can happen at {self.now:g} s" + _who())
        elif not ready and timeout:
            self.now += timeout
            if self.now > self._limit:
                limit, self._limit = self._limit, math.inf  # said once: what cleans up after it may take time
                raise Deadlock(f"virtual time ran past its limit of {limit:g} s; give more if that is right" + _who())
        return sorted(ready, key=lambda event: event[0].fd)


def _who() -> str:
    return "".join(f"\n  {line}" for line in sorted(standing(task) for task in asyncio.all_tasks()))


def run(main: Coroutine[object, object, T], *, limit: float = WEEK) -> T:
    """Run a coroutine to its end on a fresh `VirtualLoop`, close the loop, and return the result.

    Tasks left at the end get a few turns of the loop, but no time, to end; then they are cancelled. Raises `Leaked`
    with their names if there were any, `Deadlock` as the loop does, and before either what the coroutine itself raised.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        main.close()
        raise RuntimeError("msgov.testing.run: a loop is running in this thread already; await the coroutine instead")
    with closing(VirtualLoop(limit=limit)) as loop:
        try:
            result = loop.run_until_complete(main)
        except BaseException:
            loop.run_until_complete(_end())  # tasks left by a failure are its consequence
            raise
        left = loop.run_until_complete(_end())
    if left:
        raise Leaked(left)
    return result


async def _end() -> list[str]:
    """End the tasks that are left, and name those that did not end by themselves."""
    here = asyncio.current_task()
    for _ in range(_TURNS):
        if len(asyncio.all_tasks()) == 1:
            break
        await asyncio.sleep(0)
    tasks = [task for task in asyncio.all_tasks() if task is not here]
    left = sorted(f"task {standing(task)}" for task in tasks)
    for task in tasks:
        task.cancel()
    if tasks:
        ended, _ = await asyncio.wait(tasks, timeout=_MERCY)
        for task in ended:
            _ = task.cancelled() or task.exception()  # looked at, so that the loop does not log it as unseen
    await asyncio.get_running_loop().shutdown_asyncgens()
    return left
