"""A hedge under asyncio: the first good reply is taken, and nothing is left of the others."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field

import pytest

from msgov import aio, scope, sync
from msgov.call import IGNORED, OK, TRANSIENT, Call, Outcome
from msgov.errors import BulkheadFull, DeadlineExceeded, RuleError
from msgov.pipeline import Pipeline, Policy
from msgov.policy import Gate
from msgov.resilience import Bulkhead, BulkheadRule, Deadline, Fallback, Hedge, HedgeRule, policies
from msgov.testing import After, ScriptedHandler, run
from tests.drivers.stage import Door, Journal, Line

Handler = Callable[[Call], Awaitable[object]]


def soon(attempts: int = 2) -> Hedge:
    """Make a plan that hedges after 100 ms."""
    return Hedge(HedgeRule(attempts=attempts, initial=0.1, load=4))


@dataclass
class Played:
    """What came of one call."""

    reply: object = None
    error: BaseException | None = None
    seconds: float = 0.0
    complaints: list[dict[str, object]] = field(default_factory=list)
    call: Call = field(default_factory=lambda: Call("shop", "buy", idempotent=True))


def play(chain: Iterable[Policy], handler: Handler, *, cancel: float | None = None, call: Call | None = None) -> Played:
    """Play one call on the virtual loop, cancelled after so many seconds; `run` fails if a task is left."""
    played = Played()
    if call is not None:
        played.call = call

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: played.complaints.append(context))
        run_it = aio.govern(Pipeline(chain), handler, clock=loop.time)
        task: asyncio.Task[object] = loop.create_task(_awaited(run_it(played.call)))
        if cancel is not None:
            loop.call_later(cancel, task.cancel)
        try:
            played.reply = await task
        except BaseException as error:
            played.error = error
        played.seconds = loop.time()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(scene())
    assert played.complaints == []
    return played


async def _awaited(what: Awaitable[object]) -> object:
    return await what


class Picks(Gate[str]):
    """Sends each attempt to the next place, and remembers how each ended."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.ended: list[tuple[str, str]] = []

    def admit(self, call: Call, now: float) -> str:
        """Choose."""
        place = Place(f"shop-{len(self.sent) + 1}")
        call.instance = place
        assert call.tried is not None
        call.tried.append(place)
        self.sent.append(place.id)
        return place.id

    def settle(self, ticket: str, outcome: Outcome, now: float) -> None:
        """Remember."""
        self.ended.append((ticket, outcome.verdict.value))


@dataclass
class Place:
    """Where a call goes."""

    id: str


def test_quick_reply_makes_no_task() -> None:
    """What is not slow pays for a timer, and not for a task."""
    handler = ScriptedHandler(After(0.05, "quick"))
    seen: list[int] = []

    async def watched(call: Call) -> object:
        seen.append(len(asyncio.all_tasks()))
        return await handler.aio(call)

    played = play([soon()], watched)
    assert (played.reply, played.seconds, seen) == ("quick", 0.05, [2])  # the scene, and the caller


def test_slow_one_is_asked_elsewhere() -> None:
    """The reply of the other instance comes, the loser is cancelled and settled as if it had said nothing."""
    handler, picks = ScriptedHandler(After(9.0, "slow"), After(0.2, "quick")), Picks()
    played = play([soon(), picks], handler.aio)
    assert played.reply == "quick"
    assert played.seconds == pytest.approx(0.3)
    assert picks.sent == ["shop-1", "shop-2"]
    assert sorted(picks.ended) == [("shop-1", "ignored"), ("shop-2", "ok")]
    assert (handler.running, played.call.attempt, played.call.instance) == (0, 2, Place("shop-2"))
    assert played.call.tried == [Place("shop-1"), Place("shop-2")]


