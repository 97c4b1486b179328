# ruff: noqa
"""The types of audit_pb2_grpc, for grpc.aio."""
from collections.abc import Awaitable, Sequence

import grpc.aio

from . import audit_pb2 as pb

class AuditStub:
    def __init__(self, channel: grpc.aio.Channel) -> None: ...
    def Entries(
        self, request: pb.EntriesRequest, *, timeout: float | None = ...,
        metadata: Sequence[tuple[str, str | bytes]] | None = ...,
    ) -> Awaitable[pb.EntriesReply]: ...

class AuditServicer:
    async def Entries(
        self, request: pb.EntriesRequest, context: grpc.aio.ServicerContext[pb.EntriesRequest, pb.EntriesReply]
    ) -> pb.EntriesReply: ...

def add_AuditServicer_to_server(
    servicer: AuditServicer, server: grpc.aio.Server
) -> None: ...
