"""Equal names are equal calls, and what cannot be named is refused, not guessed."""

from __future__ import annotations

import pytest

from msgov.call import Call
from msgov.errors import RuleError
from msgov.resilience.sameness import Key, sameness


def named(request: object = None, key: str = "", method: str = "buy") -> object:
    """Name a call by its request."""
    return sameness(None)(Call("shop", method, request, key=key))


def test_target_method_request_and_whom_it_is_for_tell_calls_apart() -> None:
    """Two tenants never share an answer, unless a key of one's own says so."""
    assert named("tea") == named("tea")
    assert len({named("tea"), named("cup"), named("tea", key="ann"), named("tea", method="sell"), named()}) == 5


def test_arguments_compare_by_value_and_keywords_in_any_order() -> None:
    """As functools.lru_cache has it."""
    assert named((("tea",), {"size": 2, "hot": True})) == named((("tea",), {"hot": True, "size": 2}))
    assert named((("tea",), {})) != named((("cup",), {}))
    assert named(((), {"name": "tea"})) != named(((("name", "tea"),), {"size": 1}))


class Opaque:
    """A request that compares by identity."""


@pytest.mark.parametrize("request_", [["tea"], {"tea": 1}, (([],), {}), ((), {"names": []}), Opaque()])
def test_request_without_equality_is_refused(request_: object) -> None:
    """A guess would miss always, or hit wrongly; the message says what to give instead, and shows no payload."""
    with pytest.raises(TypeError, match=r"shop buy: .* give key=") as refused:
        named(request_)
    assert "tea" not in str(refused.value)


def test_call_whose_request_only_its_edge_knows_is_refused() -> None:
    """Two pages of one site would be one answer."""
    call = Call("shop", "GET")
    call.context = Opaque()
    with pytest.raises(TypeError, match="its edge's own, so nothing tells equal calls"):
        sameness(None)(call)
    assert sameness(lambda call: "/tea")(call) == ("shop", "GET", "/tea")


def test_own_key_says_what_makes_two_calls_the_same() -> None:
    """It stands for the request and for whom it is for; target and method still tell apart."""
    same = sameness(lambda call: str(call.request)[0])
    assert same(Call("shop", "buy", "tea", key="ann")) == same(Call("shop", "buy", "toast", key="bob"))
    assert same(Call("shop", "buy", "tea")) != same(Call("shop", "sell", "tea"))


def test_own_key_may_let_a_call_by() -> None:
    """None is a call like no other."""
    assert sameness(lambda call: None)(Call("shop")) is None


def test_own_key_that_cannot_be_hashed_is_refused() -> None:
    """On the call, with the way out."""
    with pytest.raises(TypeError, match="give key="):
        sameness(lambda call: [])(Call("shop"))  # type: ignore[arg-type, return-value]


async def later(call: Call) -> str:
    """Name it too late."""
    return "tea"


@pytest.mark.parametrize("key", [later, "tea", lambda: "tea", lambda call, more: "tea"])
def test_key_that_is_no_plain_function_of_the_call_is_refused(key: Key) -> None:
    """Where it is written, not on the first call."""
    with pytest.raises(RuleError, match="key = "):
        sameness(key)


def test_builtin_that_tells_no_signature_is_taken_at_its_word() -> None:
    """There is nothing to check it by."""
    assert callable(sameness(max))  # type: ignore[arg-type]


@pytest.mark.parametrize("huge", ["x" * 1_000_000, b"x" * 1_000_000, "\ud800" * 1000])
def test_huge_key_is_remembered_by_its_digest(huge: str | bytes) -> None:
    """Who sends a megabyte does not fill the memory with it."""
    same = sameness(lambda call: huge)
    name = same(Call("shop", "buy"))
    assert isinstance(name, tuple)
    assert len(str(name[2])) < 300
    assert name == same(Call("shop", "buy"))
    assert name != sameness(lambda call: huge[:-1])(Call("shop", "buy"))
