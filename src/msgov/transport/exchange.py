"""One HTTP request and its reply, watched over: what comes in is counted, what goes out is noted.

The caller who goes away, the deadline that passes and the body that does not come all end the application in one way:
its task is cancelled, and `run` says why. Nothing of this costs a timer unless the request is older than a tick.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Final

from msgov.call import IGNORED, Call
from msgov.clock import Clock
from msgov.errors import CallFailed, DeadlineExceeded, DeadlineSpent, MsgovError
from msgov.resilience.standing import Standing
from msgov.scope import Trace
from msgov.transport import ratelimit
from msgov.transport.limits import App, Limits, Message, Receive, Scope, Send
from msgov.transport.problem import outcome, traced
from msgov.transport.rounds import TICK, Round

_BODIES: Final = frozenset({"http.response.body", "http.response.zerocopysend", "http.response.pathsend"})


class Replied(CallFailed):
    """The application answered with an error status: its reply stands, this only tells the policies."""

    def __init__(self, status: int) -> None:
        found = outcome(status, {}, None)
        super().__init__(f"answered {status}", status=str(status), verdict=found.verdict, overloaded=found.overloaded)


class BodyRefused(MsgovError):
    """A request body that is too large or too slow: the caller's doing, so it says nothing of the application."""

    verdict = IGNORED

    def __init__(self, reason: str) -> None:
        super().__init__(reason.replace("_", " "))
        self.reason = reason


class Left(MsgovError):
    """The caller went away before the reply was complete; nginx calls it 499."""

    reason = "cancelled"
    verdict = IGNORED
    status = "499"

    def __init__(self) -> None:
        super().__init__("the caller left")


