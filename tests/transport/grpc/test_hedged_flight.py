"""However attempts end, and in whatever order: the call ends once, and every ticket comes back once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import grpc
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from msgov import _race as race_module
from msgov.call import Call, Outcome
from msgov.errors import RateLimited
from msgov.policy import Gate, Substitute
from msgov.resilience.hedge import Hedge, HedgeRule
from msgov.testing import outcomes
from msgov.transport.grpc import flight as flight_module
from msgov.transport.grpc import hedged as hedged_module
from msgov.transport.grpc import landing as landing_module
from msgov.transport.grpc import shared as shared_module
from msgov.transport.grpc.hedged import Hedged, SharedHedged
from tests.transport.grpc.test_flight import Answers, Native, Scene, Timer

WATCHED = (race_module, flight_module, hedged_module, landing_module, shared_module, sys.modules[__name__])
OK, UNAVAILABLE, NOT_FOUND = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND


def scene(*between: Any, kind: type[Hedged[Any]] = Hedged, attempts: int = 2, **port: Any) -> Scene:
    """Make a hedged call of so many attempts, 50 ms apart."""
    return Scene(*between, kind=kind, plan=Hedge(HedgeRule(attempts=attempts, initial=0.05, load=4.0)), **port)


def ring(made: Scene) -> None:
    """Let all timers ring that are set."""
    for timer in tuple(made.port.timers):
        timer.ring()


def test_there_is_no_native_call_until_one_has_won() -> None:
    """Whoever asks for metadata waits for the winner's."""
    made = scene().begun()
    ring(made)
    one, two = made.port.natives
    assert (made.flight.native, made.held) == (None, (1, 2, 2))
    two.end(OK)
    assert made.flight.over
    assert made.flight.native is two
    assert one.code is grpc.StatusCode.CANCELLED
    assert (made.held, sorted(made.inner.verdicts), made.outer.verdicts) == ((0, 0, 0), ["IGNORED", "OK"], ["OK"])


def test_the_failure_that_counts_is_no_rejection_of_ours() -> None:
    """Nor that of an attempt which merely came last."""

    class Second(Gate[int]):
        """Refuses the second attempt."""

        def admit(self, call: Call, now: float) -> int:
            if call.attempt == 2:
                raise RateLimited("second")
            return 1

        def settle(self, ticket: int, outcome: Outcome, now: float) -> None:
            """Learn nothing."""

    made = Scene(kind=Hedged, plan=Hedge(HedgeRule(initial=0.05, load=4.0)))
    made.flight._segment.inner.__init__((made.inner, Second()))  # type: ignore[misc]  # one gate more, inside
    made.begun()
    made.port.natives[0].end(UNAVAILABLE)
    assert made.flight.over
    assert (made.flight.native, made.outer.outcomes[0].status) == (made.port.natives[0], "UNAVAILABLE")
    assert made.held == (0, 0, 0)


def test_a_call_lasts_from_its_begin_and_an_attempt_from_its_own() -> None:
    """Whoever learns latency of the call and of its instances must not learn the same number."""
    made = scene().begun()
    made.port.clock.advance(1.0)
    made.port.natives[0].end(UNAVAILABLE)
    made.port.clock.advance(2.0)
    made.port.natives[1].end(UNAVAILABLE)
    assert [outcome.seconds for outcome in made.inner.outcomes] == [1.0, 2.0]
    assert [outcome.seconds for outcome in made.outer.outcomes] == [3.0]


@pytest.mark.parametrize("streams", [False, True])
def test_each_attempt_teaches_the_plan_once(streams: bool) -> None:
    """A stream that is ahead is heard of with its first message, and not again at its end."""

    class Learning(Hedge):
        """Counts what it learns."""

        learnt = 0

        def learn(self, outcome: Outcome, now: float) -> None:
            self.learnt += 1

    plan = Learning(HedgeRule(initial=0.05, load=4.0))
    made = Scene(kind=Hedged, plan=plan, streams=streams).begun()
    ring(made)
    if streams:
        made.port.reading[0](["a"])
    made.port.natives[0].end(UNAVAILABLE if streams else OK)
    assert (plan.learnt, made.flight.over) == (2, True)


def test_a_substitute_outside_answers_once_all_have_failed() -> None:
    """It stands for the call, not for an attempt."""
    made = scene(Answers(lambda call, error: "instead")).begun()
    made.port.natives[0].end(UNAVAILABLE)
    assert not made.flight.over
    made.port.natives[1].end(UNAVAILABLE)
    assert (made.flight.answered, made.flight.reply, made.outer.verdicts) == (True, "instead", ["OK"])


