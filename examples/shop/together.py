"""The same services in one process, a modular monolith: they call each other in memory, events go over the bus."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeVar, cast

from . import parent, wiring
from .apart import GRACE, counter, ready
from .local import Local
from .wiring import Given

S = TypeVar("S")


async def serve(*, folder: Path, instance: int) -> None:
    """Be all services until told to stop."""
    servicers: dict[str, object] = {}

    def stub(kind: type[S], target: str) -> S:
        return cast("S", Local(servicers[target]))

    async with AsyncExitStack() as stack:
        for name, build in wiring.BUILD.items():
            await wiring.first_day(name, folder)
            svc, store = wiring.service(name, folder=folder, instance=instance)
            stack.callback(svc.close)
            assert store is not None
            given = Given(svc, store, stub)
            servicers[name] = build(given)
            await stack.enter_async_context(svc.opened())
            for work in given.beside:
                stack.callback(asyncio.create_task(work()).cancel)
        front, _ = wiring.service("storefront", folder=folder, instance=instance)
        stack.callback(front.close)
        server = counter(front, wiring.storefront(front, stub))
        at = front.config.value("shop.at", str, default="127.0.0.1:0")
        running = await stack.enter_async_context(front.running(server, at=at, admin="127.0.0.1:0", grace=GRACE))
        ready("together", instance=instance, port=running.port, admin=running.admin_port)
        await running.wait()
        parent.going()
