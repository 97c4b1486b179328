"""A rules file means one thing for each name: the particular goes before the general, field by field."""

from __future__ import annotations

import tomllib
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msgov.config import rules as module
from msgov.config.rules import DEFAULTS, Incoming, Outgoing, RuleBook, called, default_rules, rules_schema
from msgov.errors import RuleError
from msgov.resilience.adaptive_rule import AdaptiveRule
from msgov.resilience.breaker import BreakerRule
from msgov.resilience.budget import BudgetRule
from msgov.resilience.bulkhead import BulkheadRule
from msgov.resilience.deadline import DeadlineRule
from msgov.resilience.hedge import HedgeRule
from msgov.resilience.limiter import LimiterRule
from msgov.resilience.retry import RetryRule


def book(text: str) -> RuleBook:
    """Read a rules file."""
    return RuleBook.of(tomllib.loads(text), where="msgov.toml")


def call(text: str, target: str, method: str = "") -> Outgoing:
    """Read a rules file, and find what governs an outgoing call."""
    found = book(text).find("call", called(target, method))
    assert found is not None
    assert isinstance(found.rules, Outgoing)
    return found.rules


def test_method_goes_before_service_before_all() -> None:
    """And only in the fields that it speaks of."""
    text = """
        [call."*"]
        retry = {attempts = 2, base = 0.1}
        deadline = 5
        [call.payment.retry]
        attempts = 4
        [call."payment/Charge"]
        deadline = 0.8
    """
    charge = call(text, "payment", "/shop.v1.Payment/Charge")
    assert (charge.retry, charge.deadline) == (RetryRule(attempts=4, base=0.1), DeadlineRule(seconds=0.8))
    assert call(text, "payment", "Refund").deadline == DeadlineRule(seconds=5)
    assert call(text, "order").retry == RetryRule(attempts=2, base=0.1)


def test_service_name_is_no_beginning_of_another() -> None:
    """`user` is not `user-admin` (kratos, etcd prefixes)."""
    assert book("[call.user]\ndeadline = 1\n").find("call", called("user-admin", "Get")) is None


def test_longest_beginning_wins_whatever_the_order() -> None:
    """Two patterns that fit one name: the file's order says nothing."""
    entries = ['[server."/shop.v1.Order/*"]\nbulkhead = 2\n', '[server."/shop*"]\nbulkhead = 1\n']
    for text in ("".join(entries), "".join(reversed(entries))):
        found = book(text).find("server", "/shop.v1.Order/Place")
        assert found is not None
        assert found.rules.bulkhead == BulkheadRule(limit=2)


def test_exact_name_goes_before_a_beginning_as_long() -> None:
    """`order` and `order*` both fit `order`."""
    found = book('[consumer."order*"]\ndeadline = 1\n[consumer.order]\ndeadline = 2\n').find("consumer", "order")
    assert found is not None
    assert found.rules.deadline == DeadlineRule(seconds=2)


def test_grpc_method_is_named_by_its_last_part() -> None:
    """By any of its spellings; an HTTP route is left as it is."""
    for method in ("Charge", "/shop.v1.Payment/Charge", "shop.v1.Payment/Charge"):
        assert called("payment", method) == "payment/Charge"
    assert called("catalog", "GET /orders/{id}") == "catalog/GET /orders/{id}"
    text = '[call."payment/shop.v1.Payment/Charge"]\ndeadline = 1\n'
    assert call(text, "payment", "Charge").deadline == DeadlineRule(seconds=1)


def test_value_that_is_no_table_sets_the_main_field() -> None:
    """What is typed most is shortest."""
    rules = call('[call.a]\ndeadline = 2\nattempt_deadline = 1\nretry = 4\nlimiter = "100/minute"\nbulkhead = 7\n', "a")
    assert rules == Outgoing(
        deadline=DeadlineRule(seconds=2.0),
        attempt_deadline=DeadlineRule(seconds=1.0),
        retry=RetryRule(attempts=4),
        limiter=LimiterRule(rate="100/minute"),
        bulkhead=BulkheadRule(limit=7),
    )


def test_short_value_keeps_the_other_fields_of_above() -> None:
    """`retry = 2` beneath a table is one field of it."""
    text = '[call."*"]\nretry = {base = 0.2}\n[call.a]\nretry = 2\n'
    assert call(text, "a").retry == RetryRule(attempts=2, base=0.2)


def test_false_is_off_and_true_is_on() -> None:
    """True keeps what stands above, and means the defaults where nothing does."""
    text = """
        [call."*"]
        breaker = {minimum_calls = 5}
        [call.a]
        breaker = false
        [call."a/Again"]
        breaker = true
        [call.b]
        breaker = true
        bulkhead = true
    """
    assert call(text, "a").breaker is None
    assert call(text, "a", "Again").breaker == BreakerRule()
    assert call(text, "b").breaker == BreakerRule(minimum_calls=5)
    assert call(text, "b").bulkhead == BulkheadRule()