def test_a_substitute_inside_answers_for_its_attempt() -> None:
    """And that answer wins."""

    class Inside(Substitute):
        def instead(self, call: Call, outcome: Outcome, now: float) -> Any:
            return lambda call, error: "inside"

    made = Scene(kind=Hedged, plan=Hedge(HedgeRule(initial=0.05, load=4.0)))
    made.flight._segment.inner.__init__((Inside(), made.inner))  # type: ignore[misc]  # one step more, inside
    made.begun()
    made.port.natives[0].end(UNAVAILABLE)
    assert (made.flight.answered, made.flight.reply, made.held) == (True, "inside", (0, 0, 0))


def test_what_the_transport_could_not_begin_is_an_end() -> None:
    """grpc.aio never says that such a call is over."""
    made = scene().begun()
    native, failed = made.port.attended[0]
    failed(ValueError("closed"))
    assert made.flight.over
    assert isinstance(made.flight.error, ValueError)
    assert (made.held, made.outer.verdicts) == ((0, 0, 0), ["PERMANENT"])
    native.end(OK)
    assert made.outer.verdicts == ["PERMANENT"]


def test_a_plan_that_raises_ends_the_call() -> None:
    """And settles it."""

    class Broken(Hedge):
        def next(self, call: Call, tries: int, outcome: Outcome | None, now: float) -> float | None:
            raise ZeroDivisionError

    made = Scene(kind=Hedged, plan=Broken()).begun()
    assert made.flight.over
    assert (made.held, made.port.natives) == ((0, 0, 0), [])


class TestStreams:
    """A response stream wins with its first message, and goes on."""

    def test_its_tickets_are_held_to_its_end(self) -> None:
        """As those of any stream."""
        made = scene(streams=True).begun()
        ring(made)
        made.port.clock.advance(0.5)
        made.port.reading[1](["a"])
        assert (made.flight.over, made.held) == (False, (1, 1, 1))
        assert made.port.natives[0].code is grpc.StatusCode.CANCELLED
        made.port.clock.advance(60.0)
        made.port.natives[1].end(OK)
        assert (made.flight.over, made.held, made.outer.verdicts) == (True, (0, 0, 0), ["OK"])
        assert (made.outer.outcomes[0].first, made.outer.outcomes[0].seconds) == (0.5, 60.5)

    def test_one_that_ends_well_before_its_message_is_read_loses_none(self) -> None:
        """The word of the end overtakes the message."""
        made = scene(streams=True).begun()
        made.port.natives[0].end(OK)
        assert not made.flight.over
        made.port.reading[0](["a"])
        assert (made.flight.over, made.outer.verdicts) == (True, ["OK"])
        assert next(made.flight.native) == "a"

    def test_one_that_fails_first_is_followed_by_another(self) -> None:
        """Nothing was given out."""
        made = scene(streams=True).begun()
        made.port.natives[0].end(UNAVAILABLE)
        made.port.reading[1](["b"])
        made.port.natives[1].end(UNAVAILABLE)
        assert (made.flight.over, made.outer.verdicts) == (True, ["TRANSIENT"])
        assert made.held == (0, 0, 0)

    def test_cancelled_as_it_goes_on(self) -> None:
        """It ends as the transport says, once."""
        made = scene(streams=True).begun()
        made.port.reading[0](["a"])
        assert (made.flight.cancel(), made.flight.cancel()) == (True, False)
        assert (made.flight.over, made.held, made.outer.verdicts) == (True, (0, 0, 0), ["IGNORED"])


@pytest.mark.parametrize("streams", [False, True])
def test_what_nobody_can_cancel_goes_to_the_frames_queue(streams: bool) -> None:
    """Those of all attempts."""
    made = scene(streams=streams).begun()
    ring(made)
    made.port.alive = False
    made.flight.drop()
    assert made.held == (1, 2, 2)
    made.flight._segment.outer.enter(Call("next"), [], 0.0)
    made.flight._segment.inner.enter(Call("next"), [], 0.0)
    assert (made.outer.verdicts, made.inner.verdicts) == (["IGNORED"], ["IGNORED"] * 2)


