"""uvicorn keeps no clock while a request's head arrives; this protocol closes the connection of whoever drips it.

`uvicorn.run(app, http=Protocol)`. No ASGI middleware can do it, for it hears of a request only when its head is whole.
"""

from __future__ import annotations

import asyncio
from typing import Any

try:
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ModuleNotFoundError as missing:
    from msgov.errors import MissingExtra

    raise MissingExtra(missing.name or "uvicorn", extra="serve") from missing

HEAD_SECONDS = 10.0


class Protocol(H11Protocol):
    """uvicorn's own protocol over h11, with `head_seconds` for each request's head, 10 by default.

    The time runs from the connection, and on one that is kept alive from the first byte of the next request: the pause
    between two is uvicorn's `timeout_keep_alive`. A subclass may set another time.
    """

    head_seconds = HEAD_SECONDS
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to count."""
        super().connection_made(transport)
        self._count()

    def data_received(self, data: bytes) -> None:
        """Count on while a head has begun and is not whole."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self._patience is None and self.conn.trailing_data[0]:
            self._count()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting."""
        self._stop()
        super().connection_lost(exc)

    def _count(self) -> None:
        self._patience = self.loop.call_later(self.head_seconds, self._give_up)

    def _stop(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        self._patience = None
        if not self.transport.is_closing():
            self.transport.close()
