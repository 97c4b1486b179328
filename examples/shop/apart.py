"""One process is one instance of one service: it finds the others in the registry, and calls them over the wire."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc.aio
import uvicorn

from msgov import Service
from msgov.transport.uvicorn import Protocol

from . import parent, wiring
from .pb.audit_pb2_grpc import add_AuditServicer_to_server
from .pb.inventory_pb2_grpc import add_InventoryServicer_to_server
from .pb.order_pb2_grpc import add_OrderServicer_to_server
from .pb.payment_pb2_grpc import add_PaymentServicer_to_server
from .pb.product_pb2_grpc import add_ProductServicer_to_server
from .pb.user_pb2_grpc import add_UserServicer_to_server
from .storefront.app import Storefront
from .wiring import Given

S = TypeVar("S")

GRACE: Final = 3.0  # seconds that calls under way get when an instance leaves: more than any of them may take

ADD: Final[Mapping[str, Callable[[Any, grpc.aio.Server], None]]] = {
    "user": add_UserServicer_to_server,
    "product": add_ProductServicer_to_server,
    "inventory": add_InventoryServicer_to_server,
    "payment": add_PaymentServicer_to_server,
    "audit": add_AuditServicer_to_server,
    "order": add_OrderServicer_to_server,
}
SERVICES: Final = (*ADD, "storefront")


async def serve(name: str, *, folder: Path, instance: int) -> None:
    """Be one instance until told to stop."""
    await wiring.first_day(name, folder)
    svc, store = wiring.service(name, folder=folder, instance=instance)

    def stub(kind: type[S], target: str) -> S:
        made: Callable[[grpc.aio.Channel], S] = kind
        return made(svc.grpc.channel(target))

    server: grpc.aio.Server | uvicorn.Server
    beside = []
    if store is None:
        server = counter(svc, wiring.storefront(svc, stub))
    else:
        given = Given(svc, store, stub)
        server = grpc.aio.server(interceptors=svc.grpc.interceptors())
        ADD[name](wiring.BUILD[name](given), server)
        beside = given.beside
    at = svc.config.value("shop.at", str, default="127.0.0.1:0")
    async with svc.running(server, at=at, admin="127.0.0.1:0", grace=GRACE) as running, AsyncExitStack() as stack:
        for work in beside:
            stack.callback(asyncio.create_task(work()).cancel)
        ready(name, instance=instance, port=running.port, admin=running.admin_port)
        await running.wait()
        parent.going()
    svc.close()


def counter(svc: Service, front: Storefront) -> uvicorn.Server:
    """Make the HTTP server of the storefront."""
    return uvicorn.Server(
        uvicorn.Config(
            svc.asgi(front.app()),
            http=Protocol,  # whoever drips a request's head is let go
            proxy_headers=False,  # whom a request is for is told by the socket, not by the request
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
        )
    )


def ready(name: str, *, instance: int, port: int, admin: int) -> None:
    """Tell the parent, in one line of JSON, that work may come."""
    told = {"service": name, "instance": instance, "pid": os.getpid(), "port": port, "admin": admin}
    print(json.dumps(told), flush=True)
