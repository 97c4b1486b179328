"""An instance stays registered for as long as it lives, whatever becomes of the registry.

The failure that users of every registry report most is a healthy process that the registry forgot and that nothing
registers again. So a registration is a loop without end: it renews at a third of the lease, and puts the instance anew,
with jitter, whenever the registry answers that it knows nothing of it, or answers at all after it was silent.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from dataclasses import replace
from types import TracebackType
from typing import Self, TypeVar

from msgov.backoff import Backoff
from msgov.clock import Clock, dice, monotonic
from msgov.discovery.instance import Instance
from msgov.errors import SourceError
from msgov.event import Observers

T = TypeVar("T")

SHORTEST = 0.5  # seconds that one question to the registry may take at least, however short the lease


class Registrar(ABC):
    """What a backend does so that others find an instance: three questions, and a fourth for those who can answer it.

    `ttl` is the lease in seconds: how long others believe in an instance that is not renewed. Each method may raise
    whatever the backend raises; `register` makes the loop that never gives up out of them.
    """

    ttl: float

    @abstractmethod
    async def put(self, instance: Instance) -> int:
        """Write the instance with a new lease, in one step, in place of what was there; return the revision (or 0)."""

    @abstractmethod
    async def beat(self, instance: Instance) -> bool:
        """Renew the lease; return False when the registry no longer knows it, so that it is put again."""

    @abstractmethod
    async def remove(self, instance: Instance) -> None:
        """Take the instance out; one that is not there is fine."""

    async def seen(self, service: str, revision: int) -> bool:
        """Tell whether everyone who watches the service now knows this revision; False when that cannot be told."""
        return False

    def register(
        self, instance: Instance, *, clock: Clock = monotonic, observers: Observers | None = None
    ) -> Registration:
        """Make a registration to enter with `async with`, once the server answers."""
        return Registration(self, instance, clock=clock, observers=observers)


class Registration:
    """One instance in the registry for as long as the block lasts.

    Entering tries once and goes on at once even when the registry is down: the loop puts the instance as soon as it
    answers, at most a second later. Leaving takes it out, or lets the lease end where the registry is silent.

    `registered` is whether others can find it as far as we know: False when the registry said so, or when no renewal
    went through for a whole lease. `error` is what the registry's last answer was, if it was an error; `losses` counts
    how often it was lost. Observers are told "registration.restored" and "registration.lost".
    """

    def __init__(
        self,
        registrar: Registrar,
        instance: Instance,
        *,
        clock: Clock = monotonic,
        observers: Observers | None = None,
    ) -> None:
        self.instance = instance
        self.registered = False
        self.error: Exception | None = None
        self.losses = 0
        self._registrar = registrar
        self._clock = clock
        self._observers = observers or Observers()
        self._renewed = 0.0
        self._task: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()  # one question at a time: a renewal must not undo a drain

    @property
    def draining(self) -> bool:
        """Whether it asks for no more calls."""
        return self.instance.draining

    async def __aenter__(self) -> Self:
        """Put the instance, or leave that to the loop when the registry does not answer."""
        await self._put()
        self._task = asyncio.create_task(self._keep(), name=f"register {self.instance.service} {self.instance.id}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take it out; what the registry answers to that is kept in `error`."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        self.registered = False
        try:
            await self._ask(self._registrar.remove(self.instance))
        except Exception as fault:  # noqa: BLE001  leaving must not fail for it: the lease ends by itself
            self.error = fault

    async def drain(self, *, within: float = 5.0) -> bool:
        """Ask for no more calls, and wait until whoever calls us knows; return whether all of them surely do.

        `within` is in seconds: how long a change may take to reach all watchers. A registry that cannot tell whether
        it has is waited for that long; one that can (memory, embedded) mostly takes a tenth of a second.
        """
        until = self._clock() + within
        self.instance = replace(self.instance, draining=True)
        while (revision := await self._put()) is None:
            if self._clock() >= until:
                return False
            await asyncio.sleep(0.05)
        while self._clock() < until:
            try:
                if await self._ask(self._registrar.seen(self.instance.service, revision)):
                    return True
            except Exception as fault:  # noqa: BLE001  a registry that fails cannot tell: waiting is what remains
                self.error = fault
            await asyncio.sleep(min(0.01, max(0.0, until - self._clock())))
        return False

    async def _ask(self, question: Coroutine[object, object, T]) -> T:
        """Ask the registry, but wait no longer than is left until the next renewal would be due."""
        patience = max(SHORTEST, self._registrar.ttl / 3)
        try:
            async with asyncio.timeout(patience):
                return await question
        except TimeoutError:
            raise SourceError(f"the registry did not answer within {patience:g} s") from None

    async def _put(self) -> int | None:
        """Put the instance once; return the revision, None when the registry failed."""
        async with self._turn:
            try:
                asked = self._clock()
                revision = await self._ask(self._registrar.put(self.instance))
            except Exception as fault:  # noqa: BLE001  whatever it is, it is tried again
                self._failed(fault)
                return None
            self._renew(asked)
            return revision

    async def _beat(self) -> bool:
        """Renew once; return whether the registry answered."""
        async with self._turn:
            try:
                asked = self._clock()
                known = await self._ask(self._registrar.beat(self.instance))
            except Exception as fault:  # noqa: BLE001  as above
                self._failed(fault)
                return False
            if known:
                self._renew(asked)
        if not known:
            self._lose("the registry does not know it")
            return await self._put() is not None
        return True

    async def _keep(self) -> None:
        """Renew for ever; a registry that fails is asked again soon, by everybody at another moment."""
        third = self._registrar.ttl / 3
        pause = Backoff(dice(), base=min(0.1, third), cap=min(1.0, third))
        answered = self.registered
        while True:
            if answered:
                pause.reset()
                await asyncio.sleep(max(0.0, self._renewed + third - self._clock()))
            else:
                await asyncio.sleep(pause.next())
            answered = await self._beat() if self.registered else await self._put() is not None

    def _renew(self, asked: float) -> None:
        self._renewed = asked  # the registry may have begun the new lease as early as that
        self.error = None
        if not self.registered:
            self.registered = True
            self._tell("registration.restored", "")

    def _failed(self, fault: Exception) -> None:
        self.error = fault
        if self.registered and self._clock() - self._renewed >= self._registrar.ttl:
            self._lose(f"no renewal went through: {fault}")

    def _lose(self, why: str) -> None:
        self.registered = False
        self.losses += 1
        self._tell("registration.lost", why)

    def _tell(self, kind: str, why: str) -> None:
        self._observers.tell(kind, self.instance.id, self.instance.service, self._clock(), why=why, losses=self.losses)
