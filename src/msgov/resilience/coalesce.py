"""Ask once for all who ask the same at the same time.

Single-flight, after golang.org/x/sync/singleflight, whose callers wait for a leader that hangs for as long as it does
and share the leader's cancellation. Here whoever asks leaves alone, and the work ends with the last who wants it.
"""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar, copy_context
from functools import partial

from msgov.call import Call
from msgov.clock import Clock
from msgov.errors import DeadlineExceeded
from msgov.policy import Around, AsyncHandler, Judge, SyncHandler
from msgov.resilience.flights import CoalesceRule, Flight, Flights
from msgov.resilience.sameness import Key, sameness

_DEFAULT = CoalesceRule()
_Landing = tuple[object, Exception | None]

_inside: ContextVar[Flight | None] = ContextVar("msgov.coalesce", default=None)


class Coalesce(Around):
    """Let calls that ask the same at the same time share one execution.

    Two calls are the same when `sameness` says so: by default target, method, whom it is for and the request, or what
    `key` returns for a call; None there, and a call that is not idempotent, goes alone. What is shared is the reply as
    it is, or the same exception; nothing of it is remembered.

    Under asyncio the work is a task of its own, in a copy of the first caller's context: whoever is cancelled, or out
    of time, leaves alone, the first too, and the last to leave cancels the work and waits for its end. In blocking code
    the first caller does the work, and the others wait for it within their own deadlines. A deadline of the first
    caller binds the work, not the others: one that fails by it, or is cut off, is begun again by those who have time.

    Calls of one event loop share, and so do the threads of blocking code; a loop and another never wait for each other.
    Counters: `led`, `joined`, `alone`.
    """

    def __init__(
        self, rule: CoalesceRule = _DEFAULT, *, key: Key | None = None, name: str = "", target: str = ""
    ) -> None:
        self.name = name
        self.target = target
        self._same = sameness(key)
        self._flights = Flights(rule)
        self._tasks: dict[Flight, asyncio.Task[_Landing]] = {}  # a loop holds its tasks weakly

    @property
    def rule(self) -> CoalesceRule:
        """The rule in force; storing another keeps what is under way."""
        return self._flights.rule

    @rule.setter
    def rule(self, rule: CoalesceRule) -> None:
        self._flights.rule = rule

    @property
    def led(self) -> int:
        """Executions that others could join, since the start."""
        return self._flights.led

    @property
    def joined(self) -> int:
        """Calls that waited for another's execution, since the start."""
        return self._flights.joined

    @property
    def alone(self) -> int:
        """Calls that went alone for want of room, or because they would have waited for themselves."""
        return self._flights.alone

    def __len__(self) -> int:
        """Count the executions under way."""
        return len(self._flights)

    def aio(self, handler: AsyncHandler, judge: Judge, clock: Clock) -> AsyncHandler:
        """Wrap a coroutine handler."""
        same, flights = self._same, self._flights

        async def coalesced(call: Call) -> object:
            name = same(call) if call.idempotent else None
            if name is None:
                return await handler(call)
            loop, inside, began = asyncio.get_running_loop(), _inside.get(), clock()
            while True:
                flight, leads = flights.join((loop, name), call, inside=inside, closed=loop.is_closed)
                if flight is None:
                    return await handler(call)
                if leads:
                    self._begin(loop, handler, flight)
                woken: asyncio.Future[bool] = loop.create_future()
                wake = partial(_resolve, woken, True)
                try:
                    if flights.watch(flight, wake) and not await _over(loop, woken, call, clock):
                        raise _late(call, clock() - began)
                    if leads:
                        _bring_home(flight.call, call)
                        if not flight.landed:
                            raise asyncio.CancelledError
                    if leads or flight.speaks_to(call, clock()):
                        return flight.reply(call)
                finally:
                    if flights.leave(flight, inside=inside, wake=wake):
                        await self._end(flight)

        return coalesced

    def sync(self, handler: SyncHandler, judge: Judge, clock: Clock) -> SyncHandler:
        """Wrap a blocking handler."""
        same, flights = self._same, self._flights

        def coalesced(call: Call) -> object:
            name = same(call) if call.idempotent else None
            if name is None:
                return handler(call)
            inside, began = _inside.get(), clock()
            wake = None
            while True:
                flight, leads = flights.join((None, name), call, inside=inside)
                if flight is None:
                    return handler(call)
                try:
                    if leads:
                        return lead(flight, call)
                    woken = threading.Event()
                    wake = woken.set
                    if flights.watch(flight, wake) and not woken.wait(_left(call, clock)):
                        raise _late(call, clock() - began)
                    if flight.speaks_to(call, clock()):
                        return flight.reply(call)
                finally:
                    flights.leave(flight, inside=inside, wake=wake)

        def lead(flight: Flight, call: Call) -> object:
            token = _inside.set(flight)
            try:
                value = handler(call)
                flights.land(flight, value)
                return value
            except Exception as error:
                flights.land(flight, error=error)
                raise
            finally:
                flights.spoil(flight)  # an interrupt, or nothing: it has landed
                _inside.reset(token)

        return coalesced

    def _begin(self, loop: asyncio.AbstractEventLoop, handler: AsyncHandler, flight: Flight) -> None:
        """Start the work, with a call and a context of its own: its first caller may leave before it ends."""
        flight.call = flight.call.fork()
        context = copy_context()
        context.run(_inside.set, flight)
        task = self._tasks[flight] = loop.create_task(_work(handler, flight.call), context=context)
        task.add_done_callback(partial(self._landed, flight))

    def _landed(self, flight: Flight, task: asyncio.Task[_Landing]) -> None:
        del self._tasks[flight]
        if task.cancelled() or task.exception() is not None:  # an interrupt, which the loop raises by itself
            self._flights.spoil(flight)
        else:
            self._flights.land(flight, *task.result())

    async def _end(self, flight: Flight) -> None:
        """Cancel the work that nobody wants, and wait for its end."""
        task = self._tasks.get(flight)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])


async def _work(handler: AsyncHandler, call: Call) -> _Landing:
    """Do it; an error is returned, not raised, for there may be nobody left to take it."""
    try:
        return await handler(call), None
    except Exception as error:  # noqa: BLE001  whoever waits raises it
        return None, error


def _bring_home(own: Call, call: Call) -> None:
    """Let the first caller's call know what became of the one that was made for it."""
    call.status, call.attempt, call.attempts_left = own.status, own.attempt, own.attempts_left
    call.instance, call.tried = own.instance, own.tried


async def _over(loop: asyncio.AbstractEventLoop, woken: asyncio.Future[bool], call: Call, clock: Clock) -> bool:
    """Wait until the flight is over, True, or the call's own time is, False."""
    left = _left(call, clock)
    if left is None:
        return await woken
    timer = loop.call_later(left, _resolve, woken, False)
    try:
        return await woken
    finally:
        timer.cancel()


def _resolve(woken: asyncio.Future[bool], over: bool) -> None:
    if not woken.done():
        woken.set_result(over)


def _left(call: Call, clock: Clock) -> float | None:
    return None if call.deadline is None else max(0.0, call.deadline - clock())


def _late(call: Call, seconds: float) -> DeadlineExceeded:
    asked = f"{call.target} {call.method}".rstrip()
    return DeadlineExceeded(
        f"{asked}: another's call that it joined gave no answer in {seconds:.3f} s", seconds=seconds
    )
