"""How orders and products look in JSON: names in lower case, money in minor units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.responses import JSONResponse, Response

from ..pb import money_pb2, product_pb2
from ..pb import order_pb2 as pb
from .problems import Problem

SHIPMENTS: Final = {
    "packed": pb.SHIPMENT_STATE_PACKED,
    "shipped": pb.SHIPMENT_STATE_SHIPPED,
    "delivered": pb.SHIPMENT_STATE_DELIVERED,
}
# Why an order was cancelled, as a status and a word to the shopper.
REASONS: Final[Mapping[str, tuple[int, str]]] = {
    "declined": (402, "The payment was declined. Nothing was charged."),
    "out_of_stock": (409, "Something in the basket is out of stock. Nothing was charged."),
    "payment_unavailable": (503, "Payments are not possible just now. Nothing was charged."),
    "payment_unknown": (503, "The payment did not come through. If anything was charged, it is given back."),
    "inventory_unavailable": (503, "The order cannot be packed just now. Nothing was charged."),
    "inventory_unknown": (503, "The order cannot be packed just now. If anything was charged, it is given back."),
}
WAIT = 1.0  # seconds to come back after, where nobody knows better


def money(amount: money_pb2.Money) -> dict[str, object]:
    """Show an amount."""
    return {"minor": amount.minor, "currency": amount.currency}


def listing(each: product_pb2.Listing) -> dict[str, object]:
    """Show a product."""
    return {"sku": each.sku, "name": each.name, "category": each.category, "price": money(each.price)}


def order(each: pb.OrderDetails) -> dict[str, object]:
    """Show an order."""
    lines = [{"sku": line.sku, "quantity": line.quantity, "price": money(line.price)} for line in each.lines]
    return {
        "id": each.order_id,
        "state": _state(each),
        "reason": each.reason,
        "lines": lines,
        "total": money(each.total),
        "version": each.version,
    }


def shipment(each: pb.OrderDetails) -> dict[str, object]:
    """Show how far an order has come."""
    history = [{"type": step.type, "at": step.at} for step in each.history]
    state = pb.ShipmentState.Name(each.shipment).removeprefix("SHIPMENT_STATE_").lower()
    return {"order_id": each.order_id, "state": state, "tracking": each.tracking, "history": history}


def outcome(each: pb.OrderDetails, *, done: int) -> Response:
    """Tell what became of an order: `done` when it stands, 202 while it is open, a problem when it fell through."""
    where = {"Location": f"/orders/{each.order_id}"}
    if each.state == pb.ORDER_STATE_PENDING:
        return JSONResponse(order(each), 202, where)
    fallen = each.state in (pb.ORDER_STATE_CANCELLING, pb.ORDER_STATE_CANCELLED)
    if not fallen or each.reason == "customer":
        return JSONResponse(order(each), done, where)
    status, detail = REASONS.get(each.reason, (409, "The order could not be completed. Nothing is owed."))
    wait = (each.retry_after_seconds or WAIT) if status == 503 else None
    facts = {"order": order(each)}
    return Problem(status, detail, reason=each.reason, retry_after=wait, facts=facts).response()


def _state(each: pb.OrderDetails) -> str:
    return pb.OrderState.Name(each.state).removeprefix("ORDER_STATE_").lower()
