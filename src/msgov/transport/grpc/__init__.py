"""gRPC, both colours: interceptors for servers, a channel for clients, one table of statuses."""

from __future__ import annotations

from msgov.transport.grpc.options import SERVER_OPTIONS

__all__ = ["SERVER_OPTIONS"]
