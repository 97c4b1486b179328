"""An answer serves while it is fresh, longer where it may, and never once a newer one is known."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from msgov.call import IGNORED, PERMANENT, TRANSIENT, Outcome
from msgov.errors import BreakerOpen, RuleError
from msgov.resilience import CacheRule, freshness
from msgov.resilience.freshness import HIT, MISS, NOTHING, REFRESH, STALE, CacheStore
from msgov.testing import outcomes

Scene = tuple[list[Callable[[], object]], Callable[[], Hashable]]

RULE = CacheRule(ttl=10.0, stale_if_error=20.0)
DOWN = Outcome(TRANSIENT, error=ConnectionError())
REFUSED = Outcome(IGNORED, error=BreakerOpen("open"))
GONE = Outcome(PERMANENT, error=KeyError())
CANCELLED = Outcome(IGNORED, error=None)


def kept(rule: CacheRule = RULE, **values: object) -> CacheStore:
    """Make a store with answers that were asked for at 0."""
    store = CacheStore(rule)
    for key, value in values.items():
        ask(store, key, value)
    return store


def ask(store: CacheStore, key: Hashable, value: object, now: float = 0.0) -> None:
    """Miss, and keep what the callee said."""
    find, _, ticket = store.find(key, now)
    assert find is MISS
    store.keep(key, value, ticket=ticket, asked=now)


def test_answer_is_fresh_for_its_ttl_and_not_a_tick_longer() -> None:
    """Counted from when it was asked for (RFC 9111, 4.2.3): the answer may be as old as that."""
    store = kept(tea=1)
    assert store.find("tea", 9.999)[:2] == (HIT, 1)
    assert store.find("tea", 10.0)[0] is MISS


def test_none_is_an_answer_too() -> None:
    """Only a failure is never kept."""
    assert kept(tea=None).find("tea", 1.0)[:2] == (HIT, None)


@pytest.mark.parametrize("outcome", [DOWN, REFUSED])
def test_failure_that_says_not_now_is_answered_with_the_old_answer(outcome: Outcome) -> None:
    """For so long after the ttl (RFC 5861), and not a tick longer."""
    store = kept(tea=1)
    assert store.fail("tea", outcome, ticket=9, now=29.999) == 1
    assert store.fail("tea", outcome, ticket=9, now=30.0) is NOTHING


def test_cancellation_is_not_answered() -> None:
    """It is an order, and says nothing about the answer either: that stays."""
    store = kept(tea=1)
    assert store.fail("tea", CANCELLED, ticket=9, now=15.0) is NOTHING
    assert store.fail("tea", DOWN, ticket=9, now=15.0) == 1


def test_permanent_failure_is_a_newer_answer() -> None:
    """What the callee said before it said "gone" must not come back when it goes down after that."""
    store = kept(tea=1)
    assert store.fail("tea", GONE, ticket=9, now=15.0) is NOTHING
    assert store.fail("tea", DOWN, ticket=10, now=15.0) is NOTHING


def test_permanent_failure_of_an_older_call_leaves_a_newer_answer() -> None:
    """It is late news."""
    store = CacheStore(RULE)
    _, _, older = store.find("tea", 0.0)
    ask(store, "tea", 1, 1.0)
    store.fail("tea", GONE, ticket=older, now=2.0)
    assert store.find("tea", 2.0)[:2] == (HIT, 1)


def test_failure_without_an_old_answer_passes() -> None:
    """There is nothing to say in its place."""
    assert CacheStore(RULE).fail("tea", DOWN, ticket=1, now=0.0) is NOTHING


def test_one_refreshes_while_the_others_have_the_old_answer() -> None:
    """No herd at the end of the ttl (RFC 5861, stale-while-revalidate)."""
    store = kept(CacheRule(ttl=10.0, stale_while_revalidate=5.0), tea=1)
    find, value, ticket = store.find("tea", 11.0)
    assert (find, value) == (REFRESH, 1)
    assert store.find("tea", 12.0)[:2] == (STALE, 1)
    store.keep("tea", 2, ticket=ticket, asked=11.0)
    assert store.find("tea", 12.0)[:2] == (HIT, 2)


def test_failed_refresh_lets_the_next_one_try() -> None:
    """One lost refresh must not freeze the answer."""
    store = kept(CacheRule(ttl=10.0, stale_while_revalidate=5.0), tea=1)
    _, _, ticket = store.find("tea", 11.0)
    store.fail("tea", DOWN, ticket=ticket, now=11.5, behind=True)
    assert store.find("tea", 12.0)[0] is REFRESH


def test_lost_refresh_ends_with_the_window() -> None:
    """A refresh that never comes back is waited for no longer than its answer may be given out."""
    store = kept(CacheRule(ttl=10.0, stale_while_revalidate=5.0), tea=1)
    assert store.find("tea", 11.0)[0] is REFRESH
    assert store.find("tea", 15.0)[0] is MISS


def test_who_cannot_refresh_behind_an_answer_asks_at_once() -> None:
    """Blocking code has no behind; the others have the old answer meanwhile."""
    store = kept(CacheRule(ttl=10.0, stale_if_error=0.0, stale_while_revalidate=5.0), tea=1)
    find, _, ticket = store.find("tea", 11.0, behind=False)
    assert find is MISS
    assert store.find("tea", 11.0, behind=False)[:2] == (STALE, 1)
    assert store.fail("tea", DOWN, ticket=ticket, now=12.0) == 1  # what may be given out with no need may be with one


def test_older_call_never_replaces_the_answer_of_a_newer_one() -> None:
    """The slow one was asked before; its answer is from then."""
    store = CacheStore(RULE)
    _, _, slow = store.find("tea", 0.0)
    ask(store, "tea", "new", 1.0)
    store.keep("tea", "old", ticket=slow, asked=0.0)
    assert store.find("tea", 2.0)[:2] == (HIT, "new")


@pytest.mark.parametrize("forget", [lambda store: store.forget("tea"), lambda store: store.clear()])
def test_call_under_way_is_not_kept_after_a_forget(forget: Callable[[CacheStore], None]) -> None:
    """What it read may be what was written over."""
    store = kept(tea="old")
    _, _, ticket = store.find("tea", 11.0)
    forget(store)
    store.keep("tea", "old", ticket=ticket, asked=11.0)
    assert store.find("tea", 11.0)[0] is MISS
    assert store.fail("tea", DOWN, ticket=99, now=11.0) is NOTHING
    ask(store, "tea", "new", 12.0)
    assert store.find("tea", 12.0)[:2] == (HIT, "new")


def test_size_is_a_bound_and_what_is_used_stays() -> None:
    """A scan of new keys throws out what nobody asks for."""
    store = CacheStore(CacheRule(size=3))
    for key in "abc":
        ask(store, key, key)
    store.find("a", 1.0)
    for key in "de":
        ask(store, key, key, 1.0)
    assert len(store) == 3
    assert [store.find(key, 1.0)[0] for key in "abcde"] == [HIT, MISS, MISS, HIT, HIT]
    assert store.counts["evicted"] == 2


def test_million_keys_hold_no_more_than_the_size() -> None:
    """Memory follows the rule, not what clients send."""
    store = CacheStore(CacheRule(size=100))
    for key in range(20_000):
        ask(store, key, key)
    assert len(store) == 100


def test_room_is_made_when_all_are_in_use() -> None:
    """Every one gets its second chance, and then one goes."""
    store = kept(CacheRule(size=2), a=1, b=2)
    store.find("a", 1.0)
    store.find("b", 1.0)
    ask(store, "c", 3, 1.0)
    assert len(store) == 2
    assert store.find("c", 1.0)[0] is HIT


def test_smaller_size_takes_hold_with_the_next_answer() -> None:
    """A reload throws nothing away by itself."""
    store = kept(a=1, b=2, c=3)
    store.rule = CacheRule(size=1)
    assert store.find("a", 1.0)[0] is HIT
    ask(store, "d", 4, 1.0)
    assert len(store) == 1


def test_new_rule_judges_each_answer_at_its_own_age() -> None:
    """A shorter ttl ends what is older than it, at once."""
    store = kept(tea=1)
    store.rule = CacheRule(ttl=2.0)
    assert store.find("tea", 1.0)[0] is HIT
    assert store.find("tea", 3.0)[0] is MISS


def test_counts_are_of_what_calls_met() -> None:
    """Looking at them changes nothing."""
    store = kept(tea=1)
    store.find("tea", 1.0)
    store.find("tea", 11.0)
    store.fail("tea", DOWN, ticket=9, now=11.0)
    for _ in range(2):
        assert store.counts == {"hit": 1, "miss": 2, "stale": 1, "error": 1, "evicted": 0}


@pytest.mark.parametrize(
    "wrong", [{"ttl": 0.0}, {"size": 0}, {"stale_if_error": -1.0}, {"stale_while_revalidate": -1.0}]
)
def test_rule_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    """With the field and the range."""
    with pytest.raises(RuleError, match=next(iter(wrong))):
        CacheRule(**wrong)  # type: ignore[arg-type]


def test_one_of_many_threads_refreshes_in_every_order_of_lines() -> None:
    """Whoever comes: one asks anew, the others have the old answer, and every look is counted."""

    def scene() -> Scene:
        store = kept(CacheRule(ttl=10.0, stale_while_revalidate=5.0), tea=1)
        found: list[str] = []

        def look() -> None:
            found.append(store.find("tea", 11.0)[0].value)

        return [look] * 3, lambda: (*sorted(found), store.counts["stale"])

    assert set(outcomes(scene, watch=[freshness], seeds=range(20))) == {("refresh", "stale", "stale", 3)}


def test_newest_answer_wins_in_every_order_of_lines() -> None:
    """However the answers come in, what is kept is what was asked for last."""

    def scene() -> Scene:
        store = CacheStore(RULE)
        tickets = [store.find("tea", float(at))[2] for at in range(3)]

        def come(at: int) -> Callable[[], None]:
            return lambda: store.keep("tea", at, ticket=tickets[at], asked=float(at))

        return [come(at) for at in range(3)], lambda: store.find("tea", 3.0)[1]

    assert set(outcomes(scene, watch=[freshness], seeds=range(20))) == {2}


class Walk(RuleBasedStateMachine):
    """A store without bounds against a dict of (value, asked, order) and the calls under way."""

    @initialize(ttl=st.integers(1, 4), error=st.integers(0, 4), revalidate=st.integers(0, 4))
    def begin(self, ttl: int, error: int, revalidate: int) -> None:
        """Draw the rule."""
        self.rule_ = CacheRule(ttl=ttl, stale_if_error=error, stale_while_revalidate=revalidate)
        self.store = CacheStore(self.rule_)
        self.now, self.order = 0, 0
        self.kept: dict[str, tuple[int, int, int]] = {}
        self.forgotten: dict[str, int] = {}
        self.refreshing: dict[str, int] = {}  # key -> the order of the refresh under way
        self.away: list[tuple[str, int, int, int]] = []  # key, ticket, order, asked

    def age(self, key: str) -> float:
        """Tell how old the answer is."""
        return self.now - self.kept[key][1] if key in self.kept else float("inf")

    @rule(key=st.sampled_from("ab"))
    def look(self, key: str) -> None:
        """Ask for an answer."""
        find, value, ticket = self.store.find(key, self.now)
        age, ttl = self.age(key), self.rule_.ttl
        if age < ttl:
            assert (find, value) == (HIT, self.kept[key][0])
            return
        if age < ttl + self.rule_.stale_while_revalidate:
            assert value == self.kept[key][0]
            assert find is (STALE if key in self.refreshing else REFRESH)
            if find is STALE:
                return
        else:
            assert find is MISS
        self.order += 1
        if find is REFRESH:
            self.refreshing[key] = self.order
        self.away.append((key, ticket, self.order, self.now))

    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        """One that asked has its answer."""
        if not self.away:
            return
        key, ticket, order, asked = self.away.pop(data.draw(st.integers(0, len(self.away) - 1)))
        self.store.keep(key, order, ticket=ticket, asked=asked)
        if order > self.forgotten.get(key, 0) and (key not in self.kept or self.kept[key][2] < order):
            self.kept[key] = (order, asked, order)
            self.refreshing.pop(key, None)

    @rule(data=st.data(), outcome=st.sampled_from([DOWN, REFUSED, GONE, CANCELLED]))
    def fail(self, data: st.DataObject, outcome: Outcome) -> None:
        """One that asked has failed."""
        if not self.away:
            return
        key, ticket, order, _ = self.away.pop(data.draw(st.integers(0, len(self.away) - 1)))
        got = self.store.fail(key, outcome, ticket=ticket, now=self.now)
        if self.refreshing.get(key) == order:
            del self.refreshing[key]
        rule = self.rule_
        window = rule.ttl + max(rule.stale_if_error, rule.stale_while_revalidate)
        serves = outcome in (DOWN, REFUSED) and self.age(key) < window
        assert got == (self.kept[key][0] if serves else NOTHING)
        if outcome is GONE and key in self.kept and self.kept[key][2] < order:
            del self.kept[key]
            self.refreshing.pop(key, None)

    @rule(key=st.sampled_from("ab"))
    def forget(self, key: str) -> None:
        """Something was written."""
        self.store.forget(key)
        self.kept.pop(key, None)
        self.refreshing.pop(key, None)
        self.forgotten[key] = self.order

    @rule(seconds=st.integers(0, 3))
    def wait(self, seconds: int) -> None:
        """Let time pass."""
        self.now += seconds


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
