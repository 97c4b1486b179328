# ruff: noqa
"""The types of product_pb2_grpc, for grpc.aio."""
from collections.abc import Awaitable, Sequence

import grpc.aio

from . import product_pb2 as pb

class ProductStub:
    def __init__(self, channel: grpc.aio.Channel) -> None: ...
    def List(
        self, request: pb.ListProductsRequest, *, timeout: float | None = ...,
        metadata: Sequence[tuple[str, str | bytes]] | None = ...,
    ) -> Awaitable[pb.ListProductsReply]: ...
    def Categories(
        self, request: pb.CategoriesRequest, *, timeout: float | None = ...,
        metadata: Sequence[tuple[str, str | bytes]] | None = ...,
    ) -> Awaitable[pb.CategoriesReply]: ...
    def Quote(
        self, request: pb.QuoteRequest, *, timeout: float | None = ...,
        metadata: Sequence[tuple[str, str | bytes]] | None = ...,
    ) -> Awaitable[pb.QuoteReply]: ...
    def Put(
        self, request: pb.Listing, *, timeout: float | None = ...,
        metadata: Sequence[tuple[str, str | bytes]] | None = ...,
    ) -> Awaitable[pb.Listing]: ...

class ProductServicer:
    async def List(
        self, request: pb.ListProductsRequest, context: grpc.aio.ServicerContext[pb.ListProductsRequest, pb.ListProductsReply]
    ) -> pb.ListProductsReply: ...
    async def Categories(
        self, request: pb.CategoriesRequest, context: grpc.aio.ServicerContext[pb.CategoriesRequest, pb.CategoriesReply]
    ) -> pb.CategoriesReply: ...
    async def Quote(
        self, request: pb.QuoteRequest, context: grpc.aio.ServicerContext[pb.QuoteRequest, pb.QuoteReply]
    ) -> pb.QuoteReply: ...
    async def Put(
        self, request: pb.Listing, context: grpc.aio.ServicerContext[pb.Listing, pb.Listing]
    ) -> pb.Listing: ...

def add_ProductServicer_to_server(
    servicer: ProductServicer, server: grpc.aio.Server
) -> None: ...
