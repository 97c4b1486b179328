"""A callee that fails everything, or is slow with everything, is not sent much more than its traffic."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from msgov import aio, wire
from msgov.call import Call
from msgov.pipeline import Pipeline
from msgov.policy import Plan
from msgov.resilience import Budget, BudgetRule, Deadline, Hedge, HedgeRule, Retry, RetryRule
from msgov.testing import LoadedDice, run

CALLS, APART = 2000, 0.01  # 20 s at 100 calls a second
RULE = BudgetRule()
RESERVE = RULE.minimum * (CALLS * APART + RULE.ttl)


def sent(*plans: Plan, seconds: float = 0.005, fails: Callable[[float], bool] = lambda now: True) -> tuple[int, int]:
    """Send the traffic through the plans in turn; return how many attempts came, and how many calls went well."""
    attempts, well = [0], [0]

    async def handler(call: Call) -> None:
        attempts[0] += 1
        await asyncio.sleep(seconds)
        if fails(asyncio.get_running_loop().time()):
            raise ConnectionError

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        chains = [aio.govern(Pipeline([Deadline(30), plan]), handler, clock=loop.time) for plan in plans]

        async def one(n: int) -> None:
            await asyncio.sleep(n * APART)
            try:
                await chains[n % len(chains)](Call("shop", idempotent=True))
                well[0] += 1
            except ConnectionError:
                pass

        await asyncio.gather(*(one(n) for n in range(CALLS)))

    run(scene())
    return attempts[0], well[0]


def retry(budget: Budget | None = None) -> Retry:
    """Make a retry with the default rule."""
    return Retry(budget=budget, dice=LoadedDice(0.1, 0.9, 0.5, cycle=True))


def test_retries_at_full_failure_stay_within_ratio_and_reserve() -> None:
    """Amplification <= 1 + ratio + reserve: 1.1, where three attempts without a budget make 3."""
    attempts, _ = sent(retry(Budget(RULE)))
    assert attempts <= CALLS * (1 + RULE.ratio) + RESERVE
    assert attempts > CALLS * 1.05
    assert sent(retry())[0] == 3 * CALLS  # or the test would show nothing


def test_retries_and_hedges_of_one_callee_stay_within_one_budget() -> None:
    """Two methods, one of them hedged: they spend from one purse, not a purse each."""
    budget = Budget(RULE)
    plan = Hedge(HedgeRule(initial=0.002, load=1), budget=budget)
    attempts, _ = sent(retry(budget), plan)
    assert attempts <= CALLS * (1 + RULE.ratio) + RESERVE
    assert plan.hedged + plan.retried > 0
    assert budget.spent == attempts - CALLS


def test_hedge_alone_at_full_failure_stays_within_its_load() -> None:
    """There is no reserve: 1.02."""
    attempts, _ = sent(Hedge(HedgeRule(initial=0.5)))
    assert CALLS < attempts <= CALLS * 1.02 + 1


def test_hedges_of_a_callee_that_is_slow_with_everything_stay_within_their_load() -> None:
    """When all are slow a hedge helps nobody: the share holds, and every call still has its answer."""
    plan = Hedge(HedgeRule(initial=0.05))
    attempts, well = sent(plan, seconds=0.2, fails=lambda now: False)
    assert CALLS < attempts <= CALLS * 1.02 + 1
    assert well == CALLS
    assert plan.suppressed["load"] > CALLS * 0.9


@pytest.mark.parametrize(
    "plan", [lambda: retry(Budget(RULE)), lambda: Hedge(HedgeRule(initial=0.05), budget=Budget(RULE))]
)
def test_after_a_blip_all_is_well_again(plan: Callable[[], Plan]) -> None:
    """Eight seconds of failure, and no call that begins after it fails: nothing is left over that fails more."""
    _, well = sent(plan(), fails=lambda now: 5.0 < now < 13.0)
    assert well >= CALLS * 12 / 20 - 2


def test_layers_do_not_multiply() -> None:
    """Three layers of three attempts would be 27: a retry tells the layers below not to, and each adds its own two."""
    attempts = [0]
    rule = RetryRule(base=0.001)

    async def leaf(call: Call) -> object:
        attempts[0] += 1
        raise ConnectionError

    async def scene() -> None:
        clock = asyncio.get_running_loop().time
        handler: Callable[[Call], Awaitable[object]] = leaf
        for _ in range(3):
            inner = aio.govern(Pipeline([Retry(rule, dice=LoadedDice(0.5, cycle=True))]), handler, clock=clock)

            async def hop(call: Call, inner: Callable[[Call], Awaitable[object]] = inner) -> object:
                headers = dict(wire.outgoing(call, clock(), deadline=True))
                around = wire.incoming(headers, clock(), trusted=True)
                return await inner(Call("next", idempotent=True, attempts_left=around.attempts_left))

            handler = hop
        with pytest.raises(ConnectionError):
            await handler(Call("first", idempotent=True))

    run(scene())
    assert attempts[0] == 1 + 3 * 2