def test_first_may_still_win() -> None:
    """The hedge is cancelled then."""
    handler, picks = ScriptedHandler(After(0.3, "first"), After(9.0, "second")), Picks()
    played = play([soon(), picks], handler.aio)
    assert (played.reply, played.seconds, handler.running) == ("first", 0.3, 0)
    assert sorted(picks.ended) == [("shop-1", "ok"), ("shop-2", "ignored")]
    assert played.call.instance == Place("shop-1")


def test_grpc_a6_hedging_delay() -> None:
    """gRFC A6: four attempts 500 ms apart begin at 0, 500, 1000 and 1500 ms."""
    begun: list[float] = []
    handler = ScriptedHandler(*[After(9.0, "late")] * 4)

    async def watched(call: Call) -> object:
        begun.append(asyncio.get_running_loop().time())
        return await handler.aio(call)

    played = play([Hedge(HedgeRule(attempts=4, initial=0.5, load=4))], watched)
    assert (begun, played.seconds) == ([0.0, 0.5, 1.0, 1.5], 9.0)


def test_delay_is_learnt_from_live_calls() -> None:
    """A hundred calls of 20 ms, and the next one that hangs is asked elsewhere after 20 ms."""
    hedge = Hedge(HedgeRule(load=1))
    handler = ScriptedHandler(*[After(0.02, "well")] * 100, After(9.0, "hangs"), After(0.02, "other"))

    async def scene() -> float:
        loop = asyncio.get_running_loop()
        governed = aio.govern(Pipeline([hedge]), handler.aio, clock=loop.time)
        for _ in range(100):
            await governed(Call("shop", idempotent=True))
        await asyncio.sleep(3)
        started = loop.time()
        assert await governed(Call("shop", idempotent=True)) == "other"
        return loop.time() - started

    assert run(scene()) == pytest.approx(0.04)
    assert hedge.delay == pytest.approx(0.02)
    assert hedge.hedged == 1


def test_failure_is_followed_at_once() -> None:
    """There is nothing to wait for."""
    handler, picks = ScriptedHandler(After(0.02, ConnectionError("down")), "other"), Picks()
    played = play([soon(), picks], handler.aio)
    assert (played.reply, played.seconds) == ("other", 0.02)
    assert picks.ended == [("shop-1", "transient"), ("shop-2", "ok")]


def test_both_fail() -> None:
    """The last failure is the call's, with a note of how many attempts there were."""
    first, second = ConnectionError("first"), ConnectionError("second")
    played = play([soon()], ScriptedHandler(After(0.2, first), After(0.3, second)).aio)
    assert played.error is second
    assert (second.__notes__, played.seconds) == (["after 2 attempts"], 0.4)


def test_answer_of_the_hedge_is_an_answer() -> None:
    """A permanent failure ends the call: the other instance would say the same."""
    handler = ScriptedHandler(After(9.0, "late"), TypeError("no such thing"))
    played = play([soon()], handler.aio)
    assert (type(played.error), played.seconds, handler.running) == (TypeError, 0.1, 0)


def test_rejected_hedge_fails_nothing() -> None:
    """No place in the bulkhead for a second: the first goes on."""
    journal: Journal = []
    gate = Bulkhead(BulkheadRule(limit=1, queue=0))
    handler = ScriptedHandler(After(0.3, "first"))
    played = play([soon(), gate, Door(journal, "in")], handler.aio)
    assert (played.reply, played.seconds, gate.inflight) == ("first", 0.3, 0)
    assert journal == [("in", "in", 1), ("out", "in", 1)]


@pytest.mark.parametrize("at", [0.05, 0.15])
def test_caller_that_leaves_takes_all_with_it(at: float) -> None:
    """Before the hedge and after it: both are cancelled and settled, and the cancellation passes."""
    handler, picks = ScriptedHandler(After(9.0, "a"), After(9.0, "b")), Picks()
    played = play([soon(), picks], handler.aio, cancel=at)
    assert isinstance(played.error, asyncio.CancelledError)
    assert (handler.running, played.seconds) == (0, at)
    assert {verdict for _, verdict in picks.ended} == {"ignored"}
    assert len(picks.ended) == len(picks.sent)


