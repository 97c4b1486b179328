"""What every registry must do, whoever wrote its adapter; a test class per backend inherits what it can be held to."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from msgov.aio import follow
from msgov.backoff import Backoff
from msgov.call import OK, Call, Outcome
from msgov.clock import dice, monotonic
from msgov.discovery import Directory, Discovery, Instance, Pick, Registrar, Registration, RoundRobin, Snapshot
from msgov.latest import Latest

T = TypeVar("T")

ORDER = Instance("order", "127.0.0.1", 50051, version="1.2", zone="a", weight=2.5, metadata={"team": "shop"})
SECOND = Instance("order", "127.0.0.1", 50052)


class Both(Discovery, Registrar):
    """A backend that finds and registers: what the suite asks for."""


class Watched:
    """A watch that a test looks at."""

    def __init__(self, discovery: Discovery, service: str) -> None:
        self.discovery = discovery
        self.latest: Latest[Snapshot] = Latest(service)
        self.history: list[tuple[str, ...]] = []
        self._changed = asyncio.Event()
        self.latest.listen(self._note)

    def _note(self, old: Snapshot | None, new: Snapshot) -> None:
        self.history.append(tuple(instance.id for instance in new.instances))
        self._changed.set()

    async def until(self, holds: Callable[[tuple[Instance, ...]], bool], *, within: float = 5.0) -> float:
        """Wait until the instances are as said; return how long it took, in seconds."""
        began = monotonic()
        async with asyncio.timeout(within):
            while not (self.latest.known and holds(self.latest.value.instances)):
                self._changed.clear()
                await self._changed.wait()
        return monotonic() - began


@asynccontextmanager
async def watching(discovery: Discovery, service: str = "order") -> AsyncIterator[Watched]:
    """Follow a service for a block; a failing source is asked again soon."""
    watched = Watched(discovery, service)
    pause = Backoff(dice(), base=0.05, cap=0.2)
    task = asyncio.create_task(follow(discovery.source(service), watched.latest, backoff=pause))
    try:
        yield watched
    finally:
        task.cancel()
        await asyncio.wait([task])


async def eventually(holds: Callable[[], bool], *, within: float) -> float:
    """Wait for a state that nobody tells of; return how long it took, in seconds."""
    began = monotonic()
    while not holds():
        assert monotonic() - began < within, f"not so within {within} s"
        await asyncio.sleep(0.005)
    return monotonic() - began


def run(work: Coroutine[object, object, T], *, within: float = 30.0) -> T:
    """Run a test's coroutine, and not for ever."""
    return asyncio.run(asyncio.wait_for(work, within))


