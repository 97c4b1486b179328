"""What is known of each service is kept fresh in the background, and remembered on disk for a start in an outage."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

from msgov.aio import follow
from msgov.clock import Clock, monotonic
from msgov.discovery.backend import Discovery
from msgov.discovery.instance import Snapshot, record, snapshot
from msgov.errors import SourceError
from msgov.latest import DiskCopy, Latest

SAVE: Final = 1.0  # seconds between copies at least: a rolling restart is worth one write, not a hundred


class Directory:
    """One `Latest` for each service that somebody calls, followed for as long as the block lasts.

    The watches run on the loop that entered; `latest` may be asked from any thread. With `copies`, a folder, each list
    is copied there (never an empty one), and a process that starts while the registry is down begins with the copy,
    marked as stale until the registry speaks. `error` is why the last copy could not be written, if it could not.
    """

    def __init__(
        self, discovery: Discovery, *, copies: str | os.PathLike[str] | None = None, clock: Clock = monotonic
    ) -> None:
        self.discovery = discovery
        self.error: OSError | None = None
        self._copies = None if copies is None else Path(copies)
        self._clock = clock
        self._lock = threading.Lock()
        self._latest: dict[str, Latest[Snapshot]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def services(self) -> dict[str, Latest[Snapshot]]:
        """Everything that is followed, by service."""
        with self._lock:
            return dict(self._latest)

    def latest(self, service: str) -> Latest[Snapshot]:
        """Return what is known of a service; the first time, begin to follow it. Raises RuntimeError when closed."""
        latest = self._latest.get(service)
        if latest is None:
            with self._lock:
                latest = self._latest.get(service)
                if latest is None:
                    if self._loop is None:
                        raise RuntimeError("a directory is followed inside its `async with` block only")
                    latest = self._remembered(service)
                    self._loop.call_soon_threadsafe(self._begin, service, latest)
                    self._latest[service] = latest
        return latest

    async def known(self, service: str, *, within: float = 5.0) -> Snapshot:
        """Return what is known of a service, waiting for the first word of it; `SourceError` after `within` seconds."""
        latest = self.latest(service)
        loop, first = asyncio.get_running_loop(), asyncio.Event()

        def told(old: Snapshot | None, new: Snapshot) -> None:
            with suppress(RuntimeError):  # whoever waited has gone, and the loop with them
                loop.call_soon_threadsafe(first.set)

        end = latest.listen(told)
        try:
            if not latest.known:
                with suppress(TimeoutError):
                    async with asyncio.timeout(within):
                        await first.wait()
        finally:
            end()
        return latest.value

    async def __aenter__(self) -> Self:
        """Follow on this loop from now on."""
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the watches. What is known stays readable; the registry itself is closed by whoever opened it."""
        with self._lock:
            self._loop = None
        await asyncio.sleep(0)  # so that what was asked for a moment ago has begun, and can be ended
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _begin(self, service: str, latest: Latest[Snapshot]) -> None:
        if self._copies is not None:
            changed = asyncio.Event()
            latest.listen(lambda old, new: changed.set())
            self._start(self._save(latest, changed, DiskCopy(self._file(service))), f"copy {service}")
        self._start(follow(self.discovery.source(service), latest, clock=self._clock), f"watch {service}")

    def _start(self, work: Coroutine[object, object, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _save(self, latest: Latest[Snapshot], changed: asyncio.Event, copy: DiskCopy) -> None:
        while True:
            await changed.wait()
            changed.clear()
            known = latest.value
            if not known.instances:  # a copy of nothing helps nobody to start
                continue
            body = json.dumps([record(instance) for instance in known.instances]).encode()
            try:
                await asyncio.to_thread(copy.save, body)
                self.error = None
            except OSError as fault:
                self.error = fault
            await asyncio.sleep(SAVE)

    def _remembered(self, service: str) -> Latest[Snapshot]:
        latest: Latest[Snapshot] = Latest(service)
        body = None if self._copies is None else DiskCopy(self._file(service)).load()
        if body is not None:
            with suppress(ValueError, RecursionError):  # written by another version: as good as no copy
                entries = json.loads(body)
                found = snapshot(service, entries if isinstance(entries, list) else ())
                if found.instances:
                    latest.put(found, self._clock())
                    latest.fail(SourceError(f"{service}: from the copy on disk; the registry has not spoken yet"))
        return latest

    def _file(self, service: str) -> Path:
        assert self._copies is not None  # noqa: S101  asked for only then
        return self._copies / f"{quote(service, safe='')}.json"
