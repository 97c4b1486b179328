"""A place in line is left in one way only, and no permit is lost on any of them."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from msgov import aio, sync
from msgov.call import IGNORED, OK, Call
from msgov.errors import BulkheadFull, Rejected
from msgov.pipeline import Pipeline
from msgov.policy import Gate, Waiting
from msgov.resilience import Bulkhead, BulkheadRule
from msgov.testing import ManualClock, run
from tests.drivers.stage import Again, Colour, Door, Journal, Line


class Served(Line):
    """A line in which everyone has been served by the time they look."""

    def __init__(self, journal: Journal, name: str, *, error: Rejected | None = None) -> None:
        super().__init__(journal, name)
        self.error = error

    def admit(self, call: Call, now: float) -> int | Waiting[int]:
        """Hand out a place, and serve it at once."""
        place = super().admit(call, now)
        self.serve(self.error)
        return place


def test_place_served_before_the_driver_listens_is_not_waited_for(colour: Colour) -> None:
    """The driver sets `wake` and then looks: what was resolved in between must not sleep for ever."""
    journal: Journal = []
    inner = Door(journal, "inner")
    played = colour.play([Served(journal, "line"), inner], "done")
    assert (played.reply, played.seconds) == ("done", 0.0)
    assert [entry[:2] for entry in journal] == [("in", "line"), ("in", "inner"), ("out", "inner"), ("out", "line")]


def test_machine_may_turn_a_waiting_call_away(colour: Colour) -> None:
    """A line can be closed with a reason: the wait ends with the machine's own refusal."""
    refusal, outer = BulkheadFull("closed"), Door([], "outer")
    played = colour.play([outer, Served([], "line", error=refusal)])
    assert played.error is refusal
    assert outer.verdicts == [IGNORED]


def test_every_line_of_a_frame_is_waited_in(colour: Colour) -> None:
    """Two waiting gates in a row are two waits."""
    journal: Journal = []
    played = colour.play([Served(journal, "one"), Door(journal, "between"), Served(journal, "two")], "done")
    assert played.reply == "done"
    assert [entry[1] for entry in journal] == ["one", "between", "two", "two", "between", "one"]


def test_line_inside_the_seam_is_stood_in_per_attempt(colour: Colour) -> None:
    """Each attempt waits anew, and its duration does not count the wait."""
    line = Served([], "line")
    played = colour.play([Again(2), line], ConnectionError(), "done")
    assert (played.reply, line.tickets) == ("done", 2)


def test_wait_ends_at_until_under_asyncio() -> None:
    """A machine has no timer: the driver leaves the line when the time is up, and the refusal says so."""
    line, outer = Line([], "line", patience=3.0), Door([], "outer")
    with pytest.raises(Rejected, match=r"waited 3\.000 s"):
        _govern(Pipeline([outer, line]))
    assert outer.verdicts == [IGNORED]
    assert line.outcomes == []


def _govern(pipeline: Pipeline) -> object:
    async def handler(call: Call) -> object:
        return "done"

    async def scene() -> object:
        return await aio.govern(pipeline, handler, clock=asyncio.get_running_loop().time)(Call("shop"))

    return run(scene())


def test_wait_ends_when_served_under_asyncio() -> None:
    """The grant wakes the driver at once, and its time is read again: waiting is not the callee's latency."""
    line = Line([], "line", patience=9.0)
    inner = Door([], "inner")

    async def handler(call: Call) -> object:
        await asyncio.sleep(0.5)
        return "done"

    async def scene() -> object:
        loop = asyncio.get_running_loop()
        loop.call_later(2.0, line.serve)
        reply = await aio.govern(Pipeline([line, inner]), handler, clock=loop.time)(Call("shop"))
        assert [timer for timer in loop._scheduled if not timer.cancelled()] == []  # type: ignore[attr-defined]
        return reply, loop.time()

    assert run(scene()) == ("done", 2.5)
    assert [outcome.seconds for outcome in (*line.outcomes, *inner.outcomes)] == [0.5, 0.5]


@pytest.mark.parametrize("granted", [False, True])
def test_cancelled_wait_gives_back_what_was_granted_at_that_moment(granted: bool) -> None:
    """Grant and cancellation in the same turn of the loop: the permit must not be lost."""
    line, outer = Line([], "line"), Door([], "outer")

    async def handler(call: Call) -> object:
        raise AssertionError("never reached")

    async def scene() -> None:
        governed = aio.govern(Pipeline([outer, line]), handler, clock=asyncio.get_running_loop().time)
        task = asyncio.ensure_future(governed(Call("shop")))
        await asyncio.sleep(0.1)
        if granted:
            line.serve()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(scene())
    assert line.verdicts == [IGNORED] * granted
    assert outer.verdicts == [IGNORED]


