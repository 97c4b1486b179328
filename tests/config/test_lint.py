"""Lint finds what is wrong together, says where and what to do, and is silent about what is right."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from msgov.config.file import File
from msgov.config.layers import Layers
from msgov.config.lint import Finding, Traffic, lint
from msgov.config.rules import DEFAULTS, RuleBook, default_rules

SHOP = Path(__file__).parents[2] / "examples" / "shop" / "shop.toml"


def book(text: str) -> RuleBook:
    """Read rules as a service does: laid on the defaults."""
    return RuleBook.of(Layers(("defaults", "file"), {"defaults": DEFAULTS, "file": tomllib.loads(text)}).merged)  # type: ignore[dict-item]  # plain data


def found(text: str, **traffic: object) -> list[Finding]:
    """Lint rules, with what is known of the traffic."""
    return list(lint(book(text), Traffic(**traffic)))  # type: ignore[arg-type]


def only(text: str, **traffic: object) -> Finding:
    """Lint rules with one mistake."""
    (finding,) = found(text, **traffic)
    assert finding.why
    assert finding.do
    return finding


def place(finding: Finding) -> tuple[str, str, str]:
    """Say what was found, where, and how bad it is."""
    return finding.check, finding.path, finding.severity


def test_the_defaults_are_right() -> None:
    """What nobody wrote is nobody's mistake; with traffic enough for its breakers, too."""
    assert lint(default_rules()) == ()
    assert lint(default_rules(), Traffic(calls_per_second=50, p50=0.02, workers=16, capacity=1000)) == ()


def test_the_shops_rules_are_right() -> None:
    """What a reader copies."""
    tree = Layers(("defaults", "file"), {"defaults": DEFAULTS, "file": File(SHOP).now()}).merged  # type: ignore[dict-item]
    assert lint(RuleBook.of(tree)) == ()


def test_an_attempt_that_may_take_longer_than_its_call() -> None:
    """It is told at the inner one, with the place and the value of the outer."""
    finding = only("[call.a]\ndeadline = 2\nattempt_deadline = 3\n")
    assert place(finding) == ("inner-timeout", "call.a.attempt_deadline.seconds", "error")
    assert finding.value == 3.0
    assert "call.a.deadline = 2 s" in finding.why


def test_a_mistake_between_two_entries_is_told_once_where_the_inner_one_is_written() -> None:
    """Not again for each entry that inherits both."""
    text = '[call."*"]\nattempt_deadline = 3\n[call.a]\ndeadline = 2\n[call."a/B"]\nbulkhead = 3\n'
    assert place(only(text)) == ("inner-timeout", "call.*.attempt_deadline.seconds", "error")


def test_an_attempt_that_may_take_all_of_its_call() -> None:
    """The retry beside it is for failures that come at once only; without one it is no mistake."""
    assert only("[call.a]\ndeadline = 2\nattempt_deadline = 2\n").severity == "warning"
    assert not found("[call.a]\ndeadline = 2\nattempt_deadline = 2\nretry = false\n")


def test_a_wait_in_line_as_long_as_the_call() -> None:
    """What waits so long has no time left to be done."""
    finding = only('[server."/a/*"]\ndeadline = 1\nbulkhead = {limit = 2, queue = 5, max_wait = 1}\n')
    assert place(finding) == ("inner-timeout", "server./a/*.bulkhead.max_wait", "warning")
    assert not found('[server."/a/*"]\ndeadline = 1\nbulkhead = {limit = 2, max_wait = 1}\n')  # nobody waits


def test_slow_that_no_call_can_be() -> None:
    """The deadline ends it before."""
    finding = only("[call.a]\ndeadline = 1\nbreaker = {slow_seconds = 2}\n")
    assert place(finding) == ("inner-timeout", "call.a.breaker.slow_seconds", "error")
    assert not found("[call.a]\ndeadline = 1\nbreaker = {slow_seconds = 0.5}\n")


