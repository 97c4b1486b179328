"""The seven tests that none of nine Python breakers passes (resilience.md, section 6), in both colours.

The breaker trips after 3 failures and recovers after 0.2 s, as in the battery; one probe, so that T1 wants one.
"""

from __future__ import annotations

import asyncio
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from msgov import aio, sync
from msgov.call import Call
from msgov.errors import BreakerOpen
from msgov.pipeline import Pipeline
from msgov.resilience import Breaker, BreakerRule, State
from msgov.testing import After, LoadedDice, ManualClock, ScriptedHandler, run

RULE = BreakerRule(minimum_calls=3, open_seconds=0.2, open_cap=0.2, probes=1, probe_lease=0.5)
TOP = 1 - 2**-53


class Battery:
    """One breaker in front of one handler, on virtual time."""

    def __init__(self, rule: BreakerRule = RULE) -> None:
        self.breaker = Breaker(rule, dice=LoadedDice(TOP, cycle=True))
        self.pipeline = Pipeline([self.breaker])

    async def call(self, *script: object) -> object:
        """Call once; a refusal is an answer here."""
        handler = ScriptedHandler(*script)
        clock = asyncio.get_running_loop().time
        try:
            return await aio.govern(self.pipeline, handler.aio, clock=clock)(Call("shop"))
        except (BreakerOpen, ConnectionError) as error:
            return type(error)

    async def trip(self) -> None:
        """Three failures."""
        for _ in range(3):
            await self.call(ConnectionError())
        assert self.breaker.state is State.OPEN

    async def recover(self) -> None:
        """Wait until the probe may go."""
        await asyncio.sleep(0.21)


def test_t1_one_of_fifty_concurrent_calls_reaches_the_target_in_half_open() -> None:
    """Five of nine let fifty through: the outage they were to end begins anew."""

    async def scene() -> list[object]:
        battery = Battery()
        await battery.trip()
        await battery.recover()
        return await asyncio.gather(*(battery.call(After(0.05, "reached")) for _ in range(50)))

    assert run(scene()).count("reached") == 1


def test_t1_of_fifty_threads_too() -> None:
    """The same at a real barrier, with the permit counted in the handler."""
    clock = ManualClock()
    breaker = Breaker(RULE, dice=LoadedDice(TOP, cycle=True))
    barrier, decided, release = threading.Barrier(50), threading.Semaphore(0), threading.Event()

    def failing(call: Call) -> object:
        raise ConnectionError

    def slow(call: Call) -> object:
        decided.release()
        assert release.wait(30)
        return "reached"

    for _ in range(3):
        with pytest.raises(ConnectionError):
            sync.govern(Pipeline([breaker]), failing, clock=clock)(Call("shop"))
    clock.advance(0.21)
    governed = sync.govern(Pipeline([breaker]), slow, clock=clock)

    def knock() -> object:
        barrier.wait(30)
        try:
            return governed(Call("shop"))
        except BreakerOpen:
            decided.release()
            return "refused"

    with ThreadPoolExecutor(50) as pool:
        futures = [pool.submit(knock) for _ in range(50)]
        for _ in range(50):  # nobody who got in leaves before everybody has knocked
            assert decided.acquire(timeout=30)
        release.set()
    answers = [future.result() for future in futures]
    assert (answers.count("reached"), answers.count("refused")) == (1, 49)


def test_t2_success_of_a_call_from_before_the_trip_does_not_close_it() -> None:
    """circuitbreaker closes on it, in the middle of the outage."""

    async def scene() -> State:
        battery = Battery()
        stale = asyncio.ensure_future(battery.call(After(0.1, "late")))
        await asyncio.sleep(0)
        await battery.trip()
        assert await stale == "late"
        return battery.breaker.state

    assert run(scene()) is State.OPEN


def test_t2b_nor_does_it_while_a_probe_is_in_flight() -> None:
    """Seven of nine let the next ten calls through."""

    async def scene() -> list[object]:
        battery = Battery()
        stale = asyncio.ensure_future(battery.call(After(0.3, "late")))
        await asyncio.sleep(0)
        await battery.trip()
        await battery.recover()
        probe = asyncio.ensure_future(battery.call(After(0.2, "probe")))
        await stale
        more = await asyncio.gather(*(battery.call("reached") for _ in range(10)))
        assert await probe == "probe"
        return more

    assert run(scene()) == [BreakerOpen] * 10


