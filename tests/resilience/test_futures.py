"""A function that gives a future is governed like one that gives the reply, and may be hedged."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from msgov import scope
from msgov.call import Call, Outcome
from msgov.errors import RuleError
from msgov.policy import Gate
from msgov.resilience import Deadline, Fallback, Hedge, HedgeRule, Retry, futures


class Seen(Gate[int]):
    """Remembers the calls."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def admit(self, call: Call, now: float) -> int:
        """Remember it."""
        self.calls.append(call)
        return 1

    def settle(self, ticket: int, outcome: Outcome, now: float) -> None:
        """Learn nothing."""


def done(value: object) -> Future[Any]:
    """Make a future that is over."""
    future: Future[Any] = Future()
    future.set_result(value)
    return future


def test_governed_function_gives_the_reply() -> None:
    """With its own name and arguments; the policies see the call."""
    seen = Seen()

    @futures(seen, Hedge(), name="stock", key=lambda sku, n: sku)
    def ask(sku: str, n: int) -> Future[str]:
        """Ask."""
        return done(f"{sku} x {n}")

    with scope.within(5.0):
        assert ask("pear", n=3) == "pear x 3"
    (call,) = seen.calls
    assert (call.target, call.key, call.request, call.idempotent) == ("stock", "pear", (("pear",), {"n": 3}), True)
    assert call.deadline is not None
    assert (ask.__name__, ask.__doc__) == ("ask", "Ask.")


def test_slow_one_is_asked_again() -> None:
    """On a pool of one's own; the first runs on until it ends."""
    release, turns = threading.Event(), iter([1, 2])
    with ThreadPoolExecutor(2) as pool:

        @futures(Deadline(10.0), Hedge(HedgeRule(initial=0.001, load=4)))
        def ask() -> Future[int]:
            turn = next(turns)
            return pool.submit(lambda: (release.wait(10) if turn == 1 else None, turn)[1])

        assert ask() == 2
        release.set()


def test_unsafe_call_is_not_hedged() -> None:
    """By the word of whoever decorates."""
    hedge = Hedge(HedgeRule(initial=0.001, load=4))
    with ThreadPoolExecutor(2) as pool:
        ask = futures(hedge, idempotent=False)(lambda: pool.submit(threading.Event().wait, 0.01))
        assert ask() is False
    assert hedge.hedged == 0


def test_outer_policies_act_once_a_call() -> None:
    """A fallback outside answers when both have failed."""
    begun: list[int] = []

    def fails() -> Future[str]:
        begun.append(1)
        future: Future[str] = Future()
        future.set_exception(ConnectionError())
        return future

    ask = futures(Fallback("instead"), Hedge(HedgeRule(load=4)))(fails)
    assert (ask(), len(begun)) == ("instead", 2)


async def coroutine() -> None:
    """Be async."""


async def stream() -> AsyncIterator[int]:
    """Be an async generator."""
    yield 1


def generator() -> Iterator[int]:
    """Be a generator."""
    yield 1


@pytest.mark.parametrize("wrong", [coroutine, stream, generator, Future, 5])
def test_what_gives_no_future_is_refused_at_decoration(wrong: Any) -> None:
    """Not at three in the morning."""
    with pytest.raises(RuleError, match="function"):
        futures(Hedge())(wrong)


@pytest.mark.parametrize("chain", [(), (Retry(),), (Deadline(1),)])
def test_chain_without_a_hedge_is_refused(chain: tuple[Any, ...]) -> None:
    """Then the function may as well wait by itself, and other policies see how long it took."""
    with pytest.raises(RuleError, match="a Hedge among them"):
        futures(*chain)
