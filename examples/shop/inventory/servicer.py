"""Stock over gRPC."""

from __future__ import annotations

import grpc.aio

from ..answers import answers
from ..pb import inventory_pb2 as pb
from ..pb.inventory_pb2_grpc import InventoryServicer
from .service import HoldState, Inventory, Level


class InventoryApi(InventoryServicer):
    """Answer shop.v1.Inventory."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory

    @answers
    async def Reserve(
        self, request: pb.ReserveRequest, context: grpc.aio.ServicerContext[pb.ReserveRequest, pb.Hold]
    ) -> pb.Hold:
        """Set all lines aside, or none."""
        lines = [(line.sku, line.quantity) for line in request.lines]
        return _hold(request.order_id, await self._inventory.reserve(request.order_id, lines))

    @answers
    async def Commit(
        self, request: pb.CommitRequest, context: grpc.aio.ServicerContext[pb.CommitRequest, pb.Hold]
    ) -> pb.Hold:
        """Count what is set aside as sold."""
        return _hold(request.order_id, await self._inventory.commit(request.order_id))

    @answers
    async def Release(
        self, request: pb.ReleaseRequest, context: grpc.aio.ServicerContext[pb.ReleaseRequest, pb.Hold]
    ) -> pb.Hold:
        """Put it back."""
        return _hold(request.order_id, await self._inventory.release(request.order_id))

    @answers
    async def Receive(
        self, request: pb.ReceiveRequest, context: grpc.aio.ServicerContext[pb.ReceiveRequest, pb.Level]
    ) -> pb.Level:
        """Take in a delivery."""
        return _level(await self._inventory.receive(request.delivery_id, request.sku, request.quantity))

    @answers
    async def Levels(
        self, request: pb.LevelsRequest, context: grpc.aio.ServicerContext[pb.LevelsRequest, pb.LevelsReply]
    ) -> pb.LevelsReply:
        """Say what there is."""
        levels = await self._inventory.levels(list(request.skus))
        return pb.LevelsReply(levels=[_level(level) for level in levels])


def _hold(order_id: str, state: HoldState) -> pb.Hold:
    return pb.Hold(order_id=order_id, state=f"HOLD_STATE_{state}")


def _level(level: Level) -> pb.Level:
    return pb.Level(sku=level.sku, on_hand=level.on_hand, reserved=level.reserved, sold=level.sold)
