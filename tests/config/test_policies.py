"""Rules become gates in one order; a change reaches them where they stand, and resets nothing."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msgov.call import OK, TRANSIENT, Call, Outcome
from msgov.config import Config
from msgov.config import policies as module
from msgov.config.answer import StaticAnswer
from msgov.config.instances import InstanceBreakers
from msgov.config.policies import Policies
from msgov.config.rules import RuleBook, default_rules
from msgov.errors import BreakerOpen, BulkheadFull, RateLimited, RuleError
from msgov.pipeline import Pipeline, Policy
from msgov.policy import Gate, classify
from msgov.resilience.adaptive import Adaptive
from msgov.resilience.breaker import OPEN, Breaker
from msgov.resilience.bulkhead import Bulkhead
from msgov.resilience.cache import Cache
from msgov.resilience.coalesce import Coalesce
from msgov.resilience.deadline import Deadline
from msgov.resilience.decorate import policies as govern
from msgov.resilience.fault import Fault
from msgov.resilience.hedge import Hedge
from msgov.resilience.limiter import Limiter
from msgov.resilience.pace import Pace
from msgov.resilience.quota import Quota
from msgov.resilience.retry import Retry
from msgov.resilience.shed import Shedder
from msgov.resilience.throttle import Throttle
from msgov.testing.loop import run
from tests.config.feed import Feed

ALL = """
    [call."*"]
    deadline = 5
    attempt_deadline = 1
    limiter = 100
    quota = "1000/minute"
    throttle = true
    pace = true
    retry = 3
    budget = true
    bulkhead = 3
    service_breaker = {minimum_calls = 100}
    method_breaker = {minimum_calls = 50}
    breaker = {minimum_calls = 2}
    fault = {share = 0.0, status = "UNAVAILABLE"}
    [server."*"]
    deadline = 5
    shed = true
    limiter = 10
    quota = 100
    bulkhead = 3
    service_breaker = true
    breaker = true
    fault = {share = 0.0, status = "500"}
    [function."*"]
    fallback = {answer = "later"}
    deadline = 5
    cache = 5
    coalesce = true
    limiter = 10
    retry = 2
    [consumer."*"]
    deadline = 5
    bulkhead = 1
"""


def book(text: str) -> RuleBook:
    """Read a rules file."""
    return RuleBook.of(tomllib.loads(text))


class Pick(Gate[int]):
    """Stand in for a balancer: what counts here is where it stands."""

    def admit(self, call: Call, now: float) -> int:
        """Let in."""
        return 1

    def settle(self, ticket: int, outcome: Outcome, now: float) -> None:
        """Learn nothing."""


@dataclass(frozen=True)
class Place:
    """Where a call goes."""

    id: str


def only(kind: type[Policy], chain: tuple[Policy, ...]) -> Policy:
    """Return the one policy of a kind in a chain."""
    (found,) = [policy for policy in chain if isinstance(policy, kind)]
    return found


def kinds(chain: tuple[Policy, ...]) -> list[type[object]]:
    """List what stands in a chain."""
    return [type(policy) for policy in chain]


def test_outgoing_policies_stand_in_the_default_order() -> None:
    """What waits before the breaker, the pick after the retry, one try's time innermost."""
    chain = Policies(book(ALL)).for_call("payment", "Charge", pick=Pick())
    outer = [Deadline, Limiter, Quota, Throttle, Pace]
    inner = [Pick, Bulkhead, Breaker, Breaker, InstanceBreakers, Deadline, Fault]
    assert kinds(chain) == [*outer, Retry, *inner]
    assert [policy.rule.seconds for policy in chain if isinstance(policy, Deadline)] == [5, 1]
    breakers = [policy.rule.minimum_calls for policy in chain if isinstance(policy, Breaker | InstanceBreakers)]
    assert breakers == [100, 50, 2]  # service, method, instance
    Pipeline(chain)


def test_a_hedge_and_an_adaptive_limit_stand_in_the_places_of_a_retry_and_a_bulkhead() -> None:
    """One seam, one hander-out of permits."""
    text = ALL.replace("retry = 3", "hedge = true").replace("bulkhead = 3", "adaptive = true")
    chain = Policies(book(text)).for_call("payment", "Charge", pick=Pick())
    assert kinds(chain)[5:8] == [Hedge, Pick, Adaptive]
    hedge = only(Hedge, chain)
    assert isinstance(hedge, Hedge)
    assert hedge.budget is not None


def test_incoming_policies_stand_in_the_default_order() -> None:
    """One breaker, since there are no instances to tell apart."""
    assert kinds(Policies(book(ALL)).for_server("/shop.v1.Order/Place")) == [
        Deadline, Shedder, Limiter, Quota, Bulkhead, Breaker, Breaker, Fault,
    ]  # fmt: skip


