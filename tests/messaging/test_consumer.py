"""Whatever a handler, a bus or a crash does: at least once in, once in effect, in order per key, and never stuck."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from msgov import scope
from msgov.call import PERMANENT, Call, Outcome
from msgov.errors import RateLimited, RuleError
from msgov.event import Event, Observers
from msgov.messaging.bus import Bus
from msgov.messaging.consumer import Consumer
from msgov.messaging.consumption import ConsumerRule
from msgov.messaging.memory import Memory
from msgov.messaging.message import Message, Poison
from msgov.messaging.relay import Relay
from msgov.messaging.sqlite import Sqlite
from msgov.messaging.transaction import Tx
from msgov.pipeline import Pipeline
from msgov.policy import Gate
from msgov.testing import VirtualLoop, armed, no_leaks, raises
from msgov.testing import run as run_virtual
from tests.messaging.brokers import Away
from tests.messaging.waiting import until

Case = Callable[[Memory], Awaitable[None]]
SCHEMA = ("CREATE TABLE IF NOT EXISTS effect (id INTEGER PRIMARY KEY, body TEXT)",)
QUICK = ConsumerRule(delays=(0.0, 0.0, 0.01, 0.01))


def virtual(test: Case) -> Callable[[], None]:
    """Run a case in virtual time, with a bus in memory."""

    def run() -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualLoop)
            async with Memory(clock=loop.time) as bus:
                await test(bus)

        run_virtual(main())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def real(test: Callable[[Sqlite, Memory], Awaitable[None]]) -> Callable[[Path], None]:
    """Run a case with a database, and see that it leaves nothing."""

    def run(tmp_path: Path) -> None:
        async def main() -> None:
            async with no_leaks(), Sqlite(tmp_path / "audit.db", schema=SCHEMA) as db, Memory() as bus:
                await test(db, bus)

        asyncio.run(main())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def now() -> float:
    """Tell the loop's time."""
    return asyncio.get_running_loop().time()


def consumer(
    bus: Bus, handler: Callable[[Message], Awaitable[object]], rule: ConsumerRule | None = None, **more: object
) -> Consumer:
    """Make one without a database, on the loop's own time."""
    clock = asyncio.get_running_loop().time
    return Consumer(bus, "t", handler, group="g", rule=rule, clock=clock, **more)  # type: ignore[arg-type]


async def record(event: Message, tx: Tx) -> None:
    """Have an effect."""
    await tx.execute("INSERT INTO effect (body) VALUES (?)", (event.body.decode(),))


async def effects(db: Sqlite) -> list[str]:
    """Read the effects."""
    return [row["body"] for row in await db.fetch("SELECT body FROM effect ORDER BY id")]


@virtual
async def test_each_message_is_handled_and_settled(bus: Memory) -> None:
    """The plain case."""
    seen: list[bytes] = []

    async def handle(event: Message) -> None:
        seen.append(event.body)

    await bus.publish(Message("t", b"early"))
    async with consumer(bus, handle) as found:
        await bus.publish(Message("t", b"late"))
        await until(lambda: found.processed == 2)
        assert found.live
        await asyncio.sleep(5)
        assert (found.lag, found.in_flight, found.failed, found.error) == (0, 0, 0, None)
    assert seen == [b"early", b"late"]
    assert not found.live


@virtual
async def test_messages_of_a_key_come_in_order_and_others_beside_them(bus: Memory) -> None:
    """Ten keys of three messages take as long as three messages."""
    seen: list[tuple[str, bytes, float]] = []

    async def handle(event: Message) -> None:
        await asyncio.sleep(1)
        seen.append((event.key, event.body, now()))

    start = now()
    await bus.publish(*(Message("t", b"%d" % n, key=str(k)) for n in range(3) for k in range(10)))
    async with consumer(bus, handle) as found:
        await until(lambda: found.processed == 30)
    for key in map(str, range(10)):
        assert [body for k, body, _ in seen if k == key] == [b"0", b"1", b"2"]
    assert now() - start < 4


@virtual
async def test_no_more_than_concurrency_at_once(bus: Memory) -> None:
    """What is not being handled stays with the bus, where others can have it."""
    at_once = most = 0

    async def handle(event: Message) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(1)
        at_once -= 1

    await bus.publish(*(Message("t") for _ in range(20)))
    async with consumer(bus, handle, ConsumerRule(concurrency=3)) as found:
        await asyncio.sleep(0.5)
        assert found.in_flight == 3
        async with bus.subscribe("t", group="g") as other:
            assert len(await other.fetch(99, wait=0)) == 17
        await until(lambda: found.processed == 20, seconds=60)
    assert most == 3


