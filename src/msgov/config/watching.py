"""A file may have changed: told by the kernel where watchfiles is installed, and looked at twice a second anyway."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final

EVERY: Final = 0.5  # seconds; the kernel tells nothing on a network file system, and not all of a symlink's swap
TOLD: Final = find_spec("watchfiles") is not None


async def hints(path: Path, *, every: float = EVERY, told: bool = TOLD) -> AsyncGenerator[None, None]:
    """Yield at once, then whenever it is worth looking at the file again: at the latest after `every` seconds.

    `told` asks the kernel as well. The folder is watched, not the file: an editor writes a new one and renames it.
    """
    loop = asyncio.get_running_loop()
    woken = asyncio.Event()

    def wake() -> None:
        with suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(woken.set)

    with _kernel(path.parent, wake) if told else _nobody():
        while True:
            woken.clear()
            yield
            with suppress(TimeoutError):
                async with asyncio.timeout(every):
                    await woken.wait()


@contextmanager
def _nobody() -> Iterator[None]:
    yield


@contextmanager
def _kernel(folder: Path, wake: Callable[[], None]) -> Iterator[None]:
    """Call `wake` for each change in a folder, from a thread that ends a twentieth of a second after the block."""
    over = threading.Event()

    def listen() -> None:
        from watchfiles import watch  # an extra, and slow to import: here no loop waits for it

        # Without inotify watches left, or the folder, looking is all there is.
        with suppress(OSError, RuntimeError):
            for _ in watch(
                folder, watch_filter=None, recursive=False, debounce=50, rust_timeout=60_000, stop_event=over
            ):
                wake()

    thread = threading.Thread(target=listen, name=f"watch {folder.name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
