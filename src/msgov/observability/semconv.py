"""Every name that OpenTelemetry's conventions give a thing stands here, so that a renaming there is one file here.

RPC names are those of the release candidate (v1.44): `rpc.service` and the numeric status are gone, the status is a
word. A metric's label is the attribute's name with dots as underscores.
"""

from __future__ import annotations

from typing import Final

RPC_SYSTEM: Final = "rpc.system.name"
RPC_METHOD: Final = "rpc.method"
RPC_STATUS: Final = "rpc.status_code"
HTTP_METHOD: Final = "http.request.method"
HTTP_ROUTE: Final = "http.route"
HTTP_STATUS: Final = "http.response.status_code"
MESSAGING_SYSTEM: Final = "messaging.system"
MESSAGING_OPERATION: Final = "messaging.operation.name"
MESSAGING_OPERATION_TYPE: Final = "messaging.operation.type"
MESSAGING_DESTINATION: Final = "messaging.destination.name"
MESSAGING_GROUP: Final = "messaging.consumer.group.name"
MESSAGE_ID: Final = "messaging.message.id"
SERVER_ADDRESS: Final = "server.address"
PEER_NAME: Final = "service.peer.name"
PEER_ADDRESS: Final = "network.peer.address"
ERROR_TYPE: Final = "error.type"
GC_GENERATION: Final = "cpython.gc.generation"

# Ours: no convention exists for them.
ATTEMPT: Final = "msgov.attempt"
ATTEMPTS: Final = "msgov.attempts"
OUTCOME: Final = "msgov.outcome"
FACT: Final = "msgov."

OTHER: Final = "_OTHER"
"""What a value becomes that is not known in advance, or one too many."""

GRPC_STATUSES: Final = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip

SERVER_FAULTS: Final = frozenset(
    ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
)
"""The gRPC statuses that are the server's own fault; the others are an answer to what the caller did."""

HTTP_METHODS: Final = frozenset(
    ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE")
)

RPC_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
DB_BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
QUEUE_BUCKETS: Final = (*RPC_BUCKETS, 30.0, 60.0, 300.0)
RETRY_BUCKETS: Final = (1.0, 2.0, 3.0, 4.0, 5.0)


def label(attribute: str) -> str:
    """Name the metric label of an attribute."""
    return attribute.replace(".", "_")
