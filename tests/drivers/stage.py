"""Both drivers on one stage: the same script, played on virtual time in either colour."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from msgov import aio, sync
from msgov.call import TRANSIENT, Call, Outcome, Verdict
from msgov.errors import Rejected
from msgov.pipeline import Pipeline, Policy
from msgov.policy import Answer, Classify, Gate, Plan, Substitute, Waiting, classify
from msgov.testing import ManualClock, ScriptedHandler, run

Journal = list[tuple[object, ...]]


@dataclass
class Played:
    """What came of one call, and the handler that it reached."""

    reply: object = None
    error: BaseException | None = None
    seconds: float = 0.0
    handler: ScriptedHandler = field(default_factory=ScriptedHandler)

    @property
    def attempts(self) -> int:
        """How often the handler was called."""
        return len(self.handler.calls)


class Aio:
    """The asyncio driver on a virtual loop."""

    name = "aio"

    def play(
        self, policies: Iterable[Policy], *script: object, call: Call | None = None, judge: Classify = classify
    ) -> Played:
        """Play one call through the policies against the script."""
        played = Played(handler=ScriptedHandler(*script))
        asked = call or Call("shop", "buy", idempotent=True)
        pipeline = Pipeline(policies, classify=judge)

        async def scene() -> None:
            clock = asyncio.get_running_loop().time
            try:
                played.reply = await aio.govern(pipeline, played.handler.aio, clock=clock)(asked)
            except BaseException as error:
                played.error = error
            played.seconds = clock()

        run(scene())
        return played

    def pull(self, policies: Iterable[Policy], opener: Callable[[], Iterator[object]], items: int = 99) -> Played:
        """Open a stream through the policies, take at most so many items, and close it."""
        played = Played(reply=[])
        taken: list[object] = []

        async def opened(call: Call) -> AsyncIterator[object]:
            for item in opener():
                yield item

        async def scene() -> None:
            clock = asyncio.get_running_loop().time
            stream = aio.stream(Pipeline(policies), opened, clock=clock)(Call("shop", "watch", idempotent=True))
            try:
                async with stream:
                    while len(taken) < items:
                        taken.append(await anext(stream))
            except StopAsyncIteration:
                pass
            except BaseException as error:
                played.error = error
            played.seconds = clock()

        run(scene())
        played.reply = taken
        return played


class Sync:
    """The blocking driver on a manual clock."""

    name = "sync"

    def play(
        self, policies: Iterable[Policy], *script: object, call: Call | None = None, judge: Classify = classify
    ) -> Played:
        """Play one call through the policies against the script."""
        clock = ManualClock()
        played = Played(handler=ScriptedHandler(*script, sleep=clock.sleep))
        asked = call or Call("shop", "buy", idempotent=True)
        pipeline = Pipeline(policies, classify=judge)
        try:
            played.reply = sync.govern(pipeline, played.handler.sync, clock=clock, sleep=clock.sleep)(asked)
        except BaseException as error:
            played.error = error
        played.seconds = clock()
        return played

    def pull(self, policies: Iterable[Policy], opener: Callable[[], Iterator[object]], items: int = 99) -> Played:
        """Open a stream through the policies, take at most so many items, and close it."""
        clock = ManualClock()
        played = Played(reply=[])
        taken: list[object] = []
        stream = sync.stream(Pipeline(policies), lambda call: opener(), clock=clock, sleep=clock.sleep)(
            Call("shop", "watch", idempotent=True)
        )
        try:
            with stream, suppress(StopIteration):
                while len(taken) < items:
                    taken.append(next(stream))
        except BaseException as error:
            played.error = error
        played.reply, played.seconds = taken, clock()
        return played


Colour = Aio | Sync
COLOURS = (Aio(), Sync())


class Door(Gate[int]):
    """A gate that writes down who came and who left; it may refuse, or be at fault."""

    def __init__(
        self,
        journal: Journal,
        name: str,
        *,
        refuse: BaseException | None = None,
        fault: BaseException | None = None,
    ) -> None:
        self.journal = journal
        self.name = name
        self.refuse = refuse
        self.fault = fault
        self.tickets = 0
        self.outcomes: list[Outcome] = []

    def admit(self, call: Call, now: float) -> int | Waiting[int]:
        """Write it down."""
        if self.refuse is not None:
            raise self.refuse
        return self.ticket()

    def ticket(self) -> int:
        """Hand out the next ticket."""
        self.tickets += 1
        self.journal.append(("in", self.name, self.tickets))
        return self.tickets

    def settle(self, ticket: int, outcome: Outcome, now: float) -> None:
        """Write it down, then be at fault if so told."""
        self.outcomes.append(outcome)
        self.journal.append(("out", self.name, ticket))
        if self.fault is not None:
            raise self.fault

    @property
    def verdicts(self) -> list[Verdict]:
        """What was learnt, in order."""
        return [outcome.verdict for outcome in self.outcomes]


class Line(Door):
    """A gate that makes everyone wait, until somebody says `serve`, or at most `patience` seconds."""

    def __init__(self, journal: Journal, name: str, *, patience: float = 1.0) -> None:
        super().__init__(journal, name)
        self.patience = patience
        self.waiting: list[Waiting[int]] = []

    def admit(self, call: Call, now: float) -> int | Waiting[int]:
        """Hand out a place in line."""
        place: Waiting[int] = Waiting(since=now, until=now + self.patience)
        self.waiting.append(place)
        return place

    def serve(self, error: Rejected | None = None) -> None:
        """Let the first in line in, or turn it away."""
        place = self.waiting.pop(0)
        place.resolve(ticket=None if error else self.ticket(), error=error)
        place.rouse()


class Stand(Substitute):
    """A substitute that answers what it is told to."""

    def __init__(self, answer: Answer | None, *, fault: BaseException | None = None) -> None:
        self.answer = answer
        self.fault = fault
        self.asked: list[BaseException | None] = []

    def instead(self, call: Call, outcome: Outcome, now: float) -> Answer | None:
        """Answer, or decline where there is no answer."""
        self.asked.append(outcome.error)
        if self.fault is not None:
            raise self.fault
        return self.answer


class Again(Plan):
    """A plan that tries so many times, so many seconds apart, whatever is TRANSIENT."""

    def __init__(self, attempts: int = 3, apart: float = 1.0) -> None:
        self.attempts = attempts
        self.apart = apart
        self.asked: list[tuple[int, Outcome | None, float]] = []

    def next(self, call: Call, tries: int, outcome: Outcome | None, now: float) -> float | None:
        """Say when."""
        self.asked.append((tries, outcome, now))
        if outcome is None or outcome.verdict is not TRANSIENT or tries >= self.attempts:
            return None
        return self.apart


class Elsewhere(Again):
    """A plan that tries again after a rejection too, as a retry does that has another instance to go to."""

    def next(self, call: Call, tries: int, outcome: Outcome | None, now: float) -> float | None:
        """Say when."""
        if outcome is not None and tries < self.attempts and isinstance(outcome.error, Rejected):
            return self.apart
        return super().next(call, tries, outcome, now)


def raising(error: BaseException) -> Answer:
    """Make an answer that fails."""

    def answer(call: Call, first: BaseException) -> object:
        raise error

    return answer
