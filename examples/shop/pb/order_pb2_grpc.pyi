# ruff: noqa
"""The types of order_pb2_grpc, for grpc.aio."""
from collections.abc import Awaitable, Sequence

import grpc.aio

from . import order_pb2 as pb

class OrderStub:
    def __init__(self, channel: grpc.aio.Channel) -> None: ...
    def Place(
        self, request: pb.PlaceRequest, *, timeout: float | None = ...,
        metadata: Sequence[tuple[str, str | bytes]] | None = ...,
    ) -> Awaitable[pb.OrderDetails]: ...
    def Pay(
        self, request: pb.PayRequest, *, timeout: float | None = ...,
        metadata: Sequence[tuple[str, str | bytes]] | None = ...,
    ) -> Awaitable[pb.OrderDetails]: ...
    def Cancel(
        self, request: pb.CancelRequest, *, timeout: float | None = ...,
        metadata: Sequence[tuple[str, str | bytes]] | None = ...,
    ) -> Awaitable[pb.OrderDetails]: ...
    def Ship(
        self, request: pb.ShipRequest, *, timeout: float | None = ...,
        metadata: Sequence[tuple[str, str | bytes]] | None = ...,
    ) -> Awaitable[pb.OrderDetails]: ...
    def Find(
        self, request: pb.FindOrderRequest, *, timeout: float | None = ...,
        metadata: Sequence[tuple[str, str | bytes]] | None = ...,
    ) -> Awaitable[pb.OrderDetails]: ...

class OrderServicer:
    async def Place(
        self, request: pb.PlaceRequest, context: grpc.aio.ServicerContext[pb.PlaceRequest, pb.OrderDetails]
    ) -> pb.OrderDetails: ...
    async def Pay(
        self, request: pb.PayRequest, context: grpc.aio.ServicerContext[pb.PayRequest, pb.OrderDetails]
    ) -> pb.OrderDetails: ...
    async def Cancel(
        self, request: pb.CancelRequest, context: grpc.aio.ServicerContext[pb.CancelRequest, pb.OrderDetails]
    ) -> pb.OrderDetails: ...
    async def Ship(
        self, request: pb.ShipRequest, context: grpc.aio.ServicerContext[pb.ShipRequest, pb.OrderDetails]
    ) -> pb.OrderDetails: ...
    async def Find(
        self, request: pb.FindOrderRequest, context: grpc.aio.ServicerContext[pb.FindOrderRequest, pb.OrderDetails]
    ) -> pb.OrderDetails: ...

def add_OrderServicer_to_server(
    servicer: OrderServicer, server: grpc.aio.Server
) -> None: ...