def test_caller_that_leaves_after_a_failure_takes_the_hedge_with_it() -> None:
    """The first is over by then, and only the hedge is waited for."""
    handler = ScriptedHandler(After(0.2, ConnectionError()), After(9.0, "b"))
    played = play([soon()], handler.aio, cancel=0.25)
    assert isinstance(played.error, asyncio.CancelledError)
    assert (handler.running, played.seconds) == (0, 0.25)


def test_caller_that_leaves_as_the_hedge_wins_has_left() -> None:
    """Two cancellations in one turn, ours and the caller's: ours must not swallow the other."""
    handler = ScriptedHandler(After(9.0, "a"), After(0.1, "b"))
    played = play([soon()], handler.aio, cancel=0.2)
    assert isinstance(played.error, asyncio.CancelledError)
    assert handler.running == 0


def test_deadline_ends_both() -> None:
    """`DeadlineExceeded` for the caller, and for what learns from the attempts: it is the callee that was slow."""
    journal: Journal = []
    door = Door(journal, "each")
    handler = ScriptedHandler(After(9.0, "a"), After(9.0, "b"))
    played = play([Deadline(0.5), soon(), door], handler.aio)
    assert isinstance(played.error, DeadlineExceeded)
    assert handler.running == 0
    assert played.seconds == pytest.approx(0.5, abs=0.011)
    assert [type(outcome.error) for outcome in door.outcomes] == [DeadlineExceeded] * 2


def test_attempt_deadline_is_each_attempts_own() -> None:
    """The hedge has as long as the first had, from when it began; the first one's end begins no third."""
    handler, picks = ScriptedHandler(After(9.0, "a"), After(0.25, "b")), Picks()
    played = play([soon(), picks, Deadline(0.3)], handler.aio)
    assert played.reply == "b"
    assert played.seconds == pytest.approx(0.35)
    assert picks.ended == [("shop-1", "transient"), ("shop-2", "ok")]
    assert played.call.deadline is None


def test_deadline_of_the_call_is_given_back() -> None:
    """Each attempt shortened its own copy."""
    played = play(
        [soon(), Deadline(0.3)],
        ScriptedHandler(After(9.0, "a"), After(0.01, "b")).aio,
        call=Call("shop", idempotent=True, deadline=5.0),
    )
    assert played.call.deadline == 5.0


def test_loser_that_cleans_up_is_waited_for() -> None:
    """Nothing of a call runs on after it has returned."""
    ended: list[float] = []

    async def handler(call: Call) -> object:
        try:
            await asyncio.sleep(9.0 if call.attempt == 1 else 0.05)
        except asyncio.CancelledError:
            await asyncio.sleep(0.2)
            ended.append(asyncio.get_running_loop().time())
            raise
        return call.attempt

    played = play([soon()], handler)
    assert played.reply == 2
    assert ended == [played.seconds]
    assert played.seconds == pytest.approx(0.35)


def test_caller_that_leaves_meanwhile_waits_for_it_too() -> None:
    """A second cancellation does not make the loser end sooner, and is not lost."""

    async def handler(call: Call) -> object:
        try:
            await asyncio.sleep(0.3 if call.attempt == 1 else 9.0)
        except asyncio.CancelledError:
            await asyncio.sleep(0.2)
            raise
        return call.attempt

    played = play([soon()], handler, cancel=0.4)
    assert isinstance(played.error, asyncio.CancelledError)
    assert played.seconds == pytest.approx(0.5)


def test_caller_that_leaves_waits_for_the_hedge_that_cleans_up() -> None:
    """It left, and still nothing of its call runs on after it has gone."""

    async def handler(call: Call) -> object:
        try:
            await asyncio.sleep(9.0)
        except asyncio.CancelledError:
            await asyncio.sleep(0.0 if call.attempt == 1 else 0.2)
            raise
        return call.attempt

    played = play([soon()], handler, cancel=0.15)
    assert isinstance(played.error, asyncio.CancelledError)
    assert played.seconds == pytest.approx(0.35)