@virtual
async def test_failed_message_comes_again_in_tiers_and_dies_at_last(bus: Memory) -> None:
    """Its key waits meanwhile and then moves on; another key never waits."""
    tries: list[float] = []
    good: dict[str, float] = {}
    events: list[Event] = []

    async def handle(event: Message) -> None:
        if event.body == b"bad":
            tries.append(now())
            raise OSError("boom")
        good[event.key] = now()

    await bus.publish(Message("t", b"bad", key="a"), Message("t", b"after", key="a"), Message("t", b"x", key="b"))
    async with consumer(bus, handle, observers=Observers(events.append)) as found:
        await until(lambda: "a" in good, seconds=60)
    assert len(tries) == 5
    gaps = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert gaps[0] < 0.06
    assert 0.05 <= gaps[1] <= 0.16
    assert 0.5 <= gaps[2] <= 1.06
    assert 5 <= gaps[3] <= 10.06
    assert good["b"] < 0.1
    (letter,) = await bus.letters()
    assert (letter.reason, letter.attempts) == ("exhausted", 5)
    assert "OSError: boom" in letter.cause
    assert (found.failed, found.dead) == (4, 1)
    assert [event.kind for event in events] == ["consumer.failed"] * 4 + ["consumer.dead"]


@virtual
async def test_attempt_is_told_by_count_and_not_by_header(bus: Memory) -> None:
    """A forged one must neither kill a message nor keep it alive."""
    told: list[str | None] = []

    async def handle(event: Message) -> None:
        told.append(event.headers.get("msgov-attempt"))
        if len(told) < 3:
            raise OSError

    await bus.publish(Message("t", headers={"msgov-attempt": "99"}))
    async with consumer(bus, handle) as found:
        await until(lambda: found.processed == 1)
    assert told == ["1", "2", "3"]


@virtual
async def test_poison_dies_at_once(bus: Memory) -> None:
    """A body that nobody can read is not read five times."""

    async def handle(event: Message) -> None:
        event.json()

    await bus.publish(Message("t", b"\xff", key="a"), Message("t", b"{}", key="a"))
    async with consumer(bus, handle) as found:
        await until(lambda: found.processed == 1)
    (letter,) = await bus.letters()
    assert (letter.reason, letter.attempts, found.failed) == ("poison", 1, 0)


@virtual
async def test_expired_message_is_never_handled(bus: Memory) -> None:
    """Nobody waits for the answer any more: it goes to the dead letters as `expired`."""
    seen: list[bytes] = []

    async def handle(event: Message) -> None:
        seen.append(event.body)

    await bus.publish(Message.of("t", b"late", expires=5.0), Message.of("t", b"in time", expires=20.0))
    await asyncio.sleep(10)
    async with consumer(bus, handle) as found:
        await until(lambda: found.processed == 1)
    assert seen == [b"in time"]
    assert [letter.reason for letter in await bus.letters()] == ["expired"]


@virtual
async def test_handler_works_within_what_is_left_of_the_deadline(bus: Memory) -> None:
    """And what it calls inherits it; past it, the message has expired."""
    left: list[float] = []

    async def handle(event: Message) -> None:
        deadline = scope.current.get().deadline
        assert deadline is not None
        left.append(deadline - now())
        await asyncio.sleep(3600)

    await bus.publish(Message.of("t", b"", expires=7.0))
    await asyncio.sleep(2)
    async with consumer(bus, handle) as found:
        await until(lambda: found.dead == 1)
    assert left[0] == pytest.approx(5, abs=0.1)
    (letter,) = await bus.letters()
    assert letter.reason == "expired"


@virtual
async def test_handler_that_hangs_is_ended_by_the_timeout(bus: Memory) -> None:
    """It would hold its key and its place for ever; it counts as a failure."""
    calls: list[float] = []

    async def handle(event: Message) -> None:
        calls.append(now())
        if len(calls) == 1:
            await asyncio.sleep(3600)

    await bus.publish(Message("t"))
    async with consumer(bus, handle, ConsumerRule(timeout=2.0)) as found:
        await until(lambda: found.processed == 1)
    assert calls[1] - calls[0] == pytest.approx(2, abs=0.1)
    assert found.failed == 1