def test_functions_and_topics_have_theirs() -> None:
    """By the same rules."""
    policies = Policies(book(ALL))
    assert kinds(policies.for_function("gateway")) == [StaticAnswer, Cache, Deadline, Coalesce, Limiter, Retry]
    assert kinds(policies.for_consumer("order.placed")) == [Deadline, Bulkhead]


def test_what_no_entry_governs_has_only_its_pick() -> None:
    """A call must still go somewhere."""
    policies = Policies(RuleBook.of({}))
    pick = Pick()
    assert policies.for_call("payment", "Charge") == ()
    assert policies.for_call("payment", "Charge", pick=pick) == (pick,)


def test_the_same_tuple_is_handed_out_until_the_shape_changes() -> None:
    """Edges compare it by identity on every call."""
    policies = Policies(book(ALL))
    first = policies.for_call("payment", "Charge")
    policies.update(book(ALL.replace("deadline = 5", "deadline = 6").replace("limiter = 100", "limiter = 7")))
    assert policies.for_call("payment", "Charge") is first
    policies.update(book(ALL.replace("limiter = 100", "limiter = false")))
    assert Limiter not in kinds(policies.for_call("payment", "Charge"))


def test_new_rule_is_stored_in_the_gate_that_stands() -> None:
    """Permits in use are still in use: three are taken, so of four one is free."""
    policies = Policies(book(ALL))
    gate = only(Bulkhead, policies.for_call("payment", "Charge"))
    assert isinstance(gate, Bulkhead)
    for _ in range(3):
        gate.admit(Call("payment"), 0.0)
    policies.update(book(ALL.replace("bulkhead = 3", "bulkhead = 4")))
    gate.admit(Call("payment"), 0.0)
    with pytest.raises(BulkheadFull):
        gate.admit(Call("payment"), 0.0)


def test_change_of_one_policy_leaves_the_windows_of_others() -> None:
    """An open breaker stays open when somebody edits a deadline; even when a policy beside it goes."""
    policies = Policies(book(ALL))
    gate = only(InstanceBreakers, policies.for_call("payment", "Charge"))
    assert isinstance(gate, InstanceBreakers)
    for _ in range(2):
        gate.settle(gate.admit(Call("payment"), 0.0), Outcome(TRANSIENT), 0.0)
    policies.update(book(ALL.replace("limiter = 100", "limiter = false").replace("deadline = 5", "deadline = 9")))
    after = only(InstanceBreakers, policies.for_call("payment", "Charge"))
    assert after is gate
    assert gate.breakers[""].state is OPEN


def test_policy_switched_off_and_on_begins_anew() -> None:
    """What was let go is gone: nobody keeps windows of what is not governed."""
    policies = Policies(book(ALL))
    before = only(Limiter, policies.for_call("payment", "Charge"))
    policies.update(book(ALL.replace("limiter = 100", "limiter = false")))
    assert all(not isinstance(state, Limiter) for state in policies.state)
    policies.update(book(ALL))
    assert only(Limiter, policies.for_call("payment", "Charge")) is not before


def test_breakers_of_a_service_a_method_and_an_instance_stand_together() -> None:
    """Each with numbers of its own: one sick method shuts neither the service, nor an instance for other methods."""
    policies = Policies(book(ALL))
    charge, refund = (policies.for_call("payment", name) for name in ("Charge", "Refund"))
    (service, method), (same, other) = (
        [policy for policy in chain if isinstance(policy, Breaker)] for chain in (charge, refund)
    )
    assert service is same
    assert method is not other
    assert only(InstanceBreakers, charge) is not only(InstanceBreakers, refund)
    assert (service.name, method.name) == ("payment/*", "payment/Charge")
    assert [getattr(policy, "policy", "") for policy in charge if isinstance(policy, Breaker | InstanceBreakers)] == [
        "service_breaker", "method_breaker", "breaker",
    ]  # fmt: skip


@pytest.mark.parametrize(("policy", "again"), [("service_breaker", None), ("method_breaker", None), ("breaker", 0.0)])
def test_only_what_an_instances_breaker_refuses_is_tried_elsewhere(policy: str, again: float | None) -> None:
    """Behind the breaker of a service or a method all instances are shut: three refusals would spend the budget."""
    rules = {policy: {"minimum_calls": 1}, "retry": True}
    policies = Policies(RuleBook.of({"call": {"a": rules}}))
    retry, breaker = policies.for_call("a", "X")
    assert isinstance(retry, Retry)
    assert isinstance(breaker, Gate)
    call = Call("a", "X", idempotent=True)
    call.instance = Place("10.0.0.1:80")
    breaker.settle(breaker.admit(call, 0.0), Outcome(TRANSIENT), 0.0)
    with pytest.raises(BreakerOpen) as refusal:
        breaker.admit(call, 0.0)
    assert retry.next(call, 1, classify(call, refusal.value), 0.0) == again


