"""Whatever driver a rejection leaves by, it says which policy refused, for what, and by which rule."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

from msgov.config.policies import Policies
from msgov.config.rules import RuleBook
from msgov.errors import Rejected, version
from msgov.resilience.decorate import policies

RULES: Mapping[str, Mapping[str, object]] = {
    "limiter": {"rate": "1/day"},
    "bulkhead": {"limit": 1},
    "breaker": {"minimum_calls": 1},
}


def refusal(ask: Callable[[], object]) -> Rejected:
    """Call until a policy refuses."""
    for _ in range(3):
        try:
            ask()
        except Rejected as error:
            return error
        except ConnectionError:
            pass
    pytest.fail("nothing was refused")


@pytest.mark.parametrize("policy", RULES)
@pytest.mark.parametrize("colour", ["threads", "asyncio"])
def test_a_rejection_names_its_policy_its_name_and_its_rule(policy: str, colour: str) -> None:
    """Outside the seam and inside it."""
    book = RuleBook.of({"function": {"f": {policy: RULES[policy], "retry": True}}})
    chain = Policies(book).for_function("f")

    @policies(*chain, name="f")
    def plain(again: bool = True) -> object:
        if policy == "breaker":
            raise ConnectionError
        return plain(again=False) if policy == "bulkhead" and again else None

    @policies(*chain, name="f")
    async def waits(again: bool = True) -> object:
        if policy == "breaker":
            raise ConnectionError
        return await waits(again=False) if policy == "bulkhead" and again else None

    error = refusal(plain if colour == "threads" else lambda: asyncio.run(waits()))
    found = book.find("function", "f")
    assert found is not None
    assert (error.policy, error.name) == (policy, "f")
    assert error.rule == version(getattr(found.rules, policy))


def test_a_wait_in_vain_is_explained_too() -> None:
    """It is the driver that gives up, and the gate whose line it was that refused."""
    chain = Policies(RuleBook.of({"function": {"f": {"bulkhead": {"limit": 1, "queue": 1, "max_wait": 0.01}}}}))

    @policies(*chain.for_function("f"), name="f")
    async def slow() -> None:
        await asyncio.sleep(0.1)

    async def main() -> list[object]:
        return await asyncio.gather(slow(), slow(), return_exceptions=True)

    (error,) = [each for each in asyncio.run(main()) if each is not None]
    assert isinstance(error, Rejected)
    assert (error.policy, error.name) == ("bulkhead", "f")
