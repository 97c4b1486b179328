"""A hedge in threads, over futures: the waiting thread runs the race, and what cannot be cancelled is told honestly."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from queue import Empty

import pytest

from msgov import scope, sync
from msgov._desk import Desk
from msgov._hedging_sync import hedged
from msgov.call import TRANSIENT, Call, Outcome
from msgov.clock import Clock
from msgov.errors import BulkheadFull, DeadlineExceeded, RuleError
from msgov.pipeline import Pipeline, Policy
from msgov.policy import Hedging, Waiting
from msgov.resilience import Bulkhead, BulkheadRule, Deadline, Fallback, Hedge, HedgeRule
from msgov.testing import ManualClock
from tests.drivers.stage import Door, Journal, Line

Step = tuple[float, object]  # after so many seconds, the reply or the error


def soon(attempts: int = 2) -> Hedge:
    """Make a plan that hedges after 100 ms."""
    return Hedge(HedgeRule(attempts=attempts, initial=0.1, load=4))


class World:
    """Futures that end at their time, on a clock that jumps there instead of waiting."""

    def __init__(self, *script: Step, stubborn: bool = False) -> None:
        self.clock = ManualClock()
        self.calls: list[Call] = []
        self.futures: list[Future[object]] = []
        self.stubborn = stubborn  # begun, as an executor's: cancel() answers False
        self.acts: list[tuple[float, int, Callable[[], object]]] = []
        self._script = iter(script)
        self._order = count()

    def begin(self, call: Call) -> Future[object]:
        """Send an attempt."""
        seconds, step = next(self._script)
        future: Future[object] = Future()
        if self.stubborn:
            future.set_running_or_notify_cancel()
        self.calls.append(call)
        self.futures.append(future)
        self.at(self.clock() + seconds, lambda: self._end(future, step))
        return future

    def _end(self, future: Future[object], step: object) -> None:
        if future.done():
            return
        if isinstance(step, BaseException):
            future.set_exception(step)
        else:
            future.set_result(step)

    def at(self, when: float, act: Callable[[], object]) -> None:
        """Act at a time."""
        heapq.heappush(self.acts, (when, next(self._order), act))

    def desk(self, clock: Clock) -> Desk:
        """Make the desk of a waiting thread."""
        return Jumping(clock, self)

    def finish(self) -> None:
        """Let all that runs on end."""
        while self.acts:
            when, _, act = heapq.heappop(self.acts)
            self.clock.advance(max(0.0, when - self.clock()))
            act()

    def play(self, chain: Iterable[Policy], call: Call | None = None) -> object:
        """Play one call."""
        pipeline = Pipeline(chain)
        segment = pipeline.flat
        assert isinstance(segment.plan, Hedging)
        handler = hedged(pipeline, segment.plan, segment.inner, self.begin, clock=self.clock, desk=self.desk)
        run = sync.govern(Pipeline(segment.outer.steps), handler, clock=self.clock, sleep=self.clock.sleep)
        return run(call or Call("shop", "buy", idempotent=True))


class Jumping(Desk):
    """A desk whose waits take no time."""

    def __init__(self, clock: Clock, world: World) -> None:
        super().__init__(clock)
        self.world = world

    def take(self, seconds: float | None) -> Callable[[], None] | None:
        """Jump to what happens next."""
        until = None if seconds is None else self.clock() + seconds
        while True:
            try:
                return self._box.get_nowait()
            except Empty:
                acts = self.world.acts
                if until is not None and (not acts or acts[0][0] > until):
                    self.world.clock.advance(until - self.clock())
                    return None
                when, _, act = heapq.heappop(acts)
                self.world.clock.advance(max(0.0, when - self.clock()))
                act()


def test_quick_reply_has_one_attempt() -> None:
    """And takes the time it takes."""
    world = World((0.05, "quick"))
    assert world.play([soon()]) == "quick"
    assert (len(world.calls), world.clock()) == (1, 0.05)


def test_slow_one_is_asked_again() -> None:
    """The first is cancelled, and says nothing about the callee."""
    journal: Journal = []
    door, call = Door(journal, "each"), Call("shop", idempotent=True)
    world = World((9.0, "slow"), (0.2, "quick"))
    assert world.play([soon(), door], call) == "quick"
    assert world.clock() == pytest.approx(0.3)
    assert [future.cancelled() for future in world.futures] == [True, False]
    assert [verdict.value for verdict in door.verdicts] == ["ok", "ignored"]
    assert call.attempt == 2


def test_first_may_still_win() -> None:
    """The hedge is cancelled then."""
    world = World((0.3, "first"), (9.0, "second"))
    assert world.play([soon()]) == "first"
    assert [future.cancelled() for future in world.futures] == [False, True]


def test_loser_that_cannot_be_cancelled_holds_its_permit_until_it_ends() -> None:
    """An executor's thread runs on: the bulkhead must know, and the caller must not wait."""
    bulkhead = Bulkhead(BulkheadRule(limit=4))
    world = World((9.0, "slow"), (0.2, "quick"), stubborn=True)
    assert world.play([soon(), bulkhead]) == "quick"
    assert (round(world.clock(), 6), bulkhead.inflight) == (0.3, 1)
    world.finish()
    assert (world.clock(), bulkhead.inflight) == (9.0, 0)