def test_a_call_that_may_take_longer_than_any_handling() -> None:
    """What is called while something is handled has only what is left of that."""
    text = (
        '[server."*"]\ndeadline = 2\n[consumer."*"]\ndeadline = 3\n[call."*"]\ndeadline = 1\n[call.a]\ndeadline = 5\n'
    )
    finding = only(text)
    assert place(finding) == ("inner-timeout", "call.a.deadline.seconds", "warning")
    assert "3 s" in finding.why
    assert not found(text + "[server.x]\ndeadline = false\n")  # there is one that may be handled for ever


@pytest.mark.parametrize("plan", ["retry = 2", "hedge = true"])
def test_a_call_that_does_harm_when_repeated(plan: str) -> None:
    """Told which, an error; by its verb a warning, for it may carry an Idempotency-Key."""
    text = f'[call."pay/POST /charges"]\n{plan}\n'
    assert place(only(text)) == (
        "not-idempotent", f'call."pay/POST /charges".{plan.partition(" ")[0]}.attempts', "warning",
    )  # fmt: skip
    finding = only(f'[call.pay]\n{plan}\n[call."pay/Charge"]\nbulkhead = 3\n', not_idempotent=["pay/Charge"])
    assert place(finding) == ("not-idempotent", f"call.pay.{plan.partition(' ')[0]}.attempts", "error")
    assert not found('[call."pay/POST /charges"]\ndeadline = 1\n')  # the retry of all calls is not asked for here
    assert not found(f'[call."pay/GET /charges"]\n{plan}\n')


def test_a_call_told_not_idempotent_needs_no_entry_of_its_own() -> None:
    """It is governed all the same."""
    assert place(only("", not_idempotent=["pay/Charge"])) == ("not-idempotent", "call.*.retry.attempts", "error")


def test_attempts_of_a_function_and_of_what_it_calls_multiply() -> None:
    """Five times three is fifteen."""
    text = "[function.f]\nretry = 5\nbudget = true\n"
    finding = only(text)
    assert place(finding) == ("attempts", "function.f.retry.attempts", "warning")
    assert "5 x 3" in finding.why
    assert not found("[function.f]\nretry = 3\nbudget = true\n")


def test_attempts_along_a_chain_of_services_multiply() -> None:
    """An error where not every layer pays for them."""
    text = '[call.order]\nretry = 4\n[call."pay/Charge"]\nbudget = false\nretry = 4\n'
    chains = [("order/Place", "pay/Charge")]
    finding = next(each for each in found(text, chains=chains) if each.check == "attempts")
    assert finding.severity == "error"
    assert "4 x 4 = 16 attempts along order/Place > pay/Charge" in finding.why
    paid = only(text.replace("budget = false\n", ""), chains=chains)
    assert paid.severity == "warning"
    assert not found(text.replace("retry = 4", "retry = 3").replace("budget = false\n", ""), chains=chains)


def test_a_minimum_that_no_window_holds() -> None:
    """Of the traffic that is told."""
    text = "[call.a]\nbreaker = {minimum_calls = 100, wilson_calls = 0, consecutive_failures = 0}\n"
    finding = only(text, calls_per_second=3)
    assert place(finding) == ("minimum-calls", "call.a.breaker.minimum_calls", "error")
    assert "30 in its window of 10 s" in finding.why
    assert not found(text, calls_per_second=10)
    assert not found(text)
    assert not found(text.replace("minimum_calls", "last_calls = 100, minimum_calls"), calls_per_second=3)


def test_a_minimum_that_another_criterion_stands_in_for() -> None:
    """It still opens, but not by the rate that is written."""
    text = "[call.a]\nbreaker = {minimum_calls = 100}\n"
    finding = only(text, calls_per_second=3)
    assert finding.severity == "warning"
    assert "that 5 calls prove or 20 failures in a row" in finding.why


