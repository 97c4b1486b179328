"""What a colour lends its flights: timers, wake-ups, connections, native calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import grpc

from msgov.call import Call
from msgov.clock import Clock

from . import status

N = TypeVar("N")
Done = Callable[[object, BaseException | None], None]


class Off(Protocol):
    """What can be called off."""

    def cancel(self) -> object:
        """Call it off."""
        ...


class Port(Protocol[N]):
    """What one method of a channel lends its flights. `N` is the native call of its colour."""

    clock: Clock
    streams: bool  # whether the reply is a stream: nothing can stand in for one

    def encode(self, message: Any) -> Any:
        """Make a message ready to be sent."""
        ...

    def later(self, seconds: float, act: Callable[[], object]) -> Off:
        """Act after so many seconds."""
        ...

    def soon(self, act: Callable[[], object]) -> bool:
        """Act where the flight lives, from whatever thread, taking no lock; return False when it lives no more."""
        ...

    def enter(self, call: Call, flight: object) -> Any:
        """Return the connection that an attempt takes, the flight counted on it."""
        ...

    def leave(self, connection: Any, flight: object) -> None:
        """Take the flight off its connection."""
        ...

    def reach(self, connection: Any, call: Call, heard: Callable[[bool], None]) -> bool | None:
        """Say whether the connection is up; None: `heard` will be told."""
        ...

    def launch(self, connection: Any, call: Call, seconds: float | None) -> N:
        """Begin the native call, which may take so long."""
        ...

    def watch(self, native: N, landed: Callable[[N], None]) -> None:
        """Tell when the native call is over; at once if it is."""
        ...

    def ended(self, native: N) -> tuple[grpc.StatusCode, status.Pairs, BaseException | None]:
        """Read the status, the trailing metadata and the error of a native call that is over."""
        ...

    def stop(self, native: N) -> None:
        """Cancel the native call."""
        ...

    def unreached(self, connection: Any, code: grpc.StatusCode) -> BaseException:
        """Make the error of an attempt that found no connection."""
        ...

    def answer(self, call: Call, make: Callable[[], object], done: Done) -> Off | None:
        """Run a substitute's answer where it may wait, in the scope of the call, and tell what came of it."""
        ...

    def cancelled(self) -> BaseException:
        """Make the error that a cancelled call raises in this colour."""
        ...
