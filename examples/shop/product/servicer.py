"""The catalogue over gRPC."""

from __future__ import annotations

import grpc.aio

from ..answers import answers
from ..pb import money_pb2
from ..pb import product_pb2 as pb
from ..pb.product_pb2_grpc import ProductServicer
from .service import Listing, Products


class ProductApi(ProductServicer):
    """Answer shop.v1.Product."""

    def __init__(self, products: Products) -> None:
        self._products = products

    @answers
    async def List(
        self,
        request: pb.ListProductsRequest,
        context: grpc.aio.ServicerContext[pb.ListProductsRequest, pb.ListProductsReply],
    ) -> pb.ListProductsReply:
        """Give one page."""
        page, after = await self._products.list(
            category=request.category, size=request.page_size, after=request.page_token
        )
        return pb.ListProductsReply(products=[_listing(each) for each in page], next_page_token=after)

    @answers
    async def Categories(
        self, request: pb.CategoriesRequest, context: grpc.aio.ServicerContext[pb.CategoriesRequest, pb.CategoriesReply]
    ) -> pb.CategoriesReply:
        """Name the categories."""
        return pb.CategoriesReply(categories=await self._products.categories())

    @answers
    async def Quote(
        self, request: pb.QuoteRequest, context: grpc.aio.ServicerContext[pb.QuoteRequest, pb.QuoteReply]
    ) -> pb.QuoteReply:
        """Say what these cost."""
        listings = await self._products.quote(list(request.skus))
        return pb.QuoteReply(products=[_listing(each) for each in listings])

    @answers
    async def Put(self, request: pb.Listing, context: grpc.aio.ServicerContext[pb.Listing, pb.Listing]) -> pb.Listing:
        """Add a product or replace it whole."""
        price = request.price
        await self._products.put(Listing(request.sku, request.name, request.category, price.minor, price.currency))
        return request


def _listing(listing: Listing) -> pb.Listing:
    price = money_pb2.Money(minor=listing.price, currency=listing.currency)
    return pb.Listing(sku=listing.sku, name=listing.name, category=listing.category, price=price)
