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

    def edge(self, target: str, *, blocking: bool = False) -> ClientEdge:
        """Return how requests to a service are governed, for a transport of your own making.

        `blocking` says that it will be a `Transport`, whose requests nobody can call off: from then on rules that hedge
        them are refused. Raises `RuleError` when they do so already.
        """
        service = self._service
        if blocking:
            why = f"false, or a retry: {target} is called by a blocking HTTP client, whose requests nobody can call off"
            service.policies.bar("call", target, {"hedge": why})
        policies = service.compose.http_calls(target, service.targets.pick(target))
        return ClientEdge(target=target, policies=policies, clock=service.clock)

    def client(self, target: str) -> Any:
        """Make an `AsyncClient` to a service: `await client.get("/products")`."""
        return async_client(self.edge(target))

    def sync_client(self, target: str) -> Any:
        """Make a blocking `Client` to a service; raises `RuleError` where the rules hedge requests to it."""
        return client(self.edge(target, blocking=True))
