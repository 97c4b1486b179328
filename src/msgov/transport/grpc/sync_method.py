"""One method of a blocking channel: makes its calls, lends their flights timers, connections and grpc's calls.

A plain call runs by the blocking driver in its caller's thread; futures and response streams are flights on grpc's own.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Protocol

import grpc

from msgov import sync, wire
from msgov.call import Call
from msgov.clock import Clock
from msgov.errors import DeadlineSpent
from msgov.policy import SyncHandler

from . import status
from .connections import Heard, SyncConnection, SyncConnections, address
from .flight import Flight
from .hedged import SharedHedged
from .method import Given, Governed, Metadata, Method, Policies, Serializer, keyed, scoped
from .port import Done, Off
from .shared import SharedFlight
from .sync_calls import FutureCall, Native, Unreached
from .timers import timers


class Owner(Protocol):
    """The channel that a method is of."""

    target: str
    policies: Policies
    clock: Clock
    connections: SyncConnections

    def settle(self) -> None:
        """Be open."""
        ...


class Threads:
    """What any channel for threads lends its flights: the shared timers, and grpc's own calls as they are."""

    def later(self, seconds: float, act: Callable[[], object]) -> Off:
        """Act on the timers' thread."""
        return timers.later(seconds, act)

    def soon(self, act: Callable[[], object]) -> bool:
        """Act on the timers' thread; False when the interpreter is ending."""
        try:
            self.later(0.0, act)
        except RuntimeError:
            return False
        return True

    def ended(self, native: Native) -> tuple[grpc.StatusCode, status.Pairs, BaseException | None]:
        """Read what a call that is over has: it is its own error."""
        code: grpc.StatusCode = native.code()
        if code is grpc.StatusCode.OK:
            return code, (), None
        error = native if isinstance(native, BaseException) else None
        return code, tuple(native.trailing_metadata() or ()), error

    def answer(self, call: Call, make: Callable[[], object], done: Done) -> Off | None:
        """Answer on a thread of its own: it may wait, and grpc's thread, on which a call ends, must not."""
        work = partial(scoped(call).run, _answer, make, done)
        threading.Thread(target=work, name="msgov-answer", daemon=True).start()
        return None

    def attend(self, native: Native, failed: Callable[[BaseException], None]) -> None:
        """Do nothing: here grpc raises what it cannot begin."""

    def first(
        self, native: Native, heard: Callable[[list[Any]], None], failed: Callable[[BaseException], None]
    ) -> None:
        """Read it on a thread of its own, for reading waits."""
        threading.Thread(target=_read, args=(native, heard), name="msgov-first", daemon=True).start()

    def cancelled(self) -> BaseException:
        """Make what `result` raises of a cancelled call."""
        return grpc.FutureCancelledError()