def test_refusal_met_while_leaving_does_not_hide_the_cancellation() -> None:
    """A cancelled task ends cancelled, whatever the line said at the same moment."""
    line = Line([], "line")

    async def handler(call: Call) -> object:
        return "done"

    async def scene() -> None:
        governed = aio.govern(Pipeline([line]), handler, clock=asyncio.get_running_loop().time)
        task = asyncio.ensure_future(governed(Call("shop")))
        await asyncio.sleep(0.1)
        line.serve(BulkheadFull("closed"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(scene())


def test_thread_leaving_the_line_gives_back_what_was_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C during the wait, with the grant at the same moment: lost in 20 of 20 cases by a plain finally."""
    line, outer, clock = Line([], "line"), Door([], "outer"), ManualClock()

    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            line.serve()
            raise KeyboardInterrupt

    monkeypatch.setattr(threading, "Event", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        sync.govern(Pipeline([outer, line]), lambda call: "done", clock=clock)(Call("shop"))
    assert line.verdicts == [IGNORED]
    assert outer.verdicts == [IGNORED]


def test_grant_crosses_from_a_thread_to_a_loop_and_back() -> None:
    """One bulkhead shared by a loop and a thread: whoever leaves wakes whoever waits, on the other side."""
    bulkhead = Bulkhead(BulkheadRule(limit=1, queue=2, max_wait=30.0))
    inside, leave = threading.Event(), threading.Event()

    def hold(call: Call) -> object:
        inside.set()
        assert leave.wait(30)
        return "thread"

    async def handler(call: Call) -> object:
        return "loop"

    async def scene() -> object:
        task = asyncio.ensure_future(aio.govern(Pipeline([bulkhead]), handler)(Call("shop")))
        await asyncio.sleep(0)
        assert bulkhead.depth == 1
        leave.set()
        return await task

    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(sync.govern(Pipeline([bulkhead]), hold), Call("shop"))
        assert inside.wait(30)
        assert asyncio.run(scene()) == "loop"
        assert held.result(30) == "thread"
    assert (bulkhead.inflight, bulkhead.depth) == (0, 0)


def test_wake_for_a_closed_loop_is_passed_over() -> None:
    """Who waited there is gone with the loop: the thread that grants must not be hurt by it."""
    line = Line([], "line")

    async def handler(call: Call) -> object:
        return "done"

    async def waits() -> object:
        return await aio.govern(Pipeline([line]), handler)(Call("shop"))

    loop = asyncio.new_event_loop()
    task = loop.create_task(waits())
    loop.run_until_complete(asyncio.sleep(0))
    wake = line.waiting[0].wake
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()
    assert wake is not None
    wake()


@pytest.mark.parametrize("limit", [1, 3])
def test_permits_are_exact_after_a_storm_of_cancellations(limit: int) -> None:
    """Every call is cancelled, refused, late or served: at the end every permit is back."""
    bulkhead = Bulkhead(BulkheadRule(limit=limit, queue=8, max_wait=0.4))
    most = 0

    async def handler(call: Call) -> object:
        nonlocal most
        most = max(most, bulkhead.inflight)
        await asyncio.sleep(0.05)
        return "done"

    async def scene() -> list[object]:
        loop = asyncio.get_running_loop()
        governed = aio.govern(Pipeline([bulkhead]), handler, clock=loop.time)

        async def one(number: int) -> object:
            await asyncio.sleep(number * 0.013)
            return await governed(Call("shop"))

        tasks = [asyncio.ensure_future(one(number)) for number in range(300)]
        for number, task in enumerate(tasks):
            if number % 3 == 0:
                loop.call_later(number * 0.013 + (number % 7) * 0.02, task.cancel)
        return await asyncio.gather(*tasks, return_exceptions=True)

    ended = run(scene())
    kinds = {type(each).__name__ for each in ended}
    assert (bulkhead.inflight, bulkhead.depth, most) == (0, 0, limit)
    assert {"str", "CancelledError"} <= kinds <= {"str", "CancelledError", "BulkheadFull"}


def test_permits_are_exact_after_a_storm_of_threads() -> None:
    """The same with threads, of which some are interrupted at their work."""
    bulkhead = Bulkhead(BulkheadRule(limit=3, queue=4, max_wait=0.002))
    most = 0

    def handler(call: Call) -> object:
        nonlocal most
        most = max(most, bulkhead.inflight)
        if call.key == "0":
            raise KeyboardInterrupt
        return "done"

    governed = sync.govern(Pipeline([bulkhead]), handler)
    ended: list[str] = []

    def work() -> None:
        for number in range(60):
            try:
                governed(Call("shop", key=str(number % 5)))
                ended.append(OK.name)
            except (BulkheadFull, KeyboardInterrupt) as error:
                ended.append(type(error).__name__)

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ended) == 12 * 60
    assert (bulkhead.inflight, bulkhead.depth) == (0, 0)
    assert most <= 3


def test_gate_that_does_not_wait_has_no_line() -> None:
    """`withdraw` and `late` have a sane default, so that a gate of two methods is whole."""
    place: Waiting[int] = Waiting(since=1.0, until=2.0)
    door: Gate[int] = Door([], "door")
    assert door.withdraw(place, 2.0) is None
    assert door.late(place, 3.0).facts == {"waited": 2.0}
