"""A decision is a machine: it never waits, sleeps, reads a clock or knows asyncio.

Time is an argument, chance is a `Dice` given to the constructor. Waiting, waking across loops and threads, and leaving
on timeout or cancellation are the driver's. Every admitted call is settled exactly once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import ClassVar, Generic, NamedTuple, TypeVar

from msgov.call import IGNORED, PERMANENT, TRANSIENT, Call, Outcome
from msgov.clock import Clock
from msgov.errors import MsgovError, Rejected

T = TypeVar("T")

AsyncHandler = Callable[[Call], Awaitable[object]]
SyncHandler = Callable[[Call], object]
AsyncLayer = Callable[[AsyncHandler], AsyncHandler]
SyncLayer = Callable[[SyncHandler], SyncHandler]
Answer = Callable[[Call, BaseException], object]
Classify = Callable[[Call, BaseException], Outcome]
Judge = Callable[[Call, BaseException, float], Outcome]


class Waiting(Generic[T]):
    """A place in a gate's line: resolved once by the machine, waited on by the driver.

    The machine sets `ticket` or `error` under its lock, then calls `wake` after the lock, from any thread. The driver
    sets `wake` first and checks `over` after, for it may be resolved in between; it waits until `until` (seconds, on
    the clock that `admit` was given) and then calls the gate's `withdraw`, the one way out of the line.
    """

    __slots__ = ("error", "since", "ticket", "until", "wake")

    def __init__(self, *, since: float, until: float) -> None:
        self.since = since
        self.until = until
        self.ticket: T | None = None
        self.error: MsgovError | None = None
        self.wake: Callable[[], None] | None = None

    @property
    def over(self) -> bool:
        """Whether the machine has answered."""
        return self.ticket is not None or self.error is not None

    def resolve(self, *, ticket: T | None = None, error: MsgovError | None = None) -> None:
        """Answer, under the machine's lock; call `rouse` after it."""
        self.ticket = ticket
        self.error = error

    def rouse(self) -> None:
        """Wake the driver, if it is listening yet."""
        wake = self.wake
        if wake is not None:
            wake()


class Shortcut(NamedTuple):
    """What a gate does for a call that goes well, as lines that a written walk takes over in place of a call.

    `{g}` is the gate, `{t}` its ticket, `{now}` the time; `{admit}` and `{settle}`, each alone on a line, call the
    method. The lines must come to what the methods come to and leave no ticket where the gate refuses. They hold for
    exactly this class: a subclass has none.
    """

    admit: tuple[str, ...] = ("{admit}",)
    settle: tuple[str, ...] = ("{settle}",)


class Gate(ABC, Generic[T]):
    """Decides at the door, learns at the exit, never waits.

    A ticket is whatever the gate needs to know its own call again, and is never None. Safe to share between threads:
    a lock is held for arithmetic only, never across a call or a hook.

    Two promises make it cheaper: `waits = False`, that it never returns a `Waiting`; `learns = False`, that its
    `settle` has nothing to do for a call that goes well.
    """

    waits = True
    learns = True
    shortcut: ClassVar[Shortcut | None] = None

    @abstractmethod
    def admit(self, call: Call, now: float) -> T | Waiting[T]:
        """Let the call in and return a ticket, or raise `Rejected`; a gate that declares it returns a `Waiting`."""

    @abstractmethod
    def settle(self, ticket: T, outcome: Outcome, now: float) -> None:
        """Learn what became of the call; called exactly once per ticket. Never raises."""

    def withdraw(self, waiting: Waiting[T], now: float) -> T | None:
        """Leave the line: return None, or the ticket if it was granted at that very moment (settle it then).

        Raises the machine's own refusal when that is how the wait ended.
        """
        if waiting.error is not None:
            raise waiting.error
        return waiting.ticket

    def late(self, waiting: Waiting[T], now: float) -> Rejected:
        """Say why a call whose time in the line ran out is refused."""
        return Rejected(f"waited {now - waiting.since:.3f} s in line", waited=now - waiting.since)


class Plan(ABC):
    """Says when another attempt starts; `hedges` says that it may do so while one is under way.

    `opening` may hold the lines that `next` comes to when a call starts, as in a gate's `Shortcut`, with `{p}` for the
    plan.
    """

    hedges = False
    opening: ClassVar[tuple[str, ...] | None] = None

    @abstractmethod
    def next(self, call: Call, tries: int, outcome: Outcome | None, now: float) -> float | None:
        """Return the seconds until the next attempt, None for no other.

        Asked with no outcome when the call starts (a hedge answers, a budget takes its deposit), and after each failed
        attempt; `tries` counts the attempts begun so far.
        """


class Hedging(Plan):
    """A plan by which an attempt may start while others are under way; the first good reply is the call's.

    `next`, asked with no outcome, answers the seconds until one more may start: when the call starts, and again after
    each further start. After a failure it answers as any plan does, 0 for at once.
    """

    hedges = True

    @abstractmethod
    def begins(self, call: Call, tries: int, now: float) -> bool:
        """Say whether the attempt starts whose time, named with no outcome, has come; what it costs is charged here."""

    @abstractmethod
    def learn(self, outcome: Outcome, now: float) -> None:
        """Learn how long an attempt took, a lost one too; called once for each. Never raises."""

    def decided(self, hedges: int, *, won: bool) -> None:
        """Learn that a call which began so many hedges has a reply, and whether one of them gave it. Never raises."""


class Substitute(ABC):
    """Answers in the callee's place: it only chooses, the driver runs the answer."""

    @abstractmethod
    def instead(self, call: Call, outcome: Outcome, now: float) -> Answer | None:
        """Return what to answer with, a function of the call and its error (plain or async), or None to let it fail."""


class Around(ABC):
    """Stands round a call as a layer does: answers without it, or joins it to another that is under way.

    Its choice is a machine; its waiting is written once per colour. `judge` is the pipeline's own, of a call, its error
    and the seconds it took; `clock` the driver's.
    """

    @abstractmethod
    def aio(self, handler: AsyncHandler, judge: Judge, clock: Clock) -> AsyncHandler:
        """Wrap a coroutine handler."""

    @abstractmethod
    def sync(self, handler: SyncHandler, judge: Judge, clock: Clock) -> SyncHandler:
        """Wrap a blocking handler."""


def classify(call: Call, error: BaseException) -> Outcome:
    """Judge an error where no edge knows better.

    What msgov raised carries its own verdict. Cancellation, and whatever else is no `Exception`, is IGNORED. A bug in
    the caller's own code (TypeError, AttributeError, NameError, NotImplementedError) is PERMANENT: another attempt
    would meet it again. All else is TRANSIENT.
    """
    if isinstance(error, MsgovError):
        return Outcome(
            error.verdict,
            error=error,
            status=getattr(error, "status", error.reason),
            retry_after=error.retry_after,
            sent=error.sent,
            overloaded=error.overloaded,
        )
    if not isinstance(error, Exception):
        return Outcome(IGNORED, error=error, status="cancelled")
    verdict = PERMANENT if isinstance(error, _BUGS) else TRANSIENT
    return Outcome(verdict, error=error, status=type(error).__name__)


_BUGS = (TypeError, AttributeError, NameError, NotImplementedError)
