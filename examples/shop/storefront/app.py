"""Shoppers speak JSON over HTTP; behind it, every word goes to the service whose business it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from google.protobuf.message import Message
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..calls import CallError, ask
from ..pb import order_pb2, product_pb2, user_pb2
from ..pb.order_pb2_grpc import OrderStub
from ..pb.product_pb2_grpc import ProductStub
from ..pb.user_pb2_grpc import UserStub
from . import reading, views
from .problems import TITLES, Problem, of

T = TypeVar("T", bound=Message)


class Storefront:
    """The shop's HTTP side, over the stubs it is given."""

    def __init__(self, *, users: UserStub, products: ProductStub, orders: OrderStub) -> None:
        self._users = users
        self._products = products
        self._orders = orders

    def app(self) -> Starlette:
        """Return the ASGI application."""
        return Starlette(
            routes=[
                Route("/users", self.register, methods=["POST"]),
                Route("/sessions", self.log_in, methods=["POST"]),
                Route("/products", self.products, methods=["GET"]),
                Route("/orders", self.place, methods=["POST"]),
                Route("/orders/{id}", self.order, methods=["GET"]),
                Route("/orders/{id}/pay", self.pay, methods=["POST"]),
                Route("/orders/{id}/cancel", self.cancel, methods=["POST"]),
                Route("/orders/{id}/shipment", self.shipment, methods=["GET"]),
                Route("/orders/{id}/shipment", self.ship, methods=["POST"]),
            ],
            exception_handlers={Problem: _problem, HTTPException: _http, Exception: _broken},
        )

    async def register(self, request: Request) -> Response:
        """POST /users {name, password}."""
        given = await reading.fields(request)
        asked = user_pb2.RegisterRequest(name=reading.text(given, "name"), password=reading.text(given, "password"))
        account = await _call(lambda: self._users.Register(asked))
        return JSONResponse({"id": account.user_id, "name": account.name, "roles": list(account.roles)}, 201)

    async def log_in(self, request: Request) -> Response:
        """POST /sessions {name, password}."""
        given = await reading.fields(request)
        asked = user_pb2.LogInRequest(name=reading.text(given, "name"), password=reading.text(given, "password"))
        session = await _call(lambda: self._users.LogIn(asked))
        told = {"token": session.token, "user_id": session.user_id, "expires_in": session.expires_in_seconds}
        return JSONResponse(told, 201, {"Cache-Control": "no-store"})

    async def products(self, request: Request) -> Response:
        """GET /products?category=&page_size=&page_token=."""
        asked = product_pb2.ListProductsRequest(
            category=reading.encodable("category", request.query_params.get("category", "")),
            page_size=reading.number(request, "page_size"),
            page_token=reading.encodable("page_token", request.query_params.get("page_token", "")),
        )
        page = await _call(lambda: self._products.List(asked))
        shown = [views.listing(each) for each in page.products]
        return JSONResponse({"products": shown, "next_page_token": page.next_page_token})

    async def place(self, request: Request) -> Response:
        """POST /orders {lines: [{sku, quantity}], pay_later} with an Idempotency-Key."""
        who = await self._who(request, "order.place")
        key = request.headers.get("idempotency-key", "")
        if not key:
            raise Problem(400, "the header Idempotency-Key is missing: send one of your own making, new for each order")
        given = await reading.fields(request)
        asked = order_pb2.PlaceRequest(
            idempotency_key=key,
            user_id=who.user_id,
            lines=[order_pb2.BasketLine(sku=sku, quantity=quantity) for sku, quantity in reading.lines(given)],
            pay_later=reading.flag(given, "pay_later", default=False),
        )
        return views.outcome(await _call(lambda: self._orders.Place(asked)), done=201)

    async def order(self, request: Request) -> Response:
        """GET /orders/{id}."""
        return JSONResponse(views.order(await self._own(request, "order.read")))

    async def pay(self, request: Request) -> Response:
        """POST /orders/{id}/pay."""
        order = await self._own(request, "order.place")
        asked = order_pb2.PayRequest(order_id=order.order_id)
        return views.outcome(await _call(lambda: self._orders.Pay(asked)), done=200)

    async def cancel(self, request: Request) -> Response:
        """POST /orders/{id}/cancel."""
        order = await self._own(request, "order.cancel")
        asked = order_pb2.CancelRequest(order_id=order.order_id)
        order = await _call(lambda: self._orders.Cancel(asked))
        return JSONResponse(views.order(order), 200 if order.state == order_pb2.ORDER_STATE_CANCELLED else 202)

    async def shipment(self, request: Request) -> Response:
        """GET /orders/{id}/shipment."""
        return JSONResponse(views.shipment(await self._own(request, "order.read")))

    async def ship(self, request: Request) -> Response:
        """POST /orders/{id}/shipment {state}, for staff."""
        await self._who(request, "order.ship")
        state = reading.text(await reading.fields(request), "state")
        if state not in views.SHIPMENTS:
            raise Problem(422, f"'state' is none of {', '.join(views.SHIPMENTS)}")
        asked = order_pb2.ShipRequest(order_id=_id(request), to=views.SHIPMENTS[state])
        return JSONResponse(views.shipment(await _call(lambda: self._orders.Ship(asked))))

    async def _who(self, request: Request, permission: str) -> user_pb2.Identity:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not 1 <= len(token) <= 256:
            raise Problem(401, "the header Authorization: Bearer is missing: get a token from POST /sessions")
        asked = user_pb2.VerifyRequest(token=token)
        who = await _call(lambda: self._users.Verify(asked))
        if permission not in who.permissions:
            raise Problem(403, f"this needs the permission {permission}")
        return who

    async def _own(self, request: Request, permission: str) -> order_pb2.OrderDetails:
        """Return the order in the path; to whom it does not belong, it does not exist."""
        who = await self._who(request, permission)
        asked = order_pb2.FindOrderRequest(order_id=_id(request))
        order = await _call(lambda: self._orders.Find(asked))
        if order.user_id != who.user_id and f"{permission}.any" not in who.permissions:
            raise Problem(404, "there is no such order")
        return order


async def _call(call: Callable[[], Awaitable[T]]) -> T:
    try:
        return await ask(call, tries=1)  # whoever is told that nobody knows asks again with the same key
    except CallError as error:
        raise of(error.failure) from error


def _id(request: Request) -> str:
    return reading.encodable("id", str(request.path_params["id"]))


async def _problem(request: Request, error: Exception) -> Response:
    if not isinstance(error, Problem):
        raise error
    return error.response()


async def _http(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = error.headers if isinstance(error, HTTPException) else None
    body = {"type": "about:blank", "title": TITLES.get(status, "Not possible"), "status": status}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


async def _broken(request: Request, error: Exception) -> Response:
    return Problem(500, "it has been noted").response()
