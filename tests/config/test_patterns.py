"""The pattern that governs a name is the one that a plain search would find, however many there are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msgov.config import patterns as module
from msgov.config.patterns import Patterns, called, canonical
from msgov.testing.interleaver import outcomes

NAMES = st.text("ab/B", max_size=5)
PATTERNS = st.sets(st.one_of(NAMES.filter(bool), NAMES.map("{}*".format)), max_size=12)


def fits(pattern: str, name: str) -> bool:
    """Say what fitting means, in the plainest way."""
    return pattern == name or (pattern.endswith("*") and name.startswith(pattern[:-1]))


@given(PATTERNS, NAMES)
def test_the_pattern_found_is_the_exact_name_or_the_longest_beginning(patterns: set[str], name: str) -> None:
    """The stated precedence, whatever stands beside it."""
    fitting = [pattern for pattern in patterns if fits(pattern, name)]
    wanted = name if name in fitting else max(fitting, key=len, default=None)
    index = Patterns(patterns)
    assert index.find(name) == wanted
    assert index.find(name) == wanted  # from memory too


@given(PATTERNS)
def test_what_a_pattern_inherits_from_is_all_that_covers_it_general_first(patterns: set[str]) -> None:
    """An entry is laid on those whose names include all of its own."""
    index = Patterns(patterns)
    for pattern in patterns:
        literal = pattern.removesuffix("*")
        covering = [each for each in patterns if each.endswith("*") and fits(each, literal) and each != pattern]
        assert index.above(pattern) == sorted(covering, key=len)


def test_names_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients make up paths, and long ones."""
    monkeypatch.setattr(module, "KNOWN", 10)
    index = Patterns(["/a*", "/a/b"])
    for number in range(1000):
        assert index.find(f"/a/{number}") == "/a*"
        assert len(index._known) <= 10
    assert index.find("/a/" + "x" * 100_000) == "/a*"
    assert all(len(name) <= 200 for name in index._known)


def test_what_nothing_fits_is_remembered_as_that() -> None:
    """Else a name that nothing governs is searched for on each call."""
    index = Patterns(["a/*"])
    assert index.find("b/X") is None
    assert index._known == {"b/X": None}


def test_threads_that_overflow_the_memory_find_what_one_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """One forgets between the question and the answer of the other."""
    monkeypatch.setattr(module, "KNOWN", 1)

    def make() -> tuple[list[Callable[[], None]], Callable[[], tuple[str | None, ...]]]:
        index, found = Patterns(["*", "a/*", "b/*"]), dict.fromkeys(("a/X", "b/X", "c/X"), "")

        def ask(*names: str) -> Callable[[], None]:
            return lambda: found.update({name: index.find(name) or "" for name in names})

        return [ask("a/X", "b/X"), ask("c/X", "b/X", "a/X")], lambda: tuple(found.values())

    assert set(outcomes(make, watch=[module])) == {("a/*", "b/*", "*")}


def test_a_search_looks_once_at_each_length_however_many_patterns() -> None:
    """Ten thousand rules cost what ten do: counted, for a clock would measure the machine."""
    for size in (10, 10_000):
        index = Patterns([f"s{number:05}/*" for number in range(size)] + ["*"])
        assert len(index._lengths) == 2
        assert index.find("s00003/Charge") == "s00003/*"


def test_a_pattern_is_written_as_names_are() -> None:
    """A service is all its methods, a gRPC method goes by its last part; other kinds stay as they are."""
    assert canonical("call", "payment") == "payment/*"
    assert canonical("call", "payment/shop.v1.Payment/Charge") == called("payment", "/shop.v1.Payment/Charge")
    assert canonical("call", "pay*") == "pay*"
    assert canonical("server", "/shop.v1.Payment/Charge") == "/shop.v1.Payment/Charge"
