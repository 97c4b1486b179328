"""The one facade: wraps what the user already has, and never owns `main`."""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

from msgov.clock import Clock, monotonic
from msgov.config.centre import Config
from msgov.config.env import Env
from msgov.config.file import File
from msgov.config.policies import Policies
from msgov.config.rules import DEFAULTS
from msgov.config.source import ConfigSource, Fixed
from msgov.config.source import open as open_source
from msgov.discovery.backend import Discovery
from msgov.discovery.backend import open as open_registry
from msgov.discovery.directory import Directory
from msgov.event import Observers
from msgov.latest import DiskCopy
from msgov.messaging.bus import Bus
from msgov.messaging.bus import open as open_bus
from msgov.messaging.consumer import Key
from msgov.messaging.sqlite import Sqlite
from msgov.observability.setup import Format, Observability, observability
from msgov.observability.spans import attached
from msgov.resilience.fault import ENV as FAULTS
from msgov.resilience.keys import Networks
from msgov.service.compose import Composer
from msgov.service.pumps import feeding
from msgov.service.subscriptions import Subscriptions
from msgov.service.targets import Targets

if TYPE_CHECKING:
    from msgov.resilience.replies import Failed
    from msgov.service.grpc import Grpc, SyncGrpc
    from msgov.service.http import Http
    from msgov.service.running import Running
    from msgov.service.threads import ThreadRunning
    from msgov.transport.asgi import App

P = ParamSpec("P")
R = TypeVar("R")


