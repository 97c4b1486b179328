"""Orders over gRPC."""

from __future__ import annotations

from collections.abc import Sequence

import grpc.aio

from ..answers import answers
from ..errors import Invalid
from ..pb import money_pb2
from ..pb import order_pb2 as pb
from ..pb.order_pb2_grpc import OrderServicer
from .book import Order, Shipment
from .service import Orders, Step


class OrderApi(OrderServicer):
    """Answer shop.v1.Order."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders

    @answers
    async def Place(
        self, request: pb.PlaceRequest, context: grpc.aio.ServicerContext[pb.PlaceRequest, pb.OrderDetails]
    ) -> pb.OrderDetails:
        """Place an order, or find it."""
        order = await self._orders.place(
            key=request.idempotency_key,
            user_id=request.user_id,
            lines=[(line.sku, line.quantity) for line in request.lines],
            pay=not request.pay_later,
        )
        return _details(order)

    @answers
    async def Pay(
        self, request: pb.PayRequest, context: grpc.aio.ServicerContext[pb.PayRequest, pb.OrderDetails]
    ) -> pb.OrderDetails:
        """Pay for it."""
        return _details(await self._orders.pay(request.order_id))

    @answers
    async def Cancel(
        self, request: pb.CancelRequest, context: grpc.aio.ServicerContext[pb.CancelRequest, pb.OrderDetails]
    ) -> pb.OrderDetails:
        """Take it back."""
        return _details(await self._orders.cancel(request.order_id))

    @answers
    async def Ship(
        self, request: pb.ShipRequest, context: grpc.aio.ServicerContext[pb.ShipRequest, pb.OrderDetails]
    ) -> pb.OrderDetails:
        """Move its shipment one step on."""
        if request.to not in pb.ShipmentState.values() or not request.to:
            raise Invalid(f"shipment state {request.to} is unknown: {', '.join(list(Shipment)[1:])} are allowed")
        to = Shipment(pb.ShipmentState.Name(request.to).removeprefix("SHIPMENT_STATE_"))
        return _details(await self._orders.ship(request.order_id, to))

    @answers
    async def Find(
        self, request: pb.FindOrderRequest, context: grpc.aio.ServicerContext[pb.FindOrderRequest, pb.OrderDetails]
    ) -> pb.OrderDetails:
        """Show it, and what happened to it."""
        return _details(*await self._orders.find(request.order_id))


def _details(order: Order, history: Sequence[Step] = ()) -> pb.OrderDetails:
    def money(minor: int) -> money_pb2.Money:
        return money_pb2.Money(minor=minor, currency=order.currency)

    return pb.OrderDetails(
        order_id=order.id,
        user_id=order.user_id,
        lines=[pb.OrderLine(sku=line.sku, quantity=line.quantity, price=money(line.price)) for line in order.lines],
        total=money(order.total),
        state=f"ORDER_STATE_{order.state}",
        reason=order.reason,
        shipment=f"SHIPMENT_STATE_{order.shipment}",
        tracking=order.tracking,
        version=order.version,
        history=[pb.Transition(version=step.version, type=step.type, at=step.at) for step in history],
        retry_after_seconds=order.retry_after or 0.0,
    )