def test_t3_cancelled_probe_leaves_it_usable() -> None:
    """purgatory opens again; the caller who left says nothing about the callee."""

    async def scene() -> object:
        battery = Battery()
        await battery.trip()
        await battery.recover()
        probe = asyncio.ensure_future(battery.call(After(9, "probe")))
        await asyncio.sleep(0.01)
        probe.cancel()
        await asyncio.wait([probe])
        assert battery.breaker.state is State.HALF_OPEN
        return await battery.call("reached"), battery.breaker.state

    assert run(scene()) == ("reached", State.CLOSED)


def test_t4_hung_probe_does_not_wedge_it() -> None:
    """All four that cap their probes stay wedged: here the lease ends, it opens, and probes again."""

    async def scene() -> object:
        battery = Battery()
        await battery.trip()
        await battery.recover()
        hung = asyncio.ensure_future(battery.call(After(math.inf)))
        await asyncio.sleep(1.0)  # five times the recovery
        assert await battery.call("not yet") is BreakerOpen
        await battery.recover()
        reply = await battery.call("reached")
        hung.cancel()
        await asyncio.wait([hung])
        return reply, battery.breaker.state

    assert run(scene()) == ("reached", State.CLOSED)


def test_t4_by_default_one_hung_probe_of_five_does_not_even_delay_it() -> None:
    """The others decide: with five probes, three that go well close it."""

    async def scene() -> State:
        battery = Battery(BreakerRule(minimum_calls=3, open_seconds=0.2, open_cap=0.2))
        await battery.trip()
        await battery.recover()
        hung = asyncio.ensure_future(battery.call(After(math.inf)))
        await asyncio.sleep(0)
        for _ in range(3):
            assert await battery.call("reached") == "reached"
        hung.cancel()
        await asyncio.wait([hung])
        return battery.breaker.state

    assert run(scene()) is State.CLOSED


def test_t5_cancellations_by_the_caller_are_not_counted() -> None:
    """Eight users who left are no reason to refuse the ninth."""

    async def scene() -> State:
        battery = Battery()
        for _ in range(8):
            task = asyncio.ensure_future(battery.call(After(9, "slow")))
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.wait([task])
        assert await battery.call("reached") == "reached"
        return battery.breaker.state

    assert run(scene()) is State.CLOSED


@pytest.mark.parametrize("colour", ["aio", "sync"])
def test_t6_two_failures_in_three_open_it_though_never_three_in_a_row(colour: str) -> None:
    """Six of nine never open: they count failures in a row."""
    script = [ConnectionError(), ConnectionError(), "done"] * 5
    battery = Battery()
    if colour == "aio":

        async def scene() -> None:
            for step in script:
                await battery.call(step)

        run(scene())
    else:
        clock = ManualClock()
        for step in script:
            try:
                sync.govern(battery.pipeline, ScriptedHandler(step).sync, clock=clock)(Call("shop"))
            except (BreakerOpen, ConnectionError):
                pass
    assert battery.breaker.state is State.OPEN


def test_probe_of_one_half_open_that_ends_in_the_next_changes_nothing() -> None:
    """With two permits nopanic then lets three in, and its counter stays at one after closing."""

    async def scene() -> object:
        battery = Battery(BreakerRule(minimum_calls=3, open_seconds=0.2, open_cap=0.2, probes=2))
        await battery.trip()
        await battery.recover()
        old = asyncio.ensure_future(battery.call(After(0.4, "old")))
        await asyncio.sleep(0)
        await battery.call(ConnectionError())
        assert battery.breaker.state is State.OPEN
        await battery.recover()
        let_in = await asyncio.gather(*(battery.call(After(0.3, "reached")) for _ in range(10)))
        assert await old == "old"
        return let_in.count("reached"), battery.breaker.state, battery.breaker.snapshot(0.0)["probes_out"]

    assert run(scene()) == (2, State.CLOSED, 0)
