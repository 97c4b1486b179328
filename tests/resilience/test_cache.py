"""A cache spares calls, and answers for a callee that is down with what it said before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from msgov import aio, scope, sync
from msgov.call import PERMANENT, TRANSIENT, Call, Outcome
from msgov.errors import BreakerOpen, CallFailed, DeadlineExceeded, RateLimited, RuleError
from msgov.event import Event, Observers
from msgov.pipeline import Pipeline, Policy
from msgov.policy import Classify, classify
from msgov.resilience import Cache, CacheRule, Deadline, Retry, RetryRule, policies
from msgov.testing import After, LoadedDice, ManualClock, ScriptedHandler, run
from tests.drivers.stage import Door

RULE = CacheRule(ttl=10.0, stale_if_error=20.0)
Ask = Callable[[], Awaitable[object]]


def tea(**kwargs: bool) -> Call:
    """Ask for tea."""
    return Call("shop", "price", "tea", **{"idempotent": True, **kwargs})  # type: ignore[arg-type]


class Stage:
    """One governed handler, asked at times that only grow."""

    def __init__(self, *script: object, chain: tuple[Policy, ...], judge: Classify = classify) -> None:
        self.clock = ManualClock()
        self.handler = ScriptedHandler(*script, sleep=self.clock.sleep)
        self.pipeline = Pipeline(chain, classify=judge)

    def at(self, now: float) -> None:
        """Let time pass."""
        self.clock.advance(now - self.clock())


class AioStage(Stage):
    """Under asyncio, a fresh loop for each call."""

    def ask(self, now: float, call: Call | None = None) -> object:
        """Ask at a time; return the reply or the error."""
        self.at(now)
        run_ = aio.govern(self.pipeline, self.handler.aio, clock=self.clock)

        async def scene() -> object:
            try:
                return await run_(call or tea())
            except Exception as error:
                return error

        return run(scene())


class SyncStage(Stage):
    """In blocking code."""

    def ask(self, now: float, call: Call | None = None) -> object:
        """Ask at a time; return the reply or the error."""
        self.at(now)
        try:
            return sync.govern(self.pipeline, self.handler.sync, clock=self.clock)(call or tea())
        except Exception as error:
            return error


@pytest.fixture(params=[AioStage, SyncStage])
def stage(request: pytest.FixtureRequest) -> type[AioStage | SyncStage]:
    """Run the test in both colours."""
    found: type[AioStage | SyncStage] = request.param
    return found


def test_answer_is_given_again_while_it_is_fresh(stage: type[AioStage | SyncStage]) -> None:
    """The very object, and the callee is not asked."""
    price = object()
    on = stage(price, "new", chain=(Cache(RULE),))
    assert [on.ask(now) for now in (0.0, 5.0, 9.9, 10.0)] == [price, price, price, "new"]
    assert len(on.handler.calls) == 2


def test_failure_is_never_kept(stage: type[AioStage | SyncStage]) -> None:
    """No negative caching: the next call may do better."""
    on = stage(ConnectionError("down"), "tea", chain=(Cache(RULE),))
    assert isinstance(on.ask(0.0), ConnectionError)
    assert on.ask(0.0) == "tea"


@pytest.mark.parametrize(
    "error", [ConnectionError(), CallFailed("no", status="503"), BreakerOpen("open"), RateLimited("x")]
)
def test_old_answer_serves_when_the_callee_is_down(stage: type[AioStage | SyncStage], error: Exception) -> None:
    """Stale-if-error: for TRANSIENT failures and for our own rejections, and it is told."""
    told: list[Event] = []
    cache = Cache(RULE, name="prices", observers=Observers(told.append))
    on = stage("old", error, error, chain=(cache,))
    assert on.ask(0.0) == "old"
    assert on.ask(29.0) == "old"
    assert on.ask(30.0) is error
    assert [(event.kind, event.name, event.target, event.facts["error"], event.at) for event in told] == [
        ("cache.stale", "prices", "shop", type(error).__name__, 29.0)
    ]
    assert cache.counts == {"hit": 0, "miss": 3, "stale": 1, "error": 2, "evicted": 0}


def test_permanent_failure_passes(stage: type[AioStage | SyncStage]) -> None:
    """It is the callee's answer, and newer than ours."""
    gone = CallFailed("no", status="404", verdict=PERMANENT)
    on = stage("old", gone, ConnectionError("down"), chain=(Cache(RULE),))
    on.ask(0.0)
    assert on.ask(11.0) is gone
    assert isinstance(on.ask(12.0), ConnectionError)


