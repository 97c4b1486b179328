"""Every bus means the same: one suite, subclassed by each backend's tests."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from msgov.call import NO
from msgov.errors import DeliveryError
from msgov.messaging.bus import Bus, Delivery, Subscription
from msgov.messaging.message import Message, Poison
from msgov.testing import no_leaks


def on_bus(test: Callable[[BusContract, Bus], Awaitable[None]]) -> Callable[[BusContract, Path], None]:
    """Run a case on a fresh bus, and see that it leaves nothing."""

    def run(self: BusContract, tmp_path: Path) -> None:
        async def main() -> None:
            async with no_leaks(), self.make(tmp_path) as bus:
                await test(self, bus)

        asyncio.run(main())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


async def take(subscription: Subscription, count: int, *, settle: bool = True) -> list[Delivery]:
    """Fetch until so many are there, settling each; fails after some seconds without any."""
    found: list[Delivery] = []
    while len(found) < count:
        got = await subscription.fetch(count - len(found), wait=5)
        assert got, f"only {len(found)} of {count} came"
        found += got
        if settle:
            for delivery in got:
                assert await subscription.ack(delivery)
    return found


def bodies(deliveries: list[Delivery]) -> list[bytes]:
    """Return what was said, in the order of arrival."""
    return [delivery.message.body for delivery in deliveries]


class BusContract(ABC):
    """What every bus promises; `make` gives a fresh one."""

    @abstractmethod
    def make(self, folder: Path, *, capacity: int = 10_000) -> Bus:
        """Make a fresh bus."""

    @on_bus
    async def test_message_arrives_as_it_was_published(self, bus: Bus) -> None:
        """An envelope that changes on the way is no envelope."""
        sent = Message.of("order.placed", {"id": 7, "name": "Ærø"}, key="7", headers={"x-note": "né"}, source="order")
        await bus.publish(sent)
        async with bus.subscribe("order.placed", group="audit") as audit:
            (got,) = await take(audit, 1)
        assert got.message == sent
        assert got.message.json() == {"id": 7, "name": "Ærø"}
        assert got.attempt == 1
        assert 0 <= got.age < 5

    @on_bus
    async def test_each_group_gets_every_message(self, bus: Bus) -> None:
        """Groups do not take messages from each other."""
        async with bus.subscribe("t", group="one") as one, bus.subscribe("t", group="two") as two:
            await bus.publish(Message("t", b"a"), Message("t", b"b"))
            assert bodies(await take(one, 2)) == bodies(await take(two, 2)) == [b"a", b"b"]

    @on_bus
    async def test_new_group_begins_with_the_oldest_message_kept(self, bus: Bus) -> None:
        """A service that starts after the others must not miss what they said meanwhile."""
        await bus.publish(Message("t", b"early"))
        async with bus.subscribe("t", group="first") as first:
            await take(first, 1)
        async with bus.subscribe("t", group="late") as late:
            assert bodies(await take(late, 1)) == [b"early"]

    @on_bus
    async def test_topics_are_apart(self, bus: Bus) -> None:
        """A group reads the topic it asked for and no other with a similar name."""
        await bus.publish(Message("user", b"u"), Message("user-admin", b"a"))
        async with bus.subscribe("user", group="g") as users:
            assert bodies(await take(users, 1)) == [b"u"]
            assert await users.fetch(1, wait=0.1) == []

    @on_bus
    async def test_consumers_of_a_group_share_its_messages(self, bus: Bus) -> None:
        """Each message goes to one of them."""
        async with bus.subscribe("t", group="g") as one, bus.subscribe("t", group="g") as two:
            await bus.publish(*(Message("t", b"%d" % n) for n in range(10)))
            mine = await take(one, 5)
            yours = await take(two, 5)
        assert sorted(bodies(mine + yours)) == [b"%d" % n for n in range(10)]

    @on_bus
    async def test_key_with_unsettled_message_blocks_itself_alone(self, bus: Bus) -> None:
        """Order of a key is kept across consumers, and costs the other keys nothing."""
        pairs = [("a", b"a1"), ("a", b"a2"), ("b", b"b1"), ("", b"x"), ("", b"y"), ("a", b"a3")]
        await bus.publish(*(Message("t", body, key=key) for key, body in pairs))
        async with bus.subscribe("t", group="g") as one, bus.subscribe("t", group="g") as two:
            held = await take(one, 4, settle=False)
            assert bodies(held) == [b"a1", b"b1", b"x", b"y"]
            assert await two.fetch(10, wait=0.1) == []
            assert await one.ack(held[0])
            assert bodies(await take(two, 1)) == [b"a2"]
            assert bodies(await take(one, 1)) == [b"a3"]

    @on_bus
    async def test_retried_message_comes_again_after_its_delay(self, bus: Bus) -> None:
        """Not before, or a failing dependency is hammered; and its key waits with it, or order is lost."""
        loop = asyncio.get_running_loop()
        await bus.publish(Message("t", b"1", key="k"), Message("t", b"2", key="k"))
        async with bus.subscribe("t", group="g") as group:
            (first,) = await take(group, 1, settle=False)
            before = loop.time()
            assert await group.retry_later(first, 0.2)
            (again,) = await take(group, 1)
            assert loop.time() - before >= 0.19
            assert (again.message.body, again.attempt) == (b"1", 2)
            assert bodies(await take(group, 1)) == [b"2"]

    @on_bus
    async def test_uncounted_return_is_no_attempt(self, bus: Bus) -> None:
        """A delivery that was never begun must not bring the message nearer to the dead letters."""
        await bus.publish(Message("t"))
        async with bus.subscribe("t", group="g") as group:
            (first,) = await take(group, 1, settle=False)
            assert await group.retry_later(first, 0.0, counted=False)
            (again,) = await take(group, 1)
        assert again.attempt == 1

    @on_bus
    async def test_unsettled_message_goes_back_when_its_consumer_leaves(self, bus: Bus) -> None:
        """A graceful stop costs no wait and no attempt."""
        await bus.publish(Message("t", b"x", key="k"))
        async with bus.subscribe("t", group="g") as one:
            (held,) = await take(one, 1, settle=False)
        async with bus.subscribe("t", group="g") as two:
            (again,) = await take(two, 1, settle=False)
            assert again.attempt == 1
            assert not await one.ack(held), "the claim was given up"
            assert await two.ack(again)
            assert await two.fetch(1, wait=0.1) == []

    @on_bus
    async def test_dead_letter_tells_why_and_lets_its_key_move_on(self, bus: Bus) -> None:
        """Poison must not block a key, and must not vanish either."""
        poison = Message.of("t", b"\xff", key="k", headers={"x-seen": "1"})
        await bus.publish(poison, Message("t", b"good", key="k"))
        async with bus.subscribe("t", group="g") as group:
            (bad,) = await take(group, 1, settle=False)
            assert await group.dead(bad, "poison", cause="x" * 10_000)
            assert bodies(await take(group, 1)) == [b"good"]
        (letter,) = await bus.letters()
        assert (letter.message, letter.group, letter.reason, letter.attempts) == (poison, "g", "poison", 1)
        assert len(letter.cause) == 4096
        assert await bus.letter(letter.number) == letter
        assert await bus.letter(letter.number + 1) is None

    @on_bus
    async def test_message_that_came_twice_has_one_letter(self, bus: Bus) -> None:
        """What is delivered twice and dies twice is still one message to look at."""
        poison = Message("t", b"x")
        await bus.publish(poison, poison)
        async with bus.subscribe("t", group="g") as group:
            for count, delivery in enumerate(await take(group, 2, settle=False)):
                await group.dead(delivery, "poison", cause=f"{count}")
        (letter,) = await bus.letters()
        assert (letter.message, letter.cause) == (poison, "1")

    @on_bus
    async def test_letters_are_listed_by_page_topic_and_group(self, bus: Bus) -> None:
        """Whoever looks after ten thousand of them wants a part."""
        for topic in ("t", "u"):
            await bus.publish(*(Message(topic, b"%d" % n) for n in range(3)))
            async with bus.subscribe(topic, group=f"of-{topic}") as group:
                for delivery in await take(group, 3, settle=False):
                    await group.dead(delivery, "poison")
        everything = await bus.letters()
        assert [letter.message.body for letter in everything] == [b"0", b"1", b"2"] * 2
        assert await bus.letters(topic="u") == everything[3:] == await bus.letters(group="of-u")
        assert await bus.letters(after=everything[0].number, most=2) == everything[1:3]
        assert await bus.letters(topic="none") == []

    @on_bus
    async def test_redriven_letter_goes_to_the_group_that_gave_it_up(self, bus: Bus) -> None:
        """The others have handled it; a redrive is not for them."""
        await bus.publish(Message("t", b"x", id="one"))
        async with bus.subscribe("t", group="bad") as bad, bus.subscribe("t", group="good") as good:
            await take(good, 1)
            (held,) = await take(bad, 1, settle=False)
            await bad.dead(held, "exhausted")
            (letter,) = await bus.letters()
            assert await bus.redrive(letter.number, 999) == 1
            (again,) = await take(bad, 1)
            assert (again.message.id, again.attempt) == ("one", 1)
            assert await good.fetch(1, wait=0.1) == []
            assert await bus.letters() == []

    @on_bus
    async def test_waiting_fetch_is_woken_by_a_publish(self, bus: Bus) -> None:
        """An event that waits for a poll of seconds makes every chain of services slow."""
        loop = asyncio.get_running_loop()
        async with bus.subscribe("t", group="g") as group:
            waiting = asyncio.create_task(group.fetch(1, wait=5))
            await asyncio.sleep(0.02)
            before = loop.time()
            await bus.publish(Message("t", b"now"))
            assert bodies(await waiting) == [b"now"]
            assert loop.time() - before < 1

    @on_bus
    async def test_fetch_returns_nothing_after_its_wait(self, bus: Bus) -> None:
        """Whoever fetches must get a turn to do other things."""
        loop = asyncio.get_running_loop()
        async with bus.subscribe("t", group="g") as group:
            before = loop.time()
            assert await group.fetch(1, wait=0.1) == []
            assert 0.09 <= loop.time() - before < 2

    @on_bus
    async def test_halt_ends_a_waiting_fetch_and_all_later_ones(self, bus: Bus) -> None:
        """A consumer that stops must neither wait nor claim."""
        async with bus.subscribe("t", group="g") as group:
            waiting = asyncio.create_task(group.fetch(1, wait=60))
            await asyncio.sleep(0.01)
            group.halt()
            assert await asyncio.wait_for(waiting, 5) == []
            await bus.publish(Message("t"))
            assert await group.fetch(1, wait=60) == []

    @on_bus
    async def test_lag_counts_what_is_not_settled(self, bus: Bus) -> None:
        """Held, delayed and unread messages are all still to be done."""
        await bus.publish(*(Message("t", key="k") for _ in range(5)))
        async with bus.subscribe("t", group="g") as group:
            assert await group.lag() == 5
            (first,) = await take(group, 1, settle=False)
            assert await group.lag() == 5
            await group.ack(first)
            assert await group.lag() == 4

    @on_bus
    async def test_live_says_whether_the_consumer_is_in(self, bus: Bus) -> None:
        """Readiness hangs on it."""
        subscription = bus.subscribe("t", group="g")
        assert not subscription.live
        async with subscription:
            assert subscription.live
        assert not subscription.live

    @on_bus
    async def test_settling_twice_says_so(self, bus: Bus) -> None:
        """The second settle of a delivery finds the claim gone, and touches nobody else's."""
        await bus.publish(Message("t", b"1", key="k"), Message("t", b"2", key="k"))
        async with bus.subscribe("t", group="g") as group:
            (first,) = await take(group, 1)
            (second,) = await take(group, 1, settle=False)
            assert not await group.ack(first)
            assert not await group.retry_later(first, 0)
            assert not await group.dead(first, "poison")
            assert await group.ack(second)
        assert await bus.letters() == []

    @on_bus
    async def test_bad_names_are_refused_where_they_are_given(self, bus: Bus) -> None:
        """A name that one broker takes and the next refuses ties the code to the first."""
        for bad in ("", "a b", "-x", "x" * 201, "a/b", "a\n"):
            with pytest.raises(Poison):
                bus.subscribe(bad, group="g")
            with pytest.raises(Poison):
                bus.subscribe("t", group=bad)

    @on_bus
    async def test_publishing_nothing_is_fine(self, bus: Bus) -> None:
        """An empty batch is no error."""
        await bus.publish()

    @on_bus
    async def test_closed_bus_refuses(self, bus: Bus) -> None:
        """With an error of its own, and not sent; closing twice is fine."""
        await bus.publish(Message("t"))
        await bus.aclose()
        with pytest.raises(DeliveryError) as refused:
            await bus.publish(Message("t"))
        assert refused.value.sent is NO

    def test_full_bus_refuses_and_keeps_what_it_has(self, tmp_path: Path) -> None:
        """Dropping the oldest would lose what a slow group still needs; who publishes must know."""

        async def main() -> None:
            async with no_leaks(), self.make(tmp_path, capacity=5) as bus, bus.subscribe("t", group="slow") as slow:
                await bus.publish(*(Message("t", b"%d" % n) for n in range(5)))
                with pytest.raises(DeliveryError) as refused:
                    await bus.publish(Message("t", b"one too many"))
                assert refused.value.sent is NO
                assert bodies(await take(slow, 5)) == [b"%d" % n for n in range(5)]
                await bus.publish(Message("t", b"room again"))
                assert bodies(await take(slow, 1)) == [b"room again"]

        asyncio.run(main())
