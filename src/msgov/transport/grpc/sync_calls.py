"""The call objects of the blocking channel: a future and a response stream, each over a flight.

They answer as grpc's own do: `result`, `add_done_callback`, iteration, `cancel`, `code`, `trailing_metadata`.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, cast

import grpc

from msgov import wire

from . import status
from .flight import Flight

Native = Any  # grpc's own call objects: what they share is no public type


class _Answers(grpc.Call):
    """What both call objects answer alike, from the flight."""

    def __init__(self, flight: Flight[Native]) -> None:
        self._flight = flight

    def cancel(self) -> bool:
        """Cancel the call, whichever attempt is under way; False when it was over."""
        return self._flight.cancel()

    def cancelled(self) -> bool:
        """Whether the call was cancelled."""
        return self._flight.over and self._flight.cancelled

    def is_active(self) -> bool:
        """Whether the outcome is still open."""
        return not self._flight.over

    def done(self) -> bool:
        """Whether the outcome is final."""
        return self._flight.over

    def running(self) -> bool:
        """Whether the outcome is still open."""
        return not self._flight.over

    def time_remaining(self) -> float | None:  # type: ignore[override]  # grpc's own answers None too
        """Return the seconds left until the deadline."""
        deadline = self._flight.call.deadline
        return None if deadline is None else max(0.0, deadline - self._flight.port.clock())

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Call back when the outcome is final; False when it is already."""
        if self._flight.over:
            return False
        self._flight.done(callback)
        return True

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call back with this call when the outcome is final; at once if it is.

        The callback does not keep the call: a stream that is dropped ends, whoever wanted to hear of its end. It then
        gets another object over the same call.
        """
        kept, made, flight = weakref.ref(self), type(self), self._flight
        self._flight.done(lambda: callback(kept() or made(flight)))

    def initial_metadata(self) -> Any:
        """Return the current attempt's initial metadata; no retry happens once it was handed out."""
        while True:
            native = self._attempt()
            if native is None:
                return ()
            found = native.initial_metadata()
            if self._flight.commit(native):
                return found

    def trailing_metadata(self) -> Any:
        """Return the trailing metadata of the final attempt."""
        self._final(None)
        native = self._flight.native
        return () if native is None or self._flight.answered else native.trailing_metadata()

    def code(self) -> grpc.StatusCode:
        """Return the final status."""
        self._final(None)
        flight = self._flight
        if flight.answered:
            return grpc.StatusCode.OK
        if flight.native is not None:
            return cast("grpc.StatusCode", flight.native.code())
        return status.told(flight.error)

    def details(self) -> str:
        """Return the final status's details."""
        self._final(None)
        flight = self._flight
        if flight.native is not None and not flight.answered:
            return cast("str", flight.native.details()) or ""
        return "" if flight.error is None else status.text(flight.error)

    def _change(self, seen: Native | None, seconds: float | None = None) -> bool:
        """Wait until another attempt than `seen` is under way or all is over; False when `seconds` passed first."""
        changed = threading.Event()
        self._flight.hear(changed.set)
        try:
            if self._flight.over or self._flight.native is not seen:  # it happened before we listened
                return True
            return changed.wait(seconds)
        finally:
            self._flight.unhear(changed.set)

    def _attempt(self) -> Native | None:
        """Return the attempt under way, waiting for the next one where there is none; None when all is over without."""
        flight = self._flight
        while (native := flight.native) is None and not flight.over:
            self._change(None)
        return None if flight.answered else native

    def _final(self, seconds: float | None) -> None:
        """Wait for the outcome; raises grpc.FutureTimeoutError after `seconds`."""
        clock = self._flight.port.clock
        end = None if seconds is None else clock() + seconds
        while not self._flight.over:
            left = None if end is None else end - clock()
            if (left is not None and left <= 0) or not self._change(self._flight.native, left):
                raise grpc.FutureTimeoutError


class FutureCall(_Answers, grpc.Future):  # type: ignore[type-arg]  # generic in its types only
    """A governed call under way; the wait of `result` expiring does not cancel it."""

    def result(self, timeout: float | None = None) -> Any:
        """Return the reply; raises the call's error, FutureTimeoutError or FutureCancelledError."""
        self._final(timeout)
        flight = self._flight
        if flight.cancelled:
            raise grpc.FutureCancelledError
        if flight.answered:
            return flight.reply
        if flight.error is not None:
            raise flight.error
        return cast("Native", flight.native).result()

    def exception(self, timeout: float | None = None) -> Exception | None:
        """Return the call's error, None for a reply."""
        self._final(timeout)
        if self._flight.cancelled:
            raise grpc.FutureCancelledError
        error = self._flight.error
        return error if isinstance(error, Exception) else None

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        """Return where the error came from."""
        error = self.exception(timeout)
        return None if error is None else error.__traceback__


class StreamCall(_Answers):
    """A governed response stream; retried only while no message was given out. Dropped early, it is cancelled."""

    def __iter__(self) -> Self:
        """Return itself."""
        return self

    def __next__(self) -> Any:
        """Return the next message; raises the stream's error."""
        flight = self._flight
        while True:
            native = self._attempt()
            if native is None:
                if flight.error is not None:
                    raise flight.error
                raise StopIteration
            try:
                message = next(native)
            except StopIteration:
                self._final(None)
                if flight.error is not None:
                    raise flight.error from None
                raise
            except grpc.RpcError as error:
                while flight.native is native and not flight.over:
                    self._change(native)  # the callback comes on another thread
                if flight.native is native:
                    if flight.error is not None:
                        raise flight.error from None
                    raise
                error.__traceback__ = (
                    None  # the flight keeps the error, and must not keep this frame: nor us, if dropped
                )
                continue
            if flight.commit(native):
                return message  # what came of an attempt that has failed since is given by the next one again

    def __del__(self) -> None:
        """Cancel what was dropped: no lock is taken, the timers' thread is asked."""
        flight = getattr(self, "_flight", None)
        if flight is not None:
            flight.drop()


class Unreached(grpc.RpcError, grpc.Call, grpc.Future):  # type: ignore[type-arg]  # generic in its types only
    """What an attempt ends with that found no connection: certainly not sent. It is all that grpc's own errors are."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self._code = code
        self._details = details

    def code(self) -> grpc.StatusCode:
        """Return UNAVAILABLE, or DEADLINE_EXCEEDED."""
        return self._code

    def details(self) -> str:
        """Say where nobody was reached."""
        return self._details

    def initial_metadata(self) -> tuple[()]:
        """Return nothing."""
        return ()

    def trailing_metadata(self) -> Any:
        """Say that it was not sent."""
        return ((wire.SENT, "no"),)

    def result(self, timeout: float | None = None) -> Any:
        """Raise it."""
        raise self

    def exception(self, timeout: float | None = None) -> Exception:
        """Return it."""
        return self

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        """Return where it was raised."""
        return self.__traceback__

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Call back at once."""
        fn(self)

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Do nothing: it is over."""
        return False

    def cancel(self) -> bool:
        """Do nothing: it is over."""
        return False

    def cancelled(self) -> bool:
        """Answer no."""
        return False

    def done(self) -> bool:
        """Answer yes."""
        return True

    def running(self) -> bool:
        """Answer no."""
        return False

    def is_active(self) -> bool:
        """Answer no."""
        return False

    def time_remaining(self) -> float | None:  # type: ignore[override]  # grpc's own answers None too
        """Return None."""
        return None
