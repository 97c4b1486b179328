"""The echo service of the gRPC tests, in both colours, with a log of what reached it."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from msgov import scope
from tests.transport.grpc import echo_pb2, echo_pb2_grpc


class Log:
    """What handlers began, finished and were cancelled in; `event` waits are bounded."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.running = 0
        self._changed = threading.Condition()

    @contextmanager
    def handler(self) -> Iterator[None]:
        """Count a handler as running until it ends, however it does."""
        with self._changed:
            self.running += 1
        try:
            yield
        finally:
            with self._changed:
                self.running -= 1

    def note(self, what: str) -> None:
        """Count one."""
        with self._changed:
            self.seen[what] += 1
            self._changed.notify_all()

    def wait(self, what: str, times: int = 1, seconds: float = 5.0) -> None:
        """Wait until it was counted so many times."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.seen[what] >= times, seconds), f"{what}: {dict(self.seen)}"

    async def until(self, what: str, times: int = 1, seconds: float = 5.0) -> None:
        """Wait without blocking the loop."""
        end = time.monotonic() + seconds
        while self.seen[what] < times:
            assert time.monotonic() < end, f"{what}: {dict(self.seen)}"
            await asyncio.sleep(0.002)


def answer(ask: Any, context: Any, text: str) -> Any:
    """Answer with what the server saw."""
    around = scope.current.get()
    left = scope.remaining()
    headers = dict(tuple(pair) for pair in context.invocation_metadata())
    return echo_pb2.Answer(
        text=text,
        deadline_ms=-1 if left is None else int(left * 1000),
        trace_id=around.trace.trace_id if around.trace else "",
        attempt=int(headers.get("msgov-attempt", "1")),
    )


def counted(handler: Any) -> Any:
    """Count each run of a handler in the log of its servicer."""
    if inspect.isasyncgenfunction(handler):

        @functools.wraps(handler)
        async def run(self: Any, request: Any, context: Any) -> Any:
            with self.log.handler():
                messages = handler(self, request, context)
                try:
                    async for message in messages:
                        yield message
                finally:
                    await messages.aclose()

    elif inspect.iscoroutinefunction(handler):

        @functools.wraps(handler)
        async def run(self: Any, request: Any, context: Any) -> Any:
            with self.log.handler():
                return await handler(self, request, context)

    elif inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def run(self: Any, request: Any, context: Any) -> Any:
            with self.log.handler():
                yield from handler(self, request, context)

    else:

        @functools.wraps(handler)
        def run(self: Any, request: Any, context: Any) -> Any:
            with self.log.handler():
                return handler(self, request, context)

    return run


class AioEcho(echo_pb2_grpc.EchoServicer):
    """The asyncio one; `next_stub` is asked first by a deep call."""

    def __init__(self, log: Log, next_stub: Any = None) -> None:
        self.log = log
        self.next_stub = next_stub
        self.instead: Any = None
        self.failed: Counter[str] = Counter()

    async def _fail(self, ask: Any, context: Any) -> None:
        if ask.fail and (not ask.fail_first or self.failed[ask.text] < ask.fail_first):
            self.failed[ask.text] += 1
            if ask.fail == "raise":
                raise ValueError("secret=hunter2")
            await context.abort(grpc.StatusCode[ask.fail], "told to")

    @counted
    async def Unary(self, request: Any, context: Any) -> Any:
        self.log.note("begun")
        if self.instead is not None:
            return await self.instead(request, context)
        try:
            await self._fail(request, context)
            if request.deep:
                reply = await self.next_stub.Unary(echo_pb2.Ask(text=request.text, sleep=request.sleep))
                self.log.note("finished")
                return reply
            await asyncio.sleep(request.sleep)
        except asyncio.CancelledError:
            self.log.note("cancelled")
            raise
        self.log.note("finished")
        return answer(request, context, request.text)

    Once = Unary

    @counted
    async def Down(self, request: Any, context: Any) -> Any:
        self.log.note("begun")
        if self.instead is not None:
            await self.instead(request, context)
        try:
            for at in range(request.count):
                if request.fail and at == request.fail_after:
                    await self._fail(request, context)
                await asyncio.sleep(request.sleep)
                yield answer(request, context, f"{request.text}{at}")
        except (asyncio.CancelledError, GeneratorExit):  # as it waits for its own work, or for grpc to send
            self.log.note("cancelled")
            raise
        self.log.note("finished")

    @counted
    async def Up(self, request_iterator: Any, context: Any) -> Any:
        self.log.note("begun")
        texts = []
        async for ask in request_iterator:
            await self._fail(ask, context)
            texts.append(ask.text)
        self.log.note("finished")
        return echo_pb2.Answer(text="+".join(texts))

    @counted
    async def Both(self, request_iterator: Any, context: Any) -> Any:
        self.log.note("begun")
        try:
            async for ask in request_iterator:
                await self._fail(ask, context)
                await asyncio.sleep(ask.sleep)
                yield answer(ask, context, ask.text)
        except (asyncio.CancelledError, GeneratorExit):
            self.log.note("cancelled")
            raise
        self.log.note("finished")


class SyncEcho(echo_pb2_grpc.EchoServicer):
    """The threaded one."""

    def __init__(self, log: Log, next_stub: Any = None) -> None:
        self.log = log
        self.next_stub = next_stub
        self.failed: Counter[str] = Counter()

    def _fail(self, ask: Any, context: Any) -> None:
        if ask.fail and (not ask.fail_first or self.failed[ask.text] < ask.fail_first):
            self.failed[ask.text] += 1
            if ask.fail == "raise":
                raise ValueError("secret=hunter2")
            context.abort(grpc.StatusCode[ask.fail], "told to")

    def _sleep(self, seconds: float, context: Any) -> None:
        gone = threading.Event()
        if not context.add_callback(gone.set) or (seconds and gone.wait(seconds)):
            self.log.note("cancelled")
            raise RuntimeError("the caller is gone")

    @counted
    def Unary(self, request: Any, context: Any) -> Any:
        self.log.note("begun")
        self._fail(request, context)
        if request.deep:
            reply = self.next_stub.Unary(echo_pb2.Ask(text=request.text, sleep=request.sleep))
            self.log.note("finished")
            return reply
        self._sleep(request.sleep, context)
        self.log.note("finished")
        return answer(request, context, request.text)

    Once = Unary

    @counted
    def Down(self, request: Any, context: Any) -> Any:
        self.log.note("begun")
        try:
            for at in range(request.count):
                if request.fail and at == request.fail_after:
                    self._fail(request, context)
                self._sleep(request.sleep, context)
                yield answer(request, context, f"{request.text}{at}")
        except GeneratorExit:
            self.log.note("cancelled")
            raise
        self.log.note("finished")

    @counted
    def Up(self, request_iterator: Any, context: Any) -> Any:
        self.log.note("begun")
        texts = []
        for ask in request_iterator:
            self._fail(ask, context)
            texts.append(ask.text)
        self.log.note("finished")
        return echo_pb2.Answer(text="+".join(texts))

    @counted
    def Both(self, request_iterator: Any, context: Any) -> Any:
        self.log.note("begun")
        for ask in request_iterator:
            self._fail(ask, context)
            self._sleep(ask.sleep, context)
            yield answer(ask, context, ask.text)
        self.log.note("finished")
