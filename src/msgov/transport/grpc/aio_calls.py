"""The four call objects of the asyncio channel: each is what a bare `grpc.aio` call is, over a flight.

Under way from the moment of the call, awaited or not; cancelled with whoever awaits; errors are raised at `await`,
never at the call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any, cast

import grpc
import grpc.aio

from msgov.clock import monotonic
from msgov.errors import MsgovError

from . import status
from .flight import Flight

EOF_MARK = grpc.aio.EOF
Native = Any  # one of the four native call classes: what they share is no public type


class _Answers:
    """What all four call objects answer alike, from the flight."""

    _flight: Flight[Native]
    _loop: asyncio.AbstractEventLoop

    def cancel(self) -> bool:
        """Cancel the call, whichever attempt is under way; False when it was over."""
        return self._flight.cancel()

    def cancelled(self) -> bool:
        """Whether the call was cancelled."""
        flight = self._flight
        if flight.over and flight.native is not None and not flight.answered:
            return bool(flight.native.cancelled())
        return flight.over and isinstance(flight.error, asyncio.CancelledError)

    def done(self) -> bool:
        """Whether the outcome is final."""
        return self._flight.over

    def time_remaining(self) -> float | None:
        """Return the seconds left until the deadline."""
        deadline = self._flight.call.deadline
        return None if deadline is None else max(0.0, deadline - monotonic())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call back with this call when the outcome is final; at once if it is."""
        self._flight.done(_Told(self, callback))

    async def initial_metadata(self) -> Any:
        """Return the current attempt's initial metadata; no retry happens once it was handed out."""
        flight = self._flight
        while True:
            native = await self._attempt()
            if native is None:
                return grpc.aio.Metadata()
            found = await native.initial_metadata()
            if native is flight.native:
                flight.committed = True
                return found

    async def trailing_metadata(self) -> Any:
        """Return the trailing metadata of the final attempt."""
        await self._final()
        flight = self._flight
        if flight.native is not None and not flight.answered:
            return await flight.native.trailing_metadata()
        return grpc.aio.Metadata()

    async def code(self) -> grpc.StatusCode:
        """Return the final status."""
        await self._final()
        flight = self._flight
        if flight.answered:
            return grpc.StatusCode.OK
        if flight.native is not None:
            return cast("grpc.StatusCode", await flight.native.code())
        if isinstance(flight.error, asyncio.CancelledError):
            return grpc.StatusCode.CANCELLED
        return status.refusal(flight.error or MsgovError(""), began=False, trace_id="").code

    async def details(self) -> str:
        """Return the final status's details."""
        await self._final()
        flight = self._flight
        if flight.native is not None and not flight.answered:
            return cast("str", await flight.native.details()) or ""
        return "" if flight.error is None else str(flight.error)

    async def wait_for_connection(self) -> None:
        """Wait until the current attempt is connected."""
        native = await self._attempt()
        if native is not None:
            await native.wait_for_connection()

    async def _change(self) -> None:
        """Wait until another attempt begins or all is over."""
        changed = self._loop.create_future()

        def heard() -> None:
            if not changed.done():
                changed.set_result(None)

        flight = self._flight
        flight.hear(heard)
        await changed

    async def _attempt(self) -> Native | None:
        """Return the attempt under way, waiting for the next one where there is none; None when all is over without."""
        flight = self._flight
        while flight.native is None and not flight.over:
            await self._change()
        return None if flight.answered else flight.native

    async def _final(self) -> None:
        while not self._flight.over:
            await self._change()


class _Told:
    __slots__ = ("_call", "_callback")

    def __init__(self, call: object, callback: Callable[[Any], None]) -> None:
        self._call = call
        self._callback = callback

    def __call__(self) -> None:
        self._callback(self._call)


class UnaryUnaryCall(_Answers, grpc.aio.UnaryUnaryCall[Any, Any]):
    """A governed unary call: under way from the start, dropped or awaited; awaited twice it gives the same answer."""

    def __init__(self, flight: Flight[Native], loop: asyncio.AbstractEventLoop) -> None:
        self._flight = flight
        self._loop = loop

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for the reply; raises the last attempt's error, or the `Rejected` that stopped the call."""
        flight = self._flight
        try:
            while True:
                inner = flight.native
                if flight.answered:
                    return flight.reply
                if flight.over and flight.error is not None:
                    raise flight.error
                if inner is None:
                    yield from self._change().__await__()
                    continue
                try:
                    return (yield from inner.__await__())
                except grpc.aio.AioRpcError:
                    if not flight.over and flight.native is inner:
                        yield from self._change().__await__()  # the callback comes with the next turn
        except asyncio.CancelledError:
            flight.cancel()
            raise


class UnaryStreamCall(_Answers, grpc.aio.UnaryStreamCall[Any, Any]):
    """A governed response stream; retried only while no message was given out.

    Dropped early, it is cancelled by reference count: grpc.aio itself would leave the server sending.
    """

    def __init__(self, flight: Flight[Native], loop: asyncio.AbstractEventLoop) -> None:
        self._flight = flight
        self._loop = loop

    def __aiter__(self) -> AsyncIterator[Any]:
        """Return itself."""
        return self

    async def __anext__(self) -> Any:
        """Return the next message."""
        message = await self.read()
        if message is EOF_MARK:
            raise StopAsyncIteration
        return message

    async def read(self) -> Any:
        """Return the next message, EOF at the end; raises the stream's error."""
        flight = self._flight
        try:
            while True:
                native = await self._attempt()
                if native is None:
                    if flight.error is not None:
                        raise flight.error
                    return EOF_MARK
                try:
                    message = await native.read()
                except grpc.aio.AioRpcError:
                    if flight.over:
                        if flight.error is not None and flight.native is native:
                            raise flight.error from None
                        continue
                    if flight.native is native:
                        await self._change()
                    continue
                if flight.native is not native:
                    continue
                if message is EOF_MARK and not flight.over:
                    await self._final()
                if message is EOF_MARK and flight.error is not None:
                    raise flight.error
                flight.committed = True
                return message
        except asyncio.CancelledError:
            flight.cancel()
            raise

    def __del__(self) -> None:
        """Cancel what was dropped: no lock is taken, the loop is asked."""
        flight = getattr(self, "_flight", None)
        if flight is not None and not flight.over:
            flight.abandon()
            flight.port.soon(flight.cancel)


class _Writes(_Answers):
    """What the two client-streaming calls write: one attempt, the native call beneath."""

    async def write(self, request: Any) -> None:
        """Send a message."""
        await (await self._one()).write(request)

    async def done_writing(self) -> None:
        """Say that no more messages come."""
        await (await self._one()).done_writing()

    async def _one(self) -> Native:
        native = await self._attempt()
        if native is None:
            raise self._flight.error or asyncio.InvalidStateError("the call is over")
        return native


class StreamUnaryCall(_Writes, UnaryUnaryCall, grpc.aio.StreamUnaryCall[Any, Any]):
    """A governed call with a request stream: one attempt."""


class StreamStreamCall(_Writes, UnaryStreamCall, grpc.aio.StreamStreamCall[Any, Any]):
    """A governed call with streams both ways: one attempt."""
