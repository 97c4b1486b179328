"""A fallback answers for what is not now, and never for what is wrong or cancelled."""

from __future__ import annotations

import asyncio

import pytest

from msgov.call import IGNORED, PERMANENT, TRANSIENT, Call, Outcome
from msgov.errors import BreakerOpen, CallFailed, RateLimited, Rejected, RuleError
from msgov.event import Event, Observers
from msgov.policy import classify
from msgov.resilience import Fallback
from tests.drivers.stage import COLOURS, Colour, Played

CALL = Call("shop")


def asked(fallback: Fallback, error: BaseException) -> object:
    """Ask for an answer; "(passes)" where there is none."""
    answer = fallback.instead(CALL, classify(CALL, error), 0.0)
    return "(passes)" if answer is None else answer(CALL, error)


def test_value_answers() -> None:
    """The same object each time: it is the caller's word for "not now"."""
    friendly = {"text": "try again soon"}
    assert asked(Fallback(friendly), ConnectionError()) is friendly


def test_function_answers_from_the_call_and_its_error() -> None:
    """The error knows when to come back."""
    fallback = Fallback(lambda call, error: f"{call.target}: {error.retry_after:g} s")
    assert asked(fallback, BreakerOpen("open", retry_after=2.0)) == "shop: 2 s"


