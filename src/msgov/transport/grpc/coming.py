"""A native call that other interceptors are still on their way to: what is asked of it waits until it is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any

import grpc
import grpc.aio


class Coming:
    """Stands in for the call that a task returns; an error of the task is the call's."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call back when the call is over, or will never be."""

        def there(task: asyncio.Task[Any]) -> None:
            call = self._call()
            if call is None:
                callback(self)
            else:
                call.add_done_callback(lambda call: callback(self))

        self._task.add_done_callback(there)

    def _call(self) -> Any:
        """Return the call; None where there is none yet, or never will be."""
        task = self._task
        return task.result() if task.done() and not task.cancelled() and task.exception() is None else None

    def cancel(self) -> bool:
        """Cancel the call, or the way to it."""
        call = self._call()
        return self._task.cancel() if call is None else bool(call.cancel())

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        call = self._call()
        return self._task.cancelled() if call is None else bool(call.cancelled())

    async def code(self) -> grpc.StatusCode:
        """Return the status; raises what an interceptor raised in its place."""
        found: grpc.StatusCode = await self._asked("code", grpc.StatusCode.CANCELLED)
        return found

    async def details(self) -> str | None:
        """Return the status's details."""
        found: str | None = await self._asked("details", "")
        return found

    async def debug_error_string(self) -> str | None:
        """Return what grpc's core says."""
        found: str | None = await self._asked("debug_error_string", None)
        return found

    async def initial_metadata(self) -> Any:
        """Return the initial metadata."""
        return await self._asked("initial_metadata", None)

    async def trailing_metadata(self) -> Any:
        """Return the trailing metadata."""
        return await self._asked("trailing_metadata", None)

    async def _asked(self, what: str, cancelled: Any) -> Any:
        if self._task.cancelled():
            return cancelled
        try:
            call = await self._task
        except grpc.aio.AioRpcError as error:
            return getattr(error, what)()
        return await getattr(call, what)()

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for the reply."""
        call = yield from self._task.__await__()
        return (yield from call.__await__())

    async def read(self) -> Any:
        """Return the next message, EOF at the end."""
        return await (await self._task).read()

    async def write(self, request: Any) -> None:
        """Send a message."""
        await (await self._task).write(request)

    async def done_writing(self) -> None:
        """Say that no more messages come."""
        await (await self._task).done_writing()

    async def wait_for_connection(self) -> None:
        """Wait until it is connected."""
        await (await self._task).wait_for_connection()