class Registers(ABC):
    """Instances are found once registered, and no more once they left.

    `visible` is the seconds in which a change must reach a watcher, `ttl` the lease of the clients.
    """

    visible = 0.2
    ttl = 3.0

    @abstractmethod
    def client(self) -> Both:
        """Connect to the registry under test, as one more process would; whoever asks closes it."""

    @asynccontextmanager
    async def registered(self) -> AsyncIterator[tuple[Registration, Watched]]:
        """Set the usual scene: ORDER is registered by one client, and another watches and has seen it."""
        async with (
            self.client() as ours,
            self.client() as theirs,
            ours.register(ORDER) as registration,
            watching(theirs) as watched,
        ):
            await watched.until(lambda found: found == (ORDER,))
            yield registration, watched

    def test_registered_is_seen(self) -> None:
        """The point of it all: with every field, and soon."""

        async def main() -> None:
            async with self.client() as ours, self.client() as theirs, watching(theirs) as watched:
                await watched.until(lambda found: found == ())
                async with ours.register(ORDER) as registration:
                    assert registration.registered
                    await watched.until(lambda found: found == (ORDER,), within=self.visible)

        run(main())

    def test_leaving_is_seen(self) -> None:
        """Whoever left gets no more calls; that its block ended with an error changes nothing."""

        async def main() -> None:
            async with self.client() as ours, self.client() as theirs, watching(theirs) as watched:
                try:
                    async with ours.register(ORDER):
                        await watched.until(lambda found: len(found) == 1)
                        raise KeyError("the server died")
                except KeyError:
                    pass
                await watched.until(lambda found: found == (), within=self.visible)

        run(main())

    def test_watcher_that_comes_later_sees_all(self) -> None:
        """A watch begins with a whole snapshot, ordered by id."""

        async def main() -> None:
            async with AsyncExitStack() as stack:
                for instance in (SECOND, ORDER):
                    client = await stack.enter_async_context(self.client())
                    await stack.enter_async_context(client.register(instance))
                watched = await stack.enter_async_context(watching(await stack.enter_async_context(self.client())))
                await watched.until(lambda found: found == (ORDER, SECOND), within=self.visible)
                assert watched.history == [(ORDER.id, SECOND.id)]

        run(main())

    def test_watch_resumes_with_a_whole_snapshot(self) -> None:
        """After a broken watch the next one must not miss what changed in between."""

        async def main() -> None:
            async with self.client() as ours, self.client() as theirs, ours.register(ORDER):
                async with watching(theirs) as watched:
                    await watched.until(lambda found: found == (ORDER,))
                async with ours.register(SECOND), watching(theirs) as watched:
                    await watched.until(lambda found: found == (ORDER, SECOND), within=self.visible)

        run(main())

    def test_services_are_apart(self) -> None:
        """`order` is not woken by `order-admin`, whose name begins alike."""

        async def main() -> None:
            async with self.client() as ours, self.client() as theirs, watching(theirs) as watched:
                await watched.until(lambda found: found == ())
                async with ours.register(replace(ORDER, service="order-admin")), ours.register(SECOND):
                    await watched.until(lambda found: len(found) == 1)
                    assert watched.latest.value.instances == (SECOND,)
                    assert watched.latest.changes == 2

        run(main())

    def test_same_address_is_the_same_instance(self) -> None:
        """A restarted process takes the place of the old one instead of standing beside it."""

        async def main() -> None:
            newer = replace(ORDER, version="1.3")
            async with self.client() as ours, self.client() as theirs, watching(theirs) as watched:
                async with ours.register(ORDER):
                    await watched.until(lambda found: found == (ORDER,))
                async with ours.register(newer):
                    await watched.until(lambda found: found == (newer,), within=self.visible)

        run(main())

    def test_registration_goes_on(self) -> None:
        """The lease is renewed for as long as the block lasts: three leases long nothing is seen to happen."""

        async def main() -> None:
            async with self.registered() as (registration, watched):
                changes = watched.latest.changes
                await asyncio.sleep(3 * self.ttl)
                assert registration.registered
                assert registration.losses == 0
                assert watched.latest.changes == changes
                assert watched.latest.value.instances == (ORDER,)

        run(main())

    def test_nothing_asks_the_registry_for_a_call(self) -> None:
        """Calls go on at full speed whatever the registry does: they read what is known."""

        async def main() -> None:
            async with self.client() as ours, ours.register(ORDER):
                theirs = self.client()
                async with theirs, Directory(theirs) as directory:
                    await directory.known("order")
                latest = directory.services["order"]
                pick = Pick(latest, RoundRobin())  # the watch has ended and the client is closed
                for _ in range(100):
                    call = Call("order")
                    pick.settle(pick.admit(call, monotonic()), Outcome(OK), monotonic())
                    assert call.instance == ORDER

        run(main())


