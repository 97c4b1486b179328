"""The four call objects of the asyncio channel: each is what a bare `grpc.aio` call is, over a flight.

Under way from the moment of the call, awaited or not; cancelled with whoever awaits; errors are raised at `await`,
never at the call.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import suppress
from typing import Any, cast

import grpc
import grpc.aio

from . import status
from .aio_method import Native
from .flight import Flight

EOF = grpc.aio.EOF


class _Answers:
    """What all four call objects answer alike, from the flight."""

    def __init__(self, flight: Flight[Native]) -> None:
        self._flight = flight

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
        return None if deadline is None else max(0.0, deadline - self._flight.port.clock())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call back with this call when the outcome is final; at once if it is.

        The callback does not keep the call: a stream that is dropped ends, whoever wanted to hear of its end. It then
        gets another object over the same call.
        """
        kept, made, flight = weakref.ref(self), type(self), self._flight
        self._flight.done(lambda: callback(kept() or made(flight)))

    async def initial_metadata(self) -> Any:
        """Return the current attempt's initial metadata; no retry happens once it was handed out."""
        while True:
            native = await self._attempt()
            if native is None:
                return grpc.aio.Metadata()
            found = await native.initial_metadata()
            if self._flight.commit(native):
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
        return status.told(flight.error)

    async def details(self) -> str:
        """Return the final status's details."""
        await self._final()
        flight = self._flight
        if flight.native is not None and not flight.answered:
            return cast("str", await flight.native.details()) or ""
        return "" if flight.error is None else status.text(flight.error)

    async def debug_error_string(self) -> str | None:
        """Return what grpc's core says of the final attempt."""
        await self._final()
        flight = self._flight
        if flight.native is not None and not flight.answered:
            return cast("str | None", await flight.native.debug_error_string())
        return ""

    async def wait_for_connection(self) -> None:
        """Wait until the current attempt is connected."""
        native = await self._attempt()
        if native is not None:
            await native.wait_for_connection()

    async def _change(self) -> None:
        """Wait until another attempt begins or all is over."""
        changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def heard() -> None:
            if not changed.done():
                changed.set_result(None)

        self._flight.hear(heard)
        try:
            await changed
        finally:
            self._flight.unhear(heard)

    async def _attempt(self) -> Native | None:
        """Return the attempt under way, waiting for the next one where there is none; None when all is over without."""
        flight = self._flight
        while flight.native is None and not flight.over:
            await self._change()
        return None if flight.answered else flight.native

    async def _final(self) -> None:
        while not self._flight.over:
            await self._change()


def _ended_otherwise(flight: Flight[Native]) -> bool:
    """Whether not the awaiting task was cancelled but the native call, by grpc, for an error of its own."""
    task = asyncio.current_task()
    cancelled = task is not None and task.cancelling()
    return flight.over and flight.error is not None and not flight.cancelled and not cancelled


class UnaryUnaryCall(_Answers, grpc.aio.UnaryUnaryCall[Any, Any]):
    """A governed unary call: under way from the start, dropped or awaited; awaited twice it gives the same answer."""

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for the reply; raises the last attempt's error, or the `Rejected` that stopped the call."""
        flight = self._flight
        try:
            while True:
                native = flight.native
                if flight.over:
                    if flight.error is not None:
                        raise flight.error
                    if flight.answered:
                        return flight.reply
                elif native is None:
                    yield from self._change().__await__()
                    continue
                try:
                    return (yield from native.__await__())  # type: ignore[union-attr]  # not over, or well: there is one
                except grpc.aio.AioRpcError:
                    if flight.over and flight.error is None and not flight.answered:
                        raise
                    if not flight.over and flight.native is native:
                        yield from self._change().__await__()  # the callback comes with the next turn
                except asyncio.CancelledError:
                    if not _ended_otherwise(flight):
                        raise
                except Exception as error:  # grpc could not begin it, and would never say that it is over
                    if flight.over:
                        raise
                    flight.fail(native, error)
        except asyncio.CancelledError:
            flight.cancel()
            raise
        finally:
            del self, flight  # the error's traceback holds this frame


class UnaryStreamCall(_Answers, grpc.aio.UnaryStreamCall[Any, Any]):
    """A governed response stream; retried only while no message was given out.

    Dropped early, it is cancelled by reference count: grpc.aio itself would leave the server sending.
    """

    def __aiter__(self) -> AsyncIterator[Any]:
        """Return itself."""
        return self

    async def __anext__(self) -> Any:
        """Return the next message."""
        message = await self.read()
        if message is EOF:
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
                    return EOF
                try:
                    message = await native.read()
                except grpc.aio.AioRpcError:
                    if flight.over:
                        if flight.native is native:
                            if flight.error is not None:
                                raise flight.error from None
                            raise
                    elif flight.native is native:
                        await self._change()  # the callback comes with the next turn
                    continue
                except asyncio.CancelledError:
                    if not _ended_otherwise(flight):
                        raise
                    raise flight.error from None  # type: ignore[misc]  # there is one
                if not flight.commit(native):
                    continue  # what came of an attempt that has failed since is given by the next one again
                if message is EOF:
                    await self._final()
                    if flight.error is not None:
                        raise flight.error
                return message
        except asyncio.CancelledError:
            flight.cancel()
            raise
        finally:
            del self, flight  # the error's traceback holds this frame

    def __del__(self) -> None:
        """Cancel what was dropped: no lock is taken, the loop is asked."""
        flight = getattr(self, "_flight", None)
        if flight is not None:
            flight.drop()


class _Writes(_Answers):
    """What the two client-streaming calls write: one attempt, the native call beneath."""

    _done_writing_flag = False  # grpc.aio asks its interceptors' calls for it too

    async def write(self, request: Any) -> None:
        """Send a message; raises what its serialising raises."""
        native = await self._one()
        await native.write(self._flight.port.encode(request))

    async def done_writing(self) -> None:
        """Say that no more messages come; nothing, when the call is over."""
        self._done_writing_flag = True
        native = await self._one()
        with suppress(grpc.aio.InternalError):  # it ended at this moment: reading tells how
            await native.done_writing()

    async def _one(self) -> Native:
        native = await self._attempt()
        if native is None:
            raise self._flight.error or asyncio.InvalidStateError("the call is over")
        return native


class StreamUnaryCall(_Writes, UnaryUnaryCall, grpc.aio.StreamUnaryCall[Any, Any]):
    """A governed call with a request stream: one attempt.

    Dropped while its caller was still writing, it is cancelled: nobody could ever end it.
    """

    def __del__(self) -> None:
        """Cancel what can never end."""
        flight = getattr(self, "_flight", None)
        if flight is not None and flight.call.request is None and not self._done_writing_flag:
            flight.drop()


class StreamStreamCall(_Writes, UnaryStreamCall, grpc.aio.StreamStreamCall[Any, Any]):
    """A governed call with streams both ways: one attempt."""