def test_breakers_are_of_a_method() -> None:
    """One slow method must not close the others (one breaker for each call path)."""
    policies = Policies(book(ALL))
    charge, refund = policies.for_call("payment", "Charge"), policies.for_call("payment", "Refund")
    assert only(InstanceBreakers, charge) is not only(InstanceBreakers, refund)


def test_limits_count_for_all_that_their_entry_names() -> None:
    """All methods of a service together, unless a method has a limit of its own."""
    text = '[call.payment]\nlimiter = 5\nbulkhead = 2\nretry = 2\nbudget = true\n[call."payment/Charge"]\nlimiter = 1\n'
    policies = Policies(book(text))
    charge, refund, status = (policies.for_call("payment", name) for name in ("Charge", "Refund", "Status"))
    assert only(Limiter, refund) is only(Limiter, status)
    assert only(Limiter, charge) is not only(Limiter, refund)
    assert only(Bulkhead, charge) is only(Bulkhead, refund)
    retries = [only(Retry, chain) for chain in (charge, refund)]
    assert all(isinstance(retry, Retry) and retry.budget is not None for retry in retries)
    assert len({id(retry.budget) for retry in retries if isinstance(retry, Retry)}) == 1


def test_limit_for_every_service_is_each_services_own() -> None:
    """`[call."*"]` says how much each may get, not how much all get together."""
    policies = Policies(book(ALL))
    assert only(Limiter, policies.for_call("a", "X")) is not only(Limiter, policies.for_call("b", "X"))
    assert only(Limiter, policies.for_call("a", "X")) is only(Limiter, policies.for_call("a", "Y"))


def test_limit_for_the_whole_server_is_one() -> None:
    """`[server."*"]` protects the process, which has one CPU for all methods."""
    policies = Policies(book(ALL))
    assert only(Limiter, policies.for_server("/a/X")) is only(Limiter, policies.for_server("/b/Y"))


def test_limit_for_all_functions_or_topics_is_each_ones_own() -> None:
    """They have nothing to do with each other."""
    policies = Policies(book(ALL))
    assert only(Limiter, policies.for_function("a")) is not only(Limiter, policies.for_function("b"))
    assert only(Bulkhead, policies.for_consumer("a")) is not only(Bulkhead, policies.for_consumer("b"))


def test_retry_without_a_budget_has_none_and_gets_one_live() -> None:
    """Switched on later, it is the retry that stands which is charged."""
    policies = Policies(book("[call.a]\nretry = 2\n"))
    retry = only(Retry, policies.for_call("a", "X"))
    assert isinstance(retry, Retry)
    assert retry.budget is None
    policies.update(book("[call.a]\nretry = 2\nbudget = true\n"))
    assert only(Retry, policies.for_call("a", "X")) is retry
    assert retry.budget is not None


