"""A stream holds its tickets until it ends, breaks, is closed, or is found by the collector."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from msgov import aio, scope, sync
from msgov.call import IGNORED, OK, TRANSIENT, Call, Outcome
from msgov.errors import DeadlineExceeded, Rejected, RuleError
from msgov.pipeline import Pipeline
from msgov.resilience import Bulkhead, BulkheadRule, Deadline
from msgov.testing import ManualClock, run
from tests.drivers.stage import Again, Aio, Colour, Door, Journal, Line, Stand


def giving(*script: object) -> Callable[[], Iterator[object]]:
    """Make an opener that gives items, and raises what is an exception."""

    def opener() -> Iterator[object]:
        for step in script:
            if isinstance(step, BaseException):
                raise step
            yield step

    return opener


def opening(*openers: Callable[[], Iterator[object]]) -> Callable[[], Iterator[object]]:
    """Make an opener that is another one each time."""
    left = iter(openers)
    return lambda: next(left)()


def test_stream_that_ends_is_ok(colour: Colour) -> None:
    """Its tickets are settled when the last item was given, innermost first."""
    journal: Journal = []
    outer, inner = Door(journal, "outer"), Door(journal, "inner")
    assert colour.pull([outer, Again(2), inner], giving(1, 2, 3)).reply == [1, 2, 3]
    assert (outer.verdicts, inner.verdicts) == ([OK], [OK])
    assert [entry[1] for entry in journal] == ["outer", "inner", "inner", "outer"]


def test_empty_stream_is_ok(colour: Colour) -> None:
    """No item is an answer too."""
    door = Door([], "door")
    assert colour.pull([door], giving()).reply == []
    assert door.verdicts == [OK]


def test_stream_that_breaks_is_the_callees_failure(colour: Colour) -> None:
    """What was given is given; the error passes, and is learnt."""
    door, error = Door([], "door"), ConnectionError("lost")
    played = colour.pull([door], giving(1, error))
    assert (played.reply, played.error) == ([1], error)
    assert door.verdicts == [TRANSIENT]


def test_stream_closed_early_says_nothing(colour: Colour) -> None:
    """The caller had enough: that is no failure of the callee's, and no success."""
    door = Door([], "door")
    assert colour.pull([door], giving(1, 2, 3), items=1).reply == [1]
    assert door.verdicts == [IGNORED]


def test_stream_closed_before_it_began_was_never_let_in(colour: Colour) -> None:
    """Nothing was opened, so nothing is settled."""
    door = Door([], "door")
    assert colour.pull([door], giving(1), items=0).reply == []
    assert (door.tickets, door.outcomes) == (0, [])


def test_stream_is_opened_again_before_its_first_item(colour: Colour) -> None:
    """Nothing was given out, so nobody can tell."""
    outer, inner = Door([], "outer"), Door([], "inner")
    opener = opening(giving(ConnectionError()), giving(ConnectionError()), giving(1, 2))
    played = colour.pull([outer, Again(3, apart=2.0), inner], opener)
    assert (played.reply, played.seconds) == ([1, 2], 4.0)
    assert (outer.verdicts, inner.verdicts) == ([OK], [TRANSIENT, TRANSIENT, OK])


def test_stream_is_not_opened_again_after_its_first_item(colour: Colour) -> None:
    """The caller would see the first items twice."""
    error = ConnectionError("lost")
    played = colour.pull([Again(3)], opening(giving(1, error), giving(1, 2)))
    assert (played.reply, played.error) == ([1], error)


def test_stream_that_never_opens_raises_the_last_error(colour: Colour) -> None:
    """As a call does, with the note."""
    last = ConnectionError("second")
    played = colour.pull([Door([], "outer"), Again(2)], opening(giving(ConnectionError("first")), giving(last)))
    assert played.error is last
    assert last.__notes__ == ["after 2 attempts"]


