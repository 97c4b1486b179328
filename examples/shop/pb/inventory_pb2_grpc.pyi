# ruff: noqa
"""The types of inventory_pb2_grpc, for grpc.aio."""
from collections.abc import Awaitable, Sequence

import grpc.aio

from . import inventory_pb2 as pb

class InventoryStub:
    def __init__(self, channel: grpc.aio.Channel) -> None: ...
    def Reserve(
        self, request: pb.ReserveRequest, *, timeout: float | None = ...,
        metadata: Sequence[tuple[str, str | bytes]] | None = ...,
    ) -> Awaitable[pb.Hold]: ...
    def Commit(
        self, request: pb.CommitRequest, *, timeout: float | None = ...,
        metadata: Sequence[tuple[str, str | bytes]] | None = ...,
    ) -> Awaitable[pb.Hold]: ...
    def Release(
        self, request: pb.ReleaseRequest, *, timeout: float | None = ...,
        metadata: Sequence[tuple[str, str | bytes]] | None = ...,
    ) -> Awaitable[pb.Hold]: ...
    def Receive(
        self, request: pb.ReceiveRequest, *, timeout: float | None = ...,
        metadata: Sequence[tuple[str, str | bytes]] | None = ...,
    ) -> Awaitable[pb.Level]: ...
    def Levels(
        self, request: pb.LevelsRequest, *, timeout: float | None = ...,
        metadata: Sequence[tuple[str, str | bytes]] | None = ...,
    ) -> Awaitable[pb.LevelsReply]: ...

class InventoryServicer:
    async def Reserve(
        self, request: pb.ReserveRequest, context: grpc.aio.ServicerContext[pb.ReserveRequest, pb.Hold]
    ) -> pb.Hold: ...
    async def Commit(
        self, request: pb.CommitRequest, context: grpc.aio.ServicerContext[pb.CommitRequest, pb.Hold]
    ) -> pb.Hold: ...
    async def Release(
        self, request: pb.ReleaseRequest, context: grpc.aio.ServicerContext[pb.ReleaseRequest, pb.Hold]
    ) -> pb.Hold: ...
    async def Receive(
        self, request: pb.ReceiveRequest, context: grpc.aio.ServicerContext[pb.ReceiveRequest, pb.Level]
    ) -> pb.Level: ...
    async def Levels(
        self, request: pb.LevelsRequest, context: grpc.aio.ServicerContext[pb.LevelsRequest, pb.LevelsReply]
    ) -> pb.LevelsReply: ...

def add_InventoryServicer_to_server(
    servicer: InventoryServicer, server: grpc.aio.Server
) -> None: ...
