"""One native channel per instance, opened when first needed, closed when its instance is gone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable

import grpc
import grpc.aio

from .timers import timers

OPTIONS: tuple[tuple[str, str | int], ...] = (
    ("grpc.enable_http_proxy", 0),  # internal calls never go through a proxy variable
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)
"""Channel options: a restarted instance is found again within a second, a silent one within 35."""


def aio_connect(address: str) -> grpc.aio.Channel:
    """Open a plaintext connection to one instance."""
    return grpc.aio.insecure_channel(address, options=OPTIONS)


class AioConnections:
    """One native channel per instance address, opened when first needed, closed when its instance is gone."""

    def __init__(self, open_channel: Callable[[str], grpc.aio.Channel] = aio_connect, *, grace: float = 30.0) -> None:
        self._open = open_channel
        self._grace = grace
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.generation = 0

    def to(self, address: str) -> grpc.aio.Channel:
        """Return the channel to an address."""
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = self._open(address)
        return channel

    def up(self, address: str) -> bool:
        """Whether the connection to an address is up, without asking for it."""
        channel = self._channels.get(address)
        return channel is not None and bool(channel.get_state() is grpc.ChannelConnectivity.READY)

    def keep(self, addresses: Iterable[str]) -> None:
        """Close the channels to all other addresses, once the calls on them have ended or `grace` seconds are over."""
        for gone in self._channels.keys() - set(addresses):
            self.generation += 1
            task = asyncio.get_running_loop().create_task(self._channels.pop(gone).close(self._grace))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def aclose(self, grace: float | None = None) -> None:
        """Close them all; calls still under way get `grace` seconds."""
        channels, self._channels = self._channels, {}
        self.generation += 1
        await asyncio.gather(*(channel.close(grace) for channel in channels.values()))
        for task in tuple(self._closing):
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)


def sync_connect(address: str) -> grpc.Channel:
    """Open a plaintext connection to one instance."""
    return grpc.insecure_channel(address, options=OPTIONS)


class SyncConnections:
    """One native channel per instance address, opened when first needed, closed when its instance is gone."""

    def __init__(self, open_channel: Callable[[str], grpc.Channel] = sync_connect, *, grace: float = 30.0) -> None:
        self._open = open_channel
        self._grace = grace
        self._lock = threading.Lock()
        self._channels: dict[str, grpc.Channel] = {}
        self._closing: set[grpc.Channel] = set()
        self.generation = 0

    def to(self, address: str) -> grpc.Channel:
        """Return the channel to an address."""
        with self._lock:
            channel = self._channels.get(address)
            if channel is None:
                channel = self._channels[address] = self._open(address)
            return channel

    def keep(self, addresses: Iterable[str]) -> None:
        """Close the channels to all other addresses, `grace` seconds from now: calls on them may end first."""
        with self._lock:
            for gone in self._channels.keys() - set(addresses):
                self.generation += 1
                channel = self._channels.pop(gone)
                self._closing.add(channel)
                timers.later(self._grace, lambda channel=channel: self._shut(channel))  # type: ignore[misc]  # bound per turn

    def _shut(self, channel: grpc.Channel) -> None:
        with self._lock:
            self._closing.discard(channel)
        channel.close()

    def close(self) -> None:
        """Close them all; calls still under way are cancelled, as grpc does."""
        with self._lock:
            channels = [*self._channels.values(), *self._closing]
            self._channels.clear()
            self._closing.clear()
            self.generation += 1
        for channel in channels:
            channel.close()


def address(instance: object) -> str:
    """Say where an instance listens, as gRPC spells it."""
    host, port = instance.host, instance.port  # type: ignore[attr-defined]  # discovery's Instance: transport knows its shape
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