class Life(RuleBasedStateMachine):
    """A call of up to four attempts, whose ends come in any order, and are told late or twice."""

    def __init__(self) -> None:
        super().__init__()
        self.made = scene(attempts=4).begun()
        self.ended: list[tuple[int, grpc.StatusCode]] = []
        self.cancelled = False

    @property
    def live(self) -> list[tuple[int, Native]]:
        return [(at, native) for at, native in enumerate(self.made.port.natives) if native.code is None]

    @precondition(lambda self: self.live)
    @rule(data=st.data(), code=st.sampled_from([OK, UNAVAILABLE, UNAVAILABLE, NOT_FOUND]))
    def end(self, data: Any, code: grpc.StatusCode) -> None:
        at, native = data.draw(st.sampled_from(self.live))
        if not self.made.flight.over:
            self.ended.append((at, code))
        native.end(code)

    @rule(seconds=st.floats(0.0, 0.2))
    def ring(self, seconds: float) -> None:
        self.made.port.clock.advance(seconds)
        due: list[Timer] = [timer for timer in self.made.port.timers if timer.act is not None]
        for timer in due:
            timer.ring()

    @rule()
    def cancel(self) -> None:
        over = self.made.flight.over
        assert self.made.flight.cancel() is not over
        self.cancelled = self.cancelled or not over

    @invariant()
    def it_ends_as_the_first_answer_says(self) -> None:
        flight, made = self.made.flight, self.made
        assert len(made.port.natives) <= 4
        assert made.inner.inside == len(made.port.calls) == len(self.live)
        answers = [(at, code) for at, code in self.ended if code is not UNAVAILABLE]
        if self.cancelled:
            assert made.outer.verdicts == ["IGNORED"]
        elif answers:
            at, code = answers[0]
            assert flight.over
            assert flight.native is made.port.natives[at]
            assert made.outer.verdicts == ["OK" if code is OK else "PERMANENT"]
        elif flight.over:
            assert made.outer.verdicts == ["TRANSIENT"]
            assert len(self.ended) == len(made.port.natives) == 4
        else:
            assert made.outer.verdicts == []
            assert flight.native is None
        if flight.over:
            assert self.live == []

    def teardown(self) -> None:
        for _, native in self.live:
            native.end(OK)
        assert self.made.held == (0, 0, 0)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=150, stateful_step_count=12, deadline=None)


class TestRaces:
    """Many threads end, ring and cancel at once."""

    def race(self, *acts: str, streams: bool = False) -> set[Hashable]:
        def make() -> tuple[Sequence[Callable[[], object]], Callable[[], Hashable]]:
            made = scene(kind=SharedHedged, streams=streams).begun()
            timers = tuple(made.port.timers)
            if "two" in acts:
                ring(made)
            natives = made.port.natives
            known = {
                "one": lambda: natives[0].end(OK),
                "two": lambda: natives[1].end(OK),
                "fail": lambda: natives[0].end(UNAVAILABLE),
                "ring": lambda: [timer.ring() for timer in timers],
                "cancel": lambda: made.flight.cancel(),
                "message": lambda: made.port.reading[0](["a"]),
            }

            def outcome() -> Hashable:
                for _ in range(3):
                    ring(made)
                    for native in tuple(natives):
                        native.end(OK)
                    for heard in tuple(made.port.reading):
                        heard([])
                assert made.flight.over
                assert made.held == (0, 0, 0)
                assert (made.outer.entered, len(made.outer.outcomes)) == (1, 1)
                assert made.inner.entered == len(made.inner.outcomes) == len(natives)
                cancelled = isinstance(made.flight.error, grpc.FutureCancelledError) or streams
                assert cancelled or made.outer.verdicts != ["IGNORED"]  # what it was told is what it answers
                return made.outer.verdicts[0], len(natives)

            return [known[act] for act in acts], outcome

        return set(outcomes(make, seeds=range(30), watch=WATCHED))

    def test_both_land_at_once(self) -> None:
        """One of them wins."""
        assert self.race("one", "two") <= {("OK", 2)}

    def test_a_hedge_starts_as_the_first_lands(self) -> None:
        """It is cancelled as it starts, or never starts."""
        assert self.race("one", "ring") <= {("OK", 1), ("OK", 2)}

    def test_a_hedge_starts_as_the_first_fails(self) -> None:
        """One more attempt, not two."""
        assert self.race("fail", "ring") <= {("OK", 2)}

    def test_cancelled_as_it_lands(self) -> None:
        """The one or the other."""
        assert self.race("one", "cancel", "ring") <= {("OK", 1), ("OK", 2), ("IGNORED", 1), ("IGNORED", 2)}

    def test_a_message_and_the_end_of_its_stream(self) -> None:
        """And a hedge that starts meanwhile."""
        assert self.race("message", "one", "ring", streams=True) <= {("OK", 1), ("OK", 2)}

    def test_a_message_and_a_cancellation(self) -> None:
        """Whoever comes first, all comes back."""
        assert self.race("message", "cancel", streams=True) <= {("IGNORED", 1), ("IGNORED", 2)}