def test_loser_that_swallows_its_cancellation_costs_its_caller_nothing() -> None:
    """The caller's task must not stay cancelled: what it awaits next would fail."""
    after: list[int] = []

    async def handler(call: Call) -> object:
        try:
            await asyncio.sleep(9.0 if call.attempt == 1 else 0.05)
        except asyncio.CancelledError:
            return "swallowed"
        return "hedge"

    async def scene() -> object:
        loop = asyncio.get_running_loop()
        reply = await aio.govern(Pipeline([soon()]), handler, clock=loop.time)(Call("shop", idempotent=True))
        task = asyncio.current_task()
        assert task is not None
        after.append(task.cancelling())
        await asyncio.sleep(0.01)
        return reply

    assert (run(scene()), after) == ("hedge", [0])


def test_loser_that_makes_an_error_of_its_cancellation_says_nothing() -> None:
    """A client that raises "connection closed" when it is cancelled must not open the breaker."""
    journal: Journal = []
    door = Door(journal, "each")

    async def handler(call: Call) -> object:
        try:
            await asyncio.sleep(9.0 if call.attempt == 1 else 0.05)
        except asyncio.CancelledError:
            raise ConnectionError("closed") from None
        return call.attempt

    assert play([soon(), door], handler).reply == 2
    assert sorted(verdict.value for verdict in door.verdicts) == ["ignored", "ok"]


def test_cancelled_before_its_first_step() -> None:
    """The first replies in the turn in which the hedge was made: it took no tickets and owes none."""
    picks = Picks()
    handler = ScriptedHandler(After(0.1, "first"), After(9.0, "never"))
    played = play([soon(), picks], handler.aio)
    assert played.reply == "first"
    assert (handler.running, len(picks.ended)) == (0, len(picks.sent))


def test_fallback_inside_answers_for_one_attempt() -> None:
    """And its answer is a reply like any other."""
    handler = ScriptedHandler(After(9.0, "late"), ConnectionError("down"))
    played = play([soon(), Fallback("instead")], handler.aio)
    assert (played.reply, played.seconds, handler.running) == ("instead", 0.1, 0)


def test_fallback_outside_answers_for_the_call() -> None:
    """Once, when all attempts have failed."""
    fallback = Fallback("instead")
    played = play([fallback, soon()], ScriptedHandler(ConnectionError(), ConnectionError()).aio)
    assert (played.reply, fallback.answered) == ("instead", 1)


def test_attempt_may_wait_in_line() -> None:
    """The first waits, the hedge has its own place, and the one that loses leaves the line."""
    journal: Journal = []
    line = Line(journal, "line", patience=5.0)
    handler = ScriptedHandler("served")

    async def scene() -> tuple[object, float]:
        loop = asyncio.get_running_loop()
        loop.call_later(0.2, line.serve)
        reply = await aio.govern(Pipeline([soon(), line]), handler.aio, clock=loop.time)(Call("shop", idempotent=True))
        return reply, loop.time()

    assert run(scene()) == ("served", 0.2)
    assert journal == [("in", "line", 1), ("out", "line", 1)]


def test_hedge_works_in_the_callers_context() -> None:
    """Its trace, its tenant, and the deadline that what it calls inherits."""
    tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
    seen: list[tuple[str, float | None]] = []

    async def handler(call: Call) -> object:
        seen.append((tenant.get(), scope.current.get().deadline))
        await asyncio.sleep(9.0 if call.attempt == 1 else 0.0)
        return call.attempt

    async def asked(call: Call) -> object:
        tenant.set("acme")
        loop = asyncio.get_running_loop()
        return await aio.govern(Pipeline([Deadline(1.0), soon()]), handler, clock=loop.time)(call)

    assert play([], asked).reply == 2
    assert seen == [("acme", 1.0)] * 2


