"""What a colour lends its flights: timers, wake-ups, connections, native calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import grpc

from msgov.call import Call
from msgov.clock import Clock

from . import status


class Native(Protocol):
    """What every native call has, whatever its kind and colour."""

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call back when it is over; at once if it is."""
        ...

    def cancel(self) -> bool:
        """Cancel it."""
        ...


N = TypeVar("N", bound=Native)
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

    def up(self, connection: Any, call: Call) -> bool:
        """Whether the connection is up, or the caller lets the transport wait for it."""
        ...

    def reach(self, connection: Any, heard: Callable[[bool], None]) -> bool | None:
        """Connect, and say whether it is up; None: `heard` will be told."""
        ...

    def launch(self, connection: Any, call: Call, seconds: float | None) -> N:
        """Begin the native call, which may take so long."""
        ...

    def ended(self, native: N) -> tuple[grpc.StatusCode, status.Pairs, BaseException | None]:
        """Read the status, the trailing metadata and the error of a native call that is over."""
        ...

    def unreached(self, connection: Any, code: grpc.StatusCode) -> BaseException:
        """Make the error of an attempt that found no connection."""
        ...

    def answer(self, call: Call, make: Callable[[], object], done: Done) -> Off | None:
        """Run a substitute's answer where it may wait, in the scope of the call, and tell what came of it."""
        ...

    def attend(self, native: N, failed: Callable[[BaseException], None]) -> None:
        """Tell `failed` why, should the transport be unable to begin a native call that nobody awaits."""
        ...

    def first(self, native: N, heard: Callable[[list[Any]], None], failed: Callable[[BaseException], None]) -> None:
        """Read the first message of a response stream: `heard` gets it in a list, an empty one for none.

        A stream that fails tells so by its own end, what cannot be read or begun by `failed`.
        """
        ...

    def cancelled(self) -> BaseException:
        """Make the error that a cancelled call raises in this colour."""
        ...
