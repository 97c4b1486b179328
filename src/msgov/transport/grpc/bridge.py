"""A plain function in an asyncio server runs in a thread, and lets go of it when its caller is gone.

grpc.aio itself leaves a generator's thread waiting for ever once nobody draws its messages: two callers that hang up
take two threads of the pool with them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from contextvars import Context, copy_context
from typing import Any

import grpc

Behaviour = Callable[..., Any]


def calling(pool: Executor | None, inside: Behaviour) -> Behaviour:
    """Make a coroutine function of a handler that returns one reply."""

    async def call(request: Any, context: Any) -> Any:
        loop = asyncio.get_running_loop()
        work = (inside, _pulled(request, loop), ThreadContext(context, loop))
        return await loop.run_in_executor(pool, copy_context().run, *work)

    return call


def stepping(pool: Executor | None, inside: Behaviour) -> Behaviour:
    """Make of a handler that yields its replies what an async generator is."""

    def call(request: Any, context: Any) -> AsyncIterator[Any]:
        loop = asyncio.get_running_loop()
        return _Steps(lambda: iter(inside(_pulled(request, loop), ThreadContext(context, loop))), loop, pool)

    return call


class ThreadContext:
    """The servicer context of a handler in a thread: what waits is done on the loop, the rest is the context's own."""

    def __init__(self, context: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._context = context
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        """Read, or note, what needs no waiting."""
        return getattr(self._context, name)

    def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: tuple[Any, ...] = ()) -> None:
        """End the call with a status; raises grpc.aio.AbortError."""
        self._wait(self._context.abort(code, details, trailing_metadata))

    def abort_with_status(self, status: Any) -> None:
        """End the call with a status; raises grpc.aio.AbortError."""
        self.abort(status.code, status.details, tuple(status.trailing_metadata or ()))

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Send the initial metadata."""
        self._wait(self._context.send_initial_metadata(initial_metadata))

    def is_active(self) -> bool:
        """Whether the caller still waits."""
        return not self._context.done()

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Call back, on the loop's thread, when the call is over; False when it is."""
        if self._context.done():
            return False
        self._loop.call_soon_threadsafe(self._context.add_done_callback, lambda context: callback())
        return True

    def _wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


_END = object()


class _Steps:
    """A plain generator, drawn one step at a time in whatever thread is free; closed between two steps."""

    def __init__(
        self, make: Callable[[], Iterator[Any]], loop: asyncio.AbstractEventLoop, pool: Executor | None
    ) -> None:
        self._make = make
        self._loop = loop
        self._pool = pool
        self._context: Context = copy_context()
        self._messages: Iterator[Any] | None = None
        self._lock = threading.Lock()
        self._busy = False
        self._closed = False

    def __aiter__(self) -> _Steps:
        return self

    async def __anext__(self) -> Any:
        message = await self._loop.run_in_executor(self._pool, self._context.run, self._step)
        if message is _END:
            raise StopAsyncIteration
        return message

    def _step(self) -> Any:
        with self._lock:
            if self._closed:  # while this step waited for a thread
                return _END
            self._busy = True
        try:
            if self._messages is None:
                self._messages = self._make()
            return next(self._messages, _END)
        finally:
            with self._lock:
                self._busy = False
                left = self._closed
            if left:  # the caller went away meanwhile
                self._close()

    def _close(self) -> None:
        close = getattr(self._messages, "close", None)
        if close is not None:
            close()

    async def aclose(self) -> None:
        """Close the generator; one that is at work closes with its step."""
        with self._lock:
            self._closed = True
            if self._busy or self._messages is None:
                return
        await self._loop.run_in_executor(self._pool, self._context.run, self._close)


def _pulled(request: Any, loop: asyncio.AbstractEventLoop) -> Any:
    """Return a request as a plain handler takes it: of a stream of them, a blocking iterator."""
    return _Pulled(request, loop) if hasattr(request, "__anext__") else request


class _Pulled:
    """A request stream, drawn from a thread."""

    def __init__(self, requests: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._requests = requests
        self._loop = loop

    def __iter__(self) -> _Pulled:
        return self

    def __next__(self) -> Any:
        message = asyncio.run_coroutine_threadsafe(self._next(), self._loop).result()
        if message is _END:
            raise StopIteration
        return message

    async def _next(self) -> Any:
        return await anext(self._requests, _END)
