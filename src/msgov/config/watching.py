"""A file may have changed: told by the kernel where watchfiles is installed, and looked at twice a second anyway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

EVERY: Final = 0.5  # seconds; the kernel tells nothing on a network file system, and not all of a symlink's swap
TOLD: Final = find_spec("watchfiles") is not None


async def hints(path: Path, *, every: float = EVERY, told: bool = TOLD) -> AsyncGenerator[None, None]:
    """Yield at once, then whenever it is worth looking at the file again: at the latest after `every` seconds.

    `told` asks the kernel as well. The folder is watched, not the file: an editor writes a new one and renames it.
    """
    yield
    if told:
        from watchfiles import awatch  # an extra, and costly to import: only who watches a file pays for it

        try:
            async for _ in awatch(
                path.parent,
                watch_filter=None,
                recursive=False,
                debounce=50,
                step=10,
                rust_timeout=int(every * 1000),
                yield_on_timeout=True,
            ):
                yield
        except (OSError, RuntimeError):
            pass  # no more inotify watches, or the folder is gone: looking is left
    while True:
        await asyncio.sleep(every)
        yield
