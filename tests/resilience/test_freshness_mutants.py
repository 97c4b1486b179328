"""What only a changed line of the store showed."""

from __future__ import annotations

from msgov.call import TRANSIENT, Outcome
from msgov.resilience.freshness import HIT, MISS, NOTHING, REFRESH, STALE, CacheRule, CacheStore

RULE = CacheRule(ttl=5.0, stale_while_revalidate=10.0, size=2)


def store() -> CacheStore:
    """Make one that was asked a hundred seconds after the world began."""
    made = CacheStore(RULE)
    _, _, ticket = made.find("a", 100.0)
    made.keep("a", "apple", ticket=ticket, asked=100.0)
    return made


def test_age_is_counted_from_when_it_was_asked() -> None:
    """Fresh, then stale and refreshed by one, then gone; only who asks the callee has a ticket."""
    made = store()
    assert made.find("a", 104.0) == (HIT, "apple", 0)
    find, value, ticket = made.find("a", 106.0)
    assert (find, value) == (REFRESH, "apple")
    assert ticket > 0
    assert made.find("a", 106.0) == (STALE, "apple", 0)
    assert made.find("a", 115.0)[0] is MISS


def test_who_cannot_refresh_behind_is_counted_as_a_miss() -> None:
    """It asks the callee itself."""
    made = store()
    assert made.find("a", 106.0, behind=False)[0] is MISS
    assert made.counts["miss"] == 2


def test_stale_answer_that_served_is_not_the_first_to_go() -> None:
    """It was asked for since it was last passed over."""
    made = store()
    made.keep("b", "banana", ticket=made.find("b", 101.0)[2], asked=101.0)
    assert made.find("a", 106.0)[0] is REFRESH
    made.keep("c", "cherry", ticket=made.find("c", 106.0)[2], asked=106.0)
    assert made.find("a", 106.0)[0] is STALE
    assert made.find("b", 106.0)[0] is MISS


def test_stale_answer_serves_for_as_long_as_the_rule_says() -> None:
    """Counted from when it was asked; and it is not the first to go afterwards."""
    made = store()
    made.keep("b", "banana", ticket=made.find("b", 101.0)[2], asked=101.0)
    failed = Outcome(TRANSIENT, error=ConnectionError())
    assert made.fail("a", failed, ticket=made.find("a", 120.0)[2], now=120.0) == "apple"
    made.keep("c", "cherry", ticket=made.find("c", 120.0)[2], asked=120.0)
    assert made.fail("a", failed, ticket=made.find("a", 164.9)[2], now=164.9) == "apple"
    assert made.fail("a", failed, ticket=made.find("a", 165.0)[2], now=165.0) is NOTHING


def test_answer_that_was_asked_for_again_is_the_newest() -> None:
    """Though it was here before."""
    made = store()
    made.keep("b", "banana", ticket=made.find("b", 101.0)[2], asked=101.0)
    made.keep("a", "apricot", ticket=made.find("a", 120.0)[2], asked=120.0)
    made.keep("c", "cherry", ticket=made.find("c", 120.0)[2], asked=120.0)
    assert made.find("a", 120.0) == (HIT, "apricot", 0)
    assert made.find("b", 102.0)[0] is MISS
    assert made.counts["evicted"] == 1


def test_when_all_were_asked_for_the_oldest_goes_and_has_no_second_chance_twice() -> None:
    """One round passes over each once; the next one begins with nothing asked for."""
    made = CacheStore(CacheRule(ttl=100.0, size=2))
    for key in "ab":
        made.keep(key, key, ticket=made.find(key, 0.0)[2], asked=0.0)
        assert made.find(key, 0.0)[0] is HIT
    made.keep("c", "c", ticket=made.find("c", 0.0)[2], asked=0.0)
    assert list(made._entries) == ["b", "c"]
    made.keep("d", "d", ticket=made.find("d", 0.0)[2], asked=0.0)
    assert [made.find(key, 0.0)[0] for key in "abcd"] == [MISS, MISS, HIT, HIT]
