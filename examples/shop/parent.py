"""A service ends with its parent: at the end of standard input, when that is a pipe, and at SIGTERM; within 10 s."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import threading
from collections.abc import Coroutine
from typing import Final

HARD: Final = 10.0  # seconds from the word to the end: more than a drain takes, less than a parent waits
STUCK: Final = 70  # exit code of a process that did not end by itself

_going = threading.Event()  # a process ends once: a second word must not break off what the first one has begun


def run(main: Coroutine[object, None, None]) -> None:
    """Run until `main` ends, or is cancelled because the parent is gone."""
    try:
        asyncio.run(_until_alone(main))
    except asyncio.CancelledError:
        pass


def going() -> None:
    """Say that the end has begun: there are ten seconds left, and nobody is told again."""
    _going.set()
    _limit()


async def _until_alone(main: Coroutine[object, None, None]) -> None:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def leave() -> None:
        if not _going.is_set():
            going()
            task.cancel()

    def listen() -> None:
        while os.read(0, 4096):
            pass
        _limit()  # here, for a loop that turns no more
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself
            loop.call_soon_threadsafe(leave)

    loop.add_signal_handler(signal.SIGTERM, leave)  # until `running.wait` takes it over
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        threading.Thread(target=listen, name="parent", daemon=True).start()
    await main


def _limit() -> None:
    timer = threading.Timer(HARD, os._exit, [STUCK])
    timer.daemon = True
    timer.start()