@virtual
async def test_trace_and_key_of_the_message_are_the_handlers_scope(bus: Memory) -> None:
    """One trace runs from the request through the event to what the event causes."""
    seen: list[tuple[str, str]] = []

    async def handle(event: Message) -> None:
        around = scope.current.get()
        assert around.trace is not None
        seen.append((around.trace.trace_id, around.key))

    message = Message("t", key="k", headers={"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"})
    await bus.publish(message)
    async with consumer(bus, handle) as found:
        await until(lambda: found.processed == 1)
    assert seen == [("a" * 32, "k")]
    assert scope.current.get() is scope.EMPTY


class Closed(Gate[int]):
    """Refuses until it is opened."""

    def __init__(self) -> None:
        self.open = False
        self.settled: list[Outcome] = []

    def admit(self, call: Call, now: float) -> int:
        """Refuse."""
        if not self.open:
            raise RateLimited("closed", retry_after=3.0)
        return 1

    def settle(self, ticket: int, outcome: Outcome, now: float) -> None:
        """Remember."""
        self.settled.append(outcome)


@virtual
async def test_policy_that_refuses_puts_the_message_back_uncounted(bus: Memory) -> None:
    """However often: an open breaker must not empty a topic into the dead letters."""
    gate, attempts = Closed(), []

    async def handle(event: Message) -> None:
        attempts.append(event.headers.get("msgov-attempt"))

    await bus.publish(Message("t"))
    async with consumer(bus, handle, pipeline=Pipeline([gate])) as found:
        await asyncio.sleep(60)
        assert 15 <= found.put_back <= 21
        gate.open = True
        await until(lambda: found.processed == 1)
    assert attempts == [None]
    assert len(gate.settled) == 1
    assert found.dead == found.failed == 0


@virtual
async def test_classifier_of_the_pipeline_judges(bus: Memory) -> None:
    """Users teach one classifier, for calls and for messages."""

    async def handle(event: Message) -> None:
        raise LookupError("no such order, ever")

    never = Pipeline(classify=lambda call, error: Outcome(PERMANENT, error=error))
    await bus.publish(Message("t"))
    async with consumer(bus, handle, pipeline=never) as found:
        await until(lambda: found.dead == 1)
    assert (await bus.letters())[0].attempts == 1


@virtual
async def test_handler_that_cancels_itself_has_failed(bus: Memory) -> None:
    """It is not the consumer that was cancelled; the message comes again."""
    calls: list[int] = []

    async def handle(event: Message) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise asyncio.CancelledError

    await bus.publish(Message("t"))
    async with consumer(bus, handle) as found:
        await until(lambda: found.processed == 1)
    assert found.failed == 1


@virtual
async def test_stop_lets_what_is_under_way_finish(bus: Memory) -> None:
    """And fetches nothing more."""
    done: list[bytes] = []

    async def handle(event: Message) -> None:
        await asyncio.sleep(3)
        done.append(event.body)

    await bus.publish(*(Message("t", b"%d" % n) for n in range(4)))
    async with consumer(bus, handle, ConsumerRule(concurrency=2)) as found:
        await until(lambda: found.in_flight == 2)
    assert done == [b"0", b"1"]
    async with bus.subscribe("t", group="g") as other:
        assert [d.message.body for d in await other.fetch(9, wait=0)] == [b"2", b"3"]


@virtual
async def test_what_does_not_finish_in_time_goes_back_uncounted(bus: Memory) -> None:
    """Shutdown never makes a dead letter, and costs no attempt."""

    async def handle(event: Message) -> None:
        await asyncio.sleep(3600)

    await bus.publish(Message("t", b"x"))
    rule = ConsumerRule(delays=(), grace=2.0, timeout=600.0)
    start = now()
    async with consumer(bus, handle, rule) as found:
        await until(lambda: found.in_flight == 1)
    assert now() - start == pytest.approx(2, abs=0.1)
    assert await bus.letters() == []
    async with bus.subscribe("t", group="g") as other:
        ((back,)) = await other.fetch(9, wait=0)
        assert back.attempt == 1


