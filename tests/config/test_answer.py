"""A rules file can answer for a function that cannot, and a change of the answer counts from the next call on."""

from __future__ import annotations

import tomllib

import pytest

from msgov.call import PERMANENT, TRANSIENT, Call, Outcome
from msgov.config.answer import FallbackRule, StaticAnswer
from msgov.config.policies import Policies
from msgov.config.rules import Outgoing, RuleBook
from msgov.errors import BreakerOpen, DeadlineExceeded, RateLimited, Rejected, RuleError
from msgov.event import Observers
from msgov.pipeline import Policy
from msgov.policy import classify
from msgov.resilience.decorate import policies


def answered(gate: StaticAnswer, error: Exception) -> object:
    """Do what a driver does with a failed call: ask, and run the answer."""
    call = Call("f")
    answer = gate.instead(call, classify(call, error), 0.0)
    return "(fails)" if answer is None else answer(call, error)


def rule(text: str) -> FallbackRule | None:
    """Read the rule of a function."""
    found = RuleBook.of(tomllib.loads(text)).find("function", "f")
    assert found is not None
    assert isinstance(found.rules, Outgoing)
    return found.rules.fallback


@pytest.mark.parametrize("value", ['"later"', "0", "1.5", "false", '["a", 1]', '{price = 1, tags = ["x"]}', "[]"])
def test_the_answer_is_what_the_file_says(value: str) -> None:
    """Whatever a file can hold."""
    made = rule(f"[function.f]\nfallback = {{answer = {value}}}\n")
    assert made is not None
    assert answered(StaticAnswer(made), ConnectionError()) == tomllib.loads(f"x = {value}")["x"]


def test_an_answer_is_required() -> None:
    """`fallback = true` would answer with nothing, and nobody would know why."""
    with pytest.raises(RuleError, match=r"function\.f\.fallback"):
        rule("[function.f]\nfallback = true\n")


def test_an_unknown_failure_is_refused_with_the_known_ones() -> None:
    """A misspelt one would never answer."""
    with pytest.raises(RuleError, match="breaker_open"):
        rule('[function.f.fallback]\nanswer = 1\non = ["breaker"]\n')


def test_by_default_what_says_not_now_is_answered() -> None:
    """What may pass and our own refusals; a permanent failure is the callee's answer."""
    gate = StaticAnswer(FallbackRule(answer=0))
    assert answered(gate, ConnectionError()) == 0
    assert answered(gate, RateLimited("no")) == 0
    assert answered(gate, TypeError()) == "(fails)"
    assert gate.answered == 2


@pytest.mark.parametrize(
    ("on", "error"),
    [
        ("transient", ConnectionError()),
        ("permanent", TypeError()),
        ("rejected", Rejected("no")),
        ("breaker_open", BreakerOpen("open")),
        ("rate_limited", RateLimited("no")),
        ("deadline_exceeded", DeadlineExceeded("late")),
    ],
)
def test_each_failure_is_known_by_its_name(on: str, error: Exception) -> None:
    """And no other is answered."""
    gate = StaticAnswer(FallbackRule(answer=0, on=(on,)))  # type: ignore[arg-type]  # one of those it knows
    assert answered(gate, error) == 0
    other = TypeError() if on != "permanent" else ConnectionError()
    assert answered(gate, other) == "(fails)"


def test_nobody_changes_the_answer_of_others() -> None:
    """Each gets a copy: the file says what it is, not the last one who got it."""
    gate = StaticAnswer(FallbackRule(answer={"items": []}))
    first = answered(gate, ConnectionError())
    assert isinstance(first, dict)
    first["items"].append("mine")
    assert answered(gate, ConnectionError()) == {"items": []}


def test_a_new_rule_answers_the_next_call_and_keeps_the_count() -> None:
    """Live, like every other."""
    gate = StaticAnswer(FallbackRule(answer=1))
    assert answered(gate, ConnectionError()) == 1
    gate.rule = FallbackRule(answer=2)
    assert answered(gate, ConnectionError()) == 2
    assert gate.answered == 2
    assert gate.rule == FallbackRule(answer=2)


def test_observers_are_told_of_a_degraded_answer() -> None:
    """It looks well to the caller: somebody must know."""
    heard: list[str] = []
    gate = StaticAnswer(FallbackRule(answer=1), name="f", observers=Observers(lambda event: heard.append(event.kind)))
    answered(gate, ConnectionError())
    assert heard == ["fallback.answered"]


def test_a_guarded_function_answers_by_the_file() -> None:
    """Whole way: file, book, chain, decorator."""
    book = RuleBook.of(tomllib.loads("[function.price]\nfallback = {answer = {cents = 0}}\nbreaker = true\n"))
    chain: tuple[Policy, ...] = Policies(book).for_function("price")

    @policies(*chain, name="price")
    def price() -> dict[str, int]:
        raise ConnectionError

    assert price() == {"cents": 0}


def test_what_the_verdict_says_decides_with_outcomes_of_edges() -> None:
    """An edge judges its own errors; the name is of the verdict, not of a class."""
    gate = StaticAnswer(FallbackRule(answer=1, on=("permanent",)))
    assert gate.instead(Call("f"), Outcome(PERMANENT, error=ValueError()), 0.0) is not None
    assert gate.instead(Call("f"), Outcome(TRANSIENT, error=ValueError()), 0.0) is None
