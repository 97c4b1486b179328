"""Between a client and its server stands a bad network, switched while they talk."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self

from msgov import clock
from msgov.clock import Dice
from msgov.errors import RuleError
from msgov.testing._flow import Cut, Faults, Flow, abort, close, close_by_reset
from msgov.testing._number import non_negative, positive

Way = Literal["up", "down", "both"]


class FaultProxy:
    """A TCP proxy on a free loopback port that does to connections what networks do.

    ```python
    async with FaultProxy("127.0.0.1", server_port) as proxy:
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{proxy.port}")
        proxy.slow(latency=0.2, jitter=0.05)
        proxy.heal()
    ```

    Every fault is felt at once, by open connections too, and lasts until `heal()`. `way` is where bytes go: "up" to the
    server, "down" to the client, or "both", the default. A black hole that is only "down" is the lost reply: the server
    did what was asked, and the client cannot know. Times are seconds of the running loop, virtual ones on a
    `VirtualLoop`. At most 1 MiB per direction and connection is under way, then the sender waits, as on a full line.

    Wrong numbers raise `RuleError`. Leaving the block closes all sockets and ends all tasks.
    """

    def __init__(self, host: str, port: int, *, dice: Dice | None = None) -> None:
        """Stand before the server at `host` and `port`; `dice` draws the jitter, by default the same in each run."""
        self.port = 0
        """The port to connect to on 127.0.0.1, once the block is entered."""
        self._upstream = (host, port)
        self._dice = clock.dice(0) if dice is None else dice
        self._faults = {"up": Faults(), "down": Faults()}
        self._connections: set[_Connection] = set()
        self._place: socket.socket | None = None
        self._listener: socket.socket | None = None

    async def __aenter__(self) -> Self:
        """Start to listen."""
        # Bound but not listening: it keeps the port ours while connections are refused.
        self._place = _bound(0)
        self.port = self._place.getsockname()[1]
        self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close everything."""
        self.refuse()
        if self._place is not None:
            self._place.close()
        tasks = [connection.task for connection in self._connections]
        self.reset()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    def slow(
        self, *, latency: float = 0.0, jitter: float = 0.0, bandwidth: float | None = None, way: Way = "both"
    ) -> None:
        """Delay every byte by `latency` plus or minus up to `jitter` seconds, and let `bandwidth` bytes a second pass.

        Order is kept. Bandwidth is per connection, None for no limit. What a former `slow` said is replaced.
        """
        latency, jitter = non_negative("slow: latency", latency), non_negative("slow: jitter", jitter)
        bandwidth = None if bandwidth is None else positive("slow: bandwidth", bandwidth)
        for faults in self._on(way):
            faults.latency, faults.jitter, faults.bandwidth = latency, jitter, bandwidth
            faults.stir()

    def black_hole(self, *, way: Way = "both") -> None:
        """Accept and swallow: nothing arrives, and nobody is told, not even of an end.

        After `heal()` a connection that lost bytes so is reset, for its stream has a hole; the others go on.
        """
        for faults in self._on(way):
            faults.black_hole = True
            faults.stir()

    def cut(self, *, after: int, reset: bool = False, way: Way = "both") -> None:
        """End each connection once `after` more bytes (0 or more) passed in one direction, 0 meaning at the first byte.

        It ends by an orderly close, or by an RST with `reset=True`.
        """
        after = int(non_negative("cut: after", after))
        for faults in self._on(way):
            faults.cut, faults.reset = after, reset
            faults.stir()
        for connection in self._connections:
            connection.recount()

    def reset(self) -> None:
        """Break every open connection at once, both sides, by an RST; new ones are as before."""
        for connection in tuple(self._connections):
            connection.break_off()

    def refuse(self) -> None:
        """Stop listening: a new connection is refused; open ones go on (`reset()` breaks them). The port is kept."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def heal(self) -> None:
        """End every fault, and listen again."""
        for faults in self._faults.values():
            faults.heal()
        for connection in tuple(self._connections):
            if connection.swallowed():
                connection.break_off()
        if self._listener is None:
            self._listen()

    def _on(self, way: Way) -> list[Faults]:
        if way not in ("up", "down", "both"):
            raise RuleError.at("FaultProxy: way", way, '"up" (to the server), "down" (to the client) or "both"')
        return [faults for name, faults in self._faults.items() if way in (name, "both")]

    def _listen(self) -> None:
        listener = self._listener = _bound(self.port)
        listener.listen(128)
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(BlockingIOError, ConnectionAbortedError):  # the client went away before we looked
            here, _ = listener.accept()
            connection = _Connection(here, self._upstream, self._faults["up"], self._faults["down"], self._dice)
            self._connections.add(connection)
            connection.task.add_done_callback(lambda _: self._connections.discard(connection))


class _Connection:
    """A client's connection, and ours to the server on its behalf."""

    def __init__(self, here: socket.socket, upstream: tuple[str, int], up: Faults, down: Faults, dice: Dice) -> None:
        here.setblocking(False)
        self._here = here
        self._upstream = upstream
        self._faults = (up, down)
        self._dice = dice
        self._flows: list[Flow] = []
        self._writers: list[asyncio.StreamWriter] = []
        self.task = asyncio.get_running_loop().create_task(self._carry())
        self.task.add_done_callback(lambda _: here.close())  # a task cancelled at birth runs no `finally`

    def recount(self) -> None:
        """Count what passes from now on."""
        for flow in self._flows:
            flow.passed = 0

    def swallowed(self) -> bool:
        """Whether bytes went into a black hole."""
        return any(flow.swallowed for flow in self._flows)

    def break_off(self) -> None:
        """Reset both sides."""
        close_by_reset(self._here)  # it may have no writer yet
        for writer in self._writers:
            abort(writer)
        self.task.cancel()

    async def _carry(self) -> None:
        end = abort
        try:
            client, to_client = await asyncio.open_connection(sock=self._here)
            self._writers.append(to_client)
            server, to_server = await asyncio.open_connection(*self._upstream)
            self._writers.append(to_server)
            up, down = self._faults
            self._flows = [Flow(up, client, to_server, self._dice), Flow(down, server, to_client, self._dice)]
            async with asyncio.TaskGroup() as group:
                for flow in self._flows:
                    group.create_task(flow.take())
                    group.create_task(flow.give())
            end = close
        except* Cut as cuts:
            if not any(isinstance(cut, Cut) and cut.reset for cut in cuts.exceptions):
                end = close
        except* OSError:
            pass  # one side broke off, or the server is not there: the other side gets an RST
        finally:
            for writer in self._writers:
                end(writer)
            for writer in self._writers:
                with suppress(OSError):
                    await writer.wait_closed()


def _bound(port: int) -> socket.socket:
    # Said to be TCP, for only then does asyncio turn off Nagle's delay on what is accepted.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setblocking(False)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(("127.0.0.1", port))
    except BaseException:
        bound.close()
        raise
    return bound