def test_of_two_that_exclude_each_other_the_particular_entry_has_the_word() -> None:
    """One seam, one hander-out of permits; who speaks later of it, in the sense of more particularly, decides."""
    text = """
        [call."*"]
        retry = {attempts = 4}
        bulkhead = 9
        [call.a]
        hedge = true
        adaptive = true
        [call."a/B"]
        retry = {base = 0.2}
        [call."a/C"]
        hedge = false
    """
    service, method, without = call(text, "a", "X"), call(text, "a", "B"), call(text, "a", "C")
    assert (service.retry, service.hedge) == (None, HedgeRule())
    assert (service.bulkhead, service.adaptive) == (None, AdaptiveRule())
    assert (method.retry, method.hedge) == (RetryRule(attempts=4, base=0.2), None)
    assert (without.retry, without.hedge) == (RetryRule(attempts=4), None)


def test_owner_is_none_of_a_policy_that_gave_way() -> None:
    """`msgov explain` shows what is in force."""
    found = book('[call."*"]\nretry = 4\n[call.a]\nhedge = true\n').find("call", "a/B")
    assert found is not None
    assert found.owners == {"hedge": "a/*"}


def test_what_is_only_switched_on_gives_way_to_what_takes_over_from_it() -> None:
    """`retry = true` of the defaults is no contradiction to `hedge = true` of the file, which is laid on it."""
    rules = call('[call."*"]\nretry = true\nhedge = true\nbulkhead = true\nadaptive = true\n', "a")
    assert (rules.retry, rules.hedge, rules.bulkhead, rules.adaptive) == (None, HedgeRule(), None, AdaptiveRule())


@pytest.mark.parametrize(("one", "other"), [("retry = 4", "hedge = true"), ("bulkhead = 9", "adaptive = true")])
def test_two_that_exclude_each_other_are_refused_in_one_entry(one: str, other: str) -> None:
    """With the way out; and once, not again for each heir."""
    name, second = one.partition(" ")[0], other.partition(" ")[0]
    with pytest.raises(RuleError) as refusal:
        book(f'[call."*"]\n{one}\n{other}\n[call.a]\ndeadline = 1\n[call."a/B"]\n')
    (problem,) = refusal.value.problems
    assert problem.path == f"call.*.{second}"
    assert f"{second} or {name}, not both" in problem.allowed
    assert f"write {name} = false or {second} = false" in problem.allowed


def test_ten_thousand_entries_are_read_and_found_as_ten_are() -> None:
    """Each inherits from the general ones, and what all share is read once."""
    entries = {f"s{number}/Get": {"bulkhead": number + 1} for number in range(10_000)}
    big = RuleBook.of({"call": {"*": {"deadline": 3, "retry": {"attempts": 2}, "breaker": True}, **entries}})
    found = big.find("call", "s9999/Get")
    assert found is not None
    assert isinstance(found.rules, Outgoing)
    assert found.rules.bulkhead == BulkheadRule(limit=10_000)
    first, last = big.entries["call"]["s0/Get"].rules, found.rules
    assert (first.deadline, first.breaker) == (DeadlineRule(seconds=3), BreakerRule())
    assert first.breaker is last.breaker


def test_mistake_is_told_once_where_it_stands() -> None:
    """Not again at each entry that inherits it."""
    entries = ['[call."a/B"]\ndeadline = 1\n', "[call.a.retry]\nbase = 0.1\n", '[call."*".retry]\nattempts = 9\n']
    for text in ("".join(entries), "".join(reversed(entries))):
        with pytest.raises(RuleError) as refusal:
            book(text)
        assert [problem.path for problem in refusal.value.problems] == ["call.*.retry.attempts"]


def test_mistake_that_arises_from_two_entries_is_told_at_the_particular_one() -> None:
    """Each is right alone: it must not be lost, nor the policy with it."""
    with pytest.raises(RuleError) as refusal:
        book('[call."*".breaker]\nopen_cap = 3\nopen_seconds = 2\n[call.a.breaker]\nopen_seconds = 4\n')
    assert [problem.path for problem in refusal.value.problems] == ["call.a.breaker.open_cap"]


def test_all_mistakes_are_told_at_once() -> None:
    """Of all kinds and entries."""
    with pytest.raises(RuleError) as refusal:
        book(
            '[call.a]\nretry = 9\ndeadline = -1\nspeed = 1\n[server."*"]\nlimiter = 0\n[consumer]\nx = 1\n'
            "[function.f.bulkhead]\nlimit = 0\nwidth = 2\n"
        )
    assert [problem.path for problem in refusal.value.problems] == [
        "call.a.deadline", "call.a.retry", "call.a.speed", "server.*.limiter",
        "function.f.bulkhead.limit", "function.f.bulkhead.width", "consumer.x",
    ]  # fmt: skip
    assert refusal.value.where == "msgov.toml"


