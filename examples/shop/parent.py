"""A service ends with its parent: at the end of standard input, when that is a pipe, and at SIGTERM; within 10 s."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import threading
from collections.abc import Coroutine
from typing import Final

HARD: Final = 10.0  # seconds from the word to the end: more than a drain takes, less than a parent waits
STUCK: Final = 70  # exit code of a process that did not end by itself


def run(main: Coroutine[object, None, None]) -> None:
    """Run until `main` ends, or is cancelled because the parent is gone."""
    try:
        asyncio.run(_until_alone(main))
    except asyncio.CancelledError:
        pass


def hurry() -> None:
    """From now on there are ten seconds left."""
    timer = threading.Timer(HARD, os._exit, [STUCK])
    timer.daemon = True
    timer.start()


async def _until_alone(main: Coroutine[object, None, None]) -> None:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def leave() -> None:
        hurry()
        task.cancel()

    def listen() -> None:
        while os.read(0, 4096):
            pass
        hurry()  # here too, for a loop that turns no more
        loop.call_soon_threadsafe(leave)

    loop.add_signal_handler(signal.SIGTERM, leave)  # until `running.wait` takes it over
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        threading.Thread(target=listen, name="parent", daemon=True).start()
    await main
