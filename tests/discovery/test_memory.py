"""A registry for one process keeps the contract that every registry keeps."""

from __future__ import annotations

import asyncio
import threading

import pytest

from msgov.discovery.memory import Memory
from msgov.errors import RuleError
from tests.contract.discovery import ORDER, SECOND, Acknowledges, Both, Forgets, run, watching


class Shared(Memory, Both):
    """One object that all clients share."""

    ttl = 0.3


class TestMemory(Acknowledges, Forgets):
    """Hold it to the contract."""

    visible = 0.05
    ttl = Shared.ttl

    @pytest.fixture(autouse=True)
    def _registry(self) -> None:
        self.registry = Shared()

    def client(self) -> Both:
        return self.registry

    async def forget(self) -> None:
        self.registry.forget()


def test_loops_of_other_threads_see_changes() -> None:
    """A service of threads has its own loop in the background; the registry is the same."""
    registry = Memory()
    began, over = threading.Event(), threading.Event()
    seen: list[int] = []

    async def elsewhere() -> None:
        async with watching(registry) as watched:
            await watched.until(lambda found: found == (ORDER,))
            began.set()
            await watched.until(lambda found: found == (ORDER, SECOND))
            seen.append(len(watched.latest.value.instances))
        over.set()

    thread = threading.Thread(target=lambda: run(elsewhere()))
    thread.start()

    async def main() -> None:
        async with registry.register(ORDER):
            assert await asyncio.to_thread(began.wait, 10)
            async with registry.register(SECOND) as registration:
                assert await asyncio.to_thread(over.wait, 10)
                assert await registration.drain(within=5)

    run(main())
    thread.join()
    assert seen == [2]


def test_watch_of_a_closed_loop_holds_nothing_up() -> None:
    """A loop that ended without closing its watches must not delay every drain for ever."""
    registry = Memory()
    loop = asyncio.new_event_loop()
    watch = registry.watch("order")
    loop.run_until_complete(anext(watch))
    loop.close()

    async def main() -> None:
        async with registry.register(ORDER) as registration:
            assert await registration.drain(within=5)

    run(main())
    with pytest.raises(StopIteration):
        watch.aclose().send(None)  # type: ignore[attr-defined]  # a generator


def test_only_the_bare_url_is_read() -> None:
    """A name after it would promise a sharing that there is not."""
    assert isinstance(Memory.from_url("memory:"), Memory)
    with pytest.raises(RuleError, match="share the object"):
        Memory.from_url("memory:shop")