def test_policy_of_another_kind_is_refused_with_where_it_belongs() -> None:
    """A cache of replies that only their edge understands would fail each call."""
    with pytest.raises(RuleError) as refusal:
        book("[call.a]\ncache = 5\nspeed = 1\n")
    cache, speed = refusal.value.problems
    assert (cache.path, cache.allowed.partition(";")[0]) == ("call.a.cache", "a policy of function entries")
    assert (speed.path, speed.allowed.partition(";")[0]) == ("call.a.speed", "unknown key")


def test_other_tables_of_the_file_are_not_looked_at() -> None:
    """The application's settings live in the same file."""
    assert book("[pay]\ntimeout = 'soon'\n") == book("")


def test_equal_rules_are_an_equal_book() -> None:
    """A change that changes nothing reaches no gate."""
    assert book("[call.a]\ndeadline = 2\n") == book("[call.a.deadline]\nseconds = 2.0\n")
    assert book("[call.a]\ndeadline = 2\n") != book("[call.a]\ndeadline = 3\n")


def test_owner_of_a_policy_is_the_entry_that_spoke_last_of_it() -> None:
    """Shared state is kept by it."""
    found = book('[call.a]\nbulkhead = 5\ndeadline = 1\n[call."a/B"]\ndeadline = 2\n').find("call", "a/B")
    assert found is not None
    assert found.owners == {"bulkhead": "a/*", "deadline": "a/B"}


def test_defaults_are_safe_for_what_nobody_thought_about() -> None:
    """Bounded everywhere; retried only where it is paid for; no function is run twice."""
    rules = default_rules()
    by_kind = {kind: found["*"].rules for kind, found in rules.entries.items()}
    assert by_kind == {
        "call": Outgoing(
            deadline=DeadlineRule(seconds=15.0), retry=RetryRule(), budget=BudgetRule(), breaker=BreakerRule()
        ),
        "server": Incoming(deadline=DeadlineRule(seconds=60.0, refuse_at_most=0.2)),
        "function": Outgoing(deadline=DeadlineRule(seconds=15.0), breaker=BreakerRule()),
        "consumer": Outgoing(deadline=DeadlineRule(seconds=60.0)),
    }
    assert set(DEFAULTS) == set(module.KINDS)


def test_schema_knows_every_field_and_nothing_else() -> None:
    """An editor underlines what the reader would refuse."""
    entry = rules_schema()["properties"]["server"]["additionalProperties"]  # type: ignore[index]
    assert set(entry["properties"]) == {field.name for field in fields(Incoming)}
    assert entry["additionalProperties"] is False
    table = entry["properties"]["bulkhead"]["anyOf"][0]
    assert table["properties"]["limit"]["minimum"] == 1
    assert table["additionalProperties"] is False


NAMES = st.sampled_from(["*", "a", "a/*", "a/B", "a/Bc", "a/B*", "b", "ab", "a*"])


@given(st.dictionaries(NAMES, st.fixed_dictionaries({}, optional={
    "deadline": st.sampled_from([1, 2, False, True, {"floor": 0.5}]),
    "bulkhead": st.sampled_from([1, 2, False, True, {"queue": 3}]),
})), st.sampled_from(["a/B", "a/Bc", "a/", "a/X", "b/B", "ab/B", "c/"]))  # fmt: skip
def test_resolution_equals_laying_all_that_fit_on_each_other(entries: dict[str, dict[str, object]], name: str) -> None:
    """The plain meaning: every entry that fits, the shorter first, field by field."""
    if "a" in entries and "a/*" in entries:
        del entries["a"]
    fitting = sorted(
        (pattern if "/" in pattern or "*" in pattern else f"{pattern}/*", said) for pattern, said in entries.items()
    )
    laid: dict[str, dict[str, object] | None] = {}
    short = {"deadline": "seconds", "bulkhead": "limit"}
    for pattern, said in sorted(fitting, key=lambda each: (len(each[0].rstrip("*")), "*" not in each[0])):
        if pattern != name and not (pattern.endswith("*") and name.startswith(pattern[:-1])):
            continue
        for policy, value in said.items():
            if value is False:
                laid[policy] = None
            elif value is True:
                laid[policy] = laid.get(policy) or {}
            else:
                table = value if isinstance(value, dict) else {short[policy]: value}
                laid[policy] = {**(laid.get(policy) or {}), **table}
    found = RuleBook.of({"call": entries}).find("call", name)
    expected = RuleBook.of({"call": {"z": {key: False if value is None else value for key, value in laid.items()}}})
    wanted = expected.find("call", "z/")
    assert wanted is not None
    assert (Outgoing() if found is None else found.rules) == wanted.rules
