"""Waiting for a thing to become true, instead of for a time to pass."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


async def until(true: Callable[[], bool | Awaitable[bool]], *, seconds: float = 10.0) -> None:
    """Look every 5 ms; fails after `seconds`."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while True:
        found = true()
        if found if isinstance(found, bool) else await found:
            return
        assert loop.time() < end, "did not come true in time"
        await asyncio.sleep(0.005)
