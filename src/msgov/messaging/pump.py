"""The pump between the tables and whoever waits for messages: the only part of our own buses that awaits."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from msgov.call import NO
from msgov.clock import monotonic
from msgov.errors import DeliveryError, SourceError
from msgov.messaging import letters, tables
from msgov.messaging.bus import LONGEST_DELAY, Bus, Delivery, Letter, Subscription
from msgov.messaging.lease import Watch
from msgov.messaging.message import Message, check_name
from msgov.messaging.tables import Lost, Moment

T = TypeVar("T")
Step = Callable[[sqlite3.Connection], T]

POLL = 0.05  # seconds: what an idle process can afford (0.3 % of a CPU), and the longest that a lost hint costs
SWEEP = 10.0  # seconds between two looks for what can be removed


class Backend(ABC):
    """Where the tables are, and how those who wait for them are woken."""

    @abstractmethod
    async def moment(self) -> Moment:
        """Tell the time; the first to ask opens the tables."""

    @abstractmethod
    async def append(self, step: Step[T]) -> T:
        """Run a step in a transaction that survives whatever the backend survives."""

    @abstractmethod
    async def change(self, step: Step[T]) -> T:
        """Run a step in a transaction of which the last ones may be lost in a power cut: claims and their end."""

    @abstractmethod
    async def read(self, step: Step[T]) -> T:
        """Run a step that only reads."""

    @abstractmethod
    def ring(self, bells: Iterable[str]) -> None:
        """Wake those who listen, here and behind these bells."""

    @abstractmethod
    def bell(self) -> str:
        """Return the bell by which others wake this process, "" for none."""

    @abstractmethod
    def forget(self, bell: str) -> None:
        """Clear away the bell of a process that died."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close it; closing twice is fine."""

    def __init__(self) -> None:
        self._listeners: tuple[Callable[[], None], ...] = ()

    @contextlib.contextmanager
    def listening(self, listener: Callable[[], None]) -> Iterator[None]:
        """Wake this one too, for the length of the block; it may be called from any thread."""
        self._listeners = (*self._listeners, listener)
        try:
            yield
        finally:
            self._listeners = tuple(other for other in self._listeners if other is not listener)

    def wake(self) -> None:
        """Wake all who listen here."""
        for listener in self._listeners:
            listener()


class TableBus(Bus):
    """A bus on tables. `lease` is how long a silent consumer keeps its claims, None where it dies with the tables."""

    def __init__(self, backend: Backend, *, retention: float, capacity: int, lease: float | None) -> None:
        self.retention = retention
        self.capacity = capacity
        self.lease = lease
        self._backend = backend

    async def publish(self, *messages: Message) -> None:
        """Store messages in one commit: all of them or none."""
        if not messages:
            return
        backend = self._backend
        try:
            step = partial(tables.publish, messages=messages, at=await backend.moment(), capacity=self.capacity)
            bells = await backend.append(step)
        except SourceError as error:
            raise DeliveryError(f"{messages[0].topic}: not published: {error}", sent=NO) from error
        backend.ring(bells)

    def subscribe(self, topic: str, *, group: str) -> Subscription:
        """Make a consumer of a group."""
        check_name("topic", topic)
        check_name("group", group)
        return TableSubscription(self._backend, self, topic, group)

    async def letters(self, *, topic: str = "", group: str = "", after: int = 0, most: int = 100) -> list[Letter]:
        """List dead letters."""
        await self._backend.moment()
        return await self._backend.read(partial(letters.page, topic=topic, group=group, after=after, most=most))

    async def redrive(self, *numbers: int) -> int:
        """Deliver dead letters again."""
        at = await self._backend.moment()
        driven, bells = await self._backend.append(partial(letters.redrive, numbers=numbers, at=at))
        self._backend.ring(bells)
        return driven

    async def aclose(self) -> None:
        """Close the tables."""
        await self._backend.aclose()