def test_rejected_stream_is_never_opened(colour: Colour) -> None:
    """The opener is not called, those passed before are settled."""
    outer = Door([], "outer")
    played = colour.pull([outer, Door([], "shut", refuse=Rejected("full"))], opening())
    assert isinstance(played.error, Rejected)
    assert outer.verdicts == [IGNORED]


def test_substitute_cannot_answer_for_a_stream_and_is_not_asked(colour: Colour) -> None:
    """Its answer would be one reply, not items; those outside it are settled all the same."""
    outer, stand, error = Door([], "outer"), Stand(lambda call, error: "instead"), ConnectionError("lost")
    played = colour.pull([outer, Again(2), stand], opening(giving(ConnectionError()), giving(error)))
    assert played.error is error
    assert outer.verdicts == [TRANSIENT]
    assert stand.asked == []


def test_ended_stream_stays_ended(colour: Colour) -> None:
    """Asking again is answered as any iterator answers, with nothing settled twice."""
    door = Door([], "door")
    if isinstance(colour, Aio):

        async def scene() -> None:
            stream = aio.stream(Pipeline([door]), _async(giving(1)))(Call("shop"))
            assert [item async for item in stream] == [1]
            assert [item async for item in stream] == []
            await stream.aclose()
            await stream.aclose()

        run(scene())
    else:
        stream = sync.stream(Pipeline([door]), lambda call: giving(1)())(Call("shop"))
        assert list(stream) == [1]
        assert list(stream) == []
        stream.close()
        stream.close()
    assert door.verdicts == [OK]


def test_dropped_stream_is_settled_by_the_next_walk(colour: Colour) -> None:
    """A finaliser may run inside any lock: it takes none, and the next call does its work."""
    bulkhead = Bulkhead(BulkheadRule(limit=1))
    pipeline = Pipeline([bulkhead])
    closed: list[str] = []

    def opener() -> Iterator[object]:
        try:
            yield 1
            yield 2
        finally:
            closed.append("closed")

    if isinstance(colour, Aio):

        async def scene() -> None:
            opened = aio.stream(pipeline, _async(opener))
            stream = opened(Call("shop"))
            assert await anext(stream) == 1
            del stream  # no collection: by reference count
            assert bulkhead.inflight == 1
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert closed == ["closed"]
            other = opened(Call("shop"))
            assert await anext(other) == 1
            assert bulkhead.inflight == 1
            await other.aclose()

        run(scene())
    else:
        opened = sync.stream(pipeline, lambda call: opener())
        stream = opened(Call("shop"))
        assert next(stream) == 1
        del stream
        assert closed == ["closed"]
        assert bulkhead.inflight == 1
        with opened(Call("shop")) as other:
            assert next(other) == 1
            assert bulkhead.inflight == 1
    assert bulkhead.inflight == 0


def test_stream_dropped_after_a_retry_goes_by_reference_count_too(colour: Colour) -> None:
    """The failure of its first attempt must not tie a knot round it that only the collector undoes."""
    bulkhead, tries = Bulkhead(BulkheadRule(limit=1)), list[str]()

    def opener() -> Iterator[object]:
        tries.append("try")
        if len(tries) == 1:
            raise ConnectionError
        yield 1

    pipeline = Pipeline([Forgetful(2, apart=0.0), bulkhead])
    gc.collect()
    gc.disable()
    try:
        if isinstance(colour, Aio):

            async def scene() -> None:
                await anext(aio.stream(pipeline, _async(opener))(Call("shop")))

            run(scene())
        else:
            next(sync.stream(pipeline, lambda call: opener())(Call("shop")))
        pipeline.flat.inner.leave(Call("next"), [], Outcome(OK), 0.0)
    finally:
        gc.enable()
    assert (len(tries), bulkhead.inflight) == (2, 0)


class Forgetful(Again):
    """A plan that keeps no outcome, for it would keep the error."""

    def next(self, call: Call, tries: int, outcome: Outcome | None, now: float) -> float | None:
        """Say when, and forget."""
        delay = super().next(call, tries, outcome, now)
        self.asked.clear()
        return delay


