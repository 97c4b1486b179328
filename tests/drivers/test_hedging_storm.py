"""Whatever goes away at whatever moment, what was taken is given back, once."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from msgov import aio
from msgov.call import Call
from msgov.pipeline import Pipeline, Policy
from msgov.resilience import Bulkhead, BulkheadRule, Deadline, Hedge, HedgeRule
from msgov.testing import run
from tests.drivers.stage import Door, Journal


@pytest.mark.parametrize("seed", range(20))
def test_storm_of_cancellations_leaves_exact_accounts(seed: int) -> None:
    """Permits in are permits out: whatever is slow, fails, is refused or goes away, at whatever moment."""
    chance = Random(seed)
    outer = Bulkhead(BulkheadRule(limit=40, queue=0))
    inner = Bulkhead(BulkheadRule(limit=30, queue=5, max_wait=0.05))
    journal: Journal = []
    door = Door(journal, "each")
    hedge = Hedge(HedgeRule(attempts=3, initial=0.02, load=1))
    ended: list[str] = []
    running = [0]

    async def handler(call: Call) -> object:
        running[0] += 1
        try:
            await asyncio.sleep(chance.choice([0.0, 0.01, 0.02, 0.04, 0.5]))
            if chance.random() < 0.3:
                raise ConnectionError
            return "well"
        except asyncio.CancelledError:
            if chance.random() < 0.3:
                await asyncio.sleep(0.01)
            raise
        finally:
            running[0] -= 1

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        complaints: list[object] = []
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        chain: list[Policy] = [outer, Deadline(0.2), hedge, inner, Deadline(0.1), door]
        governed = aio.govern(Pipeline(chain), handler, clock=loop.time)

        async def one() -> None:
            try:
                await governed(Call("shop", idempotent=True))
                ended.append("well")
            except BaseException as error:
                ended.append(type(error).__name__)
                raise

        tasks = []
        for _ in range(150):
            task = loop.create_task(one())
            tasks.append(task)
            if chance.random() < 0.5:
                loop.call_later(chance.choice([0.0, 0.01, 0.02, 0.03, 0.1, 0.2]), task.cancel)
            await asyncio.sleep(chance.choice([0.0, 0.0, 0.005, 0.01]))
        await asyncio.gather(*tasks, return_exceptions=True)
        assert complaints == []
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(scene())
    assert (outer.inflight, inner.inflight, running[0]) == (0, 0, 0)
    came = [ticket for what, _, ticket in journal if what == "in"]
    left = [ticket for what, _, ticket in journal if what == "out"]
    assert sorted(left, key=str) == sorted(came, key=str)
    assert len(set(left)) == len(left)
    assert hedge.load.spent == hedge.hedged + hedge.retried
    assert "well" in ended
    assert hedge.hedged > 0