class SyncMethod(Method, Threads):
    """What is made once and used for every call; it is the port of their flights."""

    def __init__(
        self, channel: Owner, kind: str, path: str, encode: Serializer, decode: Serializer, *, registered: bool
    ) -> None:
        super().__init__(
            channel.target, channel.policies, channel.clock, kind, path, encode, decode, registered=registered
        )
        self._channel = channel
        self._connections = channel.connections
        self.leave = channel.connections.leave
        self._handler: tuple[Governed, SyncHandler] | None = None

    def made(
        self,
        request: Any,
        timeout: float | None,
        metadata: Metadata | None,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> Call:
        """Make a call; raises what serialising the request raises."""
        self._channel.settle()
        given = Given(metadata, credentials, wait_for_ready, compression)
        given.payload = _Encoded(request, self.encode, given) if self.once else self.encode(request)
        call = self.call(request, timeout)
        call.context = given
        call.idempotent = call.idempotent or keyed(given.metadata)
        return call

    def send(self, call: Call) -> Any:
        """Send a call of one reply, and wait; return the reply and its native call, or what a substitute answered."""
        governed, kept = self.governed(), self._handler
        if kept is None or kept[0] is not governed:  # one store: no thread sees one's pipeline with another's handler
            if governed.hedged:
                return self._raced(call)
            careful = governed.segment.plan is not None and not self.idempotent
            handler = sync.govern(governed.pipeline, partial(self._send, careful), clock=self.clock)
            kept = self._handler = (governed, handler)
        return kept[1](call)

    def _raced(self, call: Call) -> object:
        """Wait for a call whose attempts run on grpc's threads, beside each other."""
        flight = self.begin(call)
        try:
            reply = FutureCall(flight).result()
        except BaseException:  # an interrupt: nobody waits any more
            flight.cancel()
            raise
        return reply if flight.answered else (reply, flight.native)

    def begin(self, call: Call) -> Flight[Native]:
        """Begin a call that runs on grpc's threads."""
        governed = self.governed()
        makes = SharedHedged if governed.hedged else SharedFlight
        flight: Flight[Native] = makes(self, governed.pipeline, governed.segment, call)
        flight.begin()
        return flight

    def _send(self, careful: bool, call: Call) -> object:
        """Send an attempt; a careful one begins only on a connection that is up, so that it can go elsewhere."""
        seconds = self._left(call)
        connection = self.enter(call, call)
        try:
            if careful and not self.up(connection, call):
                if not connection.wait(seconds):
                    late = call.deadline is not None and self.clock() >= call.deadline
                    raise self.unreached(connection, _LATE if late else _AWAY)
                seconds = self._left(call)
            return self.native(connection).with_call(_given(call).payload, **self._options(call, seconds))
        except grpc.RpcError as error:
            fault = _given(call).fault
            if fault is not None:  # the caller's own request iterator raised it
                raise fault from error
            raise
        finally:
            self.leave(connection, call)

    def _left(self, call: Call) -> float | None:
        seconds = None if call.deadline is None else call.deadline - self.clock()
        if seconds is not None and seconds <= 0:
            raise DeadlineSpent("no time is left for the call", seconds=seconds)
        return seconds

    def _options(self, call: Call, seconds: float | None) -> dict[str, Any]:
        given = _given(call)
        return {
            "timeout": seconds,
            "metadata": (*given.metadata, *wire.outgoing(call, 0.0, deadline=False)),
            "credentials": given.credentials,
            "wait_for_ready": given.wait_for_ready,
            "compression": given.compression,
        }

    def enter(self, call: Call, flight: object) -> SyncConnection:
        """Take the connection to the instance picked, or to the target itself."""
        instance = call.instance
        if instance is None:
            return self._connections.enter(self.target, flight, pinned=True)
        return self._connections.enter(address(instance), flight)

    def up(self, connection: SyncConnection, call: Call) -> bool:
        """Ask for what was last told of the connection."""
        return connection.up or bool(_given(call).wait_for_ready)

    def reach(self, connection: SyncConnection, heard: Heard) -> bool | None:
        """Connect."""
        return connection.reach(heard)

    def launch(self, connection: SyncConnection, call: Call, seconds: float | None) -> Native:
        """Begin grpc's own call."""
        begin = self.native(connection) if self.streams else self.native(connection).future
        return begin(_given(call).payload, **self._options(call, seconds))

    def unreached(self, connection: SyncConnection, code: grpc.StatusCode) -> BaseException:
        """Make the error of an attempt that found no connection."""
        return Unreached(code, f"{connection.address}: no connection")


_AWAY, _LATE = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED


def _given(call: Call) -> Given:
    given = call.context
    assert isinstance(given, Given)  # noqa: S101  made by SyncMethod.made
    return given


def _read(native: Native, heard: Callable[[list[Any]], None]) -> None:
    try:
        messages = [next(native)]
    except StopIteration:
        messages = []
    except grpc.RpcError:
        return
    heard(messages)


def _answer(make: Callable[[], object], done: Done) -> None:
    try:
        reply = make()
    except Exception as error:  # noqa: BLE001  the answer failed too
        done(None, error)
        return
    if inspect.iscoroutine(reply):
        reply.close()
        done(None, TypeError("an async fallback cannot answer a blocking call"))
    else:
        done(reply, None)


class _Encoded:
    """A request stream, serialised; what its iterator raises is kept, for grpc has another word for it."""

    def __init__(self, requests: Iterable[Any], encode: Callable[[Any], Any], given: Given) -> None:
        self._requests = iter(requests)
        self._encode = encode
        self._given = given

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return self._encode(next(self._requests))
        except StopIteration:
            raise
        except Exception as fault:
            self._given.fault = fault
            raise