@pytest.mark.parametrize(
    ("error", "answered"),
    [
        (ConnectionError(), True),
        (BreakerOpen("open"), True),
        (RateLimited("no"), True),
        (CallFailed("no", status="503"), True),
        (CallFailed("no", status="404", verdict=PERMANENT), False),
        (TypeError("bug"), False),
        (asyncio.CancelledError(), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_by_default_what_says_not_now_is_answered(error: BaseException, answered: bool) -> None:
    """A permanent failure is the callee's answer, and a cancellation is an order."""
    fallback = Fallback("instead")
    assert asked(fallback, error) == ("instead" if answered else "(passes)")
    assert fallback.answered == answered


def test_error_types_choose() -> None:
    """A chain by error type is a row of fallbacks."""
    limited = Fallback("slow down", on=RateLimited)
    assert asked(limited, RateLimited("no")) == "slow down"
    assert asked(limited, BreakerOpen("open")) == "(passes)"


def test_verdicts_choose() -> None:
    """One verdict, or verdicts and types together."""
    permanent = Fallback("gone", on=(PERMANENT, Rejected))
    assert asked(permanent, TypeError()) == "gone"
    assert asked(permanent, RateLimited("no")) == "gone"
    assert asked(permanent, ConnectionError()) == "(passes)"


def test_cancellation_is_never_answered_whatever_its_verdict() -> None:
    """A classifier that calls it transient must not turn an order into an answer."""
    outcome = Outcome(TRANSIENT, error=asyncio.CancelledError())
    assert Fallback("instead", on=(TRANSIENT, IGNORED, Exception)).instead(CALL, outcome, 0.0) is None


def test_outcome_without_error_has_nothing_to_answer() -> None:
    """Some edge may call it a failure without an exception: there is nobody to answer."""
    assert Fallback("instead").instead(CALL, Outcome(TRANSIENT), 0.0) is None


def test_builtin_that_tells_no_signature_is_taken_at_its_word() -> None:
    """There is nothing to check it by."""
    assert Fallback(max).waits is False


@pytest.mark.parametrize("on", [BaseException, KeyboardInterrupt, asyncio.CancelledError, "TRANSIENT", (Exception, 3)])
def test_what_is_no_exception_is_refused(on: object) -> None:
    """A fallback for a cancellation would make a task that cannot be ended."""
    with pytest.raises(RuleError, match="on = "):
        Fallback("instead", on=on)  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", [lambda: 1, lambda call: 1, lambda call, error, more: 1])
def test_function_of_something_else_is_refused(answer: object) -> None:
    """At the construction, not at the first failure at three in the morning."""
    with pytest.raises(RuleError, match="a function of two things"):
        Fallback(answer)


def test_waits_says_whether_only_asyncio_can_run_it() -> None:
    """The decorator asks, so that a plain function gets no coroutine for an answer."""

    async def later(call: Call, error: BaseException) -> str:
        return "instead"

    assert Fallback(later).waits
    assert not Fallback("instead").waits


def test_async_callable_object_waits_too() -> None:
    """An object with an async `__call__` is a coroutine function by another name."""

    class Later:
        async def __call__(self, call: Call, error: BaseException) -> str:
            return "instead"

    assert Fallback(Later()).waits


def played(colour: Colour, chain: tuple[Fallback, ...], error: Exception) -> Played:
    """Let a call fail and see who answers."""
    return colour.play(chain, error)


def down(call: Call, error: BaseException) -> object:
    """Fail as an answer."""
    raise KeyError("copy")


@pytest.mark.parametrize("colour", COLOURS, ids=lambda colour: colour.name)
class TestChain:
    """A chain is asked in the order in which it is written."""

    def test_first_that_wants_the_error_answers(self, colour: Colour) -> None:
        """The order of the mapping is the order of the questions, whatever the pipeline's is."""
        chain = Fallback.chain({RateLimited: "slow down", Rejected: "busy", TRANSIENT: "later"})
        for error, reply in [(RateLimited("no"), "slow down"), (BreakerOpen("no"), "busy"), (OSError(), "later")]:
            assert played(colour, chain, error).reply == reply

    def test_answer_that_fails_passes_to_the_next_that_wants_its_failure(self, colour: Colour) -> None:
        """What the next is asked about is the answer's own failure."""
        seen: list[BaseException] = []

        def last(call: Call, error: BaseException) -> str:
            seen.append(error)
            return "later"

        chain = Fallback.chain({OSError: down, BreakerOpen: "never", TRANSIENT: last})
        assert played(colour, chain, ConnectionError()).reply == "later"
        assert [type(error) for error in seen] == [KeyError]
        assert [(rung.name, rung.answered, rung.failed) for rung in reversed(chain)] == [
            ("fallback.OSError", 0, 1),
            ("fallback.BreakerOpen", 0, 0),
            ("fallback.transient", 1, 0),
        ]

    def test_last_failure_ends_the_call(self, colour: Colour) -> None:
        """With nobody left to answer it, the error is the last answer's own."""
        assert isinstance(played(colour, Fallback.chain({Exception: down}), OSError()).error, KeyError)

    def test_degraded_replies_are_told(self, colour: Colour) -> None:
        """Who watches sees which rung answered, and for what."""
        told: list[Event] = []
        chain = Fallback.chain({OSError: down, TRANSIENT: "later"}, observers=Observers(told.append))
        played(colour, chain, ConnectionError())
        assert [(event.kind, event.name, event.target, event.facts["error"]) for event in told] == [
            ("fallback.failed", "fallback.OSError", "shop", "ConnectionError"),
            ("fallback.answered", "fallback.transient", "shop", "KeyError"),
        ]


def test_async_answer_is_counted_when_it_is_given() -> None:
    """A coroutine made is no answer yet."""

    async def fails(call: Call, error: BaseException) -> object:
        raise KeyError("copy")

    async def answers(call: Call, error: BaseException) -> object:
        return "later"

    chain = Fallback.chain({OSError: fails, TRANSIENT: answers})
    assert COLOURS[0].play(chain, OSError()).reply == "later"
    assert [(rung.answered, rung.failed) for rung in reversed(chain)] == [(0, 1), (1, 0)]


def test_chain_without_rungs_is_refused() -> None:
    """It would be a policy that does nothing, which is never meant."""
    with pytest.raises(RuleError, match="at least one answer"):
        Fallback.chain({})


def test_rung_for_both_is_called_after_both() -> None:
    """The name is a label of metrics."""
    (rung,) = Fallback.chain({(TRANSIENT, Rejected): "later"}, name="stock")
    assert rung.name == "stock.transient+Rejected"
