"""A reply whose body is still to come holds its tickets until the body has ended, broken off or been closed.

The drivers settle an attempt when its handler returns, which is when the headers are there. So each gate is wrapped: a
settle that says "well" waits with the open reply, and goes through with what became of the body.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any, Self, TypeVar

from msgov import aio
from msgov.call import IGNORED, OK, Call, Outcome
from msgov.clock import Clock
from msgov.errors import DeadlineExceeded
from msgov.event import unraisable
from msgov.pipeline import Policy
from msgov.policy import Classify, Gate, Waiting

_EARLY = 0.01  # seconds: so much before our clock says so, a socket's timeout may end


class Open(str):
    """The status of a reply whose body is still to come, and the settles that wait for it.

    A driver hands `call.status` to every gate as the outcome's: that is how a gate learns that the reply is open. `at`
    is when the headers came, None as soon as the body is over.
    """

    __slots__ = ("at", "owed")

    def __new__(cls, status: str, at: float) -> Self:
        """Make it when the headers are there."""
        made = super().__new__(cls, status)
        made.at = at
        made.owed = []
        return made

    at: float | None
    owed: list[tuple[Gate[Any], Any, float]]

    def over(self, outcome: Outcome, now: float) -> None:
        """Settle what waits, by what became of the body; the second time says nothing."""
        at, self.at = self.at, None
        if at is None:
            return
        for gate, ticket, seconds in self.owed:
            ended = Outcome(
                outcome.verdict,
                error=outcome.error,
                status=outcome.status,
                retry_after=outcome.retry_after,
                sent=outcome.sent,
                overloaded=outcome.overloaded,
                seconds=seconds + now - at,
            )
            try:
                gate.settle(ticket, ended, now)
            except Exception as fault:  # noqa: BLE001  a faulty gate must not cost the others their settle
                unraisable(fault, gate)
        self.owed.clear()


class _Holding(Gate[Any]):
    """A gate whose ticket is settled when the reply's body is over."""

    def __init__(self, gate: Gate[Any]) -> None:
        self.narrows = getattr(gate, "narrows", False)
        self._gate = gate

    def admit(self, call: Call, now: float) -> Any:
        return self._gate.admit(call, now)

    def settle(self, ticket: Any, outcome: Outcome, now: float) -> None:
        status = outcome.status
        if isinstance(status, Open) and status.at is not None:
            status.owed.append((self._gate, ticket, outcome.seconds))
        else:
            self._gate.settle(ticket, outcome, now)

    def withdraw(self, waiting: Waiting[Any], now: float) -> Any:
        return self._gate.withdraw(waiting, now)

    def late(self, waiting: Waiting[Any], now: float) -> Any:
        return self._gate.late(waiting, now)


def holding(policies: tuple[Policy, ...]) -> tuple[Policy, ...]:
    """Let the gates among the policies hold their tickets while a reply is `Open`."""
    return tuple(_Holding(policy) if isinstance(policy, Gate) else policy for policy in policies)


class Dropped:
    """Replies that were left to the garbage collector: added without a lock, settled with the next request."""

    __slots__ = ("_all",)

    def __init__(self) -> None:
        self._all: deque[tuple[Open, Any]] = deque()

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._all)

    def add(self, status: Open, stream: Any) -> None:
        """Take what a finaliser found."""
        self._all.append((status, stream))

    def settle(self, now: float) -> Iterator[Any]:
        """Settle them as IGNORED; give out their streams, to be closed."""
        while self._all:
            status, stream = self._all.popleft()
            status.over(Outcome(IGNORED, status="abandoned"), now)
            yield stream


class _Body:
    """What both colours of a body do alike."""

    def __init__(
        self, stream: Any, call: Call, status: Open, *, clock: Clock, judge: Classify, dropped: Dropped
    ) -> None:
        self._stream = stream
        self._call = call
        self._status = status
        self._clock = clock
        self._judge = judge
        self._dropped = dropped

    def _ended(self) -> None:
        self._status.over(Outcome(OK, status=str(self._status)), self._clock())

    def _broken(self, error: BaseException) -> None:
        self._status.over(self._judge(self._call, error), self._clock())

    def _closed(self) -> None:
        self._status.over(Outcome(IGNORED, status="closed"), self._clock())

    def _drop(self) -> bool:
        if self._status.at is None:
            return False
        self._dropped.add(self._status, self._stream)
        return True


class AsyncBody(_Body):
    """The body of a reply for an asyncio client: each part comes within the call's deadline."""

    kind = "AsyncByteStream"

    def __init__(self, *args: Any, collect: Callable[[], None], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._loop = asyncio.get_running_loop()
        self._collect = collect

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Give out the parts."""
        parts = self._stream.__aiter__()
        try:
            while True:
                try:
                    part = await aio.bounded(lambda _: parts.__anext__(), self._call, self._clock)
                except StopAsyncIteration:
                    break
                yield part
        except GeneratorExit:  # whoever stops reading closes it
            raise
        except BaseException as error:
            self._broken(error)
            raise
        self._ended()

    async def aclose(self) -> None:
        """Close it, early or not."""
        self._closed()
        await self._stream.aclose()

    def __del__(self) -> None:
        """Hand on what was dropped: no lock is taken here."""
        if self._drop() and not self._loop.is_closed():
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._collect)


class SyncBody(_Body):
    """The body of a reply for a blocking client: between two parts the deadline is looked at."""

    kind = "SyncByteStream"

    def __iter__(self) -> Iterator[bytes]:
        """Give out the parts."""
        call, clock = self._call, self._clock
        parts = iter(self._stream)
        try:
            while True:
                if call.deadline is not None and clock() >= call.deadline:
                    raise late(call)
                try:
                    part = next(parts)
                except StopIteration:
                    break
                except Exception as error:
                    if timed_out(call, error, clock()):
                        raise late(call) from error
                    raise
                yield part
        except GeneratorExit:  # as in the asyncio twin
            raise
        except BaseException as error:
            self._broken(error)
            raise
        self._ended()

    def close(self) -> None:
        """Close it, early or not."""
        self._closed()
        self._stream.close()

    def __del__(self) -> None:
        """Hand on what was dropped, as the asyncio twin does."""
        self._drop()


def timed_out(call: Call, error: Exception, now: float) -> bool:
    """Whether a timeout of the library's is the call's deadline that passed."""
    if call.deadline is None or now + _EARLY < call.deadline:
        return False
    return any(kind.__name__ == "TimeoutException" for kind in type(error).__mro__)


def late(call: Call) -> DeadlineExceeded:
    """Make the error of a call whose time ran out."""
    return DeadlineExceeded(f"{call.target} {call.method}: the time for it ran out")


S = TypeVar("S", AsyncBody, SyncBody)


def body(kind: type[S], stream: Any) -> type[S]:
    """Make a kind of body one of the library's own streams, for its client takes nothing else."""
    base = next((each for each in type(stream).__mro__ if each.__name__ == kind.kind), object)
    made = _kinds.get((kind, base))
    if made is None:
        made = _kinds[kind, base] = type(kind.__name__, (kind, base), {})
    found: type[S] = made
    return found


_kinds: dict[tuple[type, type], Any] = {}  # one for each colour of each library
