"""Hold a stream's tickets until it ends, breaks off or is closed, on the event loop.

A part of `msgov.aio`, in a file of its own for its length; its blocking twin is `msgov._streams_sync`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import TypeVar

from msgov._loop import bounded, queue
from msgov._race import refuse
from msgov.call import IGNORED, OK, Call, Outcome
from msgov.clock import Clock, monotonic
from msgov.errors import Rejected
from msgov.pipeline import Frame, Pipeline, Segment, Tickets, last_error

T = TypeVar("T")


def stream(
    pipeline: Pipeline, opener: Callable[[Call], AsyncIterator[T]], *, clock: Clock = monotonic
) -> Callable[[Call], Stream[T]]:
    """Wrap a function that opens a stream: its tickets are held until the stream ends, breaks or is closed.

    A retry may open it again as long as no item was given out. Raises `RuleError` for a hedge.
    """
    segment = pipeline.flat
    refuse(segment.plan, "of two streams neither is the answer before it has ended")
    return lambda call: Stream(pipeline, segment, opener, call, clock)


class Stream(AsyncIterator[T]):
    """A governed stream; an async iterator with `aclose`, also an async context manager.

    One dropped without `aclose` is settled late but surely: its finaliser takes no lock, hands the tickets to the
    frame's queue and asks the loop to close what is beneath.
    """

    __slots__ = (
        "_attempt", "_call", "_clock", "_inner", "_loop", "_opener", "_over", "_pipeline", "_segment", "_started",
        "_tickets",
    )  # fmt: skip

    def __init__(
        self,
        pipeline: Pipeline,
        segment: Segment,
        opener: Callable[[Call], AsyncIterator[T]],
        call: Call,
        clock: Clock,
    ) -> None:
        self._over = False
        self._tickets: Tickets = []
        self._attempt: Tickets = []
        self._inner: AsyncIterator[T] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pipeline = pipeline
        self._segment = segment
        self._opener = opener
        self._call = call
        self._clock = clock
        self._started = 0.0

    def __aiter__(self) -> Stream[T]:
        """Return itself."""
        return self

    async def __anext__(self) -> T:
        """Return the next item; raises what ends the stream, once it is settled."""
        if self._over:
            raise StopAsyncIteration
        if self._loop is None:
            return await self._first()
        try:
            return await self._pull()
        except StopAsyncIteration:
            self._leave(Outcome(OK, status=self._call.status, seconds=self._clock() - self._started))
            raise
        except BaseException as error:
            self._leave(self._judged(error))
            raise

    async def _first(self) -> T:
        """Enter, open, and try again while the plan allows: nothing was given out yet."""
        call, clock, segment = self._call, self._clock, self._segment
        self._loop = asyncio.get_running_loop()
        self._started = clock()
        tries, real = 1, None
        try:
            await _enter(segment.outer, call, self._tickets, clock)
            if segment.plan is not None:
                segment.plan.next(call, 1, None, clock())
            while True:
                try:
                    await _enter(segment.inner, call, self._attempt, clock)
                    self._inner = self._opener(call)
                    return await self._pull()
                except StopAsyncIteration:
                    self._leave(Outcome(OK, status=call.status, seconds=clock() - self._started))
                    raise
                except BaseException as error:  # noqa: BLE001  the plan decides on every error
                    delay = self._again(error, tries)
                    if delay is None:
                        raise last_error(error, real, tries)  # noqa: B904  a cause of its own must stay
                    if not isinstance(error, Rejected):
                        real = error
                await _close(self._inner)
                self._inner = None
                await asyncio.sleep(delay)
                tries += 1
                call.attempt = tries
        except StopAsyncIteration:
            raise
        except BaseException as error:
            self._leave(self._judged(error))
            raise
        finally:
            del real

    def _again(self, error: BaseException, tries: int) -> float | None:
        """Settle the attempt that failed and ask for another; in a frame of its own, which the error does not hold."""
        outcome, segment = self._judged(error), self._segment
        segment.inner.settle(self._attempt, outcome, self._clock())
        return None if segment.plan is None else segment.plan.next(self._call, tries, outcome, self._clock())

    async def _pull(self) -> T:
        """Take one item from beneath, within the call's deadline."""
        inner = self._inner
        assert inner is not None  # noqa: S101  opened by _first
        if self._call.deadline is None:
            return await inner.__anext__()
        return await bounded(lambda _: inner.__anext__(), self._call, self._clock)

    def _judged(self, error: BaseException) -> Outcome:
        return self._pipeline.judge(self._call, error, self._clock() - self._started)

    def _leave(self, outcome: Outcome) -> None:
        self._over = True
        now = self._clock()
        self._segment.inner.settle(self._attempt, outcome, now)
        self._segment.outer.settle(self._tickets, outcome, now)  # no substitute can answer for a stream

    async def aclose(self) -> None:
        """Close the stream early: settled as IGNORED, since it says nothing about the callee. Closing twice is fine."""
        if not self._over:
            self._leave(Outcome(IGNORED, status="closed", seconds=self._clock() - self._started))
        inner, self._inner = self._inner, None
        await _close(inner)

    async def __aenter__(self) -> Stream[T]:
        """Return itself."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close it."""
        await self.aclose()

    def __del__(self) -> None:
        """Hand what was dropped to the frame's queue and the loop: no lock is taken here."""
        if self._over:
            return
        self._segment.inner.abandon(self._attempt)
        self._segment.outer.abandon(self._tickets)
        inner, loop = self._inner, self._loop
        if inner is not None and loop is not None and not loop.is_closed():
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_reap, loop, inner)


def _reap(loop: asyncio.AbstractEventLoop, inner: AsyncIterator[object]) -> None:
    task = loop.create_task(_close(inner))
    _reaping.add(task)
    task.add_done_callback(_reaping.discard)


_reaping: set[asyncio.Task[None]] = set()


async def _close(inner: AsyncIterator[object] | None) -> None:
    close = getattr(inner, "aclose", None)
    if close is not None:
        await close()


async def _enter(frame: Frame, call: Call, tickets: Tickets, clock: Clock) -> None:
    waiting = frame.enter(call, tickets, clock())
    if waiting is not None:
        await queue(frame, waiting, call, tickets, clock)