@virtual
async def test_consumer_without_a_bus_is_not_live_and_comes_back_by_itself(bus: Memory) -> None:
    """Silently dead after a failover is the worst a consumer can be."""
    seen: list[bytes] = []
    events: list[Event] = []

    async def handle(event: Message) -> None:
        seen.append(event.body)

    away = Away()
    async with consumer(away, handle, observers=Observers(events.append)) as found:
        await asyncio.sleep(60)
        assert not found.live
        assert isinstance(found.error, OSError)
        assert 10 <= away.tries <= 40, "with backoff"
        assert {event.kind for event in events} == {"consumer.down"}
        away.back = bus
        await bus.publish(Message("t", b"x"))
        await until(lambda: found.live and found.processed == 1)
        assert found.error is None


@virtual
async def test_backoff_begins_anew_after_a_good_time(bus: Memory) -> None:
    """A second outage is not the continuation of the first."""

    async def handle(event: Message) -> None:
        pass

    away = Away()
    async with consumer(away, handle) as found:
        await asyncio.sleep(60)
        away.back = bus
        await until(lambda: found.live, seconds=60)
        await asyncio.sleep(5)
        with armed("inbox.after_commit_before_ack", raises(OSError("accident")), at=1):
            before = now()
            await bus.publish(Message("t"))
            await until(lambda: found.processed == 2)
        assert now() - before < 1


@virtual
async def test_message_that_ended_its_process_each_time_dies_unhandled(bus: Memory) -> None:
    """Nobody lived to count: the bus did."""
    seen: list[Message] = []

    async def handle(event: Message) -> None:
        seen.append(event)

    await bus.publish(Message("t"))
    async with bus.subscribe("t", group="g") as other:
        for _ in range(5):
            (held,) = await other.fetch(1, wait=0)
            await other.retry_later(held, 0)
    async with consumer(bus, handle) as found:
        await until(lambda: found.dead == 1)
    (letter,) = await bus.letters()
    assert letter.reason == "exhausted"
    assert seen == []


@real
async def test_effect_is_once_however_often_it_is_delivered(db: Sqlite, bus: Memory) -> None:
    """The same message published three times, and each delivered twice."""
    message = Message("t", b"x", key="k")
    await bus.publish(message, message, message)
    async with Consumer(bus, "t", record, group="g", database=db) as found:
        await until(lambda: found.processed == 3)
    assert await effects(db) == ["x"]
    assert found.duplicates == 2


@pytest.mark.parametrize(
    "point", ["inbox.after_begin", "inbox.after_effect_before_commit", "inbox.after_commit_before_ack"]
)
def test_error_at_any_step_leaves_one_effect(tmp_path: Path, point: str) -> None:
    """Between begin, effect, commit and ack there is no place where a fault doubles or loses it."""

    async def main() -> None:
        async with no_leaks(), Sqlite(tmp_path / "audit.db", schema=SCHEMA) as db, Memory() as bus:
            await bus.publish(*(Message("t", b"%d" % n, key="k") for n in range(5)))
            with armed(point, raises(OSError("accident")), at=2) as accident:
                async with Consumer(bus, "t", record, group="g", database=db, rule=QUICK) as found:
                    await until(lambda: found.lag == 0 and found.processed >= 5)
            assert accident.hits > 2
            assert await effects(db) == ["0", "1", "2", "3", "4"]
            assert await bus.letters() == []

    asyncio.run(main())


@real
async def test_error_while_a_letter_is_written_leaves_one_letter(db: Sqlite, bus: Memory) -> None:
    """Letter and settlement are one."""

    async def bad(event: Message, tx: Tx) -> None:
        await record(event, tx)
        raise Poison("unwanted")

    await bus.publish(Message("t", b"x"))
    with armed("dlq.after_publish_before_ack", raises(OSError("accident")), at=1) as accident:
        async with Consumer(bus, "t", bad, group="g", database=db, rule=QUICK) as found:
            await until(lambda: found.dead == 1)
    assert accident.hits == 2
    assert len(await bus.letters()) == 1
    assert await effects(db) == []


@real
async def test_business_key_is_unique_beside_the_id(db: Sqlite, bus: Memory) -> None:
    """The same order captured from the wire and sent again under a new id is still the same order."""
    orders = [{"order": 1, "n": 1}, {"order": 1, "n": 2}, {"order": 2, "n": 3}]
    await bus.publish(*(Message.of("t", order) for order in orders), Message.of("t", {"n": 4}))
    async with Consumer(bus, "t", record, group="g", database=db, key="order") as found:
        await until(lambda: found.processed + found.dead == 4)
    assert [eval(body)["n"] for body in await effects(db)] in ([1, 3], [3, 1], [2, 3], [3, 2])  # noqa: S307  our own
    assert found.duplicates == 1
    (letter,) = await bus.letters()
    assert "no business key" in letter.cause


