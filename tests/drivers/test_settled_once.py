"""For any list of policies and any way out, every admitted ticket is settled exactly once, innermost first."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from msgov import aio, sync
from msgov.call import IGNORED, Call, Outcome
from msgov.errors import CallFailed, Rejected
from msgov.pipeline import Pipeline, Policy
from msgov.policy import Waiting
from msgov.resilience import Deadline
from msgov.testing import After, ManualClock, ScriptedHandler, run
from tests.drivers.stage import Again, Door, Elsewhere, Journal, Line, Stand, raising

ERRORS: list[Callable[[], BaseException]] = [
    ConnectionError,
    TypeError,
    lambda: Rejected("inside"),
    lambda: CallFailed("no", status="503"),
]
INTERRUPTS: list[Callable[[], BaseException]] = [KeyboardInterrupt, asyncio.CancelledError]
KINDS = ["door", "sometimes", "faulty", "broken", "serve", "refuse", "forget", "deadline", "layer"]
KINDS += ["stand", "worse", "declining", "bad_choice"]


class Soon(Line):
    """A line that serves, refuses or forgets whoever stands in it, before the driver looks."""

    def __init__(self, journal: Journal, name: str, how: str) -> None:
        super().__init__(journal, name, patience=0.0 if how == "forget" else 1.0)
        self.how = how

    def admit(self, call: Call, now: float) -> int | Waiting[int]:
        """Hand out a place."""
        place = super().admit(call, now)
        if self.how != "forget":
            self.serve(Rejected("closed") if self.how == "refuse" else None)
        return place


class Sometimes(Door):
    """A gate that refuses some attempts."""

    def __init__(self, journal: Journal, name: str, answers: list[bool]) -> None:
        super().__init__(journal, name)
        self.answers = answers

    def admit(self, call: Call, now: float) -> int | Waiting[int]:
        """Refuse or let in, as it was drawn."""
        if self.answers and not self.answers.pop():
            raise Rejected("not this one")
        return self.ticket()


@st.composite
def chains(draw: st.DrawFn) -> Callable[[Journal], list[Policy]]:
    """Draw a pipeline; return what builds it on a journal."""
    kinds = draw(
        st.lists(
            st.sampled_from(KINDS),
            max_size=6,
        )
    )
    plan = draw(st.sampled_from([None, None, "again", "elsewhere"]))
    if plan is not None:
        kinds.insert(draw(st.integers(0, len(kinds))), plan)
    if plan == "elsewhere":  # it has something to say only where an attempt that holds something is refused
        kinds += ["door", "sometimes"]
    answers = draw(st.lists(st.booleans(), max_size=4))
    attempts, seconds = draw(st.integers(1, 3)), draw(st.sampled_from([0.5, 2.0]))

    def build(journal: Journal) -> list[Policy]:
        made: dict[str, Callable[[str], Policy]] = {
            "door": lambda name: Door(journal, name),
            "sometimes": lambda name: Sometimes(journal, name, list(answers)),
            "faulty": lambda name: Door(journal, name, fault=ZeroDivisionError("settle")),
            "broken": lambda name: Door(journal, name, refuse=ZeroDivisionError("admit")),
            "serve": lambda name: Soon(journal, name, "serve"),
            "refuse": lambda name: Soon(journal, name, "refuse"),
            "forget": lambda name: Soon(journal, name, "forget"),
            "deadline": lambda name: Deadline(seconds),
            "stand": lambda name: Stand(lambda call, error: "instead"),
            "worse": lambda name: Stand(raising(ValueError("worse"))),
            "declining": lambda name: Stand(None),
            "bad_choice": lambda name: Stand(None, fault=ZeroDivisionError("choice")),
            "layer": lambda name: lambda handler: handler,
            "again": lambda name: Again(attempts),
            "elsewhere": lambda name: Elsewhere(attempts),
        }
        return [made[kind](f"{at}") for at, kind in enumerate(kinds)]

    return build


STEPS = st.lists(
    st.builds(
        lambda seconds, step: After(seconds, step),
        st.sampled_from([0.0, 0.3, 1.0]),
        st.one_of(st.just("done"), st.sampled_from(ERRORS).map(lambda kind: kind())),
    ),
    min_size=6,
    max_size=6,
)


def settled(journal: Journal) -> None:
    """Check that the journal is made of well-nested pairs."""
    inside: list[tuple[object, ...]] = []
    for what, *ticket in journal:
        if what == "in":
            inside.append(tuple(ticket))
        else:
            assert inside, journal
            assert inside.pop() == tuple(ticket), journal
    assert inside == [], journal


class quiet:  # noqa: N801  called like a function
    """Pass over what is reported of gates that are at fault on purpose."""

    def __enter__(self) -> None:
        """Take the hook away."""
        self.before, sys.unraisablehook = sys.unraisablehook, self.look

    def __exit__(self, *exc: object) -> None:
        """Give it back."""
        sys.unraisablehook = self.before

    @staticmethod
    def look(report: sys.UnraisableHookArgs) -> None:
        """Accept what is ours."""
        assert isinstance(report.exc_value, ZeroDivisionError)


@given(chain=chains(), steps=STEPS, cancel=st.one_of(st.none(), st.sampled_from([0.0, 0.2, 0.5, 1.0, 1.5, 2.0])))
@settings(max_examples=300, deadline=None)
def test_every_ticket_is_settled_once_under_asyncio(
    chain: Callable[[Journal], list[Policy]], steps: list[object], cancel: float | None
) -> None:
    """Reply, error, rejection, fault, deadline, or a cancellation at any moment, waits and answers included."""
    journal: Journal = []
    handler = ScriptedHandler(*steps)

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        call = Call("shop", idempotent=True)
        governed = aio.govern(Pipeline(chain(journal)), handler.aio, clock=loop.time)

        async def one() -> object:
            return await governed(call)

        task = asyncio.ensure_future(one())
        if cancel is not None:
            loop.call_later(cancel, task.cancel)
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
        assert call.deadline is None

    with quiet():
        run(scene())
    settled(journal)
    assert handler.running == 0


@given(
    chain=chains(),
    steps=STEPS,
    interrupt=st.one_of(st.none(), st.tuples(st.integers(0, 2), st.sampled_from(INTERRUPTS))),
)
@settings(max_examples=300, deadline=None)
def test_every_ticket_is_settled_once_in_threads(
    chain: Callable[[Journal], list[Policy]],
    steps: list[object],
    interrupt: tuple[int, Callable[[], BaseException]] | None,
) -> None:
    """The same for blocking code, with an interrupt in the place of a cancellation."""
    journal: Journal = []
    clock, call = ManualClock(), Call("shop", idempotent=True)
    if interrupt is not None:
        steps = [*steps[: interrupt[0]], interrupt[1](), *steps]
    handler = ScriptedHandler(*steps, sleep=clock.sleep)
    governed = sync.govern(Pipeline(chain(journal)), handler.sync, clock=clock, sleep=clock.sleep)
    with quiet(), suppress(BaseException):
        governed(call)
    settled(journal)
    assert call.deadline is None


# What makes an error, not the error: one that somebody keeps keeps its traceback, and with it the stream.
ITEMS = st.lists(st.one_of(st.just("item"), st.sampled_from(ERRORS)), max_size=4)


def opener_of(openings: list[list[object]]) -> Callable[[], Iterator[object]]:
    """Open a stream that gives what was drawn for this opening."""
    left = iter(openings)

    def opener() -> Iterator[object]:
        for item in next(left, []):
            if callable(item):
                raise item()
            yield item

    return opener


@given(
    chain=chains(),
    openings=st.lists(ITEMS, min_size=1, max_size=3),
    take=st.integers(0, 5),
    close=st.booleans(),
    colour=st.sampled_from(["aio", "sync"]),
)
@settings(max_examples=400, deadline=None)
def test_every_ticket_of_a_stream_is_settled_once(
    chain: Callable[[Journal], list[Policy]], openings: list[list[object]], take: int, close: bool, colour: str
) -> None:
    """Ended, broken, closed or dropped, after any number of items; what was dropped is settled by the next walk."""
    journal: Journal = []
    pipeline = Pipeline([policy for policy in chain(journal) if not callable(policy)])
    pull = _pull_later if colour == "aio" else _pull_now
    with quiet():
        dropped = pull(pipeline, opener_of(openings), take, close)
        for policy in pipeline.policies:  # an error that a test remembers would keep the stream that raised it
            (policy.outcomes if isinstance(policy, Door) else getattr(policy, "asked", [])).clear()
        for frame in (pipeline.flat.inner, pipeline.flat.outer):
            frame.leave(Call("next"), [], Outcome(IGNORED), 9.0)
    if dropped:
        outs = Counter(entry[1:] for entry in journal if entry[0] == "out")
        assert outs == Counter(entry[1:] for entry in journal if entry[0] == "in")
        assert not outs or max(outs.values()) == 1
    else:
        settled(journal)


def _pull_now(pipeline: Pipeline, opener: Callable[[], Iterator[object]], take: int, close: bool) -> bool:
    clock = ManualClock()
    stream = sync.stream(pipeline, lambda call: opener(), clock=clock, sleep=clock.sleep)(Call("shop", idempotent=True))
    with suppress(BaseException):
        for _ in range(take):
            next(stream)
    if close:
        stream.close()
    return not close


def _pull_later(pipeline: Pipeline, opener: Callable[[], Iterator[object]], take: int, close: bool) -> bool:
    async def opened(call: Call) -> AsyncIterator[object]:
        for item in opener():
            await asyncio.sleep(0.3)
            yield item

    async def scene() -> None:
        clock = asyncio.get_running_loop().time
        stream = aio.stream(pipeline, opened, clock=clock)(Call("shop", idempotent=True))
        with suppress(BaseException):
            for _ in range(take):
                await anext(stream)
        if close:
            await stream.aclose()

    run(scene())
    return not close
