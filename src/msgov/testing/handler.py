"""The callee of a test does what its script says, for both drivers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle as repeat

from msgov.call import Call
from msgov.errors import RuleError


@dataclass(frozen=True, slots=True)
class After:
    """A step that takes its time: `seconds` (0 or more; `math.inf` never ends) before the reply, or the exception."""

    seconds: float
    step: object = None

    def __post_init__(self) -> None:
        """Refuse time that runs backwards."""
        if not self.seconds >= 0:
            raise RuleError.at("After: seconds", self.seconds, "a number, 0 or more; math.inf never ends")


class ScriptedHandler:
    """A target that plays one step of its script per call, and remembers the calls.

    A step is a reply, an exception (an instance, or a class to raise a fresh one each time), or `After(seconds, step)`.
    Hand `handler.aio` to the asyncio driver or `handler.sync` to the blocking one. When the script is over the test
    fails with an `AssertionError`, unless `cycle=True` starts it again.

    Nothing here waits by the wall: `aio` sleeps by its loop (use `msgov.testing.run`), `sync` by the `sleep` given
    (a `ManualClock`'s).
    """

    def __init__(self, *script: object, cycle: bool = False, sleep: Callable[[float], object] | None = None) -> None:
        if cycle and not script:
            raise RuleError.at("ScriptedHandler: script", script, "at least one step when cycle=True")
        self.calls: list[Call] = []
        """Every call so far, in order; a retried call stands here once per attempt."""
        self.running = 0
        """How many calls are inside now: 0 after a test in which every call ended or was cancelled."""
        self._count = len(script)
        self._script: Iterator[object] = repeat(script) if cycle else iter(script)
        self._sleep = sleep

    async def aio(self, call: Call) -> object:
        """Play the next step, as an async handler."""
        step = self._next(call)
        self.running += 1
        try:
            while isinstance(step, After):
                await asyncio.sleep(step.seconds)
                step = step.step
            return _reply(step)
        finally:
            self.running -= 1

    def sync(self, call: Call) -> object:
        """Play the next step, as a blocking handler."""
        step = self._next(call)
        self.running += 1
        try:
            while isinstance(step, After):
                if self._sleep is None:
                    raise RuntimeError(f"ScriptedHandler: {step} needs a clock to sleep by: give sleep=clock.sleep")
                self._sleep(step.seconds)
                step = step.step
            return _reply(step)
        finally:
            self.running -= 1

    def _next(self, call: Call) -> object:
        self.calls.append(call)
        for step in self._script:
            return step
        raise AssertionError(
            f"ScriptedHandler: {call!r} came after all {self._count} steps; give one more, or cycle=True"
        )


def _reply(step: object) -> object:
    if isinstance(step, BaseException):
        raise step.with_traceback(None)  # one instance raised again must not grow a traceback per call
    if isinstance(step, type) and issubclass(step, BaseException):
        raise step
    return step