class Acknowledges(Registers):
    """Whoever drains knows when everyone has seen it: no constant to wait for, no call to a place that has gone."""

    def test_drain_returns_when_all_watchers_know(self) -> None:
        """At the moment it returns, no watcher would still pick the instance."""

        async def main() -> None:
            async with self.registered() as (registration, first), self.client() as two, watching(two) as second:
                await second.until(lambda found: found == (ORDER,))
                assert await registration.drain(within=5)
                for watched in (first, second):
                    assert [instance.draining for instance in watched.latest.value.instances] == [True]
                assert registration.draining
                assert await registration.drain(within=5)  # twice is fine

        run(main())

    def test_drain_with_nobody_watching_is_at_once(self) -> None:
        """Nothing is waited for that cannot happen."""

        async def main() -> None:
            async with self.client() as ours, ours.register(ORDER) as registration:
                began = monotonic()
                assert await registration.drain(within=5)
                assert monotonic() - began < 1

        run(main())

    def test_drain_does_not_wait_for_ever(self) -> None:
        """A watcher that takes nothing more (its loop is stuck) holds a drain up for a bounded time only."""

        async def main() -> None:
            async with self.client() as ours, self.client() as theirs, ours.register(ORDER) as registration:
                stuck = theirs.watch("order")
                assert (await anext(stuck)).instances == (ORDER,)
                began = monotonic()
                assert not await registration.drain(within=0.3)
                assert 0.3 <= monotonic() - began < 1
                await stuck.aclose()  # type: ignore[attr-defined]  # a generator

        run(main())


class Forgets(Registers):
    """A registry that restarts empty is filled again, without anybody's help."""

    @abstractmethod
    async def forget(self) -> None:
        """Lose everything that is registered, as a registry does that lost its data."""

    def test_forgotten_instance_registers_again(self) -> None:
        """The failure that users of every registry report most: healthy, forgotten, and never put again."""

        async def main() -> None:
            async with self.registered() as (registration, watched):
                for _ in range(2):
                    before = registration.losses
                    await self.forget()
                    await eventually(lambda before=before: registration.losses > before, within=2)  # type: ignore[misc]
                    await eventually(lambda: registration.registered, within=2)
                    await watched.until(lambda found: found == (ORDER,), within=2)

        run(main())


class Outlasts(Registers):
    """A registry that is down makes knowledge old, never absent."""

    @abstractmethod
    async def stop(self) -> None:
        """Make the registry fail whoever asks."""

    @abstractmethod
    async def start(self) -> None:
        """Let it answer again, with what it knew."""

    def test_knowledge_stays_through_an_outage(self) -> None:
        """Whoever was found before is found during and after it."""

        async def main() -> None:
            async with self.registered() as (_, watched):
                await self.stop()
                await eventually(lambda: watched.latest.stale, within=5)
                assert watched.latest.value.instances == (ORDER,)
                await self.start()
                await eventually(lambda: not watched.latest.stale, within=2)
                assert watched.latest.value.instances == (ORDER,)

        run(main())

    def test_registration_outlasts_an_outage(self) -> None:
        """It is known to be lost after a lease, told with the reason, and put again within two seconds of the end."""

        async def main() -> None:
            async with self.client() as ours, self.client() as theirs, ours.register(ORDER) as registration:
                await self.stop()
                await eventually(lambda: not registration.registered, within=ours.ttl + 2)
                assert registration.error is not None
                await self.start()
                await eventually(lambda: registration.registered, within=2)
                assert registration.error is None
                async with watching(theirs) as watched:
                    await watched.until(lambda found: found == (ORDER,))

        run(main())

    def test_service_starts_before_its_registry(self) -> None:
        """Entering goes on with the registry down; the instance is put when it comes up."""

        async def main() -> None:
            await self.stop()
            async with self.client() as ours, ours.register(ORDER) as registration:
                assert not registration.registered
                await self.start()
                await eventually(lambda: registration.registered, within=2)

        run(main())

    def test_copy_on_disk_serves_a_start_in_an_outage(self, tmp_path: Path) -> None:
        """A client that starts while the registry is down calls those who were there last, and says that it is old."""

        async def main() -> None:
            copies = tmp_path / "copies"
            async with self.registered() as (_, watched), Directory(watched.discovery, copies=copies) as directory:
                await directory.known("order")
                await eventually(lambda: any(copies.glob("order.json")), within=5)
            await self.stop()
            async with self.client() as theirs, Directory(theirs, copies=copies) as directory:
                assert (await directory.known("order", within=0)).instances == (ORDER,)
                assert directory.latest("order").stale
                await self.start()
                await eventually(lambda: not directory.latest("order").stale, within=2)

        run(main())