def test_dropped_streams_are_drained_however_many_they_are(colour: Colour) -> None:
    """A thousand of them must not need a thousand calls, or a thousand frames of stack."""
    door = Door([], "door")
    pipeline = Pipeline([door])
    if isinstance(colour, Aio):

        async def scene() -> None:
            opened = aio.stream(pipeline, _async(giving(1, 2)))
            for _ in range(2000):
                await anext(opened(Call("shop")))
            await opened(Call("shop")).__anext__()

        run(scene())
    else:
        opened = sync.stream(pipeline, lambda call: giving(1, 2)())
        for _ in range(2000):
            next(opened(Call("shop")))
        next(opened(Call("shop")))
    assert door.verdicts == [IGNORED] * 2000


def test_stream_dropped_after_its_loop_was_closed_is_settled_too() -> None:
    """There is no loop left to ask for a close, and nothing may be raised from a finaliser."""
    door = Door([], "door")
    pipeline = Pipeline([door])

    class Never(AsyncIterator[int]):
        async def __anext__(self) -> int:
            return 1

    loop = asyncio.new_event_loop()
    stream = aio.stream(pipeline, lambda call: Never())(Call("shop"))
    loop.run_until_complete(_next(stream))
    loop.close()
    del stream
    gc.collect()
    pipeline.flat.outer.enter(Call("shop"), [], 0.0)
    assert door.verdicts == [IGNORED]


async def _next(stream: AsyncIterator[int]) -> int:
    return await anext(stream)


class Tap(AsyncIterator[object], Iterator[object]):
    """What is beneath a stream and is no generator: a transport's own object. It tells when it is pulled and closed."""

    def __init__(self, told: list[str], *script: object) -> None:
        self.told = told
        self.script = list(script)

    def __next__(self) -> object:
        """Give the next thing."""
        self.told.append("pulled")
        step = self.script.pop(0)
        if isinstance(step, BaseException):
            raise step
        return step

    async def __anext__(self) -> object:
        """Give the next thing, later."""
        return next(self)

    def close(self) -> None:
        """Tell it."""
        self.told.append("closed")

    async def aclose(self) -> None:
        """Tell it."""
        self.close()


def test_what_failed_is_closed_before_it_is_opened_again(colour: Colour) -> None:
    """A transport's object holds a connection until it is closed."""
    told: list[str] = []
    taps = iter([Tap(told, ConnectionError()), Tap(told, 1)])

    if isinstance(colour, Aio):

        async def scene() -> object:
            opened = aio.stream(Pipeline([Again(2, apart=0.0)]), lambda call: next(taps))
            async with opened(Call("shop")) as stream:
                return await anext(stream)

        assert run(scene()) == 1
    else:
        with sync.stream(Pipeline([Again(2, apart=0.0)]), lambda call: next(taps))(Call("shop")) as stream:
            assert next(stream) == 1
    assert told == ["pulled", "closed", "pulled", "closed"]


def test_broken_stream_is_not_pulled_again(colour: Colour) -> None:
    """It has ended, whatever the thing beneath would still give."""
    told: list[str] = []
    tap = Tap(told, ConnectionError(), "after")
    if isinstance(colour, Aio):

        async def scene() -> None:
            stream = aio.stream(Pipeline([Door([], "door")]), lambda call: tap)(Call("shop"))
            with pytest.raises(ConnectionError):
                await anext(stream)
            with pytest.raises(StopAsyncIteration):
                await anext(stream)

        run(scene())
    else:
        stream = sync.stream(Pipeline([Door([], "door")]), lambda call: tap)(Call("shop"))
        with pytest.raises(ConnectionError):
            next(stream)
        with pytest.raises(StopIteration):
            next(stream)
    assert told == ["pulled"]


