"""A change of rules reaches a guarded function, save one that it cannot bear: that changes nothing, and says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from msgov.errors import RuleError
from msgov.event import Event
from msgov.resilience.hedge import Hedge
from msgov.resilience.retry import Retry
from tests.service.quiet import gate, run, service, until

RETRY = "[function.charge]\nretry = 2\n"


def test_a_live_hedge_for_a_plain_function_changes_nothing(tmp_path: Path) -> None:
    """Neither the chain in force nor the calls: the change is refused, and told."""

    async def main() -> None:
        svc = service("order", tmp_path, RETRY)
        told: list[Event] = []
        svc.config.observers.add(told.append)

        @svc.guarded("charge")
        def charge(amount: int) -> int:
            return amount

        async with svc.opened():
            chain = svc.policies.for_function("charge")
            (tmp_path / "order.toml").write_text("[function.charge]\nhedge = true\nretry = false\ndeadline = 3\n")
            await until(lambda: svc.config.refused)
            assert "function.charge.hedge" in str(svc.config.refused["file"])
            assert "charge guards a plain function" in str(svc.config.refused["file"])
            assert [each.kind for each in told] == ["config.rejected"]
            assert charge(7) == 7
            assert svc.policies.for_function("charge") is chain
            (tmp_path / "order.toml").write_text("[function.charge]\nretry = 3\n")
            await until(lambda: gate(svc, Retry).rule.attempts == 3)
            assert charge(8) == 8
        svc.close()

    run(main)


def test_a_live_hedge_for_a_coroutine_is_taken(tmp_path: Path) -> None:
    """What can be called off can be hedged: the second answer comes while the first still hangs."""

    async def main() -> None:
        svc = service("order", tmp_path, RETRY)
        asked = 0

        @svc.guarded("charge", idempotent=True)
        async def charge() -> int:
            nonlocal asked
            asked += 1
            mine = asked
            if mine == 2:
                await asyncio.sleep(30)
            return mine

        async with svc.opened():
            assert await charge() == 1
            (tmp_path / "order.toml").write_text("[function.charge]\nhedge = {initial = 0.01, load = 4}\n")
            await until(lambda: any(isinstance(each, Hedge) for each in svc.policies.state))
            assert await charge() == 3
            assert gate(svc, Hedge).won == 1
        svc.close()

    run(main)


@pytest.mark.parametrize("policy", ["cache", "coalesce"])
def test_what_must_be_called_each_time_is_never_spared(policy: str, tmp_path: Path) -> None:
    """A cache switched on in the file must not make one charge of two, nor fail them."""

    async def main() -> None:
        svc = service("order", tmp_path, RETRY)

        @svc.guarded("charge")
        async def charge(amount: int) -> int:
            return amount

        async with svc.opened():
            (tmp_path / "order.toml").write_text(f"[function.charge]\n{policy} = true\n")
            await until(lambda: svc.config.refused)
            assert "idempotent=True where charge is guarded" in str(svc.config.refused["file"])
            assert await charge(7) == 7
        svc.close()

    run(main)


@pytest.mark.parametrize("rule", ["fallback = {answer = 1}", "cache = true", "coalesce = true", "hedge = true"])
def test_a_generator_keeps_what_only_an_answer_can_have_off(rule: str, tmp_path: Path) -> None:
    """Its items are its answer, and they come once."""
    svc = service("order", tmp_path, f"[function.items]\nretry = false\n{rule}\n")

    def items() -> Iterator[int]:
        yield 1

    async def flow() -> AsyncIterator[int]:
        yield 1

    for each in (items, flow):
        with pytest.raises(RuleError, match=r"function\.items\.\w+ = True: .*a generator"):
            svc.guarded("items", idempotent=True)(each)
    svc.close()


def test_a_blocking_client_is_not_hedged_neither_now_nor_later(tmp_path: Path) -> None:
    """Its requests cannot be called off; those of the asyncio client can."""

    async def main() -> None:
        svc = service("front", tmp_path, "[call.shop]\nhedge = true\n")
        with pytest.raises(RuleError, match=r"call\.shop\.hedge = True: .*blocking HTTP client"):
            svc.http.sync_client("shop")
        await svc.http.client("shop").aclose()
        svc.close()
        later = service("front", tmp_path)
        later.http.sync_client("shop").close()
        async with later.opened():
            (tmp_path / "front.toml").write_text('[call."shop/GET /slow"]\nhedge = true\n')
            await until(lambda: later.config.refused)
            assert "shop is called by a blocking HTTP client" in str(later.config.refused["file"])
            (tmp_path / "front.toml").write_text('[call."shop/List"]\nhedge = true\n')
            await until(lambda: not later.config.refused)
        later.close()

    run(main)


def test_a_transport_of_ones_own_says_that_it_blocks(tmp_path: Path) -> None:
    """Or nobody could know."""
    svc = service("front", tmp_path, "[call.shop]\nhedge = true\n")
    svc.http.edge("shop")
    with pytest.raises(RuleError, match="blocking HTTP client"):
        svc.http.edge("shop", blocking=True)
    svc.close()
