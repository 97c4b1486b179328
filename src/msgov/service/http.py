"""A service's HTTP clients: those of httpx2 or httpx, whose hosts are services."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgov.transport.http import ClientEdge, async_client, client

if TYPE_CHECKING:
    from msgov.service.facade import Service


class Http:
    """HTTP clients of both colours; close them as you close any client."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def edge(self, target: str) -> ClientEdge:
        """Return how requests to a service are governed, for a transport of your own making."""
        service = self._service
        policies = service.compose.http_calls(target, service.targets.pick(target))
        return ClientEdge(target=target, policies=policies, clock=service.clock)

    def client(self, target: str) -> Any:
        """Make an `AsyncClient` to a service: `await client.get("/products")`."""
        return async_client(self.edge(target))

    def sync_client(self, target: str) -> Any:
        """Make a blocking `Client` to a service."""
        return client(self.edge(target))
