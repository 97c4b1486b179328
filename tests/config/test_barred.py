"""What a name cannot bear is refused where the rules are read, and never found out about by a call."""

from __future__ import annotations

import asyncio

import pytest

from msgov.config.barred import Barred
from msgov.config.centre import Config
from msgov.config.policies import Policies
from msgov.config.rules import RuleBook, default_rules
from msgov.errors import RuleError
from tests.config.feed import Feed, tree

WHY = {"hedge": "false: nobody can call it off"}


def book(kind: str, **entries: object) -> RuleBook:
    """Write one shortly: `_` stands for "*"."""
    return RuleBook.of({kind: {name.replace("_", "*"): {"hedge": on} for name, on in entries.items()}})


def test_what_is_on_already_cannot_be_barred() -> None:
    """Whoever decorates hears of it at once."""
    barred = Barred()
    with pytest.raises(RuleError, match=r"function\.charge\.hedge = True: false: nobody") as caught:
        barred.add(book("function", charge=True), "function", "charge", WHY)
    assert caught.value.path == "function.charge.hedge"
    assert barred.check(book("function", charge=True))  # what could not be barred is not


def test_a_book_is_refused_where_it_is_written() -> None:
    """In the general entry, if that is the one that says it."""
    barred = Barred()
    barred.add(default_rules(), "function", "charge", WHY)
    with pytest.raises(RuleError) as caught:
        barred.check(book("function", _=True))
    assert caught.value.path == "function.*.hedge"
    assert barred.check(book("function", _=True, charge=False, price=True))


@pytest.mark.parametrize("pattern", ["*", "shop", "shop/GET *", "shop/GET /slow", "shop/PURGE /all", "sh*"])
def test_requests_to_a_service_are_barred_whatever_entry_hedges_them(pattern: str) -> None:
    """A path of its own is found out about before it is called."""
    barred = Barred()
    barred.add(default_rules(), "call", "shop", WHY)
    with pytest.raises(RuleError, match="nobody can call it off"):
        barred.check(RuleBook.of({"call": {pattern: {"hedge": True}}}))


@pytest.mark.parametrize("pattern", ["shop/List", "shopping", "shop2/GET /a"])
def test_other_calls_may_be_hedged(pattern: str) -> None:
    """The methods of gRPC, and other services."""
    barred = Barred()
    barred.add(default_rules(), "call", "shop", WHY)
    assert barred.check(RuleBook.of({"call": {pattern: {"hedge": True}}}))


def test_an_update_with_what_is_barred_changes_nothing() -> None:
    """The gates that stand go on by their old rules."""
    policies = Policies(RuleBook.of({"function": {"charge": {"retry": 2}}}))
    policies.bar("function", "charge", WHY)
    chain, before = policies.for_function("charge"), policies.book
    with pytest.raises(RuleError):
        policies.update(RuleBook.of({"function": {"charge": {"hedge": True, "deadline": 3}}}))
    assert policies.for_function("charge") is chain
    assert policies.book is before


def test_a_configuration_refuses_it_whole_and_names_the_layer() -> None:
    """As any other rule that cannot be."""

    async def main() -> None:
        feed = Feed(tree(function={"charge": {"retry": 2}}))
        async with Config({"file": feed}) as config:
            policies = Policies.following(config)
            policies.bar("function", "charge", WHY)
            before = policies.book
            feed.feed(tree(function={"charge": {"hedge": True, "deadline": 3}}))
            async with asyncio.timeout(10):
                while not config.refused:
                    await asyncio.sleep(0.005)
            assert "function/charge/hedge" in str(config.refused["file"])
            assert policies.book is before

    asyncio.run(main())


def test_listeners_hear_of_what_keeps_state_and_of_nothing_else() -> None:
    """Who feeds gates must know them, and must not be asked at each call."""
    policies = Policies(RuleBook.of({"server": {"*": {"shed": True}, "/a/*": {"deadline": 3}}}))
    heard: list[int] = []
    end = policies.listen(lambda: heard.append(len(policies.state)))
    for method in ("/a/B", "/a/B", "/b/C", "/b/D"):  # of the last two all is shared with the first
        policies.for_server(method)
    assert heard == [2]
    policies.update(RuleBook.of({"server": {"*": {"shed": True}}}))
    assert heard == [2, 1]
    end()
    policies.update(RuleBook.of({}))
    assert heard == [2, 1]