def test_pipeline_judges_the_error(stage: type[AioStage | SyncStage]) -> None:
    """A classifier of the user's own says what is transient, here as everywhere."""
    on = stage("old", KeyError("x"), chain=(Cache(RULE),), judge=lambda call, error: Outcome(PERMANENT))
    on.ask(0.0)
    assert isinstance(on.ask(11.0), KeyError)


def test_deadline_inside_is_answered_too(stage: type[AioStage | SyncStage]) -> None:
    """A time-out is a failure like another, to a cache that stands outside it."""
    on = stage("old", DeadlineExceeded("late"), chain=(Cache(RULE), Deadline(1.0)))
    on.ask(0.0)
    assert on.ask(11.0) == "old"


def test_hit_asks_nothing_further_in(stage: type[AioStage | SyncStage]) -> None:
    """No permit, no attempt, no deadline is spent on it; what stands outside sees it as a reply."""
    outer, inner = Door([], "outer"), Door([], "inner")
    retry = Retry(RetryRule(attempts=2), dice=LoadedDice(0.0, cycle=True))
    on = stage("tea", chain=(outer, Cache(RULE), retry, inner))
    for now in (0.0, 1.0, 2.0):
        on.ask(now)
    assert (outer.tickets, inner.tickets) == (3, 1)
    assert len(outer.outcomes) == 3


def test_call_that_is_not_idempotent_passes_by(stage: type[AioStage | SyncStage]) -> None:
    """It must be made, and its answer is for itself."""
    on = stage(1, 2, 3, chain=(Cache(RULE),))
    assert [on.ask(0.0, tea(idempotent=False)) for _ in range(2)] == [1, 2]
    assert on.ask(0.0) == 3


def test_key_of_none_passes_by(stage: type[AioStage | SyncStage]) -> None:
    """The key says which calls have an answer worth keeping."""
    on = stage(1, 2, chain=(Cache(RULE, key=lambda call: None),))
    assert [on.ask(0.0) for _ in range(2)] == [1, 2]


def test_forgotten_answer_is_asked_for_again(stage: type[AioStage | SyncStage]) -> None:
    """As after a write; a call without a name has nothing to forget."""
    cache = Cache(RULE, key=lambda call: call.request or None)
    on = stage(1, 2, 3, chain=(cache,))
    on.ask(0.0)
    cache.forget(tea())
    cache.forget(Call("shop"))
    assert on.ask(0.0) == 2
    cache.clear()
    assert len(cache) == 0
    assert on.ask(0.0) == 3


def test_new_rule_keeps_every_answer(stage: type[AioStage | SyncStage]) -> None:
    """A reload must not send all callers to the callee at once."""
    cache = Cache(RULE)
    on = stage("tea", chain=(cache,))
    on.ask(0.0)
    cache.rule = CacheRule(ttl=100.0)
    assert (cache.rule.ttl, on.ask(99.0)) == (100.0, "tea")


def test_request_that_nothing_tells_apart_fails_the_call(stage: type[AioStage | SyncStage]) -> None:
    """With what to do about it, and nothing is asked of the callee."""
    on = stage("never", chain=(Cache(RULE),))
    refused = on.ask(0.0, Call("shop", "price", ["tea"], idempotent=True))
    assert isinstance(refused, TypeError)
    assert on.handler.calls == []


def test_cancellation_passes() -> None:
    """Even where an old answer is at hand, and whatever a classifier makes of it."""
    cache = Cache(RULE)

    async def scene() -> None:
        clock = asyncio.get_running_loop().time
        handler = ScriptedHandler("old", After(60.0, "new"))
        chain = Pipeline([cache], classify=lambda call, error: Outcome(TRANSIENT))
        ask = aio.govern(chain, handler.aio, clock=clock)
        assert await ask(tea()) == "old"
        await asyncio.sleep(11.0)
        task = asyncio.ensure_future(ask(tea()))
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(scene())


BEHIND = CacheRule(ttl=10.0, stale_if_error=0.0, stale_while_revalidate=10.0)


