"""A consumer works through a topic for as long as it is open: at least once in, exactly once in effect.

    fetch -> expired? -> policies -> [ begin, inbox, handler, outbox, commit ] -> ack

A crash between any two of these steps means that the message comes again; the inbox then knows it. The brackets are one
transaction of the service's own database.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self, cast

from msgov import aio, scope, wire
from msgov.backoff import Backoff
from msgov.call import Call
from msgov.clock import Clock, Dice, dice, monotonic, wall
from msgov.errors import RuleError
from msgov.event import Observers
from msgov.failpoint import failpoint
from msgov.messaging.bus import Bus, Delivery, Subscription
from msgov.messaging.consumption import ConsumerRule, Fate, cause, decide
from msgov.messaging.message import Message, Poison, check_name
from msgov.messaging.transaction import Duplicate, Once, Transactions, Tx
from msgov.pipeline import Pipeline

Handler = Callable[[Message, Tx], Awaitable[object]]
Plain = Callable[[Message], Awaitable[object]]
Key = str | Callable[[Message], str]

WAIT = 1.0  # seconds that one fetch waits
CHORE = 1.0  # seconds between two looks at the lag
FORGET = 60.0  # seconds between two clearings of the inbox


def _nothing(call: Call) -> AbstractContextManager[object]:
    """Stand round nothing."""
    return contextlib.nullcontext()


class Consumer:
    """Hands each message of a topic to a handler, from `__aenter__` to `__aexit__`.

    Args:
        bus: Where the messages come from.
        topic: What they are about.
        handler: `async def record(event, tx)`: `tx` is the open transaction; what it writes and publishes happens if,
            and only if, the handler returns. Without a `database` it is `async def record(event)`, and its effect may
            happen more than once.
        group: Who reads: each group gets every message, its consumers share them.
        database: The service's own, with inbox and outbox.
        key: The business key, unique beside the message's own id: the name of a field of the JSON body, or a function
            of the message. A message without it is dead-lettered.
        pipeline: The policies round the handler.
        around: Entered round the handler, in its own task: a tracer makes its span current there.
        rule: How to work; a new one may be set at any time.

    Messages of one key are handled one after the other, in order; others beside them, up to `rule.concurrency`. A
    handler that raises is tried again after `rule.delays`, then the message becomes a dead letter and its key moves on;
    `Poison`, and what a pipeline judges PERMANENT, becomes one at once; so does a message whose deadline has passed
    ("expired"). When the bus or the database fails, the consumer subscribes again, with backoff, for ever.

    Leaving the block stops fetching and lets what is under way finish for `rule.grace` seconds; what has not finished
    goes back, uncounted. Stopping never makes a dead letter.

    Attributes to look at: `live`; `in_flight`, `lag`; `processed`, `failed` (deliveries), `dead`, `duplicates`,
    `put_back`, `lost` (claims); `error`, the last that broke the subscription, None while it is well. Events:
    "consumer.failed", "consumer.dead", "consumer.down".
    """

    def __init__(
        self,
        bus: Bus,
        topic: str,
        handler: Handler | Plain,
        *,
        group: str,
        database: Transactions | None = None,
        key: Key | None = None,
        pipeline: Pipeline | None = None,
        around: Callable[[Call], AbstractContextManager[object]] = _nothing,
        rule: ConsumerRule | None = None,
        observers: Observers | None = None,
        clock: Clock = monotonic,
        now: Clock = wall,
        chance: Dice | None = None,
    ) -> None:
        check_name("topic", topic)
        check_name("group", group)
        if not (inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)):
            raise RuleError.at("handler", handler, "an async function: it waits for its transaction")
        self.rule = rule or ConsumerRule()
        if database is not None and self.rule.remember <= bus.retention:
            raise RuleError.at(
                "remember", self.rule.remember, f"> {bus.retention:g} s, which the bus keeps a message: a replay"
                " would have its effects again"
            )  # fmt: skip
        self.topic = topic
        self.group = group
        self.observers = observers or Observers()
        self.processed = self.failed = self.dead = self.duplicates = self.put_back = self.lost = 0
        self.lag = 0
        self.error: Exception | None = None
        self._bus = bus
        self._handler = handler
        self._database = database
        self._key = key
        self._clock = clock
        self._around = around
        self.pipeline = pipeline or Pipeline()
        self._now = now
        self._chance = chance or dice()
        self._running: set[asyncio.Task[None]] = set()
        self._subscription: Subscription | None = None
        self._stop = asyncio.Event()
        self._freed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._looked = self._forgot = -float("inf")

    @property
    def pipeline(self) -> Pipeline:
        """The policies round the handler; another one governs the messages that are fetched from then on."""
        return self._pipeline

    @pipeline.setter
    def pipeline(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._governed = aio.govern(pipeline, self._bounded, clock=self._clock)

    @property
    def live(self) -> bool:
        """Whether the bus knows this consumer and hands messages to it."""
        return self._subscription is not None and self._subscription.live and not self._stop.is_set()

    @property
    def in_flight(self) -> int:
        """How many messages are being handled."""
        return len(self._running)

    async def __aenter__(self) -> Self:
        """Start; it may take a moment until it is `live`."""
        self._task = asyncio.create_task(self._run(), name=f"consumer {self.group} of {self.topic}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop fetching, let what is under way finish, give the rest back."""
        self._stop.set()
        self._freed.set()
        if self._subscription is not None:
            self._subscription.halt()
        task, self._task = self._task, None
        if task is not None:
            try:
                await asyncio.wait([task])
            finally:
                task.cancel()
                await asyncio.wait([task])

    async def _run(self) -> None:
        pause = Backoff(self._chance)
        while not self._stop.is_set():
            try:
                async with self._bus.subscribe(self.topic, group=self.group) as subscription:
                    self._subscription = subscription
                    await self._work(subscription, pause)
            except Exception as error:  # noqa: BLE001  whatever it is, the topic must be worked on
                self.error = error
                self.observers.tell("consumer.down", self.group, self.topic, self._clock(), error=repr(error)[:500])
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause.next()):
                        await self._stop.wait()
            finally:
                self._subscription = None

    async def _work(self, subscription: Subscription, pause: Backoff) -> None:
        """Fetch and hand out until told to stop; raises what broke the subscription, once all is quiet."""
        broken: list[BaseException] = []

        def ended(task: asyncio.Task[None]) -> None:
            self._running.discard(task)
            self._freed.set()
            if not task.cancelled() and (error := task.exception()) is not None:
                broken.append(error)  # what it held could not be settled: leave, so that it goes back
                subscription.halt()

        try:
            while not self._stop.is_set() and not broken:
                free = self.rule.concurrency - len(self._running)
                if free <= 0:
                    self._freed.clear()
                    await self._freed.wait()
                    continue
                for delivery in await subscription.fetch(free, wait=WAIT):
                    task = asyncio.create_task(self._deliver(subscription, delivery), name=f"{self.topic} {self.group}")
                    self._running.add(task)
                    task.add_done_callback(ended)
                self.error = None
                pause.reset()
                await self._chores(subscription)
        finally:
            await self._quiet()
        if broken:
            raise broken[0]

    async def _quiet(self) -> None:
        """Let what is under way finish, for as long as it may; then cancel it."""
        running = set(self._running)
        if running:
            try:
                await asyncio.wait(running, timeout=self.rule.grace)
            finally:
                for task in running:
                    task.cancel()
                await asyncio.wait(running)

    async def _chores(self, subscription: Subscription) -> None:
        now = self._clock()
        if now - self._looked > CHORE:
            self._looked = now
            self.lag = await subscription.lag()
        if self._database is not None and now - self._forgot > FORGET:
            self._forgot = now
            await self._database.forget(self._now() - self.rule.remember)

    async def _deliver(self, subscription: Subscription, delivery: Delivery) -> None:
        """Handle one message and settle it."""
        message, started = delivery.message, self._clock()
        how = self.rule
        if delivery.attempt > how.deliveries:  # nobody lived to say why
            await self._bury(subscription, delivery, "exhausted", "the process ended each time it was delivered")
            return
        left = message.left(delivery.age, skew=self._bus.skew)
        if left is not None and left <= 0:
            await self._bury(subscription, delivery, "expired", f"{-left:.3f} s after its deadline")
            return
        call = Call(
            self.group,
            self.topic,
            self._event(delivery),
            deadline=started + (how.timeout if left is None else min(left, how.timeout)),
            idempotent=self._database is not None,
            key=message.key,
            metadata=message.headers,
        )
        around = wire.incoming({**message.headers, wire.DEADLINE: ""}, started).by(call.deadline)
        call.trace = around.trace
        token = scope.current.set(around.having(key=message.key))
        try:
            await self._governed(call)
        except Exception as error:  # noqa: BLE001  decided below
            await self._failed(subscription, delivery, call, error, started)
            return
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            await self._failed(subscription, delivery, call, RuntimeError(f"cancelled itself: {error}"), started)
            return
        finally:
            scope.current.reset(token)
        self.processed += 1
        failpoint("inbox.after_commit_before_ack")
        if not await subscription.ack(delivery):
            self.lost += 1

    @staticmethod
    def _event(delivery: Delivery) -> Message:
        """Return the message as the handler sees it: the attempt is the bus's count, whatever a header says."""
        message = delivery.message
        if delivery.attempt == 1 and wire.ATTEMPT not in message.headers:
            return message
        return message.having({wire.ATTEMPT: str(delivery.attempt)})

    async def _bounded(self, call: Call) -> object:
        here = scope.current.get()
        token = scope.current.set(here.having(trace=call.trace))  # what the handler does belongs to the call's own span
        try:
            with self._around(call):
                return await aio.bounded(self._once, call, self._clock)
        finally:
            scope.current.reset(token)

    async def _once(self, call: Call) -> object:
        """Run the handler in its transaction, unless the inbox knows the message."""
        message = cast("Message", call.request)
        if self._database is None:
            return await cast("Plain", self._handler)(message)
        once = Once(self.group, tuple(self._ids(message)))
        try:
            if await self._database.handled(once):
                raise Duplicate(f"{self.group} has handled {message.id}")
            async with self._database.transaction(once=once) as tx:
                await cast("Handler", self._handler)(message, tx)
                failpoint("inbox.after_effect_before_commit")
        except Duplicate:
            self.duplicates += 1
        return None

    def _ids(self, message: Message) -> list[str]:
        """Return what must not have been handled before: the message's id, and its business key."""
        ids = [f"id {self.topic} {message.id}"]
        if self._key is not None:
            value = message.json().get(self._key) if isinstance(self._key, str) else self._key(message)
            if not isinstance(value, str | int) or value == "" or len(str(value)) > 1000:
                raise Poison(f"{self.topic} {message.id}: no business key in {self._key!r}")
            ids.append(f"key {self.topic} {value}")
        return ids

    async def _failed(
        self, subscription: Subscription, delivery: Delivery, call: Call, error: Exception, started: float
    ) -> None:
        seconds = self._clock() - started
        outcome = self._pipeline.judge(call, error, seconds)
        left = delivery.message.left(delivery.age + seconds, skew=self._bus.skew)
        expired = left is not None and left <= 0
        decision = decide(self.rule, delivery.attempt, error, outcome, self._chance, expired=expired)
        if decision.fate is Fate.DEAD:
            await self._bury(subscription, delivery, decision.reason, cause(error))
            return
        counted = decision.fate is Fate.AGAIN
        if counted:
            self.failed += 1
            self._tell("consumer.failed", delivery, repr(error)[:500])
        else:
            self.put_back += 1
        if not await subscription.retry_later(delivery, decision.delay, counted=counted):
            self.lost += 1

    async def _bury(self, subscription: Subscription, delivery: Delivery, reason: str, why: str) -> None:
        if await subscription.dead(delivery, reason, cause=why):
            self.dead += 1
            self._tell("consumer.dead", delivery, reason)
        else:
            self.lost += 1

    def _tell(self, kind: str, delivery: Delivery, why: str) -> None:
        message = delivery.message
        self.observers.tell(
            kind,
            self.group,
            self.topic,
            self._clock(),
            id=message.id,
            key=message.key,
            attempt=delivery.attempt,
            why=why,
        )
