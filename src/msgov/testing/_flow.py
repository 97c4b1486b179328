"""One direction of a connection: delayed, narrowed, swallowed or cut, as its faults say at the moment."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress

from msgov.clock import Dice

# At most a mebibyte is under way in each direction, in chunks small enough that many of them can be.
_CHUNK = 4096
_CHUNKS = 256
# A narrow line delivers in pieces of this many seconds, so that it is smooth and a change is soon felt.
_PIECE = 0.05


class Faults:
    """What is wrong with one direction; read anew for every piece, so a change is felt by open connections."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self.heal()

    def heal(self) -> None:
        """Let all pass."""
        self.latency = 0.0
        self.jitter = 0.0
        self.bandwidth: float | None = None
        self.black_hole = False
        self.cut: int | None = None
        self.reset = False
        self.stir()

    def stir(self) -> None:
        """Wake the flows that wait, for their wait has changed."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def pause(self, seconds: float) -> None:
        """Wait so long, or until the faults change."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()


class Cut(Exception):
    """The connection shall end here; `reset` says how."""

    def __init__(self, *, reset: bool) -> None:
        self.reset = reset


class Flow:
    """What goes from one end of a connection to the other."""

    def __init__(self, faults: Faults, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, dice: Dice) -> None:
        self.swallowed = False
        self.passed = 0
        self._faults = faults
        self._reader = reader
        self._writer = writer
        self._dice = dice
        self._clock = asyncio.get_running_loop().time
        self._under_way: asyncio.Queue[tuple[bytes, float, float]] = asyncio.Queue(_CHUNKS)
        writer.transport.set_write_buffer_limits(high=0)  # so that to drain means that the kernel has it

    async def take(self) -> None:
        """Read what comes, and stamp it; an empty chunk is the end."""
        chunk = b"-"
        while chunk:
            chunk = await self._reader.read(_CHUNK)
            await self._under_way.put((chunk, self._clock(), 2 * self._dice.random() - 1))

    async def give(self) -> None:
        """Hand on what is due; `Cut` when that is the end of it all."""
        faults = self._faults
        while True:
            chunk, came, share = await self._under_way.get()
            end = not chunk
            while (left := came + max(0.0, faults.latency + share * faults.jitter) - self._clock()) > 0:
                await faults.pause(left)
            while chunk and not faults.black_hole:
                chunk = await self._piece(chunk)
            if faults.black_hole:
                self.swallowed = True  # a lost end too: the other side must not learn of it
            elif end:
                if self._writer.can_write_eof():
                    self._writer.write_eof()
                return

    async def _piece(self, chunk: bytes) -> bytes:
        """Send one piece of the chunk, and return the rest."""
        faults = self._faults
        size = len(chunk)
        if faults.bandwidth is not None:
            size = min(size, max(1, int(faults.bandwidth * _PIECE)))
            await faults.pause(size / faults.bandwidth)
            if faults.black_hole:
                return chunk
        if faults.cut is not None:
            size = min(size, faults.cut - self.passed)
        self._writer.write(chunk[:size])
        await self._writer.drain()
        self.passed += size
        if faults.cut is not None and self.passed >= faults.cut:
            raise Cut(reset=faults.reset)
        return chunk[size:]


def close(writer: asyncio.StreamWriter) -> None:
    """End a connection as a program does that has said all."""
    if writer.transport.get_write_buffer_size():
        writer.transport.abort()  # the other side does not read: what waits for it would keep us
    else:
        writer.close()


def abort(writer: asyncio.StreamWriter) -> None:
    """Drop a connection with an RST, what is under way included."""
    close_by_reset(writer.get_extra_info("socket"))
    writer.transport.abort()


def close_by_reset(end: socket.socket) -> None:
    """Make a socket's close, whenever it comes, an RST."""
    with suppress(OSError):  # it is closed already
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