def test_failure_is_followed_at_once() -> None:
    """As under asyncio."""
    world = World((0.02, ConnectionError()), (0.0, "other"))
    assert world.play([soon()]) == "other"
    assert world.clock() == 0.02


def test_both_fail() -> None:
    """The last failure is the call's."""
    first, second = ConnectionError("first"), ConnectionError("second")
    with pytest.raises(ConnectionError, match="second") as failed:
        World((0.2, first), (0.3, second)).play([soon()])
    assert failed.value.__notes__ == ["after 2 attempts"]


def test_pushback_is_waited_for() -> None:
    """By the same thread, which has nothing else to do."""
    world = World((0.02, ConnectionError()), (0.0, "other"))

    def judged(call: Call, error: BaseException) -> Outcome:
        return Outcome(TRANSIENT, error=error, retry_after=0.5)

    pipeline = Pipeline([soon()], classify=judged)
    segment = pipeline.flat
    assert isinstance(segment.plan, Hedging)
    handler = hedged(pipeline, segment.plan, segment.inner, world.begin, clock=world.clock, desk=world.desk)
    assert handler(Call("shop", idempotent=True)) == "other"
    assert world.clock() == 0.52


def test_deadline_ends_the_wait() -> None:
    """Honestly: what is waited for is a future, and the wait is ours. Both attempts say that the callee was slow."""
    journal: Journal = []
    door = Door(journal, "each")
    world = World((9.0, "a"), (9.0, "b"))
    with pytest.raises(DeadlineExceeded):
        world.play([Deadline(0.5), soon(), door])
    assert world.clock() == 0.5
    assert [type(outcome.error) for outcome in door.outcomes] == [DeadlineExceeded] * 2
    assert all(future.cancelled() for future in world.futures)


def test_deadline_ends_the_wait_for_what_runs_on() -> None:
    """The caller has its error in time; the permits come back when the threads are free again, once each."""
    journal: Journal = []
    bulkhead, door = Bulkhead(BulkheadRule(limit=4)), Door(journal, "each")
    world = World((9.0, "a"), (9.0, "b"), stubborn=True)
    with pytest.raises(DeadlineExceeded):
        world.play([Deadline(0.5), soon(), bulkhead, door])
    assert (world.clock(), bulkhead.inflight, door.outcomes) == (0.5, 2, [])
    world.finish()
    assert bulkhead.inflight == 0
    assert [type(outcome.error) for outcome in door.outcomes] == [DeadlineExceeded] * 2


def test_attempt_deadline_begins_the_next() -> None:
    """Each attempt has its own."""
    world = World((9.0, "a"), (0.25, "b"))
    assert world.play([Hedge(HedgeRule(initial=5.0, load=4)), Deadline(0.3)]) == "b"
    assert world.clock() == pytest.approx(0.55)


def test_attempt_may_wait_in_line() -> None:
    """In the line of its own gate, without keeping the others from theirs."""
    journal: Journal = []
    line = Line(journal, "line", patience=5.0)
    world = World((0.0, "served"))
    world.at(0.2, line.serve)
    assert world.play([soon(), line]) == "served"
    assert (world.clock(), journal) == (0.2, [("in", "line", 1), ("out", "line", 1)])


def test_line_that_has_served_before_anybody_listened() -> None:
    """Another thread gave its permit back between the place in line and the wait for it."""

    class Quick(Line):
        def admit(self, call: Call, now: float) -> int | Waiting[int]:
            place = super().admit(call, now)
            self.serve()
            return place

    journal: Journal = []
    world = World((0.0, "served"))
    assert world.play([soon(), Quick(journal, "line", patience=5.0)]) == "served"
    assert world.clock() == 0.0


def test_line_that_refuses_or_takes_too_long() -> None:
    """Both ways out of it are rejections, and nothing was sent."""
    journal: Journal = []
    line = Line(journal, "line", patience=5.0)
    world = World()
    world.at(0.2, lambda: line.serve(BulkheadFull("no")))
    world.at(0.3, lambda: line.serve(BulkheadFull("no")))
    with pytest.raises(BulkheadFull):
        world.play([soon(), line])
    late = World()
    with pytest.raises(Exception, match=r"waited 0\.500 s in line"):
        late.play([soon(), Line(journal, "line", patience=0.5)])
    assert journal == []


def test_loser_leaves_its_line() -> None:
    """The first in it was served and replied; the second withdraws."""
    journal: Journal = []
    line = Line(journal, "line", patience=5.0)
    world = World((0.1, "first"))
    world.at(0.2, line.serve)
    assert world.play([soon(), line]) == "first"
    line.serve()  # too late: nobody is there, and nothing happens
    assert [entry for entry in journal if entry[0] == "out"] == [("out", "line", 1)]


