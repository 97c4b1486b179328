"""What a key costs does not depend on how many there are, and none is forgotten too early."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msgov.resilience.limiter_keys import PLAIN, SHARED, Keys, digest


def filled(number: int, most: int) -> tuple[Keys, list[float]]:
    """Make a store of so many keys, each free at its number; and a list of what it looks at."""
    seen: list[float] = []

    def free(state: float) -> float:
        seen.append(state)
        return state

    keys = Keys(free, most)
    for each in range(number):
        keys.add(str(each))
        keys.states[str(each)] = float(each)
    return keys, seen


@pytest.mark.parametrize("number", [0, 1, 4, 10, 10_000])
def test_new_key_looks_at_four_others_at_most(number: int) -> None:
    """Ten or ten thousand: a call never pays for all of them."""
    keys, seen = filled(number, 10_000)
    keys.room(-1.0)
    assert len(seen) == min(4, number)


def test_all_are_looked_at_in_turn() -> None:
    """A key that is free is found in a quarter as many calls as there are keys."""
    keys, seen = filled(100, 100)
    for _ in range(25):
        assert not keys.room(-1.0)
    assert sorted(seen) == [float(each) for each in range(100)]


@given(now=st.floats(-1, 200), most=st.integers(1, 120), rounds=st.integers(1, 60))
def test_only_what_is_free_is_forgotten(now: float, most: int, rounds: int) -> None:
    """Those that are not stay, however often it is looked."""
    keys, _ = filled(100, most)
    for _ in range(rounds):
        room = keys.room(now)
    assert {str(each) for each in range(100) if each > now} <= set(keys.states)
    assert len(keys) == len(keys.states)
    assert room == (len(keys) < most)


def test_turn_is_one_store_and_each_key_follows_when_it_is_met() -> None:
    """No pause for a hundred thousand keys; those left over from a turn before are carried then."""
    keys, _ = filled(5, 5)
    carried: list[float] = []

    def carry(state: float) -> float:
        carried.append(state)
        return state + 100

    keys.turn(lambda state: state, carry)
    assert carried == []
    assert (keys.find("3"), keys.find("3"), keys.find("none")) == (103.0, 103.0, None)
    assert carried == [3.0]
    keys.turn(lambda state: state, lambda state: state + 1000)
    assert sorted(carried) == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert keys.find("4") == 1104.0
    assert len(keys) == 5


@given(st.text(max_size=100), st.text(max_size=100))
def test_digest_is_no_key_kept_as_it_is_nor_the_shared_one(one: str, two: str) -> None:
    """And two that differ stay two."""
    assert (digest(one) == digest(two)) == (one == two)
    assert len(digest(one)) == PLAIN + 1
    assert digest(one) != SHARED
