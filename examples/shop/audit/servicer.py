"""The audit trail over gRPC."""

from __future__ import annotations

import grpc.aio

from ..answers import answers
from ..pb import audit_pb2 as pb
from ..pb.audit_pb2_grpc import AuditServicer
from .service import Audit


class AuditApi(AuditServicer):
    """Answer shop.v1.Audit."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    @answers
    async def Entries(
        self, request: pb.EntriesRequest, context: grpc.aio.ServicerContext[pb.EntriesRequest, pb.EntriesReply]
    ) -> pb.EntriesReply:
        """Tell an order's story."""
        entries = await self._audit.entries(request.order_id)
        return pb.EntriesReply(
            entries=[
                pb.AuditEntry(order_id=e.order_id, version=e.version, type=e.type, payload=e.payload) for e in entries
            ]
        )
