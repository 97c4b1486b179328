"""Attempts of one RPC fly beside each other, each to an instance of its own; the first good answer is the call's.

grpcio has no hedging (of gRFC A6 it runs only the retries). Here each attempt is a flight over its own copy of the
call: a `Race` says when one starts and which has won, and the losers are cancelled at the transport.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, cast

from msgov._race import Cancel, Ended, Race
from msgov.call import Call, Outcome
from msgov.pipeline import Segment, answered
from msgov.policy import Hedging, Plan

from .flight import Flight
from .landing import whole
from .port import N
from .shared import SharedFlight, turn


class _Once(Plan):
    """One attempt: the plan of a flight that is one of several. That there is a plan makes it careful."""

    def next(self, call: Call, tries: int, outcome: Outcome | None, now: float) -> None:
        """Allow no other."""


_ONCE = _Once()


class Begun:
    """A response stream of which the first message was read already, to see who is ahead: it is given out first."""

    def __init__(self, native: Any, messages: list[Any]) -> None:
        self._native = native
        self._messages = messages

    def __getattr__(self, name: str) -> Any:
        """Be the stream in all else."""
        return getattr(self._native, name)

    async def read(self) -> Any:
        """Return the next message (asyncio)."""
        return self._messages.pop() if self._messages else await self._native.read()

    def __next__(self) -> Any:
        """Return the next message (threads)."""
        return self._messages.pop() if self._messages else next(self._native)


class _Word:
    """What an attempt tells the race: once, whoever comes first, an end or a first message."""

    def __init__(self, ended: Ended) -> None:
        self._ended = [ended]

    def say(self, reply: object, outcome: Outcome, now: float) -> None:
        try:
            ended = self._ended.pop()  # one C-level step: threads may meet here
        except IndexError:
            return
        ended(reply, outcome, now)


class Hedged(Flight[N]):
    """The life of one logical call whose attempts race; `native` is None until one has won.

    A reply wins when it is there, a response stream with its first message. A call that is cancelled is over at once;
    its attempts are when the transport says so, and settle what they hold then.
    """

    # No slots of its own: beside those of SharedFlight they would make two layouts of one class.
    makes: ClassVar[type[Flight[Any]]] = Flight
    _race: Race | None = None
    _ahead: Flight[N] | None = None  # the stream that has won, and goes on

    def _opened(self, now: float) -> None:
        self._inside = True
        self._flights: list[Flight[N]] = []
        self._leg = Segment((), _ONCE, ())
        self._leg.outer = self._segment.inner
        port, plan = self.port, cast("Hedging", self._segment.plan)
        self._race = Race(plan, self.call, begin=self._take_off, later=port.later, over=self._decided, clock=port.clock)
        try:
            self._race.start(now)
        except Exception as fault:  # noqa: BLE001  a plan's fault ends the call, and settles it
            self._conclude(self._judged(fault, now), now)

    def _take_off(self, fork: Call, ended: Ended) -> Cancel:
        """Begin an attempt."""
        flight: Flight[N] = self.makes(self.port, self._pipeline, self._leg, fork)
        self._flights.append(flight)
        word = _Word(ended)
        flight.hear(partial(self._aloft_with, flight, word))
        flight.done(partial(self._down, flight, word))
        flight.begin()
        return flight.cancel

    def _aloft_with(self, flight: Flight[N], word: _Word) -> None:
        """Watch a native call, for nobody awaits it."""
        native = flight.native
        if native is None:
            return  # it ended before it was sent
        failed = partial(flight.fail, native)
        if self.port.streams:
            self.port.first(native, partial(self._first_of, flight, native, word), failed)
        else:
            self.port.attend(native, failed)

    def _first_of(self, flight: Flight[N], native: N, word: _Word, messages: list[Any]) -> None:
        """Take an attempt's first message; none is there of a stream that ended without."""
        now = flight.first = self.port.clock()
        word.say((flight, Begun(native, messages)), answered("", now - flight.since), now)

    def _down(self, flight: Flight[N], word: _Word) -> None:
        """Tell of an attempt that is over; of a stream that went well its first message tells."""
        outcome = self._outcome(flight)
        if outcome.error is not None or not self.port.streams or flight.answered:
            word.say((flight, None), outcome, self.port.clock())

    def _decided(self, reply: object, outcome: Outcome, now: float) -> None:
        """Take over what has won, or the failure that the call ends with."""
        flight, begun = cast("tuple[Flight[N], N | None]", reply)
        if self.over or self.cancelled:
            return
        race, self._race = self._race, None  # and the knot that it makes with this is untied
        self._tries = 1 if race is None else race.tries
        if begun is not None:
            self._ahead, self.native, self.first = flight, begun, flight.first
            self.committed = True
            self._changed()
            flight.done(partial(self._arrived, flight))
            return
        if outcome.error is not None:  # it may be an earlier attempt's
            flight = next((each for each in self._flights if each.outcome is outcome), flight)
        self._take(flight, outcome, now)

    def _arrived(self, flight: Flight[N]) -> None:
        """End as the stream that has won."""
        if not self.over:
            self._take(flight, self._outcome(flight), self.port.clock())

    def _outcome(self, flight: Flight[N]) -> Outcome:
        """Return how an attempt ended; one that broke has left its tickets to the frames, and has only its error."""
        broke = flight.error or RuntimeError("the attempt broke off")
        return self._judged(broke, self.port.clock()) if flight.outcome is None else flight.outcome

    def _take(self, flight: Flight[N], outcome: Outcome, now: float) -> None:
        self._flights.clear()
        if self._ahead is None:
            self.native = flight.native
        if outcome.error is None:
            self.answered, self.reply = flight.answered, flight.reply
            self._settled(now)
            self._finish(None)
        else:
            self._conclude(whole(outcome, now - self._started), now)

    def cancel(self) -> bool:
        """End the call, and all its attempts, for the caller's own reason; False when it was over or cancelled."""
        ahead, race = self._ahead, self._race
        if ahead is not None:
            if self.over or self.cancelled:
                return False
            self.cancelled = True
            return ahead.cancel()
        if not super().cancel():
            return False
        if race is not None:
            self._race = None
            race.cancel()
        return True

    def abandon(self) -> None:
        """Leave what its attempts hold to the frames, too."""
        for flight in self._flights if self._inside else ():
            if not flight.over:
                flight.abandon()
        super().abandon()


class SharedHedged(Hedged[N], SharedFlight[N]):
    """The same, watched and steered from many threads: so is each of its attempts."""

    makes = SharedFlight

    cancel = turn(Hedged.cancel)
    _decided = turn(Hedged._decided)  # noqa: SLF001  its own
    _arrived = turn(Hedged._arrived)  # noqa: SLF001  its own