def test_fallback_inside_answers_for_one_attempt() -> None:
    """And its answer is a reply like any other."""
    world = World((9.0, "late"), (0.0, ConnectionError()))
    assert world.play([soon(), Fallback("instead")]) == "instead"
    assert world.clock() == pytest.approx(0.1)


def test_rejected_at_the_door() -> None:
    """Nothing is sent."""
    journal: Journal = []
    with pytest.raises(BulkheadFull):
        World().play([soon(), Door(journal, "full", refuse=BulkheadFull("full"))])


def test_what_gives_no_future_is_a_mistake_that_is_not_tried_again() -> None:
    """The program is wrong, not the callee."""
    journal: Journal = []
    world, pipeline = World(), Pipeline([soon(), Door(journal, "each")])
    segment = pipeline.flat
    assert isinstance(segment.plan, Hedging)
    begin: Callable[[Call], Future[object]] = lambda call: 5  # type: ignore[assignment,return-value]  # noqa: E731
    handler = hedged(pipeline, segment.plan, segment.inner, begin, clock=world.clock, desk=world.desk)
    with pytest.raises(RuleError, match="a future"):
        handler(Call("shop", idempotent=True))
    assert journal == [("in", "each", 1), ("out", "each", 1)]


def test_begin_that_raises_is_a_failed_attempt() -> None:
    """The pool is shut down, say."""
    world = World()
    tries: list[Call] = []

    def begin(call: Call) -> Future[object]:
        tries.append(call)
        raise ConnectionError("no")

    pipeline = Pipeline([soon()])
    segment = pipeline.flat
    assert isinstance(segment.plan, Hedging)
    with pytest.raises(ConnectionError, match="no"):
        hedged(pipeline, segment.plan, segment.inner, begin, clock=world.clock, desk=world.desk)(
            Call("shop", idempotent=True)
        )
    assert len(tries) == 2


def test_what_begin_calls_inherits_the_deadline() -> None:
    """The attempt's own, where it is the shorter one."""
    seen: list[float | None] = []
    world = World((0.0, "well"))

    def begin(call: Call) -> Future[object]:
        seen.append(scope.current.get().deadline)
        return world.begin(call)

    pipeline = Pipeline([soon(), Deadline(0.3)])
    segment = pipeline.flat
    assert isinstance(segment.plan, Hedging)
    hedged(pipeline, segment.plan, segment.inner, begin, clock=world.clock, desk=world.desk)(
        Call("shop", idempotent=True, deadline=5.0)
    )
    assert seen == [0.3]
    assert scope.current.get().deadline is None


def test_interrupted_caller_cancels_all() -> None:
    """Ctrl-C in the wait: both are told, settled as saying nothing, and it passes."""
    journal: Journal = []
    door, world = Door(journal, "each"), World((9.0, "a"), (9.0, "b"))

    def interrupt() -> None:
        raise KeyboardInterrupt

    world.at(0.2, interrupt)
    with pytest.raises(KeyboardInterrupt):
        world.play([soon(), door])
    assert all(future.cancelled() for future in world.futures)
    assert [verdict.value for verdict in door.verdicts] == ["ignored", "ignored"]


def test_real_threads() -> None:
    """On a real pool, by the real clock: the first one hangs until the test lets go, and the hedge replies."""
    release = threading.Event()
    bulkhead, hedge = Bulkhead(BulkheadRule(limit=4)), Hedge(HedgeRule(initial=0.001, load=4))
    with ThreadPoolExecutor(2) as pool:

        def work(attempt: int) -> int:
            if attempt == 1:
                release.wait(10)
            return attempt

        pipeline = Pipeline([hedge, bulkhead])
        segment = pipeline.flat
        handler = hedged(pipeline, hedge, segment.inner, lambda call: pool.submit(work, call.attempt))
        assert handler(Call("shop", idempotent=True)) == 2
        assert bulkhead.inflight == 1
        release.set()
    assert bulkhead.inflight == 0


def test_many_threads_leave_exact_accounts() -> None:
    """Eight callers at once over one pipeline and one pool: what was taken is given back."""
    bulkhead, hedge = Bulkhead(BulkheadRule(limit=100)), Hedge(HedgeRule(initial=0.001, load=4))
    turn = count()
    replies: list[object] = []
    with ThreadPoolExecutor(4) as pool, ThreadPoolExecutor(8) as callers:

        def work() -> int:
            n = next(turn)
            if n % 5 == 0:
                raise ConnectionError
            threading.Event().wait(0.002 * (n % 3))
            return n

        pipeline = Pipeline([hedge, bulkhead])
        handler = hedged(pipeline, hedge, pipeline.flat.inner, lambda call: pool.submit(work))
        calls = [callers.submit(handler, Call("shop", idempotent=True)) for _ in range(80)]
        replies = [call.exception(10) or call.result() for call in calls]
    assert len(replies) == 80
    assert bulkhead.inflight == 0
    assert hedge.load.spent == hedge.hedged + hedge.retried
