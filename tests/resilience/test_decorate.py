"""Policies go round any function, and what cannot work fails where it is written."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from typing import assert_type

import pytest

from msgov import aio, scope, sync
from msgov.call import PERMANENT, Call, Outcome
from msgov.errors import BulkheadFull, DeadlineExceeded, DeadlineSpent, RateLimited, RuleError
from msgov.resilience import (
    Breaker,
    Bulkhead,
    BulkheadRule,
    Deadline,
    Fallback,
    Limiter,
    LimiterRule,
    Retry,
    RetryRule,
    policies,
)
from msgov.testing import LoadedDice, ManualClock, run
from tests.drivers.stage import Door

AT_ONCE = RetryRule(attempts=3, base=0.001)
NOUGHT = LoadedDice(0.0, cycle=True)


class Seen(Door):
    """A gate that keeps the calls it saw."""

    def __init__(self) -> None:
        super().__init__([], "seen")
        self.calls: list[Call] = []

    def admit(self, call: Call, now: float) -> int:
        """Keep it."""
        self.calls.append(call)
        return self.ticket()


def test_async_function_is_governed() -> None:
    """Its arguments and its reply are its own."""
    tries: list[str] = []

    @policies(Retry(AT_ONCE, dice=NOUGHT), Breaker())
    async def greet(name: str, *, loud: bool = False) -> str:
        tries.append(name)
        if len(tries) < 3:
            raise ConnectionError
        return name.upper() if loud else name

    assert run(_later(lambda: greet("ann", loud=True))) == "ANN"
    assert tries == ["ann"] * 3


async def _later(ask: Callable[[], object]) -> object:
    reply = ask()
    return await reply if inspect.isawaitable(reply) else reply


def test_plain_function_is_governed() -> None:
    """The same policies, the same words, no loop."""
    tries: list[str] = []

    @policies(Fallback("instead"), Retry(AT_ONCE, dice=NOUGHT))
    def greet(name: str) -> str:
        tries.append(name)
        raise ConnectionError

    assert greet("ann") == "instead"
    assert tries == ["ann"] * 3


def test_generator_holds_its_permit_until_it_ends() -> None:
    """A stream is one call, however long it takes."""
    bulkhead = Bulkhead(BulkheadRule(limit=1))

    @policies(bulkhead)
    def count(top: int) -> Generator[int, None, None]:
        yield from range(top)

    stream = count(2)
    assert next(stream) == 0
    with pytest.raises(BulkheadFull):
        next(count(2))
    assert list(stream) == [1]
    assert list(count(3)) == [0, 1, 2]
    assert isinstance(stream, sync.Stream)


def test_async_generator_holds_its_permit_until_it_is_closed() -> None:
    """As a context manager it is closed on every way out."""
    bulkhead = Bulkhead(BulkheadRule(limit=1))

    @policies(bulkhead)
    async def count(top: int) -> AsyncGenerator[int, None]:
        for item in range(top):
            yield item

    async def scene() -> int:
        async with count(9) as stream:
            async for item in stream:
                if item == 3:
                    break
            assert bulkhead.inflight == 1
        assert isinstance(stream, aio.Stream)
        return bulkhead.inflight

    assert run(scene()) == 0


def test_generator_is_retried_before_its_first_item() -> None:
    """Nothing was given out: its arguments are used again."""
    tries: list[int] = []

    @policies(Retry(AT_ONCE, dice=NOUGHT))
    def count(top: int) -> Iterator[int]:
        tries.append(top)
        if len(tries) < 3:
            raise ConnectionError
        yield from range(top)

    assert list(count(2)) == [0, 1]
    assert tries == [2, 2, 2]


def test_method_is_governed_under_its_own_name() -> None:
    """`self` is an argument like any other."""
    seen = Seen()

    class Shop:
        name = "corner"

        @policies(seen)
        def greet(self, who: str) -> str:
            return f"{self.name} greets {who}"

    assert Shop().greet("ann") == "corner greets ann"
    (call,) = seen.calls
    assert call.target.endswith("Shop.greet")


def test_policies_go_beneath_staticmethod_and_classmethod() -> None:
    """There the function is a function."""

    class Shop:
        @staticmethod
        @policies(Breaker())
        def one() -> int:
            return 1

        @classmethod
        @policies(Breaker())
        def two(cls) -> str:
            return cls.__name__

    assert (Shop.one(), Shop.two()) == (1, "Shop")


def test_object_with_an_async_call_is_governed_as_async() -> None:
    """What counts is what calling it gives."""

    class Client:
        calls = 0

        async def __call__(self, number: int) -> int:
            self.calls += 1
            if self.calls == 1:
                raise ConnectionError
            return number + 1

    governed = policies(Retry(AT_ONCE, dice=NOUGHT))(Client())
    assert run(_later(lambda: governed(1))) == 2


def test_partial_of_an_async_function_is_governed_as_async() -> None:
    """It has no name of its own, and needs none."""

    async def add(one: int, two: int) -> int:
        return one + two

    governed = policies(Breaker())(functools.partial(add, 1))
    assert run(_later(lambda: governed(2))) == 3


def test_call_carries_what_policies_need() -> None:
    """The arguments as the request, the name as the target, and what the scope knows."""
    seen = Seen()

    @policies(seen, name="gateway", idempotent=False, key=lambda amount, **_: f"k{amount}")
    def charge(amount: int, *, currency: str) -> str:
        return f"{amount} {currency}"

    trace = scope.Trace("a" * 32, "b" * 16)
    token = scope.current.set(scope.Scope(deadline=5e9, attempts_left=2, key="tenant", trace=trace))
    try:
        assert charge(7, currency="EUR") == "7 EUR"
    finally:
        scope.current.reset(token)
    (call,) = seen.calls
    assert (call.target, call.request, call.key) == ("gateway", ((7,), {"currency": "EUR"}), "k7")
    assert (call.deadline, call.attempts_left, call.idempotent, call.trace) == (5e9, 2, False, trace)


def test_key_is_the_scopes_where_no_function_is_given() -> None:
    """Whom the work is for was said at the edge."""
    limiter = Limiter(LimiterRule(rate=0.001, burst=1))

    @policies(limiter)
    def work() -> str:
        return "done"

    for tenant in ("a", "b"):
        token = scope.current.set(scope.Scope(key=tenant))
        try:
            assert work() == "done"
            with pytest.raises(RateLimited):
                work()
        finally:
            scope.current.reset(token)


def test_nested_deadlines_only_shorten() -> None:
    """The outer function's time bounds the inner one's, however much that one allows itself."""

    async def scene() -> float:
        loop = asyncio.get_running_loop()

        @policies(Deadline(60), clock=loop.time)
        async def inner() -> None:
            await asyncio.sleep(30)

        @policies(Deadline(2), clock=loop.time)
        async def outer() -> None:
            await inner()

        with pytest.raises(DeadlineExceeded):
            await outer()
        return loop.time()

    assert run(scene()) == pytest.approx(2.0, abs=0.011)


def test_deadline_of_a_plain_function_bounds_what_it_calls() -> None:
    """It is not interrupted; what it calls after its time is refused before it begins."""
    clock = ManualClock()

    @policies(Deadline(9), clock=clock)
    def inner() -> str:
        return "done"

    @policies(Deadline(2), clock=clock)
    def outer(seconds: float) -> str:
        clock.advance(seconds)
        return inner()

    assert outer(1) == "done"
    with pytest.raises(DeadlineSpent):
        outer(3)


def test_classifier_is_the_users_to_choose() -> None:
    """What a failure means is known to whoever wrote the function."""
    breaker = Breaker()

    @policies(breaker, classify=lambda call, error: Outcome(PERMANENT, error=error))
    def lookup(key: str) -> str:
        raise KeyError(key)

    with pytest.raises(KeyError):
        lookup("x")
    assert breaker.counts["success"] == 1


def test_signature_name_and_doc_stay() -> None:
    """Frameworks read them."""

    async def greet(name: str, *, loud: bool = False) -> str:
        """Greet somebody."""
        return name

    governed = policies(Breaker())(greet)
    assert inspect.signature(governed) == inspect.signature(greet)
    assert (governed.__name__, governed.__doc__) == ("greet", "Greet somebody.")
    assert inspect.iscoroutinefunction(governed)


def test_types_stay() -> None:
    """A type checker sees through the decorator, in each colour."""

    @policies(Breaker())
    async def later(number: int) -> str:
        return str(number)

    @policies(Breaker())
    def now(number: int) -> str:
        return str(number)

    @policies(Breaker())
    async def stream_later(number: int) -> AsyncGenerator[str, None]:
        yield str(number)

    @policies(Breaker())
    def stream_now(number: int) -> Generator[str, None, None]:
        yield str(number)

    async def scene() -> None:
        assert_type(await later(1), str)
        assert_type(stream_later(1), aio.Stream[str])

    assert_type(now(1), str)
    assert_type(stream_now(1), sync.Stream[str])
    run(scene())


def test_two_functions_share_the_policies_they_are_given() -> None:
    """A gate is an object: the same breaker round both is one breaker."""
    bulkhead = Bulkhead(BulkheadRule(limit=1))
    guarded = policies(bulkhead)

    @guarded
    def inner() -> str:
        return "done"

    @guarded
    def outer() -> str:
        return inner()

    assert inner() == "done"
    with pytest.raises(BulkheadFull):
        outer()
    assert bulkhead.inflight == 0


def _plain() -> str:
    return "plain"


def _generator() -> Iterator[int]:
    yield 1


async def _async_generator() -> AsyncIterator[int]:
    yield 1


async def _answer(call: Call, error: BaseException) -> str:
    return "instead"


class _Class:
    """No function."""

    @property
    def prop(self) -> str:
        """Nor this."""
        return "property"

    @classmethod
    def make(cls) -> str:
        """Nor, before it is bound, this."""
        return "class"


@pytest.mark.parametrize(
    ("chain", "function", "says"),
    [
        ([Breaker()], _Class, "not a class"),
        ([Breaker()], 3, "with its parentheses"),
        ([Breaker()], staticmethod(_plain), "beneath @staticmethod"),
        ([Breaker()], vars(_Class)["make"], "beneath @classmethod"),
        ([Breaker()], _Class.prop, "beneath @property"),
        ([Fallback("x")], _generator, "answers for a generator"),
        ([Breaker(), Fallback("x")], _async_generator, r"policies\[1\].*answers for an async generator"),
        ([Fallback(_answer)], _plain, "cannot await"),
        ([lambda handler: handler], _generator, "no handler to wrap"),
    ],
)
def test_wrong_use_fails_at_decoration(chain: list[Breaker], function: Callable[[], object], says: str) -> None:
    """Not at the first failure at three in the morning; the message says what to do."""
    with pytest.raises(RuleError, match=says):
        policies(*chain)(function)


def test_two_retries_are_refused_before_there_is_a_function() -> None:
    """They would multiply."""
    with pytest.raises(RuleError, match="one plan per pipeline"):
        policies(Retry(), Retry())


def test_async_answer_is_fine_for_an_async_function() -> None:
    """There it can be awaited."""

    @policies(Fallback(_answer))
    async def fail() -> str:
        raise ConnectionError

    assert run(_later(fail)) == "instead"
