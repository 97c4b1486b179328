"""Hold a stream's tickets until it ends, breaks off or is closed, in a thread.

A part of `msgov.sync`, in a file of its own for its length; the twin of `msgov._streams`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from msgov._race import refuse
from msgov._threads import bounded, queue
from msgov.call import IGNORED, OK, Call, Outcome
from msgov.clock import Clock, Sleep, monotonic
from msgov.clock import sleep as real_sleep
from msgov.errors import DeadlineExceeded, Rejected
from msgov.pipeline import Frame, Pipeline, Segment, Tickets, last_error

T = TypeVar("T")


def stream(
    pipeline: Pipeline,
    opener: Callable[[Call], Iterator[T]],
    *,
    clock: Clock = monotonic,
    sleep: Sleep = real_sleep,
) -> Callable[[Call], Stream[T]]:
    """Wrap a function that opens a stream: its tickets are held until the stream ends, breaks or is closed.

    A retry may open it again as long as no item was given out. Raises `RuleError` for a hedge.
    """
    segment = pipeline.flat
    refuse(segment.plan, "of two streams neither is the answer before it has ended")
    return lambda call: Stream(pipeline, segment, opener, call, clock, sleep)


class Stream(Iterator[T]):
    """A governed stream; an iterator with `close`, also a context manager.

    One dropped without `close` is settled late but surely: its finaliser takes no lock and hands the tickets to the
    frame's queue.
    """

    __slots__ = (
        "_attempt", "_call", "_clock", "_inner", "_opener", "_over", "_pipeline", "_segment", "_sleep", "_started",
        "_tickets",
    )  # fmt: skip

    def __init__(
        self,
        pipeline: Pipeline,
        segment: Segment,
        opener: Callable[[Call], Iterator[T]],
        call: Call,
        clock: Clock,
        sleep: Sleep,
    ) -> None:
        self._over = False
        self._tickets: Tickets = []
        self._attempt: Tickets = []
        self._inner: Iterator[T] | None = None
        self._pipeline = pipeline
        self._segment = segment
        self._opener = opener
        self._call = call
        self._clock = clock
        self._sleep = sleep
        self._started: float | None = None

    def __iter__(self) -> Stream[T]:
        """Return itself."""
        return self

    def __next__(self) -> T:
        """Return the next item; raises what ends the stream, once it is settled."""
        if self._over:
            raise StopIteration
        if self._started is None:
            return self._first()
        try:
            return self._pull()
        except StopIteration:
            self._leave(Outcome(OK, status=self._call.status, seconds=self._seconds()))
            raise
        except BaseException as error:
            self._leave(self._judged(error))
            raise

    def _first(self) -> T:
        """Enter, open, and try again while the plan allows: nothing was given out yet."""
        call, clock, segment = self._call, self._clock, self._segment
        self._started = clock()
        tries, real = 1, None
        try:
            _enter(segment.outer, call, self._tickets, clock)
            if segment.plan is not None:
                segment.plan.next(call, 1, None, clock())
            while True:
                try:
                    _enter(segment.inner, call, self._attempt, clock)
                    self._inner = self._opener(call)
                    return self._pull()
                except StopIteration:
                    self._leave(Outcome(OK, status=self._call.status, seconds=self._seconds()))
                    raise
                except BaseException as error:  # noqa: BLE001  the plan decides on every error
                    delay = self._again(error, tries)
                    if delay is None:
                        raise last_error(error, real, tries)  # noqa: B904  a cause of its own must stay
                    if not isinstance(error, Rejected):
                        real = error
                _close(self._inner)
                self._inner = None
                self._sleep(delay)
                tries += 1
                call.attempt = tries
        except StopIteration:
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

    def _pull(self) -> T:
        """Take one item from beneath; between two items, where it is honest, the deadline ends the stream."""
        inner, call = self._inner, self._call
        assert inner is not None  # noqa: S101  opened by _first
        if call.deadline is not None and self._clock() >= call.deadline:
            raise DeadlineExceeded(
                f"{call.target} {call.method}".rstrip() + ": the stream's time ran out", seconds=self._seconds()
            )
        return bounded(lambda _: next(inner), call)

    def _seconds(self) -> float:
        return 0.0 if self._started is None else self._clock() - self._started

    def _judged(self, error: BaseException) -> Outcome:
        return self._pipeline.judge(self._call, error, self._seconds())

    def _leave(self, outcome: Outcome) -> None:
        self._over = True
        now = self._clock()
        self._segment.inner.settle(self._attempt, outcome, now)
        self._segment.outer.settle(self._tickets, outcome, now)  # no substitute can answer for a stream

    def close(self) -> None:
        """Close the stream early: settled as IGNORED, since it says nothing about the callee. Closing twice is fine."""
        if not self._over:
            self._leave(Outcome(IGNORED, status="closed", seconds=self._seconds()))
        inner, self._inner = self._inner, None
        _close(inner)

    def __enter__(self) -> Stream[T]:
        """Return itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close it."""
        self.close()

    def __del__(self) -> None:
        """Hand what was dropped to the frame's queue: no lock is taken here."""
        if not self._over:
            self._segment.inner.abandon(self._attempt)
            self._segment.outer.abandon(self._tickets)


def _close(inner: Iterator[object] | None) -> None:
    close = getattr(inner, "close", None)
    if close is not None:
        close()


def _enter(frame: Frame, call: Call, tickets: Tickets, clock: Clock) -> None:
    waiting = frame.enter(call, tickets, clock())
    if waiting is not None:
        queue(frame, waiting, call, tickets, clock)