class Service:
    """Everything that one process of a service needs of its neighbours.

    Args:
        name: The service's name, under which others find it.
        config: A rules-and-settings file (TOML, YAML or JSON). Environment variables `MSGOV_...` win over it, a config
            centre stands between the two.
        database: The service's own SQLite file, or an `Sqlite` store, with inbox and outbox in it; for `on` and the
            outbox relay.
        registry, bus, centre: URLs of the registry ("memory:", "embedded:registry.db"), the message bus and the config
            centre; a registry or bus of your own making is used as it is, and is yours to close. By default the file's
            `service.registry`, `service.bus` and `service.centre`; without those, the memory of this process, and no
            centre.
        quota: URL of the Redis in which quotas are counted ("redis://host:6379/0"); by default `service.quota`. Without
            one, and while it is away, this process's part of each quota decides. Needs the extra "redis".
        trusted: Networks ("10.0.0.0/8") or addresses of our own services. What they say of a call's criticality and of
            how many attempts are left is believed; of anyone else nothing but the deadline is, for it only shrinks. By
            default `service.trusted`, separated by commas; without one, nobody.
        version, zone: What this instance runs and where, for metrics and routing.
        logs: "auto", "json", "console" or "off".
        state: A folder for the last good copies of configuration and instance lists.
        environ: Where `MSGOV_...` is read. MSGOV_FAULTS=1 there allows the rules to inject faults; nothing else does.

    Nothing is started here: `running` does. Raises `RuleError` for a configuration that cannot be.
    """

    def __init__(
        self,
        name: str,
        *,
        config: str | os.PathLike[str] | None = None,
        database: str | os.PathLike[str] | Sqlite | None = None,
        registry: str | Discovery | None = None,
        bus: str | Bus | None = None,
        centre: str | None = None,
        quota: str | None = None,
        trusted: Iterable[str] = (),
        version: str = "",
        zone: str = "",
        logs: Format = "auto",
        state: str | os.PathLike[str] | None = None,
        environ: Mapping[str, str] = os.environ,
        clock: Clock = monotonic,
    ) -> None:
        self.name = name
        self.version = version
        self.zone = zone
        self.clock = clock
        self.state = None if state is None else Path(state)
        self.observe: Observability = observability(name, version=version, logs=logs)
        self.observers = Observers(self.observe.observer)
        try:
            self.config = self._configured(config, centre, environ)
            self._registry = registry or self.config.value("service.registry", str, default="memory:")
            self._bus = bus or self.config.value("service.bus", str, default="memory:")
            self._quota = quota or self.config.value("service.quota", str, default="")
            told = self.config.value("service.trusted", str, default="")
            self.trusted = Networks(*(each.strip() for each in tuple(trusted) or told.split(",") if each.strip()))
            faults = environ.get(FAULTS) == "1"
            self.policies = Policies.following(self.config, observers=self.observers, faults=faults, service=name)
        except BaseException:
            self.observe.shutdown()
            raise
        self.targets = Targets(clock=clock)
        self.compose = Composer(self.policies, self.observe)
        self.store = database if database is None or isinstance(database, Sqlite) else Sqlite(database, source=name)
        self.subscriptions = Subscriptions(self)
        self.not_ready: dict[str, Callable[[], bool]] = {}
        self.registry: Discovery | None = None
        self.bus: Bus | None = None
        if self.observe.metrics is not None:
            readings = self.observe.metrics.readings
            readings.follow(self._told)

    def _configured(
        self, path: str | os.PathLike[str] | None, centre: str | None, environ: Mapping[str, str]
    ) -> Config:
        """Load the layers, lowest first: defaults, file, centre, environment."""
        layers: dict[str, ConfigSource] = {"defaults": Fixed(cast("Mapping[str, object]", DEFAULTS), name="defaults")}
        if path is not None:
            layers["file"] = File(path)
        env = Env(environ=environ)
        first = Config({**layers, "env": env})
        first.load()
        url = centre or first.value("service.centre", str, default="")
        if url:
            layers["centre"] = open_source(url)
        copy = DiskCopy(self.state / "config.copy") if self.state is not None else None
        loaded = Config({**layers, "env": env}, copy=copy, clock=self.clock, observers=[self.observe.observer])
        loaded.load()
        return loaded

    def _told(self) -> Iterator[object]:
        """Yield everything whose state the metrics page shows."""
        yield from self.policies.state
        yield from self.targets.known.values()
        yield self.config
        yield from self.subscriptions.told()

    @functools.cached_property
    def grpc(self) -> Grpc:
        """GRPC on asyncio: `interceptors()`, `channel(target)`, `client_interceptors(target)`."""
        from msgov.service.grpc import Grpc

        return Grpc(self)

    @functools.cached_property
    def http(self) -> Http:
        """HTTP clients: `client(target)`, `sync_client(target)`."""
        from msgov.service.http import Http

        return Http(self)

    @functools.cached_property
    def sync(self) -> Threads:
        """The same names for threads: `svc.sync.grpc.interceptors()`, `svc.sync.grpc.channel(target)`."""
        return Threads(self)

    def asgi(self, app: App) -> App:
        """Wrap any ASGI application."""
        from msgov.transport.asgi import HttpEdge, Middleware

        policies = self.compose.http_server()
        edge = HttpEdge(service=self.name, policies=policies, trusted=self.trusted, around=attached, clock=self.clock)
        return Middleware(app, edge)

    def guarded(
        self, name: str, *, idempotent: bool = False, failed: Failed | None = None
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Govern a function, async or plain, by the rules of [function.NAME]; a change of rules reaches it at once.

        `failed` says which of its replies count as failures, as it does for `policies`.
        """
        from msgov.service.guarding import guarded

        return guarded(self, name, idempotent=idempotent, failed=failed)

    def on(
        self, topic: str, *, key: Key | None = None, group: str | None = None
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Hand each message of a topic to `async def handler(event, tx)`: at least once in, exactly once in effect.

        `key` is the business key, unique beside the message's own id: a field of the JSON body, or a function of the
        message. `group` is who reads, by default this service: its instances share the messages.
        """

        def decorate(handler: Callable[P, R]) -> Callable[P, R]:
            self.subscriptions.add(topic, handler, group=group or self.name, key=key)
            return handler

        return decorate

    @property
    def bus_kind(self) -> str:
        """The kind of the bus, as metrics name it."""
        return type(self._bus).__name__.lower() if isinstance(self._bus, Bus) else self._bus.partition(":")[0]

    def missing(self) -> list[str]:
        """Name what keeps this instance from being ready; empty when it is."""
        found = [name for name, lacks in self.not_ready.items() if lacks()]
        return found + self.subscriptions.missing()

    @asynccontextmanager
    async def opened(self, *, pool: Executor | None = None) -> AsyncIterator[Service]:
        """Follow configuration and registry, open the database, consume and relay, without serving anything.

        Shedding is told how loaded the process is, and quotas are fetched, by any rule that asks for them meanwhile.
        `pool` is where calls are served, if that is a pool of threads: how long work waits in it is a load too.
        """
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.config)
            feeds = feeding(self.policies, quota=self._quota, pool=pool, clock=self.clock)
            await stack.enter_async_context(feeds)
            if isinstance(self._registry, Discovery):
                self.registry = self._registry
            else:
                self.registry = await stack.enter_async_context(open_registry(self._registry))
            copies = None if self.state is None else self.state / "instances"
            if copies is not None:
                copies.mkdir(parents=True, exist_ok=True)
            directory = await stack.enter_async_context(Directory(self.registry, copies=copies, clock=self.clock))
            stack.callback(self.targets.close)
            if self.store is not None:
                await stack.enter_async_context(self.store)
            if self.subscriptions.needed:
                if isinstance(self._bus, Bus):
                    self.bus = self._bus
                else:
                    self.bus = open_bus(self._bus)
                    stack.push_async_callback(self.bus.aclose)
                await stack.enter_async_context(self.subscriptions.running(self.bus))
            if "grpc" in self.__dict__:
                stack.push_async_callback(self.grpc.aclose)
            await self.targets.open(directory)
            yield self

    def running(
        self,
        server: object = None,
        *,
        at: str = "127.0.0.1:0",
        admin: str | None = None,
        grace: float = 10.0,
        host: str | None = None,
        pool: Executor | None = None,
    ) -> Running:
        """Serve for as long as the block lasts: bind, start, register once it answers; drain before leaving.

        Args:
            server: A `grpc.aio.Server`, or a `uvicorn.Server`; None serves nothing but the admin endpoints.
            at: "host:port"; port 0 takes a free one. Raises OSError that names the address when it is taken.
            admin: "host:port" for /healthz, /readyz, /metrics and /sd; None for no such port.
            grace: Seconds that what is under way gets to finish.
            host: What others are told to call; by default the host of `at`, or for 0.0.0.0 this machine's own address.
            pool: The threads that serve, if any do: how long work waits for one of them is what `shed` calls delay.
        """
        from msgov.service.running import Running

        return Running(self, server, at=at, admin=admin, grace=grace, host=host, pool=pool)

    def close(self) -> None:
        """Let go of logs and metrics; `running` does not, so that the last lines are still written."""
        self.observe.shutdown()


class Threads:
    """What a service of threads uses: the same names, blocking."""

    def __init__(self, service: Service) -> None:
        self._service = service

    @functools.cached_property
    def grpc(self) -> SyncGrpc:
        """GRPC in threads: `interceptors()`, `channel(target)`, `client_interceptors(target)`."""
        from msgov.service.grpc import SyncGrpc

        return SyncGrpc(self._service)

    def running(
        self,
        server: object = None,
        *,
        at: str = "127.0.0.1:0",
        admin: str | None = None,
        grace: float = 10.0,
        host: str | None = None,
        pool: Executor | None = None,
    ) -> ThreadRunning:
        """Serve a `grpc.Server` for as long as the (plain) block lasts; the pumps run on one loop in one thread.

        `pool` is the pool that the server was made with: `shed` then knows how long a call waits for a thread.
        """
        from msgov.service.threads import ThreadRunning

        return ThreadRunning(self._service, server, at=at, admin=admin, grace=grace, host=host, pool=pool)