def test_a_minimum_that_the_limiter_keeps_from_being_met() -> None:
    """The rules alone know it; in shadow a limiter lets all in."""
    text = "[call.a]\nlimiter = {rate = 1}\nbreaker = {minimum_calls = 100}\n"
    assert "let in by call.a.limiter" in only(text).why
    assert not found(text.replace("rate = 1", "rate = 1, shadow = true"))


def test_a_throttle_below_its_own_minimum() -> None:
    """It never holds anything back."""
    text = '[call.a]\nbreaker = false\nthrottle = true\n[function."*"]\nbreaker = false\n[call."*"]\nbreaker = false\n'
    assert place(only(text, calls_per_second=2)) == ("minimum-calls", "call.a.throttle.minimum_rate", "warning")


def test_a_hedge_below_the_median() -> None:
    """More than half of all calls would be made twice."""
    text = "[call.a]\nhedge = {initial = 0.02}\n"
    finding = only(text, p50=0.05)
    assert place(finding) == ("hedge", "call.a.hedge.initial", "error")
    assert not found(text, p50=0.01)
    assert not found(text)


def test_a_hedge_of_half_the_calls() -> None:
    """The median is where it would begin."""
    assert place(only("[call.a]\nhedge = 0.5\n")) == ("hedge", "call.a.hedge.percentile", "warning")


@pytest.mark.parametrize("bound", ["attempt_deadline", "deadline"])
def test_a_hedge_that_comes_when_all_is_over(bound: str) -> None:
    """It never begins."""
    finding = only(f"[call.a]\nhedge = {{initial = 0.5}}\n{bound} = 0.4\n")
    assert place(finding) == ("hedge", "call.a.hedge.initial", "error")
    assert f"call.a.{bound} = 0.4 s" in finding.why


def test_a_floor_that_all_workers_together_pay_out() -> None:
    """It is for each process, and Finagle's ten are fifty times ten."""
    text = "[call.a]\nbudget = {minimum = 10}\n"
    finding = only(text, workers=50, capacity=400)
    assert place(finding) == ("budget-floor", "call.a.budget.minimum", "error")
    assert "50 x 10 retries a second" in finding.why
    assert only(text, workers=5, capacity=400).severity == "warning"
    assert not found(text, workers=5, capacity=4000)
    assert not found(text, workers=50)  # the callee's capacity is not known


@pytest.mark.parametrize(
    ("limit", "workers", "severity"),
    [
        ("limiter = 5", 1, "warning"),
        ("limiter = 50", 1, ""),
        ("limiter = 50", 10, "warning"),
        ('quota = "80/second"', 1, ""),
        ('quota = "50/second"', 10, "error"),
    ],
)
def test_a_floor_above_what_the_limit_lets_in(limit: str, workers: int, severity: str) -> None:
    """A quota is what all get together; of a limiter it is a guess that the callee takes so much."""
    text = f"[call.a]\n{limit}\nbudget = {{minimum = 6}}\nbreaker = false\n"
    told = [each.severity for each in found(text, workers=workers) if each.check == "budget-floor"]
    assert told == ([severity] if severity else [])


def test_a_retry_that_nothing_pays_for() -> None:
    """It makes an outage worse."""
    assert place(only("[call.a]\nbudget = false\n")) == ("retry-budget", "call.*.retry.attempts", "warning")
    assert not found("[call.a]\nbudget = false\nretry = 1\n")


def test_errors_come_before_warnings_and_read_as_two_lines() -> None:
    """The first line is what is wrong, the second the way out."""
    told = found("[call.a]\ndeadline = 1\nattempt_deadline = 2\n[call.b]\nhedge = 0.5\n")
    assert [each.severity for each in told] == ["error", "warning"]
    first, second = str(told[0]).splitlines()
    assert first.startswith("error: call.a.attempt_deadline.seconds = 2.0: an attempt may take longer")
    assert second.startswith("    give an attempt a part of the call's time")
    assert told[0].as_dict()["path"] == "call.a.attempt_deadline.seconds"
