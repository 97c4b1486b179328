"""A service of threads: one loop in one thread does the waiting, and ends with the block."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Executor, Future
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from msgov.service.running import Running

if TYPE_CHECKING:
    from msgov.service.facade import Service


class ThreadRunning:
    """A service of threads at work; made by `Service.sync.running`, entered with `with`.

    `port`, `admin_port` and `ready` are those of `Running`.
    """

    def __init__(
        self,
        service: Service,
        server: object,
        *,
        at: str,
        admin: str | None,
        grace: float,
        host: str | None,
        pool: Executor | None,
    ) -> None:
        self._service = service
        self._make = partial(Running, service, server, at=at, admin=admin, grace=grace, host=host, pool=pool)
        self._running: Running | None = None
        self._up: Future[Running] = Future()
        self._thread = threading.Thread(target=self._run, name=f"msgov-{service.name}", daemon=True)

    @property
    def port(self) -> int:
        """The port that was bound."""
        return self._up.result().port

    @property
    def admin_port(self) -> int:
        """The port of the admin endpoints."""
        return self._up.result().admin_port

    @property
    def ready(self) -> bool:
        """Whether this instance should get work."""
        return self._up.result().ready

    def __enter__(self) -> Self:
        """Start the loop's thread and wait until the service is up; raises what kept it from that."""
        self._thread.start()
        try:
            self._up.result()
        except BaseException:
            self._thread.join()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drain, leave, and end the thread."""
        running = self._up.result()
        self._loop.call_soon_threadsafe(running.stop)
        self._thread.join()
        if "grpc" in self._service.sync.__dict__:
            self._service.sync.grpc.close()

    def _run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            running = self._make()
            await running.__aenter__()
        except BaseException as error:  # noqa: BLE001  raised to whoever enters
            self._up.set_exception(error)
            return
        self._up.set_result(running)
        try:
            await running.stopped()
        finally:
            await running.__aexit__(None, None, None)
