"""Hedge a coroutine: the first attempt runs in the caller's own task, so that a call in no need of a hedge makes none.

A part of `msgov.aio`, in a file of its own for its length. What decides is `msgov._race`; here it is given tasks, and
nothing is left of them when the call returns: losers are cancelled and awaited.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import partial
from typing import Protocol

from msgov._loop import bounded, queue
from msgov._race import Cancel, Ended, Race
from msgov.call import IGNORED, Call, Outcome
from msgov.clock import Clock
from msgov.pipeline import Frame, Pipeline, Tickets, answered, last_error
from msgov.policy import AsyncHandler, Hedging

_Landed = tuple[object, Outcome, float]


class Failed(Protocol):
    """Settle a failed attempt and let its substitutes answer; return the reply, or an outcome that holds the error."""

    def __call__(
        self,
        pipeline: Pipeline,
        frame: Frame,
        call: Call,
        tickets: Tickets,
        error: BaseException,
        started: float,
        clock: Clock,
        timed: bool,
        /,
    ) -> Awaitable[tuple[object, Outcome]]: ...


def hedged(
    pipeline: Pipeline,
    plan: Hedging,
    frame: Frame,
    handler: AsyncHandler,
    *,
    clock: Clock,
    native: bool,
    failed: Failed,
) -> AsyncHandler:
    """Make of a handler one that begins as many attempts as the plan says, each walking the frame on its own copy.

    Returns the first good reply, raises what the last attempt raised; `failed` is the driver's own.
    """
    timed = frame.narrows and not native

    async def attempt(racing: _Racing, call: Call) -> _Landed:
        """Walk the frame once; it raises nothing, not even a cancellation, and settles whatever ends it."""
        tickets: Tickets = []
        started = clock()
        try:
            met = frame.enter(call, tickets, started)
            if met is not None:
                started = await queue(frame, met, call, tickets, clock)
            reply = await (bounded(handler, call, clock) if timed else handler(call))
        except BaseException as error:  # noqa: BLE001  every way out settles, and the race decides
            if racing.decided:  # whatever the handler made of its cancellation: it says nothing about the callee
                now = clock()
                lost = Outcome(IGNORED, error=error, status="lost", seconds=now - started)
                frame.settle(tickets, lost, now)
                return None, lost, now
            reply, outcome = await failed(pipeline, frame, call, tickets, error, started, clock, timed)
            try:
                return reply, outcome, clock()
            finally:
                del outcome  # its error's traceback holds this frame
        now = clock()
        well = answered(call.status, now - started)
        frame.settle(tickets, well, now)
        return reply, well, now

    async def handle(call: Call) -> object:
        racing = _Racing(plan, call, attempt, pipeline, clock)
        try:
            return await racing.run()
        finally:
            racing.forget()

    return handle


class _Attempt(Protocol):
    async def __call__(self, racing: _Racing, call: Call, /) -> _Landed: ...


class _Racing:
    """One call: the attempt in its own task, and tasks for those beside it."""

    __slots__ = (
        "_attempt", "_cancelling", "_clock", "_end", "_first", "_inside", "_interrupted", "_loop", "_pipeline", "_race",
        "_task", "_tasks", "_woken",
    )  # fmt: skip

    def __init__(self, plan: Hedging, call: Call, attempt: _Attempt, pipeline: Pipeline, clock: Clock) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  a coroutine is awaited in a task
        loop = task.get_loop()
        self._task = task
        self._cancelling = task.cancelling()
        self._loop = loop
        self._attempt = attempt
        self._pipeline = pipeline
        self._clock = clock
        self._tasks: set[asyncio.Task[_Landed]] = set()
        self._first: tuple[Call, Ended] | None = None
        self._inside = False  # in the attempt of the caller's own task
        self._interrupted = False  # by us, since another has won
        self._woken: asyncio.Future[None] | None = None
        self._end: _Landed | None = None
        self._race: Race | None = Race(
            plan, call, begin=self._begin, later=loop.call_later, over=self._over, clock=clock
        )

    @property
    def decided(self) -> bool:
        """Whether the call has its end, so that what still runs has lost."""
        return self._end is not None

    async def run(self) -> object:
        """Run the race to its end; nothing is left of it then."""
        race = self._race
        assert race is not None  # noqa: S101  until it is forgotten
        race.start(self._clock())
        assert self._first is not None  # noqa: S101  begun by the line above
        call, ended = self._first
        try:
            self._inside = True
            landed = await self._attempt(self, call)
            self._inside = False
            stopped = self._stopped(landed[1])
            if stopped is not None:
                race.cancel()
            ended(*landed)
            if stopped is not None:
                raise stopped
            if self._end is None:
                self._woken = self._loop.create_future()
                await self._woken
        except BaseException:
            race.cancel()
            await self._reap()
            raise
        finally:
            landed = stopped = None  # type: ignore[assignment]  # an error's traceback holds this frame
        await self._reap()
        assert self._end is not None  # noqa: S101  or nobody would have woken us
        reply, outcome, _ = self._end
        if outcome.error is None:
            return reply
        try:
            raise last_error(outcome.error, None, race.tries)
        finally:
            del outcome

    def forget(self) -> None:
        """Untie the knot: the race holds this, and this the race and an error whose traceback holds both."""
        self._race = self._end = self._first = None

    def _stopped(self, outcome: Outcome) -> BaseException | None:
        """Take our own interruption back; return the cancellation that came from outside, None where there was none."""
        cancelled = isinstance(outcome.error, asyncio.CancelledError)
        if self._interrupted:
            cancelled = self._task.uncancel() > self._cancelling and cancelled
        return outcome.error if cancelled else None

    def _begin(self, call: Call, ended: Ended) -> Cancel:
        if self._first is None:
            self._first = call, ended
            return self._interrupt
        task = self._loop.create_task(self._attempt(self, call))
        self._tasks.add(task)
        task.add_done_callback(partial(self._landed, call, ended))
        return task.cancel

    def _interrupt(self) -> None:
        """Stop the attempt in the caller's own task: it lost."""
        if self._inside:
            self._interrupted = True
            self._task.cancel()

    def _landed(self, call: Call, ended: Ended, task: asyncio.Task[_Landed]) -> None:
        self._tasks.discard(task)
        if task.cancelled():  # before its first step
            ended(None, Outcome(IGNORED, error=asyncio.CancelledError(), status="lost"), self._clock())
            return
        error = task.exception()
        if error is not None:  # an interrupt while it was settling
            ended(None, self._pipeline.judge(call, error, 0.0), self._clock())
            return
        ended(*task.result())

    def _over(self, reply: object, outcome: Outcome, now: float) -> None:
        self._end = reply, outcome, now
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def _reap(self) -> None:
        """Wait for those that were told to end; being cancelled meanwhile does not make them end sooner."""
        cancelled: asyncio.CancelledError | None = None
        while self._tasks:
            try:
                await asyncio.wait(self._tasks)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            try:
                raise cancelled
            finally:
                del cancelled