@real
async def test_known_message_does_not_reach_the_handler(db: Sqlite, bus: Memory) -> None:
    """What it does outside its transaction would happen again."""
    calls: list[str] = []

    async def handle(event: Message, tx: Tx) -> None:
        calls.append(event.id)
        await record(event, tx)

    message = Message("t", b"x", key="k")
    await bus.publish(message, message)
    async with Consumer(bus, "t", handle, group="g", database=db) as found:
        await until(lambda: found.processed == 2)
    assert len(calls) == 1


@real
async def test_what_a_handler_publishes_goes_out_with_its_effect(db: Sqlite, bus: Memory) -> None:
    """A chain of events is exactly-once at every link."""

    async def chain(event: Message, tx: Tx) -> None:
        await tx.publish("u", event.body, key=event.key)
        if event.headers.get("msgov-attempt") is None:
            raise OSError("first time")

    await bus.publish(Message("t", b"x", key="k"))
    async with (
        bus.subscribe("u", group="h") as after,
        Relay(db, bus),
        Consumer(bus, "t", chain, group="g", database=db, rule=QUICK) as found,
    ):
        await until(lambda: found.processed == 1)
        (got,) = await after.fetch(5, wait=5)
        assert got.message.body == b"x"
        await after.ack(got)
        assert await after.fetch(5, wait=0.1) == []


@real
async def test_two_consumers_share_the_work_and_the_inbox(db: Sqlite, bus: Memory) -> None:
    """Forty messages, each twice, two consumers: forty effects, in order per key."""
    messages = [Message("t", b"%d" % n, key=str(n % 4)) for n in range(40)]
    await bus.publish(*messages)
    await bus.publish(*messages)
    async with (
        Consumer(bus, "t", record, group="g", database=db) as one,
        Consumer(bus, "t", record, group="g", database=db) as two,
    ):
        await until(lambda: one.processed + two.processed == 80)
    found = await effects(db)
    assert sorted(map(int, found)) == list(range(40))
    for key in range(4):
        line = [n for n in map(int, found) if n % 4 == key]
        assert line == sorted(line)


@real
async def test_database_out_of_reach_kills_no_message(db: Sqlite, bus: Memory) -> None:
    """Put back, uncounted, until it is there again."""
    gone = Sqlite(db.path, wait=0.01)
    other = Sqlite(db.path, hold=60.0)
    async with gone, other, other.transaction() as tx:
        await tx.execute("SELECT 1")  # holds the lock
        await bus.publish(Message("t", b"x"))
        async with Consumer(bus, "t", record, group="g", database=gone, rule=ConsumerRule(delays=())) as found:
            await until(lambda: found.put_back == 1)
            assert (found.failed, found.dead) == (0, 0)
    async with Consumer(bus, "t", record, group="g", database=db) as found:
        await until(lambda: found.processed == 1)
    assert await effects(db) == ["x"]


@real
async def test_inbox_is_cleared_of_what_is_old(db: Sqlite, bus: Memory) -> None:
    """Or it grows with every message there ever was."""
    await bus.publish(Message("t", b"x"))
    async with Consumer(bus, "t", record, group="g", database=db) as found:
        await until(lambda: found.processed == 1)
    later = 8 * 86_400.0
    async with Consumer(bus, "t", record, group="g", database=db, now=lambda: 2e9 + later):

        async def empty() -> bool:
            return await db.fetch("SELECT 1 FROM msgov_inbox") == []

        await until(empty)


def test_inbox_that_forgets_before_the_bus_does_is_refused(tmp_path: Path) -> None:
    """A replay of the topic would have its effects again; at the start, somebody is looking."""
    bus, db = Memory(retention=600.0), Sqlite(tmp_path / "x.db")
    with pytest.raises(RuleError, match="remember"):
        Consumer(bus, "t", record, group="g", database=db, rule=ConsumerRule(remember=600.0))
    asyncio.run(bus.aclose())


def test_handler_that_is_no_async_function_is_refused() -> None:
    """It would hold the loop, and its transaction is async."""
    bus = Memory()
    with pytest.raises(RuleError, match="async function"):
        Consumer(bus, "t", lambda event: None, group="g")  # type: ignore[arg-type,return-value]
    with pytest.raises(Poison):
        Consumer(bus, "a topic", record, group="g")
    asyncio.run(bus.aclose())
