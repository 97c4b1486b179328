"""What grpc leaves at values that hurt among services is set here, for servers and for channels."""

from __future__ import annotations

from typing import Final

Options = tuple[tuple[str, str | int], ...]

SERVER_OPTIONS: Final[Options] = (
    # A burst of 2 000 calls makes grpc's core cancel a tenth of them before any handler or interceptor sees them.
    ("grpc.server.max_pending_requests", 10_000),
    ("grpc.server.max_pending_requests_hard_limit", 30_000),
    ("grpc.max_concurrent_streams", 1_000),  # per connection: what is beyond waits at its caller, deadline running
    # Our channels ping each 30 s while a call is silent; by default a server calls that abuse and hangs up.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.enable_http_proxy", 0),
)
"""Options for a server: `grpc.aio.server(interceptors=..., options=SERVER_OPTIONS)`, and the same for threads.

Raised: how many calls may wait for the server to take them (10 000; from there to 30 000 it refuses more and more of
them, as CANCELLED). Set: 1 000 calls at once on one connection. Allowed: a ping each 10 s. Off: proxy variables.
"""

CHANNEL_OPTIONS: Final[Options] = (
    ("grpc.enable_http_proxy", 0),  # internal calls never go through a proxy variable
    ("grpc.initial_reconnect_backoff_ms", 100),
    (
        "grpc.min_reconnect_backoff_ms",
        5_000,
    ),  # what one attempt to connect may take: a lost packet costs a second or three
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)
"""Options of our channels: a restarted instance is found again within a second, a silent one within 35."""