async def refreshed(*script: object, cache: Cache, then: Callable[[Ask, ScriptedHandler], Awaitable[None]]) -> None:
    """Have an answer from 0, and go on at 12."""
    clock = asyncio.get_running_loop().time
    handler = ScriptedHandler("old", *script)
    ask = aio.govern(Pipeline([cache]), handler.aio, clock=clock)
    await ask(tea())
    await asyncio.sleep(12.0)
    await then(lambda: ask(tea()), handler)


def test_old_answer_is_given_at_once_and_refreshed_behind_it() -> None:
    """One call asks, in a task that leaves nothing behind; nobody waits for it."""

    async def then(ask: Ask, handler: ScriptedHandler) -> None:
        assert [await ask(), await ask()] == ["old", "old"]
        await asyncio.sleep(2.0)
        assert await ask() == "new"
        assert len(handler.calls) == 2

    run(refreshed(After(1.0, "new"), cache=Cache(BEHIND), then=then))


def test_refresh_that_fails_is_told_and_tried_again() -> None:
    """Nobody waits for it, so nobody else would see its error."""
    told: list[Event] = []

    async def then(ask: Ask, handler: ScriptedHandler) -> None:
        for _ in range(2):
            assert await ask() == "old"
            await asyncio.sleep(1.0)
        assert await ask() == "new"

    cache = Cache(BEHIND, observers=Observers(told.append))
    run(refreshed(ConnectionError, "new", cache=cache, then=then))
    assert [(event.kind, event.facts["error"]) for event in told] == [("cache.refresh_failed", "ConnectionError")]


def test_refresh_has_as_long_as_the_old_answer_may_be_given() -> None:
    """It is nobody's call, so no deadline of a caller binds it or what it calls; and it does not hang for ever."""
    seen: list[float | None] = []

    async def scene() -> None:
        async def handler(call: Call) -> object:
            if clock() > 0:
                seen.extend((call.deadline, scope.current.get().deadline))
                await asyncio.sleep(60.0)
            return "old"

        clock = asyncio.get_running_loop().time
        ask = aio.govern(Pipeline([Cache(BEHIND)]), handler, clock=clock)
        await ask(tea())
        await asyncio.sleep(12.0)
        with scope.within(0.5, clock=clock):
            assert await ask(tea()) == "old"
        await asyncio.sleep(30.0)

    run(scene())
    assert seen == [22.0, 22.0]


def test_cancelled_refresh_lets_the_next_one_try() -> None:
    """A loop that is shut down cancels it like any task."""

    async def then(ask: Ask, handler: ScriptedHandler) -> None:
        await ask()
        await asyncio.sleep(0.1)
        (task,) = asyncio.all_tasks() - {asyncio.current_task()}
        task.cancel()
        await asyncio.sleep(0.1)
        await ask()
        await asyncio.sleep(0.1)
        assert await ask() == "new"

    run(refreshed(After(60.0, "never"), "new", cache=Cache(BEHIND), then=then))


def test_blocking_caller_refreshes_himself_and_has_the_old_answer_when_that_fails() -> None:
    """No thread is started behind anybody's back."""
    on = SyncStage("old", ConnectionError, "new", chain=(Cache(BEHIND),))
    assert [on.ask(now) for now in (0.0, 12.0, 13.0, 14.0)] == ["old", "old", "new", "new"]
    assert len(on.handler.calls) == 3


def test_function_is_cached_by_its_arguments() -> None:
    """As functools.lru_cache has it, and with whom the scope says that it is for."""
    asked: list[str] = []

    @policies(Cache(RULE))
    def price(name: str, *, size: int = 1) -> str:
        asked.append(name)
        return f"{name} {size}"

    assert [price("tea"), price("tea"), price("tea", size=2)] == ["tea 1", "tea 1", "tea 2"]
    assert asked == ["tea", "tea"]


def generator() -> object:
    """Yield a price."""
    yield 1


async def async_generator() -> object:
    """Yield a price."""
    yield 1


@pytest.mark.parametrize("function", [generator, async_generator])
def test_generator_is_refused_at_decoration(function: Callable[[], object]) -> None:
    """What has been taken cannot be given again."""
    with pytest.raises(RuleError, match="its items come once"):
        policies(Cache(RULE))(function)


def test_function_that_is_not_idempotent_is_refused_at_decoration() -> None:
    """Each of its calls must be made: a cache round it would do nothing, or harm."""
    with pytest.raises(RuleError, match="each must be made"):
        policies(Cache(RULE), idempotent=False)(lambda: 1)