def test_names_that_clients_make_up_share_one_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million paths are not a million breakers, and are limited all the same."""
    monkeypatch.setattr(module, "NAMES", 10)
    policies = Policies(book('[server."*"]\nbreaker = true\nlimiter = {rate = 1, burst = 2}\n'))
    chains = [policies.for_server(f"/{number}") for number in range(1000)]
    assert len(policies.state) <= 12
    assert chains[500] is chains[999]
    limiter = only(Limiter, chains[0])
    assert all(only(Limiter, chain) is limiter for chain in chains)
    assert isinstance(limiter, Limiter)
    limiter.admit(Call(""), 0.0)
    limiter.admit(Call(""), 0.0)
    with pytest.raises(RateLimited):
        limiter.admit(Call(""), 0.0)
    assert policies.for_server("/1") is chains[1]


def test_names_in_metrics_are_those_of_the_rules() -> None:
    """A shared gate is called by what it is shared by."""
    chain = Policies(book("[call.payment]\nlimiter = 5\nbreaker = true\n")).for_call("payment", "/p.Payment/Charge")
    names = [(policy.name, policy.target) for policy in chain if isinstance(policy, Limiter | InstanceBreakers)]
    assert names == [("payment/*", "payment"), ("payment/Charge", "payment")]


def test_breakers_tell_the_observers_they_were_given() -> None:
    """Else nobody hears that one opened."""
    policies = Policies(book('[server."*"]\nbreaker = {minimum_calls = 1}\n'))
    heard: list[str] = []
    policies.observers.add(lambda event: heard.append(event.kind))
    gate = only(Breaker, policies.for_server("/a"))
    assert isinstance(gate, Breaker)
    gate.settle(gate.admit(Call(""), 0.0), Outcome(TRANSIENT), 0.0)
    assert heard == ["breaker.opened"]


def test_defaults_make_pipelines() -> None:
    """What holds where nothing is configured can be walked."""
    policies = Policies(default_rules())
    for chain in (
        policies.for_call("a", "X", pick=Pick()),
        policies.for_server("/a"),
        policies.for_function("f"),
        policies.for_consumer("t"),
    ):
        frame = Pipeline(chain).segments[0].outer
        call = Call("a")
        tickets: list[object] = []
        frame.enter(call, tickets, 0.0)
        frame.leave(call, tickets, Outcome(OK), 0.0)


def test_rules_of_a_configuration_reach_the_gates_that_stand() -> None:
    """Live, whole or not at all; an application's own keys change nothing."""

    async def main() -> None:
        feed = Feed(tomllib.loads(ALL))
        async with Config({"file": feed}) as config:
            policies = Policies.following(config)
            chain = policies.for_call("payment", "Charge")
            before = policies.book
            feed.feed({**tomllib.loads(ALL), "pay": {"timeout": 3}})
            await asyncio.sleep(1)
            assert policies.book is before
            feed.feed(tomllib.loads(ALL.replace("deadline = 5", "deadline = -5")))
            await asyncio.sleep(1)
            assert "feed:call/*/deadline" in str(config.refused["file"])
            assert policies.book is before
            feed.feed(tomllib.loads(ALL.replace("deadline = 5", "deadline = 6")))
            await asyncio.sleep(1)
            assert policies.for_call("payment", "Charge") is chain
            deadline = chain[0]
            assert isinstance(deadline, Deadline)
            assert deadline.rule.seconds == 6

    run(main())


def test_an_old_answer_serves_when_the_total_time_is_over() -> None:
    """The one order is good for that: a time-out reaches the cache as an error, not as a cancellation."""
    rules = {"cache": {"ttl": 0.01, "stale_if_error": 60}, "deadline": 0.05}
    policies = Policies(RuleBook.of({"function": {"price": rules}}))
    hangs = False

    @govern(*policies.for_function("price"))
    async def price() -> int:
        if hangs:
            await asyncio.sleep(30)
        return 7

    async def main() -> None:
        nonlocal hangs
        assert await price() == 7
        hangs = True
        await asyncio.sleep(0.02)
        assert await price() == 7

    asyncio.run(main())


def test_wrong_rules_end_a_start() -> None:
    """Whether the policies were made before it or after."""

    async def main() -> None:
        bad = tomllib.loads("[call.payment]\nretry = 99\n")
        config = Config({"file": Feed(bad)})
        Policies.following(config)
        with pytest.raises(RuleError, match=r"feed:call/payment/retry: call\.payment\.retry = 99"):
            await config.start()
        async with Config({"file": Feed(bad)}) as later:
            with pytest.raises(RuleError, match=r"call\.payment\.retry = 99"):
                Policies.following(later)

    run(main())


def test_rules_known_only_at_the_start_reach_policies_made_before() -> None:
    """A module guards its functions when it is imported."""

    async def main() -> None:
        config = Config({"file": Feed(tomllib.loads("[function.gateway]\nbulkhead = 3\n"))})
        policies = Policies.following(config)
        assert policies.for_function("gateway") == ()
        async with config:
            assert kinds(policies.for_function("gateway")) == [Bulkhead]

    run(main())


POLICIES = (
    "deadline", "limiter", "quota", "throttle", "pace", "retry", "budget", "bulkhead",
    "service_breaker", "method_breaker", "breaker", "attempt_deadline",
)  # fmt: skip
BOOKS = st.dictionaries(
    st.sampled_from(["*", "a/*", "a/X", "b/*"]), st.dictionaries(st.sampled_from(POLICIES), st.booleans()), max_size=4
)


@given(st.lists(BOOKS, min_size=1, max_size=6))
def test_after_any_changes_chains_are_those_of_the_last_book(books: list[Mapping[str, Mapping[str, bool]]]) -> None:
    """State is kept, shape is not: what stands in force is what a start with the last rules would build."""
    pick = Pick()
    names = [("a", "X"), ("a", "Y"), ("b", "X"), ("c", "X")]
    policies = Policies(RuleBook.of({}))
    for each in books:
        for name in names:
            policies.for_call(*name, pick=pick)
        policies.update(RuleBook.of({"call": each}))
    fresh = Policies(RuleBook.of({"call": books[-1]}))
    for name in names:
        assert kinds(policies.for_call(*name, pick=pick)) == kinds(fresh.for_call(*name, pick=pick))
    assert sorted(map(str, map(type, policies.state))) == sorted(map(str, map(type, fresh.state)))
