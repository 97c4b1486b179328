"""Tell gates how loaded the process is: a pump that looks ten times a second, so that no call ever does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from contextlib import suppress
from types import TracebackType
from typing import Final, Protocol, Self

from msgov.clock import Clock, monotonic
from msgov.event import unraisable
from msgov.resilience.cpu import Cpu

BEAT: Final = 0.1  # seconds between two looks at the loop and the threads
_CPU_BEATS = 5  # looks for one at the CPU (aegis: 500 ms)
_CPU_STAYS = 0.95  # of the old reading; it takes ten seconds to follow, so that no single burst sheds (aegis)
_LAG_STAYS = 0.7  # of the old reading; it follows in a third of a second


class Senses(Protocol):
    """What can be told how loaded the process is: a `Shedder`, an `Adaptive`."""

    def sense(self, *, cpu: float, lag: float, delay: float) -> None:
        """Take the latest readings."""
        ...


class Load:
    """Reads three numbers and tells them to gates, from `async with` until its end.

    - `cpu`: the share of the container's, or the machine's, CPU in use, 0 to 1, smoothed over about ten seconds. One
      thread of Python fills no more than one CPU, so behind a quota of two it says 0.5 at most: hence the other two.
    - `lag`: how late the event loop is, in seconds: what was ready waited so long for its turn.
    - `delay`: how long work given to `executor` waits for a thread, in seconds; 0 without one.

    `gates` is gone through anew at each look, so a list that grows or a view of what there is will do. Beside threads
    it runs on any loop there is, and its lag is then what the threads leave of the interpreter. Raises `RuntimeError`
    when entered twice.
    """

    def __init__(
        self,
        gates: Iterable[Senses],
        *,
        executor: Executor | None = None,
        cpu: Callable[[float], float] | None = None,
        clock: Clock = monotonic,
    ) -> None:
        self.cpu = 0.0
        self.lag = 0.0
        self.delay = 0.0
        self._gates = gates
        self._executor = executor
        self._read = cpu or Cpu().read
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._probe: Future[float] | None = None
        self._asked = 0.0

    async def __aenter__(self) -> Self:
        """Begin to look."""
        if self._task is not None:
            raise RuntimeError("this Load runs already: make one for each loop")
        self._task = asyncio.get_running_loop().create_task(self._beat(), name="msgov.load")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Look no more, and tell the gates that nothing is known: no old reading may go on shedding."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None
        self.cpu = self.lag = self.delay = 0.0
        self._tell()

    async def _beat(self) -> None:
        self._read(self._clock())
        fresh, beats = True, 0
        while True:
            due = self._clock() + BEAT
            await asyncio.sleep(BEAT)
            now = self._clock()
            self.lag = max(0.0, now - due) * (1.0 - _LAG_STAYS) + self.lag * _LAG_STAYS
            self.delay = self._waited(now)
            beats += 1
            if beats % _CPU_BEATS == 0:
                cpu = self._read(now)
                self.cpu = cpu if fresh else cpu * (1.0 - _CPU_STAYS) + self.cpu * _CPU_STAYS
                fresh = False
            self._tell()

    def _waited(self, now: float) -> float:
        """Return how long the latest probe waited for a thread, or waits so far; at most one is under way."""
        probe = self._probe
        waited = self.delay
        if probe is not None:
            if not probe.done():
                return max(waited, now - self._asked)
            waited = 0.0 if probe.cancelled() else max(0.0, probe.result() - self._asked)
            self._probe = None
        if self._executor is not None:
            try:
                self._asked, self._probe = now, self._executor.submit(self._clock)
            except RuntimeError:  # it was shut down: nobody waits for it any more
                self._executor, waited = None, 0.0
        return waited

    def _tell(self) -> None:
        try:
            for gate in self._gates:
                gate.sense(cpu=self.cpu, lag=self.lag, delay=self.delay)
        except Exception as error:  # noqa: BLE001  a faulty gate, or a view that changed meanwhile: the next look tells
            unraisable(error, self)