class TableSubscription(Subscription):
    """One consumer of one group; made by `TableBus.subscribe`, used on one loop."""

    def __init__(self, backend: Backend, bus: TableBus, topic: str, group: str) -> None:
        self._backend = backend
        self._bus = bus
        self._topic = topic
        self._group = group
        self._holder = ""
        self._halted = False
        self._heard = -float("inf")
        self._woken = asyncio.Event()
        self._open = contextlib.ExitStack()
        self._beats: asyncio.Task[None] | None = None

    @property
    def live(self) -> bool:
        """Whether the bus has lately known this consumer."""
        if not self._holder:
            return False
        return self._beats is None or monotonic() - self._heard < (self._bus.lease or 0.0)

    async def __aenter__(self) -> Self:
        """Join the group."""
        loop = asyncio.get_running_loop()
        holder = uuid.uuid4().hex
        await self._backend.moment()
        join = partial(tables.join, topic=self._topic, group=self._group, holder=holder, bell=self._backend.bell())
        await self._backend.change(join)
        self._holder, self._heard = holder, monotonic()
        self._open.enter_context(self._backend.listening(partial(_wake, loop, self._woken)))
        if self._bus.lease is not None:
            self._beats = asyncio.create_task(self._beat(self._bus.lease), name=f"lease of {self._group}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give back what is not settled and leave the group."""
        self._open.close()
        beats, self._beats = self._beats, None
        if beats is not None:
            beats.cancel()
            await asyncio.wait([beats])
        holder, self._holder = self._holder, ""
        with contextlib.suppress(SourceError):  # out of reach: the lease ends what we cannot
            at = await self._backend.moment()
            await asyncio.shield(self._backend.change(partial(tables.leave, holder=holder, now=at.mono)))

    async def fetch(self, most: int, *, wait: float) -> list[Delivery]:
        """Claim up to `most` messages."""
        loop, backend = asyncio.get_running_loop(), self._backend
        until = loop.time() + wait
        while not self._halted:
            self._woken.clear()
            at = await backend.moment()
            sight = await backend.read(partial(tables.look, holder=self._holder, now=at.mono))
            if sight == 0.0 and not self._halted:
                found = await backend.change(partial(tables.claim, holder=self._holder, most=max(1, most), at=at))
                if found:
                    return found
            left = until - loop.time()
            if left <= 0:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, sight or POLL, POLL)):
                    await self._woken.wait()
        return []

    async def ack(self, delivery: Delivery) -> bool:
        """Settle a message."""
        return await self._backend.change(partial(tables.settle, delivery=delivery))

    async def retry_later(self, delivery: Delivery, delay: float, *, counted: bool = True) -> bool:
        """Hand a message back."""
        at = await self._backend.moment()
        due = at.mono + min(max(0.0, delay), LONGEST_DELAY)
        return await self._backend.change(partial(tables.again, delivery=delivery, due=due, counted=counted))

    async def dead(self, delivery: Delivery, reason: str, *, cause: str = "") -> bool:
        """Settle a message as a dead letter."""
        at = await self._backend.moment()
        return await self._backend.change(partial(letters.bury, delivery=delivery, reason=reason, cause=cause, at=at))

    async def lag(self) -> int:
        """Count what the group has not settled."""
        return await self._backend.read(partial(tables.lag, holder=self._holder))

    def halt(self) -> None:
        """Hand out nothing more."""
        self._halted = True
        self._woken.set()

    async def _beat(self, lease: float) -> None:
        """Keep our lease, end those of the dead, remove what is settled."""
        loop, backend = asyncio.get_running_loop(), self._backend
        watch = Watch(lease)
        swept = loop.time()
        while True:
            await asyncio.sleep(lease / 5)
            try:
                counts = await backend.change(partial(tables.beat, holder=self._holder))
                at = await backend.moment()
                self._heard = monotonic()
                for dead in watch.look(counts, at.mono):
                    bell = await backend.change(partial(tables.reap, holder=dead, count=counts[dead], now=at.mono))
                    if bell is not None:
                        backend.forget(bell)
                        self._woken.set()
                if loop.time() - swept > SWEEP:
                    swept = loop.time()
                    before = at.wall - self._bus.retention
                    await backend.change(partial(tables.sweep, before=before, capacity=self._bus.capacity))
            except Lost:  # `fetch` says so
                return
            except SourceError:  # locked or full, for now: `live` tells, and the next beat tries again
                continue


def _wake(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits there any more
        loop.call_soon_threadsafe(event.set)