class Exchange:
    """A request under way. An application is served with `receive` and `send` in place of the server's own.

    `began` says that the application ran, `started` that a part of its reply is out, `complete` that all of it is,
    `gone` that the caller has left. A reply of 500 and above is held back until the application has ended, for it may
    be what a framework makes of an error that we know better, or what a fallback replaces.
    """

    began = started = complete = gone = False
    status = 0
    standings: tuple[Standing, ...] = ()  # what limiters left of their caller's limits
    _read = 0  # bytes of the body
    _whole = False  # all of the body has been read
    _starved = False  # the application was cancelled while it waited for more of it
    _direct = _listening = 0  # how many wait for the body, how many for a disconnect
    _looked = _left = False  # it is older than a tick; the application has ended
    _why = ""  # we cancelled it, and why
    _headers: Iterable[tuple[bytes, bytes]] = ()  # of the reply
    _held: list[Message] | None = None
    _kept: Message | None = None  # read ahead, for the application
    _reader: asyncio.Future[Message] | None = None
    _alarm: asyncio.TimerHandle | None = None

    # Made on every request: what is as above costs nothing.
    def __init__(
        self,
        call: Call,
        scope: Scope,
        receive: Receive,
        send: Send,
        limits: Limits,
        rounds: Round,
        clock: Clock,
        *,
        bodied: bool,
        told: bool,
        around: Callable[[Call], AbstractContextManager[object]] | None,
    ) -> None:
        self.scope = scope
        self._call = call
        self._receive = receive
        self._send = send
        self._limits = limits
        self._round = rounds
        self._clock = clock
        self._bodied = bodied  # a body was announced
        self._span = around
        self._told = told  # the deadline is the caller's own
        self._since = clock()
        self.here()

    def here(self) -> None:
        """Take the current task for the one that serves the request."""
        task = asyncio.current_task(self._round.loop)  # on 3.11 to look for the loop costs twice as much
        assert task is not None  # noqa: S101  a coroutine is awaited in a task
        self._task = task
        self._cancelling = task.cancelling()

    # What the middleware asks for.

    def begin(self) -> None:
        """Watch over the request, from a tick from now: most are over by then."""
        self._round.add(self)
        deadline = self._call.deadline
        if (deadline is not None and deadline - self._since < 2 * TICK) or self._limits.body_seconds < 2 * TICK:
            self._alarm = self._round.loop.call_later(max(0.0, self._due() - self._since), self._ring)

    def end(self) -> bool:
        """Stop watching; return whether somebody else has cancelled the task."""
        self._round.remove(self)
        if self._alarm is not None:
            self._alarm.cancel()
        if self._reader is not None:
            self._reader.cancel()
        if self._why:
            self._why = ""
            self._task.uncancel()
        return self._task.cancelling() > self._cancelling

    async def run(self, app: App) -> None:
        """Run the application; raises `Replied` for an error status, `DeadlineExceeded`, `BodyRefused`."""
        call = self._call
        deadline = call.deadline
        if deadline is not None and self._clock() >= deadline:
            raise DeadlineSpent("no time is left for the request")
        self.began = True
        try:
            if self._span is None or call.trace.__class__ is Trace:  # no span to make current
                await app(self.scope, self.receive, self.send)
            else:
                with self._span(call):
                    await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError as cancelled:
            if self._why not in ("late", "slow"):
                raise
            error = self._overdue()
            self._why = ""
            if self._task.uncancel() > self._cancelling:
                raise
            raise error from cancelled
        finally:
            self._left = True
        if not self.complete:
            if self.gone:
                raise Left
            if self._why:  # it swallowed the cancellation
                raise self._overdue()
            raise RuntimeError("the application returned in the middle of its reply" if self.started else _SILENT)
        if self.status >= 400:
            raise Replied(self.status)

    def _overdue(self) -> MsgovError:
        if self._why == "slow":
            return BodyRefused("body_too_slow")
        return DeadlineExceeded(f"no reply in {self._clock() - self._since:.3f} s")

    @property
    def starved(self) -> bool:
        """Whether the application was cancelled while it waited for the request's body."""
        return self._starved and not self._whole

    @property
    def own(self) -> bool:
        """Whether a whole reply is held back that says more than a framework does of an error by default."""
        return self.complete and self._held is not None and self._held[-1].get("body") != b"Internal Server Error"

    async def flush(self) -> None:
        """Send a reply that was held back."""
        held, self._held = self._held, None
        for message in held or ():
            self.started = True
            await self._out(message)

    def drop(self) -> None:
        """Forget a reply that was held back: another will be sent in its place."""
        self._held = None
        self.complete = False

    # What the application calls.

    async def receive(self) -> Message:
        """Hand the application its next message, within the body's limits."""
        while True:
            kept, self._kept = self._kept, None
            if kept is not None:
                return self._taken(kept)
            if self.gone or self.complete or self._why:
                return {"type": "http.disconnect"}
            if self._reader is None and not self._whole:
                self._direct += 1
                try:
                    return self._taken(await self._receive())
                except asyncio.CancelledError:
                    self._starved = self._bodied
                    raise
                finally:
                    self._direct -= 1
            self._listening += 1
            reader = self._reading()
            try:
                await asyncio.shield(reader)
                self._arrived(reader)  # one that is done already is waited for without a turn of the loop
            except asyncio.CancelledError:
                self._starved = self._bodied
                raise
            finally:
                self._listening -= 1

    def _taken(self, message: Message) -> Message:
        """Count what the application is given."""
        if message["type"] != "http.request":
            self._heard(message)
            return message
        self._starved = False
        self._read += len(message.get("body", b""))
        if self._read > self._limits.body_bytes:
            raise BodyRefused("body_too_large")
        if not message.get("more_body"):
            self._whole = True
        if self._looked:
            self._reading()
        return message

    async def send(self, message: Message) -> None:
        """Pass the application's reply on, with the trace in its headers."""
        kind = message["type"]
        if kind == "http.response.start":
            self.status = message["status"]
            self._headers = message.get("headers", ())
            trace = self._call.trace
            if trace is not None:
                message = {**message, "headers": [*self._headers, *traced(trace)]}
            if self.standings:
                message = {**message, "headers": [*message.get("headers", ()), *ratelimit.headers(self.standings)]}
            if self.status >= 500:
                self._held = [message]
                return
            self.started = True
        elif kind in _BODIES and not message.get("more_body"):
            self.complete = True
        if self._held is not None:
            self._held.append(message)
            if not self.complete:
                await self.flush()
            return
        await self._out(message)

    async def _out(self, message: Message) -> None:
        try:
            await self._send(message)
        except OSError:  # how a server says that the caller has left (ASGI 2.4)
            self.gone = True
            raise

    # What watches.

    def look(self) -> None:
        """Read ahead by one message, to see whether the caller is still there; wake when time is up."""
        self._looked = True
        if self._alarm is None:
            self._alarm = self._round.loop.call_later(max(0.0, self._due() - self._clock()), self._ring)
        if self._direct == 0:
            self._reading()

    def _reading(self) -> asyncio.Future[Message]:
        reader = self._reader
        if reader is None:
            reader = self._reader = asyncio.ensure_future(self._receive())
            reader.add_done_callback(self._arrived)
        return reader

    def _arrived(self, reader: asyncio.Future[Message]) -> None:
        if reader is not self._reader or reader.cancelled() or reader.exception() is not None:
            return  # taken already; or whoever receives next is told
        message = reader.result()
        if message["type"] != "http.request":
            self._heard(message)
            return
        self._kept, self._reader = message, None
        if not message.get("more_body"):
            self._whole = True
            self._reading()

    def _heard(self, message: Message) -> None:
        """Note that the caller left; servers say the same once a reply is complete, and then it is no news."""
        if message["type"] == "http.disconnect" and not self.complete and not self.gone:
            self.gone = True
            if not self._listening and not self._direct:
                self._cancel("gone")  # an application that listens is told instead

    def _due(self) -> float:
        """Return when to look at the clock again."""
        slow = self._since + self._limits.body_seconds if self._bodied and not self._whole else None
        deadline = self._call.deadline
        if deadline is None or slow is None:
            return slow or deadline or self._since + 3600.0
        return min(slow, deadline)

    def _ring(self) -> None:
        self._alarm = None
        if self._left or self.complete:
            return
        now, deadline = self._clock(), self._call.deadline
        waits = self._bodied and not self._whole
        if waits and now >= self._since + self._limits.body_seconds and (self._direct or self._listening):
            self._cancel("slow")
        elif deadline is not None and now >= deadline and self.began:
            if self._told or not (self.started and self._endless()):
                self._cancel("late")
        else:
            self._alarm = self._round.loop.call_later(max(TICK, self._due() - now), self._ring)

    def _endless(self) -> bool:
        """Whether the reply has no end by design: only the caller's own deadline ends an event stream."""
        return any(n.lower() == b"content-type" and v.startswith(b"text/event-stream") for n, v in self._headers)

    def _cancel(self, why: str) -> None:
        if not self._why and not self._left and not self._task.done():
            self._why = why
            self._task.cancel()


_SILENT: Final = "the application returned without a reply"
