"""Whatever happens to calls, of all kinds, on both sides, at once: every permit comes back, and nothing goes on."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent import futures
from typing import Any

import grpc
import grpc.aio
import pytest

from msgov.errors import MsgovError
from tests.transport.grpc import echo_pb2
from tests.transport.grpc.gates import Again, Pick, Turnstile
from tests.transport.grpc.worlds import aio_world, sync_world, until, wait

Ask = echo_pb2.Ask
FAILURES = ("", "", "", "UNAVAILABLE", "NOT_FOUND", "RESOURCE_EXHAUSTED", "CANCELLED", "ABORTED", "raise")
EXPECTED = (grpc.RpcError, MsgovError, TimeoutError, asyncio.CancelledError, asyncio.InvalidStateError)


def seeds(request: pytest.FixtureRequest) -> range:
    """Few seeds each time, many in a campaign."""
    return range(200 if request.config.getoption("--campaign") else 4)


def ask(dice: random.Random, text: str) -> Any:
    """Ask for something: to answer, to fail once or always, to take its time, to break off in the middle."""
    return Ask(
        text=text,
        sleep=dice.choice((0, 0, 0.002, 0.01, 0.05)),
        count=dice.randrange(6),
        fail=dice.choice(FAILURES),
        fail_first=dice.randrange(3),
        fail_after=dice.randrange(4),
    )


class AioStorm:
    """Callers of a stub who do all that a caller can do."""

    def __init__(self, stub: Any, seed: int, *, tidy: float = 0.8) -> None:
        self.stub = stub
        self.dice = random.Random(seed)
        self.tidy = tidy  # how often a caller who writes says that it is done
        self.told = 0

    async def one(self, number: int) -> None:
        dice, asked = self.dice, ask(self.dice, f"{number}")
        options = {"timeout": dice.choice((0, 0.005, 0.02, 0.1))} if dice.random() < 0.3 else {}
        kind = dice.choice(("Unary", "Once", "Down", "Up", "Both"))
        await asyncio.sleep(dice.random() * 0.02)
        request = self._asks(asked) if kind in ("Up", "Both") else asked
        if kind in ("Up", "Both") and dice.random() < 0.3:
            request = None
        call = getattr(self.stub, kind)(request, **options)
        if dice.random() < 0.3:
            call.add_done_callback(self._told)
        use = self._stream if kind in ("Down", "Both") else self._unary
        written, request = (asked if request is None else None), None
        try:
            await use(call, written)
        except EXPECTED:
            pass
        except ValueError as error:
            assert "mine" in str(error)

    def _told(self, call: Any) -> None:
        self.told += call.done()

    async def _asks(self, asked: Any) -> AsyncIterator[Any]:
        for at in range(self.dice.randrange(4)):
            if self.dice.random() < 0.1:
                raise ValueError("mine")
            await asyncio.sleep(self.dice.choice((0, 0.002)))
            yield Ask(text=f"{asked.text}.{at}", sleep=asked.sleep, fail=asked.fail, fail_first=asked.fail_first)

    async def _unary(self, call: Any, written: Any) -> None:
        dice = self.dice
        if written is not None and dice.random() < 0.8:
            await call.write(written)
            if dice.random() < self.tidy:
                await call.done_writing()
        match dice.randrange(9):
            case 0:
                return  # dropped
            case 1:
                await asyncio.sleep(dice.random() * 0.02)
                call.cancel()
                await call
            case 2:
                async with asyncio.timeout(dice.random() * 0.03):
                    await call
            case 3:
                assert (await call) is (await call)
            case 4:
                await asyncio.gather(call, call.code(), call.trailing_metadata(), return_exceptions=True)
            case 5:
                async with asyncio.timeout(dice.random() * 0.03):
                    await asyncio.shield(asyncio.ensure_future(self._quiet(call)))
            case 6:
                await call.initial_metadata()
                await call
            case 7:
                await asyncio.wait_for(call.code(), dice.random() * 0.03)
            case _:
                await call

    async def _quiet(self, call: Any) -> None:
        try:
            await call
        except EXPECTED:
            pass

    async def _stream(self, call: Any, written: Any) -> None:
        dice = self.dice
        if written is not None and dice.random() < 0.8:
            await call.write(written)
            if dice.random() < self.tidy:
                await call.done_writing()
        match dice.randrange(8):
            case 0:
                return  # dropped
            case 1:
                async for _ in call:
                    break
            case 2:
                async with asyncio.timeout(dice.random() * 0.03):
                    async for _ in call:
                        pass
            case 3:
                await call.read()
                call.cancel()
                await call.read()
            case 4:
                await asyncio.sleep(dice.random() * 0.01)
                call.cancel()
            case 5:
                await call.initial_metadata()
                async for _ in call:
                    pass
            case 6:
                while await call.read() is not grpc.aio.EOF:
                    pass
            case _:
                async for _ in call:
                    pass


async def _aio_storm(seed: int, callers: int) -> None:
    async with aio_world(default_deadline=0.5) as (world, stub):
        turnstile, per_attempt = Turnstile(16, 0.03), Turnstile(12, 0.02)
        pick = Pick(world.port)
        world.policies = (world.outer, turnstile, Again(), pick, per_attempt, world.inner)
        storm = AioStorm(stub, seed)
        tasks = [asyncio.create_task(storm.one(number)) for number in range(callers)]
        for task in storm.dice.sample(tasks, callers // 8):
            asyncio.get_running_loop().call_later(storm.dice.random() * 0.05, task.cancel)
        ended = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
        strange = [e for e in ended if isinstance(e, BaseException) and not isinstance(e, asyncio.CancelledError)]
        assert not strange, strange
        del tasks, task
        gc.collect()
        held = lambda: (*world.held, turnstile.free, per_attempt.free)  # noqa: E731
        await until(lambda: held() == (0, 0, 0, 0, 16, 12), 10, about=held)
        assert not any(connection.calls for connection in world.channel.connections._all.values())
    await until(lambda: len(asyncio.all_tasks()) == 1)


def test_asyncio_storm(request: pytest.FixtureRequest) -> None:
    """Permits in are permits out, nothing runs on the server, no task is left."""
    for seed in seeds(request):
        try:
            asyncio.run(_aio_storm(seed, 80))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


class SyncStorm:
    """Threads that do all that a caller can do."""

    def __init__(self, stub: Any, seed: int) -> None:
        self.stub = stub
        self.seed = seed
        self.told = threading.Semaphore(0)

    def one(self, number: int) -> None:
        dice = random.Random(self.seed * 1000 + number)
        asked = ask(dice, f"{number}")
        options = {"timeout": dice.choice((0, 0.005, 0.02, 0.1))} if dice.random() < 0.3 else {}
        kind = dice.choice(("Unary", "Once", "Down", "Up", "Both"))
        request = self._asks(dice, asked) if kind in ("Up", "Both") else asked
        method = getattr(self.stub, kind)
        try:
            if kind in ("Down", "Both"):
                self._stream(dice, method(request, **options))
            elif dice.random() < 0.4:
                method(request, **options)
            else:
                self._future(dice, method.future(request, **options))
        except (*EXPECTED, grpc.FutureTimeoutError, grpc.FutureCancelledError):
            pass
        except ValueError as error:
            assert "mine" in str(error)

    def _asks(self, dice: random.Random, asked: Any) -> Iterator[Any]:
        for at in range(dice.randrange(4)):
            if dice.random() < 0.1:
                raise ValueError("mine")
            yield Ask(text=f"{asked.text}.{at}", sleep=asked.sleep, fail=asked.fail, fail_first=asked.fail_first)

    def _told(self, call: Any) -> None:
        assert call.done()
        self.told.release()

    def _future(self, dice: random.Random, call: Any) -> None:
        pause = threading.Event()
        if dice.random() < 0.4:
            call.add_done_callback(self._told)
        match dice.randrange(6):
            case 0:
                return  # dropped
            case 1:
                pause.wait(dice.random() * 0.02)
                call.cancel()
                call.result(5)
            case 2:
                call.result(dice.random() * 0.02)
            case 3:
                call.cancel()
            case 4:
                call.initial_metadata()
                call.result(5)
            case _:
                call.result(5)

    def _stream(self, dice: random.Random, call: Any) -> None:
        pause = threading.Event()
        if dice.random() < 0.4:
            call.add_done_callback(self._told)
        match dice.randrange(6):
            case 0:
                return  # dropped
            case 1:
                for _ in call:
                    break
            case 2:
                pause.wait(dice.random() * 0.02)
                call.cancel()
            case 3:
                next(call, None)
                call.cancel()
                list(call)
            case 4:
                call.initial_metadata()
                list(call)
            case _:
                list(call)


def _sync_storm(seed: int, callers: int) -> None:
    with sync_world(default_deadline=0.5) as (world, stub):
        turnstile, per_attempt = Turnstile(16, 0.03), Turnstile(12, 0.02)
        world.policies = (world.outer, turnstile, Again(), Pick(world.port), per_attempt, world.inner)
        storm = SyncStorm(stub, seed)
        with futures.ThreadPoolExecutor(12) as pool:
            list(pool.map(storm.one, range(callers)))
        gc.collect()
        held = lambda: (*world.held, turnstile.free, per_attempt.free)  # noqa: E731
        wait(lambda: held() == (0, 0, 0, 0, 16, 12), 10, about=held)
        assert not any(connection.calls for connection in world.channel.connections._all.values())


def test_storm_in_threads(request: pytest.FixtureRequest) -> None:
    """The same, with threads that race for real."""
    for seed in seeds(request):
        try:
            _sync_storm(seed, 80)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