def test_dropped_stream_asks_the_loop_to_close_what_is_beneath() -> None:
    """Only a generator would be closed by itself: a transport's call goes on until it is told."""
    told: list[str] = []

    async def scene() -> None:
        await anext(aio.stream(Pipeline([Door([], "door")]), lambda call: Tap(told, 1, 2))(Call("shop")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    run(scene())
    assert told == ["pulled", "closed"]


def test_cancelled_pull_is_ignored_and_reaches_what_is_beneath() -> None:
    """The caller left in the middle of an item."""
    door, ended = Door([], "door"), []

    async def opener(call: Call) -> AsyncIterator[int]:
        try:
            await asyncio.get_running_loop().create_future()
            yield 1
        finally:
            ended.append("ended")

    async def scene() -> None:
        stream = aio.stream(Pipeline([door]), opener, clock=asyncio.get_running_loop().time)(Call("shop"))
        task = asyncio.ensure_future(_next(stream))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(scene())
    assert door.verdicts == [IGNORED]
    assert ended == ["ended"]


def test_deadline_ends_a_stream_in_the_middle_of_an_item_under_asyncio() -> None:
    """The whole stream has one deadline, and a slow item does not outlast it."""
    door = Door([], "door")

    async def opener(call: Call) -> AsyncIterator[int]:
        for item in range(9):
            await asyncio.sleep(1)
            yield item

    async def scene() -> tuple[list[int], float]:
        loop, got = asyncio.get_running_loop(), list[int]()
        stream = aio.stream(Pipeline([door, Deadline(3.5)]), opener, clock=loop.time)(Call("shop"))
        with pytest.raises(DeadlineExceeded):
            while True:
                got.append(await anext(stream))
        return got, loop.time()

    got, at = run(scene())
    assert got == [0, 1, 2]
    assert at == pytest.approx(3.5, abs=0.011)
    assert door.verdicts == [TRANSIENT]


def test_deadline_ends_a_blocking_stream_between_two_items() -> None:
    """The honest place: an item under way is waited for, the next one is not begun."""
    door, clock = Door([], "door"), ManualClock()
    inherited: list[float | None] = []

    def opener(call: Call) -> Iterator[int]:
        for item in range(9):
            inherited.append(scope.current.get().deadline)
            clock.advance(1)
            yield item

    got = list[int]()
    stream = sync.stream(Pipeline([door, Deadline(2.5)]), opener, clock=clock)(Call("shop"))
    with pytest.raises(DeadlineExceeded):
        while True:
            got.append(next(stream))
    assert got == [0, 1, 2]
    assert inherited == [2.5] * 3
    assert door.verdicts == [TRANSIENT]


def test_stream_waits_in_line() -> None:
    """A waiting gate holds a stream up as it does a call."""
    line = Line([], "line", patience=9.0)

    async def scene() -> float:
        loop = asyncio.get_running_loop()
        loop.call_later(2, line.serve)
        stream = aio.stream(Pipeline([line]), _async(giving(1)), clock=loop.time)(Call("shop"))
        assert [item async for item in stream] == [1]
        return loop.time()

    assert run(scene()) == 2.0
    assert line.verdicts == [OK]


def test_stream_that_ends_has_the_status_of_its_call(colour: Colour) -> None:
    """The wire's word for a good reply is counted of streams too."""
    door, call = Door([], "door"), Call("shop")
    call.status = "206"
    if colour.name == "aio":

        async def scene() -> None:
            stream = aio.stream(Pipeline([door]), _async(giving(1)))(call)
            assert [item async for item in stream] == [1]

        run(scene())
    else:
        assert list(sync.stream(Pipeline([door]), lambda _: giving(1)())(call)) == [1]
    assert [outcome.status for outcome in door.outcomes] == ["206"]


def test_stream_takes_no_layer(colour: Colour) -> None:
    """A layer wraps a handler, and a stream has none: said when it is built."""
    with pytest.raises(RuleError, match="policies"):
        colour.pull([lambda handler: handler], giving(1))


def _async(opener: Callable[[], Iterator[object]]) -> Callable[[Call], AsyncIterator[object]]:
    async def opened(call: Call) -> AsyncIterator[object]:
        for item in opener():
            yield item

    return opened
