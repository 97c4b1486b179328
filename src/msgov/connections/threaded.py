"""What works in a running loop serves plain code too: entered with `with`, it keeps a thread with a loop of its own."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from concurrent.futures import Future
from types import TracebackType
from typing import ClassVar, Self

__all__ = ["Threaded"]


class Threaded(ABC):
    """An async context manager that is a plain one as well; `thread` is the name of the thread that it then keeps."""

    thread: ClassVar[str]

    _thread: threading.Thread
    _up: Future[asyncio.AbstractEventLoop]
    _stop: asyncio.Event

    @abstractmethod
    async def __aenter__(self) -> Self:
        """Begin, in the running loop."""

    @abstractmethod
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""

    def __enter__(self) -> Self:
        """Start the loop's thread, and begin there; raises what kept it from that."""
        self._up = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._kept()), name=self.thread, daemon=True)
        self._thread.start()
        try:
            self._up.result()
        except BaseException:
            self._thread.join()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, and end the thread."""
        self._up.result().call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _kept(self) -> None:
        self._stop = asyncio.Event()
        try:
            async with self:
                self._up.set_result(asyncio.get_running_loop())
                await self._stop.wait()
        except BaseException as error:
            if self._up.done():
                raise
            self._up.set_exception(error)
