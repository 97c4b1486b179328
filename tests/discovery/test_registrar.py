"""A registration never gives up, never spins, and says how it stands; walked on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from msgov.discovery import Instance, Registrar, Registration
from msgov.event import Event, Observers
from msgov.testing.loop import run

ORDER = Instance("order", "10.0.0.1", 50051)


class Registry(Registrar):
    """A registry with a lease and two ways to be ill: it refuses, or it does not answer."""

    def __init__(self, *, ttl: float = 3.0) -> None:
        self.ttl = ttl
        self.refuses = self.hangs = False
        self.slow = 0.0
        self.asked: list[tuple[str, float]] = []
        self.known: dict[str, Instance] = {}
        self.everyone_saw = False

    async def _asked(self, question: str) -> None:
        self.asked.append((question, now()))
        await asyncio.sleep(self.slow)
        if self.hangs:
            await asyncio.Event().wait()
        if self.refuses:
            raise ConnectionError("refused")

    async def put(self, instance: Instance) -> int:
        await self._asked("put")
        self.known[instance.id] = instance
        return 7

    async def beat(self, instance: Instance) -> bool:
        await self._asked("beat")
        return instance.id in self.known

    async def remove(self, instance: Instance) -> None:
        await self._asked("remove")
        self.known.pop(instance.id, None)

    async def seen(self, service: str, revision: int) -> bool:
        assert (service, revision) == ("order", 7)
        return self.everyone_saw


def now() -> float:
    """Read the loop's virtual time."""
    return asyncio.get_running_loop().time()


def register(registry: Registry, tell: Callable[[Event], None] = lambda event: None) -> Registration:
    """Register on virtual time."""
    return registry.register(ORDER, clock=asyncio.get_running_loop().time, observers=Observers(tell))


def test_lease_is_renewed_at_a_third() -> None:
    """Two renewals may fail before anybody notices."""

    async def main() -> None:
        registry = Registry()
        async with register(registry) as registration:
            await asyncio.sleep(3.5)
            assert registration.registered
        assert registry.asked == [("put", 0), ("beat", 1), ("beat", 2), ("beat", 3), ("remove", 3.5)]
        assert registry.known == {}
        assert not registration.registered

    run(main())


def test_slow_answers_do_not_stretch_the_rhythm() -> None:
    """The lease may have begun when the question was asked, so the next one is due a third after that."""

    async def main() -> None:
        registry = Registry()
        registry.slow = 0.4
        async with register(registry):
            await asyncio.sleep(2.7)
        assert registry.asked == [("put", 0), ("beat", 1), ("beat", 2), ("beat", 3), ("remove", pytest.approx(3.1))]

    run(main())


def test_silent_registry_does_not_hold_up_the_start() -> None:
    """A service serves whoever knows it already; being found by others comes when it can."""

    async def main() -> None:
        registry = Registry()
        registry.hangs = True
        async with register(registry) as registration:
            assert now() == 1.0
            assert not registration.registered
            assert "did not answer within 1 s" in str(registration.error)
            registry.hangs = False
            await asyncio.sleep(1)
            assert registration.registered
            assert registration.error is None

    run(main())


def test_forgotten_instance_is_put_at_once() -> None:
    """The registry's word that it knows nothing is enough; both turns are told."""

    async def main() -> None:
        registry = Registry()
        told: list[Event] = []
        async with register(registry, told.append) as registration:
            registry.known.clear()
            await asyncio.sleep(1.01)
            assert registry.known == {ORDER.id: ORDER}
            assert registration.registered
            assert registration.losses == 1
        assert [event.kind for event in told] == [
            "registration.restored",
            "registration.lost",
            "registration.restored",
        ]
        assert told[1].facts["why"] == "the registry does not know it"
        assert (told[1].target, told[1].name) == ("order", ORDER.id)

    run(main())


def test_registration_outlasts_an_hour_of_outage() -> None:
    """It neither gives up (kratos: after five tries) nor spins: about one question a second, and back within one."""

    async def main() -> None:
        registry = Registry()
        async with register(registry) as registration:
            registry.refuses = True
            await asyncio.sleep(3600)
            assert not registration.registered
            assert isinstance(registration.error, ConnectionError)
            assert registration.losses == 1
            assert 3000 < len(registry.asked) < 8000
            registry.refuses = False
            await asyncio.sleep(1)
            assert registration.registered

    run(main())


def test_missed_renewals_are_no_loss_within_the_lease() -> None:
    """As long as others still believe in it, it is registered."""

    async def main() -> None:
        registry = Registry()
        async with register(registry) as registration:
            registry.refuses = True
            await asyncio.sleep(2.5)
            assert registration.registered
            assert registration.error is not None
            registry.refuses = False
            await asyncio.sleep(1)
            assert registration.registered
            assert registration.error is None
            assert registration.losses == 0

    run(main())


def test_crowd_comes_back_at_different_moments() -> None:
    """A registry that has just come up must not be knocked down by everybody at once."""

    async def main() -> None:
        registry = Registry()
        registry.refuses = True
        async with asyncio.TaskGroup() as group:

            async def one() -> None:
                async with register(registry):
                    await asyncio.sleep(10)

            for _ in range(50):
                group.create_task(one())
            await asyncio.sleep(9)
            registry.refuses = False
        moments = {when for question, when in registry.asked if question == "put" and when > 9}
        assert len(moments) == 50

    run(main())


def test_leaving_does_not_fail_with_the_registry() -> None:
    """A server that stops must stop; the lease ends by itself."""

    async def main() -> None:
        registry = Registry()
        async with register(registry) as registration:
            registry.hangs = True
        assert "did not answer" in str(registration.error)
        registry.hangs, registry.refuses = False, True
        with pytest.raises(ConnectionError):
            await registry.remove(ORDER)

    run(main())


def test_cancelled_block_deregisters() -> None:
    """Ctrl-C is the usual way to stop."""

    async def main() -> None:
        registry = Registry()

        async def serve() -> None:
            async with register(registry):
                await asyncio.Event().wait()

        task = asyncio.create_task(serve())
        await asyncio.sleep(0.5)
        assert registry.known
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not registry.known

    run(main())


def test_drain_waits_until_everyone_saw() -> None:
    """And no longer; renewals go on meanwhile, and say draining when they put it anew."""

    async def main() -> None:
        registry = Registry()
        async with register(registry) as registration:

            async def see() -> None:
                await asyncio.sleep(2)
                registry.everyone_saw = True

            seeing = asyncio.create_task(see())
            assert await registration.drain(within=5)
            assert 2 <= now() <= 2.02
            await seeing
            registry.known.clear()
            await asyncio.sleep(1.5)
            assert registry.known[ORDER.id].draining

    run(main())


def test_drain_is_bounded_whatever_the_registry_does() -> None:
    """With one that cannot tell, one that refuses and one that hangs, a stop takes the time it was given."""

    class Torn(Registry):
        """Takes registrations, and hangs when asked who saw them."""

        async def seen(self, service: str, revision: int) -> bool:
            await asyncio.Event().wait()
            return True

    async def main() -> None:
        for ill in ("", "refuses", "hangs", "torn"):
            registry = Torn() if ill == "torn" else Registry()
            async with register(registry) as registration:
                if ill in ("refuses", "hangs"):
                    setattr(registry, ill, True)
                began = now()
                assert not await registration.drain(within=2)
                assert 2 <= now() - began <= 3
                assert registration.draining
                registry.refuses = registry.hangs = False

    run(main())
