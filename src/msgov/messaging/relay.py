"""The relay sends what the outbox holds, in order, and strikes off only what the bus has confirmed.

    look -> claim (a short lease) -> publish -> confirmed -> strike off, and claim the next

A crash between any two of these steps means that messages are sent again, never that one is left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import Protocol, Self, TypeVar

from msgov.backoff import Backoff
from msgov.call import PERMANENT
from msgov.clock import Clock, Dice, dice, monotonic, wall
from msgov.errors import DeliveryError
from msgov.event import Observers
from msgov.failpoint import failpoint
from msgov.messaging import outbox
from msgov.messaging.bus import Bus
from msgov.messaging.lease import Watch
from msgov.messaging.message import Message
from msgov.messaging.outbox import Row

T = TypeVar("T")

POLL = 0.05  # seconds: for what other processes wrote and did not send
BATCH = 100  # messages a commit: a bus that flushes takes a batch of 100 in the time of two single ones
TIMEOUT = 5.0  # seconds: a bus that has not confirmed by then is taken for gone


class Store(Protocol):
    """The database that holds the outbox, seen from the relay."""

    async def read(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run `fn` on what is committed."""
        ...

    async def write(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run `fn` in a transaction of its own."""
        ...

    def listening(self, listener: Callable[[], None]) -> AbstractContextManager[None]:
        """Call `listener` after each commit that wrote a message, for the length of the block."""
        ...


class Relay:
    """Sends an outbox to a bus, from `__aenter__` to `__aexit__`, which sends what is left, for `timeout` at most.

    Each process of a service runs one. One at a time holds the lease and sends; it gives it up whenever the outbox is
    empty, so whoever writes a message sends it, at once. A relay that dies holding the lease is replaced after `lease`
    seconds, by the others' own clocks. When the bus fails, the same messages are sent again, with backoff.

    Attributes to look at: `pending` and `oldest_age` (seconds) of the backlog; `published`; `refused`, set aside in
    msgov_outbox_refused since the bus can never take them; `failures`, with the last `error`, None since it went well;
    `lost`, leases that ran out while sending. Events: "outbox.failed", "outbox.refused".
    """

    def __init__(
        self,
        store: Store,
        bus: Bus,
        *,
        name: str = "outbox",
        batch: int = BATCH,
        lease: float = 2.0,
        timeout: float = TIMEOUT,
        observers: Observers | None = None,
        clock: Clock = monotonic,
        now: Clock = wall,
        chance: Dice | None = None,
    ) -> None:
        self.name = name
        self.pending = 0
        self.oldest_age = 0.0
        self.published = 0
        self.refused = 0
        self.failures = 0
        self.lost = 0
        self.error: Exception | None = None
        self.observers = observers or Observers()
        self._store = store
        self._bus = bus
        self._batch = batch
        self._lease = lease
        self._timeout = timeout
        self._clock = clock
        self._now = now
        self._me = uuid.uuid4().hex
        self._watch = Watch(lease)
        self._pause = Backoff(chance or dice(), base=0.05, cap=2.0)
        self._woken = asyncio.Event()
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._open = contextlib.ExitStack()

    @property
    def live(self) -> bool:
        """Whether it runs and the last round went well."""
        return self._task is not None and not self._task.done() and self.error is None

    async def __aenter__(self) -> Self:
        """Start sending."""
        loop = asyncio.get_running_loop()
        self._open.enter_context(self._store.listening(partial(_call, loop, self._woken.set)))
        self._task = asyncio.create_task(self._run(), name=f"relay {self.name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send what is left, give up the lease, end."""
        self._open.close()
        task, self._task = self._task, None
        self._stop.set()
        self._woken.set()
        if task is not None:
            try:
                await asyncio.wait([task], timeout=self._timeout)
            finally:
                task.cancel()
                await asyncio.wait([task])

    def nudge(self) -> None:
        """Look now: something was written. For the loop's own thread."""
        self._woken.set()

    async def _run(self) -> None:
        try:
            while True:
                last = self._stop.is_set()  # before it looks: what was committed before the stop must be seen
                try:
                    self._woken.clear()
                    await self._round()
                except Exception as error:  # noqa: BLE001  whatever it is, what is committed must go out
                    self.error = error
                    self.failures += 1
                    self.observers.tell("outbox.failed", self.name, "", self._clock(), error=repr(error)[:500])
                    await self._give_up()
                    await _either(self._stop, self._pause.next())
                else:
                    self.error = None
                    self._pause.reset()
                    if not last or self.pending:
                        await _either(self._woken, POLL)
                if last and (self.error is not None or not self.pending):
                    return
        finally:
            await asyncio.shield(self._give_up())

    async def _round(self) -> None:
        """Send until the outbox is empty, unless another relay is at it."""
        self.pending, stamp = await self._store.read(outbox.backlog)
        self.oldest_age = 0.0 if stamp is None else max(0.0, self._now() - stamp)
        if not self.pending:
            return
        holder, beat = await self._store.read(outbox.lease)
        dead = ("", 0)
        if holder not in ("", self._me):
            if holder not in self._watch.look({holder: beat}, self._clock()):
                return
            dead = (holder, beat)
        batch = await self._advance(done=(), dead=dead)
        while batch.rows:
            failpoint("outbox.after_claim")
            await self._send_all(batch.rows)
            failpoint("outbox.after_confirm_before_mark")
            batch = await self._advance(done=[row.seq for row in batch.rows])
            if batch.lost:
                self.lost += 1
        if batch.holder != "":  # another has taken our place
            return
        self.pending, self.oldest_age = 0, 0.0

    async def _advance(self, *, done: Sequence[int], dead: tuple[str, int] = ("", 0)) -> outbox.Batch:
        return await self._store.write(partial(outbox.advance, me=self._me, done=done, most=self._batch, dead=dead))

    async def _send_all(self, rows: Sequence[Row]) -> None:
        """Publish a batch; when the bus can never take one of it, find out which one and set that aside."""
        try:
            await self._send([row.message(self._now()) for row in rows])
            self.published += len(rows)
            return
        except DeliveryError as error:
            if error.verdict is not PERMANENT:
                raise
        for row in rows:
            try:
                await self._send([row.message(self._now())])
                self.published += 1
            except DeliveryError as error:
                if error.verdict is not PERMANENT:
                    raise
                if not await self._store.write(partial(outbox.refuse, me=self._me, seq=row.seq, cause=str(error))):
                    return  # no longer ours to decide
                self.refused += 1
                self.observers.tell("outbox.refused", self.name, row.topic, self._clock(), id=row.id, error=str(error))

    async def _send(self, messages: Sequence[Message]) -> None:
        """Publish and wait for the confirmation, keeping the lease meanwhile."""
        publishing = asyncio.ensure_future(self._bus.publish(*messages))
        try:
            async with asyncio.timeout(self._timeout):
                await asyncio.sleep(0)
                failpoint("outbox.after_publish_before_confirm")
                while not (await asyncio.wait([publishing], timeout=self._lease / 3))[0]:
                    if not await self._store.write(partial(outbox.renew, me=self._me)):
                        failpoint("outbox.lease_expired_while_publishing")
            await publishing
        except TimeoutError as error:
            raise DeliveryError(f"the bus did not confirm within {self._timeout} s") from error
        finally:
            if not publishing.done():
                publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)

    async def _give_up(self) -> None:
        """Give up the lease; where that fails, it ends by itself."""
        with contextlib.suppress(Exception):
            await self._store.write(partial(outbox.vacate, me=self._me))


async def _either(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, but not longer than this."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _call(loop: asyncio.AbstractEventLoop, what: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody sends there any more
        loop.call_soon_threadsafe(what)
