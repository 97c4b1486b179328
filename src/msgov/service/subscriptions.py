"""What a service listens to and what it has to say: its consumers and its outbox relay, for as long as it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from msgov.messaging.bus import Bus
from msgov.messaging.consumer import Consumer, Handler, Key
from msgov.messaging.relay import Relay
from msgov.observability.edges import Messages
from msgov.observability.spans import attached
from msgov.pipeline import Pipeline

if TYPE_CHECKING:
    from msgov.service.facade import Service


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    topic: str
    handler: Callable[..., object]
    group: str
    key: Key | None


class Subscriptions:
    """The handlers that `Service.on` collects, and the consumers and relay made of them."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._wanted: list[_Wanted] = []
        self.consumers: list[Consumer] = []
        self.relay: Relay | None = None

    @property
    def needed(self) -> bool:
        """Whether there is anything to consume or to relay."""
        return bool(self._wanted) or self._service.store is not None

    def add(self, topic: str, handler: Callable[..., object], *, group: str, key: Key | None) -> None:
        """Take a handler in; it is consumed for from the next `running` on."""
        self._wanted.append(_Wanted(topic=topic, handler=handler, group=group, key=key))

    def missing(self) -> list[str]:
        """Name the subscriptions that are not live: a consumer that reads nothing is not ready."""
        return [f"subscription {each.topic}" for each in self.consumers if not each.live]

    def told(self) -> Iterator[object]:
        """Yield what metrics show."""
        yield from self.consumers
        if self.relay is not None:
            yield self.relay

    @asynccontextmanager
    async def running(self, bus: Bus) -> AsyncIterator[None]:
        """Relay and consume; consumers stop first, so that what they published is still sent."""
        service = self._service
        async with AsyncExitStack() as stack:
            if service.store is not None:
                relay = Relay(service.store, bus, name=service.name, observers=service.observers, clock=service.clock)
                self.relay = await stack.enter_async_context(relay)
            edge = Messages("consumer", system=service.bus_kind)
            for each in self._wanted:
                consumer = Consumer(
                    bus,
                    each.topic,
                    cast("Handler", each.handler),
                    group=each.group,
                    database=service.store,
                    key=each.key,
                    pipeline=Pipeline(service.compose.consumer(each.topic, edge)),
                    around=attached,
                    observers=service.observers,
                    clock=service.clock,
                )
                self.consumers.append(await stack.enter_async_context(consumer))

            def changed(*_: object) -> None:
                for consumer in self.consumers:
                    policies = service.compose.consumer(consumer.topic, edge)
                    if policies != consumer.pipeline.policies:
                        consumer.pipeline = Pipeline(policies)

            end = service.config.listen("consumer", changed)
            try:
                yield
            finally:
                end()
                self.consumers = []
        self.relay = None
