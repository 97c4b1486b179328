"""A service's gRPC parts, of both colours: interceptors for its server, channels to its callees."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from msgov.discovery.instance import Snapshot
from msgov.observability.spans import attached
from msgov.transport.grpc.aio_channel import Channel
from msgov.transport.grpc.aio_server import ServerInterceptor
from msgov.transport.grpc.connections import AioConnections, SyncConnections, address
from msgov.transport.grpc.interceptors import ClientEdge, SyncInterceptor, aio_interceptors
from msgov.transport.grpc.serving import Edge, bare
from msgov.transport.grpc.sync_channel import Channel as SyncChannel
from msgov.transport.grpc.sync_server import ServerInterceptor as SyncServerInterceptor

if TYPE_CHECKING:
    from msgov.service.facade import Service


def _edge(service: Service) -> Edge:
    trusted = service.trusted
    return Edge(
        service=service.name,
        policies=service.compose.grpc_server(),
        trusted=lambda peer: trusted(bare(peer)),
        clock=service.clock,
        around=attached,
    )


def _client_edge(service: Service, target: str) -> ClientEdge:
    return ClientEdge(target=target, policies=service.compose.grpc_calls(target, None), clock=service.clock)


def _addresses(snapshots: Iterable[Snapshot]) -> set[str]:
    return {address(instance) for snapshot in snapshots for instance in snapshot.instances}


class Grpc:
    """gRPC on asyncio."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._connections = AioConnections()
        self._channels: dict[str, Channel] = {}
        service.targets.changed(lambda snapshots: self._connections.keep(_addresses(snapshots)))

    def interceptors(self) -> list[grpc.aio.ServerInterceptor]:
        """Return what to make the server with: `grpc.aio.server(interceptors=svc.grpc.interceptors())`."""
        return [ServerInterceptor(_edge(self._service))]

    def channel(self, target: str) -> Channel:
        """Return the channel to a service, an ordinary `grpc.aio.Channel` for an ordinary stub."""
        found = self._channels.get(target)
        if found is None:
            service = self._service
            policies = service.compose.grpc_calls(target, service.targets.pick(target))
            found = Channel(target, policies, connections=self._connections, clock=service.clock)
            self._channels[target] = found
        return found

    def client_interceptors(self, target: str) -> list[grpc.aio.ClientInterceptor]:
        """Return interceptors for a channel of your own; it chooses no instance."""
        return aio_interceptors(_client_edge(self._service, target))

    async def aclose(self) -> None:
        """Close all connections."""
        await self._connections.aclose(1.0)


class SyncGrpc:
    """gRPC in threads."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._connections = SyncConnections()
        self._channels: dict[str, SyncChannel] = {}
        service.targets.changed(lambda snapshots: self._connections.keep(_addresses(snapshots)))

    def interceptors(self) -> list[grpc.ServerInterceptor]:
        """Return what to make the server with: `grpc.server(pool, interceptors=svc.sync.grpc.interceptors())`."""
        return [SyncServerInterceptor(_edge(self._service))]

    def channel(self, target: str) -> SyncChannel:
        """Return the channel to a service, an ordinary `grpc.Channel` for an ordinary stub."""
        found = self._channels.get(target)
        if found is None:
            service = self._service
            policies = service.compose.grpc_calls(target, service.targets.pick(target))
            found = SyncChannel(target, policies, connections=self._connections, clock=service.clock)
            self._channels[target] = found
        return found

    def client_interceptor(self, target: str) -> SyncInterceptor:
        """Return an interceptor for a channel of your own; it chooses no instance."""
        return SyncInterceptor(_client_edge(self._service, target))

    def close(self) -> None:
        """Close all connections."""
        self._connections.close()
