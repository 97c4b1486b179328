"""A registry for one process: who shares the object shares the knowledge."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Self

from msgov.discovery.backend import Discovery
from msgov.discovery.instance import Instance, Snapshot, snapshot
from msgov.discovery.registrar import Registrar
from msgov.errors import RuleError


class Memory(Discovery, Registrar):
    """Instances of one process, seen by all its loops and threads at once.

    For a modular monolith and for tests. No lease ends here, since registry and instances live and die together;
    `forget` loses everything, as a registry does that restarts empty. `memory:` as a URL makes one that nobody shares.
    """

    ttl = 3.0

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._services: dict[str, dict[str, Instance]] = {}
        self._revision = 0
        self._watchers: set[_Watcher] = set()

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Make an empty one; raises `RuleError` when anything stands after `memory:`."""
        if url != "memory:":
            raise RuleError.at("registry", url, "memory: alone; to share a registry, share the object or use embedded:")
        return cls()

    async def put(self, instance: Instance) -> int:
        """Write it, in place of what had its id."""
        with self._lock:
            found = self._services.setdefault(instance.service, {})
            if found.get(instance.id) == instance:
                return self._revision
            found[instance.id] = instance
            return self._changed(instance.service)

    async def beat(self, instance: Instance) -> bool:
        """Tell whether it is there."""
        with self._lock:
            return instance.id in self._services.get(instance.service, {})

    async def remove(self, instance: Instance) -> None:
        """Take it out."""
        with self._lock:
            found = self._services.get(instance.service, {})
            if found.pop(instance.id, None) is not None:
                if not found:
                    del self._services[instance.service]
                self._changed(instance.service)

    async def seen(self, service: str, revision: int) -> bool:
        """Tell whether every watcher of the service has taken a snapshot of this revision or a later one."""
        with self._lock:
            return all(watcher.seen >= revision for watcher in self._watchers if watcher.service == service)

    def forget(self) -> None:
        """Lose every instance, as a registry does that restarts empty; each is put again by its own loop."""
        with self._lock:
            services, self._services = self._services, {}
            for service in services:
                self._changed(service)

    async def watch(self, service: str) -> AsyncIterator[Snapshot]:
        """Yield the instances now, and at once after each change."""
        watcher = _Watcher(service, asyncio.get_running_loop())
        with self._lock:
            self._watchers.add(watcher)
        said: Snapshot | None = None
        try:
            while True:
                watcher.changed.clear()
                with self._lock:
                    revision, found = self._revision, tuple(self._services.get(service, {}).values())
                now = snapshot(service, found, revision=revision)
                if now != said:
                    said = now
                    yield now
                watcher.seen = revision
                await watcher.changed.wait()
        finally:
            with self._lock:
                self._watchers.discard(watcher)

    def _changed(self, service: str) -> int:
        """Count a change and wake whoever watches; called with the lock held."""
        self._revision += 1
        for watcher in tuple(self._watchers):
            if watcher.service == service and not watcher.wake():
                self._watchers.discard(watcher)
        return self._revision


class _Watcher:
    """One watch: on which loop to wake it, and what it has seen."""

    def __init__(self, service: str, loop: asyncio.AbstractEventLoop) -> None:
        self.service = service
        self.changed = asyncio.Event()
        self.seen = -1
        self._loop = loop

    def wake(self) -> bool:
        """Wake it; return False when its loop is closed, so that nobody watches there any more."""
        try:
            self._loop.call_soon_threadsafe(self.changed.set)
        except RuntimeError:
            return False
        return True