def test_interrupt_in_a_hedge_reaches_the_caller() -> None:
    """What is no Exception ends the call, from whichever attempt it comes."""

    class Stop(BaseException):
        pass

    handler = ScriptedHandler(After(9.0, "late"), Stop)
    played = play([soon()], handler.aio)
    assert (type(played.error), handler.running) == (Stop, 0)


def test_layer_inside_is_part_of_each_attempt() -> None:
    """A user's own `handler -> handler` stands where it was put."""
    seen: list[int] = []

    def layer(inner: Handler) -> Handler:
        async def around(call: Call) -> object:
            seen.append(call.attempt)
            return await inner(call)

        return around

    assert play([soon(), layer], ScriptedHandler(After(9.0, "a"), "b").aio).reply == "b"
    assert seen == [1, 2]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks are eager from 3.12 on")
def test_eager_tasks() -> None:
    """A hedge that runs, and replies, while it is being made."""

    async def scene() -> object:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
        handler = ScriptedHandler(After(9.0, "a"), "b")
        reply = await aio.govern(Pipeline([soon()]), handler.aio, clock=loop.time)(Call("shop", idempotent=True))
        return reply, loop.time(), handler.running

    assert run(scene()) == ("b", 0.1, 0)


def test_stream_is_refused() -> None:
    """Of two streams neither is the answer before it has ended: said when it is built, in both colours."""
    with pytest.raises(RuleError, match="of two streams"):
        aio.stream(Pipeline([soon()]), lambda call: _nothing())
    with pytest.raises(RuleError, match="of two streams"):
        sync.stream(Pipeline([soon()]), lambda call: iter(()))


async def _nothing() -> AsyncIterator[int]:
    yield 1


def test_plain_function_is_refused_at_decoration() -> None:
    """A running function cannot be cancelled, so that both would run to their end."""
    with pytest.raises(RuleError, match="gives a future"):
        policies(soon())(lambda: 1)


def test_decorated_coroutine_is_hedged() -> None:
    """As any other policy."""
    lengths = iter([9.0, 0.1])

    @policies(soon())
    async def ask(what: str) -> str:
        await asyncio.sleep(next(lengths))
        return what

    async def scene() -> str:
        return await ask("here")

    assert run(scene()) == "here"


def test_outcome_of_a_loser_is_ignored_with_what_it_took() -> None:
    """For whoever weighs the time that hedging costs."""
    journal: Journal = []
    door = Door(journal, "each")
    play([soon(), door], ScriptedHandler(After(9.0, "a"), After(0.1, "b")).aio)
    lost = next(outcome for outcome in door.outcomes if outcome.verdict is IGNORED)
    won = next(outcome for outcome in door.outcomes if outcome.verdict is OK)
    assert lost.status == "lost"
    assert lost.seconds == pytest.approx(0.2)
    assert won.seconds == pytest.approx(0.1)


def test_full_bulkhead_for_both_is_the_calls_refusal() -> None:
    """Nothing was sent."""
    journal: Journal = []
    full = Door(journal, "full", refuse=BulkheadFull("full"))
    played = play([soon(), full], ScriptedHandler().aio)
    assert isinstance(played.error, BulkheadFull)


def test_failure_of_a_hedge_after_the_first_is_settled_once() -> None:
    """Each attempt has tickets of its own."""
    journal: Journal = []
    door = Door(journal, "each")
    play([soon(3), door], ScriptedHandler(After(0.3, "a"), ConnectionError(), After(9.0, "c")).aio)
    assert [entry[:1] + entry[2:] for entry in journal] == [
        ("in", 1),
        ("in", 2),
        ("out", 2),
        ("in", 3),
        ("out", 1),
        ("out", 3),
    ]
    assert [verdict for verdict in door.verdicts if verdict is TRANSIENT] == [TRANSIENT]
