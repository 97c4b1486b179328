"""One native channel per instance, opened when first needed, closed when its instance is gone and its last call over.

A connection also knows whether it is up. An attempt that must not be made twice begins only on one that is: what ends
before that was certainly never sent, and may go elsewhere.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio

from .options import CHANNEL_OPTIONS
from .timers import timers

C = TypeVar("C")
Heard = Callable[[bool], None]
_State = grpc.ChannelConnectivity
READY = _State.READY  # bound once: a member by attribute costs 75 ns
_DOWN = (_State.TRANSIENT_FAILURE, _State.SHUTDOWN)


def address(instance: object) -> str:
    """Say where an instance listens, as gRPC spells it."""
    host, port = instance.host, instance.port  # type: ignore[attr-defined]  # discovery's Instance: transport knows its shape
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Connection(Generic[C]):
    """The way to one address, and the calls on it; once `retired`, it closes with the last of them."""

    __slots__ = ("address", "calls", "channel", "closed", "retired")

    def __init__(self, address: str, channel: C, *, retired: bool) -> None:
        self.address = address
        self.channel = channel
        self.calls: set[object] = set()
        self.closed = False
        self.retired = retired


class AioConnection(Connection[grpc.aio.Channel]):
    """The way to one address, for one event loop."""

    __slots__ = ("reaching",)

    def __init__(self, address: str, channel: grpc.aio.Channel, *, retired: bool) -> None:
        super().__init__(address, channel, retired=retired)
        self.reaching: asyncio.Task[bool] | None = None


def aio_connect(address: str) -> grpc.aio.Channel:
    """Open a plaintext connection to one instance."""
    return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)


class AioConnections:
    """The connections of one event loop; channels of that loop may share them.

    `open_channel` opens the way to an address: give one that brings credentials, or interceptors of yours.
    """

    def __init__(self, open_channel: Callable[[str], grpc.aio.Channel] = aio_connect) -> None:
        self._open = open_channel
        self._all: dict[str, AioConnection] = {}
        self._leaving: set[AioConnection] = set()
        self._known: frozenset[str] | None = None
        self._pinned: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Belong to a loop; raises RuntimeError as long as another one has them."""
        if self._loop is not None and self._loop is not loop:
            if not self._loop.is_closed():
                raise RuntimeError("these connections belong to another event loop: make some for each")
            for kept in (self._all, self._leaving, self._tasks):
                kept.clear()  # channels do not outlive their loop
        self._loop = loop

    def enter(self, address: str, call: object, *, pinned: bool = False) -> AioConnection:
        """Return the connection to an address, this call counted on it until it leaves; `keep` spares a pinned one.

        Raises grpc.aio.UsageError when all are closed.
        """
        connection = self._all.get(address)
        if connection is None:
            connection = self._opened(address, pinned=pinned)
        connection.calls.add(call)
        return connection

    def _opened(self, address: str, *, pinned: bool) -> AioConnection:
        if self._closed:
            raise grpc.aio.UsageError("the channel is closed")
        self.bind(asyncio.get_running_loop())
        if pinned:
            self._pinned.add(address)
        known = self._known is None or address in self._known or address in self._pinned
        connection = AioConnection(address, self._open(address), retired=not known)
        if known:
            self._all[address] = connection
        else:  # its instance vanished while an attempt was on its way there: open for this one
            self._leaving.add(connection)
        return connection

    def leave(self, connection: AioConnection, call: object) -> None:
        """Take a call off its connection."""
        connection.calls.discard(call)
        if connection.retired and not connection.calls:
            self._close(connection)

    def reach(self, connection: AioConnection, heard: Heard) -> bool | None:
        """Say whether it is up; None when that is not known yet: it is being connected, and `heard` will be told."""
        state = connection.channel.get_state(try_to_connect=True)
        if state is READY:
            return True
        if state in _DOWN:
            return False
        task = connection.reaching
        if task is None or task.done():
            task = connection.reaching = self._task(_up(connection.channel))
        task.add_done_callback(lambda task: heard(not task.cancelled() and task.result()))
        return None

    def keep(self, addresses: Iterable[str]) -> None:
        """Let go of all other addresses, each when the last call to it is over. May be called from any thread."""
        self._known = frozenset(addresses)
        if self._loop is not None:
            with suppress(RuntimeError):  # a loop that is closed has nothing open
                self._loop.call_soon_threadsafe(self._retire)

    def _retire(self) -> None:
        known = (self._known or frozenset()) | self._pinned
        for gone in self._all.keys() - known:
            connection = self._all.pop(gone)
            connection.retired = True
            self._leaving.add(connection)
            if not connection.calls:
                self._close(connection)

    def _close(self, connection: AioConnection) -> None:
        if not connection.closed:
            connection.closed = True
            self._leaving.discard(connection)
            self._task(connection.channel.close())

    def _task(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def aclose(self, grace: float | None = None) -> None:
        """Close them all, for good; calls under way get `grace` seconds, then they are cancelled."""
        self._closed = True
        connections = [*self._all.values(), *self._leaving]
        self._all.clear()
        self._leaving.clear()
        for connection in connections:
            connection.closed = True
            if connection.reaching is not None:
                connection.reaching.cancel()
        await asyncio.gather(*(connection.channel.close(grace) for connection in connections))
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _up(channel: grpc.aio.Channel) -> bool:
    """Wait until a connection is up or known to be down."""
    while (state := channel.get_state(try_to_connect=True)) is not READY:
        if state in _DOWN:
            return False
        await channel.wait_for_state_change(state)
    return True


class SyncConnection(Connection[grpc.Channel]):
    """The way to one address, for threads.

    grpc tells threads of a channel's state by a thread of its own, so that one is started with the first `reach`.
    """

    __slots__ = ("_asked", "_lock", "_state", "_waiting", "up")

    LINGER = 1.0  # seconds; grpc's thread looks five times a second whether it is wanted, and must not find it closed

    def __init__(self, address: str, channel: grpc.Channel, *, retired: bool) -> None:
        super().__init__(address, channel, retired=retired)
        self._lock = threading.Lock()
        self._asked = False
        self._state = _State.CONNECTING
        self.up = False
        self._waiting: list[Heard] = []

    def reach(self, heard: Heard) -> bool | None:
        """Say whether it is up; None when that is not known yet: it is being connected, and `heard` will be told.

        What is told may be a moment old. It is safe to believe: "up" is the cautious belief, and who was told "down"
        has sent nothing.
        """
        with self._lock:
            state, asked = self._state, self._asked
            if state is READY:
                return True
            if state in _DOWN:
                return False
            self._waiting.append(heard)
            self._asked = True
        if not asked:
            self.channel.subscribe(self._told, try_to_connect=True)
        return None

    def wait(self, seconds: float | None) -> bool:
        """Wait until it is up or down, or for so many seconds; return whether it is up."""
        told = threading.Event()
        found: list[bool] = []

        def heard(up: bool) -> None:
            found.append(up)
            told.set()

        up = self.reach(heard)
        if up is None:
            told.wait(seconds)
            up = bool(found) and found[0]
        return up

    def shut(self) -> None:
        """Close the channel; whoever waits for it is told that it is down."""
        self.closed = True
        with self._lock:
            asked, self._asked = self._asked, True
        if not asked:
            self.channel.close()
            return
        self.channel.unsubscribe(self._told)
        self._told(_State.SHUTDOWN)
        timers.later(self.LINGER, self.channel.close)

    def _told(self, state: grpc.ChannelConnectivity) -> None:
        with self._lock:
            if self._state is _State.SHUTDOWN:
                return
            lost, self._state, self.up = self.up, state, state is READY
            waiting: list[Heard] = []
            if state is READY or state in _DOWN:
                waiting, self._waiting = self._waiting, waiting
        for heard in waiting:
            heard(state is READY)
        if lost and not self.closed:  # connect again, before a call has to wait for it
            self.channel.subscribe(_nothing, try_to_connect=True)
            self.channel.unsubscribe(_nothing)


def _nothing(state: grpc.ChannelConnectivity) -> None:
    """Hear of a state."""


def sync_connect(address: str) -> grpc.Channel:
    """Open a plaintext connection to one instance."""
    return grpc.insecure_channel(address, options=CHANNEL_OPTIONS)


class SyncConnections:
    """The connections of a process's blocking channels, which may share them.

    `open_channel` opens the way to an address: give one that brings credentials, or interceptors of yours.
    """

    def __init__(self, open_channel: Callable[[str], grpc.Channel] = sync_connect) -> None:
        self._open = open_channel
        self._lock = threading.Lock()
        self._all: dict[str, SyncConnection] = {}
        self._leaving: set[SyncConnection] = set()
        self._known: frozenset[str] | None = None
        self._pinned: set[str] = set()
        self._closed = False

    def enter(self, address: str, call: object, *, pinned: bool = False) -> SyncConnection:
        """Return the connection to an address, this call counted on it until it leaves; `keep` spares a pinned one.

        Raises ValueError when all are closed.
        """
        while True:
            connection = self._all.get(address)
            if connection is None:
                connection = self._opened(address, pinned=pinned)
            connection.calls.add(call)  # one C-level step; whoever closes sets `closed` first and looks here after
            if not connection.closed:
                return connection
            self.leave(connection, call)

    def _opened(self, address: str, *, pinned: bool) -> SyncConnection:
        with self._lock:
            if self._closed:
                raise ValueError("the channel is closed")
            connection = self._all.get(address)
            if connection is None:
                if pinned:
                    self._pinned.add(address)
                known = self._known is None or address in self._known or address in self._pinned
                connection = SyncConnection(address, self._open(address), retired=not known)
                if known:
                    self._all[address] = connection
                else:  # its instance vanished while an attempt was on its way there: open for this one
                    self._leaving.add(connection)
            return connection

    def leave(self, connection: SyncConnection, call: object) -> None:
        """Take a call off its connection."""
        connection.calls.discard(call)
        if connection.retired and not connection.calls:
            self._close_if_idle(connection)

    def keep(self, addresses: Iterable[str]) -> None:
        """Let go of all other addresses, each when the last call to it is over."""
        with self._lock:
            self._known = frozenset(addresses)
            gone = [self._all.pop(address) for address in self._all.keys() - (self._known | self._pinned)]
            self._leaving.update(gone)
        for connection in gone:
            connection.retired = True
            if not connection.calls:
                self._close_if_idle(connection)

    def _close_if_idle(self, connection: SyncConnection) -> None:
        with self._lock:
            if connection not in self._leaving:
                return
            connection.closed = True
            if connection.calls:  # one came in at that very moment: it is the last, and closes
                connection.closed = False
                return
            self._leaving.discard(connection)
        timers.later(0.0, connection.shut)  # the last call may end on a thread of the channel itself

    def close(self) -> None:
        """Close them all, for good; calls under way are cancelled, as grpc does."""
        with self._lock:
            self._closed = True
            connections = [*self._all.values(), *self._leaving]
            self._all.clear()
            self._leaving.clear()
        for connection in connections:
            connection.shut()
