"""A call is named by its route, never by the path that was asked for."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from msgov.transport.routes import Routes
from tests.transport.web import (
    Seen,
    get,
    governed,
    raw,
    run,
    serving,
)


@run
async def test_a_call_is_named_by_its_route() -> None:
    """Templates, with what they are mounted under; what no route wants shares one name."""

    async def here(request: Request) -> Response:
        return PlainTextResponse("here")

    inner = Starlette(routes=[Route("/items/{item:int}", here)])
    app = Starlette(
        routes=[
            Route("/orders/{id}", here),
            Mount("/api/{tenant}", routes=[Route("/users/{user}", here), Mount("/deep", app=inner)]),
        ]
    )
    seen = Seen()
    async with serving(governed(app, seen)) as port:
        for path in ("/orders/7", "/api/acme/users/9", "/api/acme/deep/items/3", "/api/acme/nowhere", "/nowhere"):
            await raw(port, get(path))
    assert seen.methods == [
        "GET /orders/{id}",
        "GET /api/{tenant}/users/{user}",
        "GET /api/{tenant}/deep/items/{item}",
        "GET /api/{tenant}/{path}",
        "GET _OTHER",
    ]


def test_an_application_may_name_its_routes_itself() -> None:
    """Without a framework, by a text in the scope; what is no route is not trusted with a name."""
    routes = Routes()
    assert routes.name({"route": "/orders/{id}"}) == "/orders/{id}"
    assert [routes.name(found) for found in ({}, {"route": ""}, {"route": None}, {"route": 7})] == ["_OTHER"] * 4


def test_routes_that_are_made_per_request_do_not_pile_up() -> None:
    """The names of routes are kept by identity: an application that makes new ones must not fill the memory."""
    routes = Routes()
    for turn in range(5000):
        assert routes.name({"route": Route(f"/{turn}/{{id}}", print)}) == f"/{turn}/{{id}}"
    assert len(routes._names) <= 4096
