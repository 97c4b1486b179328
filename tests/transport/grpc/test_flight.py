"""A flight settles every ticket once, whichever way it ends, and whoever ends it at the same moment."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import grpc
import pytest

from msgov.call import Call, Outcome
from msgov.errors import DeadlineExceeded, RateLimited, Rejected
from msgov.pipeline import Pipeline
from msgov.policy import Gate, Plan, Substitute
from msgov.testing import ManualClock, outcomes
from msgov.transport.grpc import flight as flight_module
from msgov.transport.grpc import landing as landing_module
from msgov.transport.grpc import shared as shared_module
from msgov.transport.grpc import status
from msgov.transport.grpc.flight import Flight
from msgov.transport.grpc.shared import SharedFlight
from tests.transport.grpc.gates import Again, Count, Turnstile

WATCHED = (flight_module, landing_module, shared_module, sys.modules[__name__])
OK, UNAVAILABLE = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE


class Native:
    """A native call that ends when the test says so."""

    def __init__(self) -> None:
        self.code: grpc.StatusCode | None = None
        self.landed: list[Callable[[Native], None]] = []

    def add_done_callback(self, landed: Callable[[Native], None]) -> None:
        self.landed.append(landed)
        if self.code is not None:
            landed(self)

    def cancel(self) -> bool:
        self.end(grpc.StatusCode.CANCELLED)
        return True

    def end(self, code: grpc.StatusCode) -> None:
        if self.code is None:
            self.code = code
            for landed in self.landed:
                landed(self)


class Error(grpc.RpcError):
    """What a failed native call raises."""


class Timer:
    """One that rings when the test says so."""

    def __init__(self, seconds: float, act: Callable[[], object]) -> None:
        self.seconds = seconds
        self.act: Callable[[], object] | None = act

    def cancel(self) -> None:
        self.act = None

    def ring(self) -> None:
        act, self.act = self.act, None
        if act is not None:
            act()


class Errand:
    """An answer under way."""

    def __init__(self, done: Callable[[object, BaseException | None], None]) -> None:
        self.done = done
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakePort:
    """A colour made of lists."""

    def __init__(self, *, streams: bool = False) -> None:
        self.clock = ManualClock()
        self.streams = streams
        self.natives: list[Native] = []
        self.timers: list[Timer] = []
        self.errands: list[Errand] = []
        self.calls: set[object] = set()
        self.waiting: list[Callable[[bool], None]] = []
        self.connected: bool | None = True
        self.launching: Callable[[], None] = lambda: None
        self.attended: list[tuple[Native, Callable[[BaseException], None]]] = []
        self.reading: list[Callable[[list[Any]], None]] = []
        self.alive = True
        self.waits = False

    def encode(self, message: Any) -> Any:
        return message

    def later(self, seconds: float, act: Callable[[], object]) -> Timer:
        if not self.alive:
            raise RuntimeError("closed")
        self.timers.append(Timer(seconds, act))
        return self.timers[-1]

    def soon(self, act: Callable[[], object]) -> bool:
        if self.alive:
            act()
        return self.alive

    def enter(self, call: Call, flight: object) -> str:
        self.calls.add(flight)
        return "way"

    def leave(self, connection: str, flight: object) -> None:
        self.calls.remove(flight)

    def up(self, connection: str, call: Call) -> bool:
        return self.connected is True

    def reach(self, connection: str, heard: Callable[[bool], None]) -> bool | None:
        self.waiting.append(heard)
        return self.connected

    def launch(self, connection: str, call: Call, seconds: float | None) -> Native:
        self.launching()
        self.natives.append(Native())
        return self.natives[-1]

    def ended(self, native: Native) -> tuple[grpc.StatusCode, status.Pairs, BaseException | None]:
        assert native.code is not None
        return native.code, (), None if native.code is OK else Error()

    def unreached(self, connection: str, code: grpc.StatusCode) -> BaseException:
        error = Error()
        error.code = lambda: code  # type: ignore[method-assign]
        error.trailing_metadata = lambda: (("msgov-sent", "no"),)  # type: ignore[method-assign]
        return error

    def answer(
        self, call: Call, make: Callable[[], object], done: Callable[[object, BaseException | None], None]
    ) -> Errand | None:
        if self.waits:
            self.errands.append(Errand(done))
            return self.errands[-1]
        try:
            done(make(), None)
        except Exception as error:
            done(None, error)
        return None

    def attend(self, native: Native, failed: Callable[[BaseException], None]) -> None:
        self.attended.append((native, failed))

    def first(
        self, native: Native, heard: Callable[[list[Any]], None], failed: Callable[[BaseException], None]
    ) -> None:
        self.reading.append(heard)

    def cancelled(self) -> BaseException:
        return grpc.FutureCancelledError()


class Scene:
    """A flight on a fake port, with gates outside and inside its seam."""

    def __init__(self, *between: Any, kind: type[Flight[Any]] = Flight, plan: Plan | None = None, **port: Any) -> None:
        self.port = FakePort(**port)
        self.outer, self.inner = Count(), Count()
        pipeline = Pipeline([self.outer, *between, plan or Again(), self.inner], classify=status.judge)
        self.call = Call("echo", "/a/b", idempotent=True)
        self.flight: Flight[Any] = kind(self.port, pipeline, pipeline.flat, self.call)  # type: ignore[arg-type]

    def begun(self) -> Scene:
        self.flight.begin()
        return self

    @property
    def held(self) -> tuple[int, int, int]:
        return self.outer.inside, self.inner.inside, len(self.port.calls)


class Answers(Substitute):
    """Answers whatever failed."""

    def __init__(self, answer: Callable[[Call, BaseException], object]) -> None:
        self.answer = answer

    def instead(self, call: Call, outcome: Outcome, now: float) -> Any:
        return self.answer


def fails(call: Call, error: BaseException) -> object:
    raise ValueError("the answer")


def test_an_attempt_is_timed_from_its_own_start() -> None:
    """A balancer that learnt the earlier attempts and the pause with it would shun the instance that helped."""
    scene = Scene().begun()
    scene.port.clock.advance(2.0)
    scene.port.natives[0].end(UNAVAILABLE)
    scene.port.clock.advance(1.0)
    scene.port.timers[0].ring()
    scene.port.clock.advance(0.5)
    scene.port.natives[1].end(OK)
    assert [outcome.seconds for outcome in scene.inner.outcomes] == [2.0, 0.5]
    assert [outcome.seconds for outcome in scene.outer.outcomes] == [3.5]
    assert scene.held == (0, 0, 0)


def test_a_stream_tells_when_its_first_message_came() -> None:
    """How long it lasts says nothing of the instance, so a balancer learns the time to the first message."""
    for code in (OK, UNAVAILABLE):
        scene = Scene(streams=True).begun()
        native = scene.port.natives[0]
        scene.port.clock.advance(0.5)
        assert scene.flight.commit(native)
        scene.port.clock.advance(60.0)
        assert scene.flight.commit(native)
        native.end(code)
        for outcome in (*scene.inner.outcomes, *scene.outer.outcomes):
            assert (outcome.first, outcome.seconds) == (0.5, 60.5)


def test_a_reply_has_no_first_message() -> None:
    """It is whole."""
    scene = Scene().begun()
    assert scene.flight.commit(scene.port.natives[0])
    scene.port.natives[0].end(OK)
    assert [outcome.first for outcome in (*scene.inner.outcomes, *scene.outer.outcomes)] == [None, None]


def test_a_refusal_says_which_policy_it_is_of() -> None:
    """At once, or after a wait in line."""

    class Closed(Gate[int]):
        """Refuses all."""

        name = "echo/*"

        def admit(self, call: Call, now: float) -> int:
            raise RateLimited("closed")

        def settle(self, ticket: int, outcome: Outcome, now: float) -> None:
            """Learn nothing."""

    refused = Scene(Closed()).begun().flight.error
    assert isinstance(refused, RateLimited)
    assert (refused.policy, refused.name) == ("closed", "echo/*")
    turnstile = Turnstile(1, 10.0)
    Scene(turnstile).begun()
    waiting = Scene(turnstile).begun()
    waiting.port.timers[0].ring()
    late = waiting.flight.error
    assert isinstance(late, Rejected)
    assert late.policy == "turnstile"


def test_the_time_in_line_is_not_the_callees() -> None:
    """An adaptive limit would take queueing for latency."""
    turnstile = Turnstile(1, 10.0)
    first, second = Scene(turnstile).begun(), Scene(turnstile).begun()
    assert second.port.natives == []
    second.port.clock.advance(4.0)
    first.port.natives[0].end(OK)
    second.port.clock.advance(0.5)
    second.port.natives[0].end(OK)
    assert second.outer.outcomes[0].seconds == second.inner.outcomes[0].seconds == 0.5
    assert turnstile.free == 1


def test_a_rejection_of_a_later_attempt_does_not_hide_the_failure() -> None:
    """Neither its error nor what it says of the callee: an outer breaker must learn it."""

    class Second(Gate[int]):
        def admit(self, call: Call, now: float) -> int:
            if call.attempt > 1:
                raise RateLimited("enough")
            return 1

        def settle(self, ticket: int, outcome: Outcome, now: float) -> None: ...

    scene = Scene()
    pipeline = Pipeline([scene.outer, Again(), scene.inner, Second()], classify=status.judge)
    scene.flight = Flight(scene.port, pipeline, pipeline.flat, scene.call)  # type: ignore[arg-type]
    scene.begun().port.natives[0].end(UNAVAILABLE)
    scene.port.timers[0].ring()
    assert isinstance(scene.flight.error, Error)
    assert scene.outer.verdicts == ["TRANSIENT"]
    assert scene.outer.outcomes[0].status == "UNAVAILABLE"
    assert scene.held == (0, 0, 0)


def test_what_cannot_be_launched_is_not_the_callees_fault() -> None:
    """It was never sent, and no other attempt starts: it would meet the same."""
    scene = Scene()

    def unserialisable() -> None:
        raise TypeError("not a message")

    scene.port.launching = unserialisable
    scene.begun()
    assert isinstance(scene.flight.error, TypeError)
    assert [(o.verdict.name, o.sent.name) for o in scene.inner.outcomes] == [("PERMANENT", "NO")]
    assert scene.held == (0, 0, 0)


@pytest.mark.parametrize("at", [None, 1])
def test_a_faulty_plan_costs_no_permit(at: int | None) -> None:
    """Whether it fails at the start, or when an attempt has failed."""

    class Faulty(Plan):
        def next(self, call: Call, tries: int, outcome: Outcome | None, now: float) -> float | None:
            if (outcome is None) is (at is None):
                raise ZeroDivisionError
            return None

    scene = Scene(plan=Faulty()).begun()
    for native in scene.port.natives:
        native.end(UNAVAILABLE)
    assert isinstance(scene.flight.error, ZeroDivisionError)
    assert scene.held == (0, 0, 0)


def test_an_end_that_cannot_be_read_settles_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interceptor of the user's may raise anything."""
    scene = Scene().begun()

    def unreadable(native: Native) -> Any:
        raise KeyError("mine")

    monkeypatch.setattr(scene.port, "ended", unreadable)
    scene.port.natives[0].end(OK)
    scene.port.timers[0].ring()
    scene.port.natives[1].end(OK)
    scene.port.timers[1].ring()
    scene.port.natives[2].end(OK)
    assert isinstance(scene.flight.error, KeyError)
    assert scene.held == (0, 0, 0)


def test_an_end_told_twice_counts_once() -> None:
    """grpc.aio tells of a call that is cancelled as it ends twice."""
    scene = Scene().begun()
    native = scene.port.natives[0]
    native.end(UNAVAILABLE)
    native.landed[0](native)
    scene.port.timers[0].ring()
    native.landed[0](native)
    assert scene.held == (1, 1, 1)
    scene.port.natives[1].end(OK)
    native.landed[0](native)
    assert scene.outer.verdicts == ["OK"]


def test_no_attempt_follows_one_that_gave_something_out() -> None:
    """The caller would get it twice."""
    scene = Scene().begun()
    assert scene.flight.commit(scene.port.natives[0])
    scene.port.natives[0].end(UNAVAILABLE)
    assert scene.flight.over
    assert scene.port.timers == []


def test_what_has_failed_meanwhile_is_not_given_out() -> None:
    """The next attempt gives it again."""
    scene = Scene().begun()
    first = scene.port.natives[0]
    first.end(UNAVAILABLE)
    assert not scene.flight.commit(first)
    assert not scene.flight.committed


def test_a_closed_loop_ends_the_call() -> None:
    """A native call that the collector finds lands when there is nobody left to set a timer for."""
    scene = Scene().begun()
    scene.port.alive = False
    scene.port.natives[0].end(UNAVAILABLE)
    assert scene.flight.over
    assert scene.held == (0, 0, 0)


class TestAnswers:
    """A substitute answers in the callee's place."""

    def test_one_that_fails_leaves_it_to_the_next(self) -> None:
        """A chain of fallbacks is asked from the inside out."""
        scene = Scene(Answers(lambda call, error: "last"), Answers(fails)).begun()
        for number in range(3):
            scene.port.natives[number].end(UNAVAILABLE)
            for timer in scene.port.timers:
                timer.ring()
        assert (scene.flight.answered, scene.flight.reply) == (True, "last")
        assert scene.outer.verdicts == ["OK"]
        assert scene.held == (0, 0, 0)

    def test_one_inside_the_seam_that_fails_is_a_failed_attempt(self) -> None:
        """The plan is asked, as it is by the drivers."""
        port = FakePort()
        outer, inner = Count(), Count()
        pipeline = Pipeline([outer, Again(), Answers(fails), inner], classify=status.judge)
        flight: Flight[Any] = Flight(port, pipeline, pipeline.flat, Call("echo", idempotent=True))  # type: ignore[arg-type]
        flight.begin()
        port.natives[0].end(UNAVAILABLE)
        assert not flight.over
        port.timers[0].ring()
        port.natives[1].end(OK)
        assert outer.verdicts == ["OK"]

    def test_one_that_takes_too_long_is_called_off(self) -> None:
        """The deadline that stands bounds it."""
        scene = Scene(Answers(lambda call, error: "late"))
        scene.port.waits = True
        scene.call.deadline = scene.port.clock() + 5.0
        scene.begun()
        scene.port.natives[0].end(grpc.StatusCode.NOT_FOUND)
        assert scene.port.timers[-1].seconds == 5.0
        scene.port.clock.advance(5.0)
        scene.port.timers[-1].ring()
        assert isinstance(scene.flight.error, DeadlineExceeded)
        assert scene.port.errands[0].cancelled
        scene.port.errands[0].done("late", None)
        assert not scene.flight.answered
        assert scene.held == (0, 0, 0)

    def test_a_late_word_of_one_answer_is_not_taken_for_the_next(self) -> None:
        """The first was called off when its time ran out."""
        scene = Scene(Answers(lambda call, error: "b"), Answers(lambda call, error: "a"))
        scene.port.waits = True
        scene.call.deadline = scene.port.clock() + 5.0
        scene.begun()
        scene.port.natives[0].end(grpc.StatusCode.NOT_FOUND)
        scene.port.timers[-1].ring()
        first, second = scene.port.errands
        first.done(None, ValueError("cancelled"))
        second.done("b", None)
        assert scene.flight.reply == "b"

    def test_none_answers_a_cancellation(self) -> None:
        """Whoever cancelled wants no answer."""
        scene = Scene(Answers(lambda call, error: "answer")).begun()
        assert scene.flight.cancel()
        assert not scene.flight.answered
        assert scene.outer.verdicts == ["IGNORED"]
        assert scene.held == (0, 0, 0)

    def test_a_cancellation_ends_one_under_way(self) -> None:
        """It must not go on for nobody."""
        scene = Scene(Answers(lambda call, error: "answer"))
        scene.port.waits = True
        scene.begun()
        scene.port.natives[0].end(grpc.StatusCode.NOT_FOUND)
        assert scene.flight.cancel()
        assert scene.flight.over
        assert scene.port.errands[0].cancelled
        scene.port.errands[0].done("answer", None)
        assert isinstance(scene.flight.error, grpc.FutureCancelledError)
        assert scene.held == (0, 0, 0)

    def test_none_stands_in_for_a_stream(self) -> None:
        """One value is no stream; the failure passes."""
        scene = Scene(Answers(lambda call, error: "answer"), streams=True).begun()
        scene.port.natives[0].end(grpc.StatusCode.NOT_FOUND)
        assert isinstance(scene.flight.error, Error)
        assert scene.outer.verdicts == ["PERMANENT"]


class TestConnecting:
    """What may not run twice begins only where a connection is up."""

    def scene(self, *, up: bool | None) -> Scene:
        class NotSent(Plan):
            def next(self, call: Call, tries: int, outcome: Outcome | None, now: float) -> float | None:
                return 0.0 if outcome is not None and outcome.sent.name == "NO" and tries < 3 else None

        scene = Scene(plan=NotSent())
        scene.call.idempotent = False
        scene.port.connected = up
        return scene.begun()

    def test_an_instance_that_is_down_was_never_sent_to(self) -> None:
        """So the call goes elsewhere, idempotent or not."""
        scene = self.scene(up=False)
        assert scene.port.natives == []
        assert [(o.verdict.name, o.sent.name) for o in scene.inner.outcomes] == [("TRANSIENT", "NO")]
        scene.port.connected = True
        scene.port.timers[0].ring()
        scene.port.natives[0].end(OK)
        assert scene.outer.verdicts == ["OK"]
        assert scene.held == (0, 0, 0)

    def test_an_attempt_waits_until_it_is_known(self) -> None:
        """Up: it is sent. Lost after that, nobody knows whether it ran."""
        scene = self.scene(up=None)
        assert scene.held == (1, 1, 1)
        scene.port.waiting[0](True)
        scene.port.natives[0].end(UNAVAILABLE)
        assert [o.sent.name for o in scene.inner.outcomes] == ["MAYBE"]
        assert scene.flight.over
        assert scene.held == (0, 0, 0)

    def test_the_deadline_ends_the_wait(self) -> None:
        """A connection may take for ever."""
        scene = self.scene(up=None)
        assert scene.port.timers == []  # no deadline, no timer
        scene.flight.cancel()
        scene = Scene()
        scene.call.idempotent = False
        scene.call.deadline = scene.port.clock() + 2.0
        scene.port.connected = None
        scene.begun()
        scene.port.clock.advance(2.0)
        scene.port.timers[0].ring()
        while not scene.flight.over:  # the plan of this scene does not look at the deadline
            scene.port.timers[-1].ring()
        assert scene.outer.outcomes[0].status == "DEADLINE_EXCEEDED"
        scene.port.waiting[0](True)
        assert scene.port.natives == []
        assert scene.held == (0, 0, 0)

    def test_a_cancellation_ends_the_wait(self) -> None:
        """Nothing is sent afterwards."""
        scene = self.scene(up=None)
        scene.flight.cancel()
        scene.port.waiting[0](True)
        assert scene.port.natives == []
        assert scene.held == (0, 0, 0)


class TestStragglers:
    """A timer that was called off may be ringing already, and a wake-up may come after its time."""

    def test_a_timer_of_an_attempt_that_is_connected(self) -> None:
        """It must not take the attempt for one that found nobody."""
        scene = Scene()
        scene.call.idempotent = False
        scene.call.deadline = scene.port.clock() + 2.0
        scene.port.connected = None
        scene.begun()
        ringing = scene.port.timers[0].act
        scene.port.waiting[0](True)
        assert ringing is not None
        ringing()
        assert not scene.flight.over
        scene.port.natives[0].end(OK)
        assert scene.outer.verdicts == ["OK"]

    def test_a_wake_up_for_a_place_that_was_left(self) -> None:
        """It must not give up the place in the next line."""
        first, second = Turnstile(1, 10.0), Turnstile(1, 10.0)
        blocking = [Scene(turnstile).begun() for turnstile in (first, second)]
        scene = Scene(first, second).begun()
        woken: list[Callable[[], object]] = []
        soon = scene.port.soon
        scene.port.soon = lambda act: bool(woken.append(act)) or True  # type: ignore[method-assign]
        blocking[0].port.natives[0].end(OK)  # granted, and the word of it is on its way
        scene.port.timers[0].ring()  # it hears by its timer first, and stands in the second line now
        scene.port.soon = soon  # type: ignore[method-assign]
        for act in woken:
            act()
        assert not scene.flight.over
        blocking[1].port.natives[0].end(OK)
        scene.port.natives[0].end(OK)
        assert (scene.outer.verdicts, first.free, second.free) == (["OK"], 1, 1)

    def test_a_timer_of_a_place_that_was_left(self) -> None:
        """Nor must that."""
        first, second = Turnstile(1, 10.0), Turnstile(1, 10.0)
        blocking = [Scene(turnstile).begun() for turnstile in (first, second)]
        scene = Scene(first, second).begun()
        ringing = scene.port.timers[0].act
        blocking[0].port.natives[0].end(OK)
        assert ringing is not None
        ringing()
        assert not scene.flight.over
        blocking[1].port.natives[0].end(OK)
        scene.port.natives[0].end(OK)
        assert scene.outer.verdicts == ["OK"]

    def test_a_timer_of_an_answer_that_has_failed(self) -> None:
        """The next one has its own time."""
        scene = Scene(Answers(lambda call, error: "b"), Answers(lambda call, error: "a"))
        scene.port.waits = True
        scene.call.deadline = scene.port.clock() + 5.0
        scene.begun()
        scene.port.natives[0].end(grpc.StatusCode.NOT_FOUND)
        ringing = scene.port.timers[-1].act
        scene.port.errands[0].done(None, ValueError("a"))
        assert ringing is not None
        ringing()
        scene.port.errands[1].done("b", None)
        assert scene.flight.reply == "b"


class TestRaces:
    """Every order of two threads, or many of them, gives what some order of whole turns gives."""

    def race(
        self, *acts: str, code: grpc.StatusCode = OK, prepare: Callable[[Scene], None] = lambda scene: None
    ) -> set[Hashable]:
        def make() -> tuple[Sequence[Callable[[], object]], Callable[[], Hashable]]:
            scene = Scene(kind=SharedFlight).begun()
            prepare(scene)
            native = scene.port.natives[0]
            said: list[object] = []
            known = {
                "land": lambda: native.end(code),
                "cancel": lambda: said.append(scene.flight.cancel()),
                "commit": lambda: said.append(scene.flight.commit(native)),
                "ring": lambda: [timer.ring() for timer in scene.port.timers],
                "drop": scene.flight.drop,
            }

            def outcome() -> Hashable:
                for timer in scene.port.timers:  # what is due comes, sooner or later
                    timer.ring()
                for late in scene.port.natives:
                    late.end(OK)
                assert scene.flight.over
                assert scene.held == (0, 0, 0)
                assert (scene.outer.entered, len(scene.outer.outcomes)) == (1, 1)
                assert scene.inner.entered == len(scene.inner.outcomes)
                return tuple(said), scene.outer.verdicts[0], len(scene.port.natives)

            return [known[act] for act in acts], outcome

        return set(outcomes(make, seeds=range(30), watch=WATCHED))

    def test_cancel_and_landing(self) -> None:
        """Cancelled before, over before, or over at that moment: then the callee has answered, and is credited."""
        found = self.race("cancel", "land")
        assert found <= {((True,), "IGNORED", 1), ((False,), "OK", 1), ((True,), "OK", 1)}

    def test_cancel_and_a_landing_that_fails(self) -> None:
        """After a cancellation no attempt starts, however late it came."""
        found = self.race("cancel", "land", code=UNAVAILABLE)
        assert found <= {((True,), "IGNORED", 1)}

    def test_a_message_and_a_landing_that_fails(self) -> None:
        """Given out, or tried again: both would give it twice."""
        found = self.race("commit", "land", code=UNAVAILABLE)
        assert found <= {((True,), "TRANSIENT", 1), ((False,), "OK", 2)}

    def test_cancel_and_the_timer_of_the_next_attempt(self) -> None:
        """Cancelled as it starts, or before it does."""
        found = self.race("cancel", "ring", prepare=lambda scene: scene.port.natives[0].end(UNAVAILABLE))
        assert found <= {((True,), "IGNORED", 1), ((True,), "IGNORED", 2)}

    def test_three_at_once(self) -> None:
        """Landing, message and cancellation."""
        found = self.race("cancel", "commit", "land", code=UNAVAILABLE)
        assert {natives for _, _, natives in found} == {1}  # type: ignore[misc]

    def test_dropped_as_it_lands(self) -> None:
        """A finaliser runs in whatever thread it likes."""
        found = self.race("drop", "land", code=UNAVAILABLE)
        assert found <= {((), "IGNORED", 1)}

    def test_a_grant_and_a_cancellation(self) -> None:
        """The permit granted at that very moment comes back."""

        def make() -> tuple[Sequence[Callable[[], object]], Callable[[], Hashable]]:
            turnstile = Turnstile(1, 10.0)
            first, second = (Scene(turnstile, kind=SharedFlight).begun() for _ in range(2))

            def outcome() -> Hashable:
                for native in second.port.natives:
                    native.end(OK)
                assert turnstile.free == 1
                assert second.held == (0, 0, 0)
                return second.outer.verdicts[0], len(second.port.natives)

            return [partial(first.port.natives[0].end, OK), second.flight.cancel], outcome

        found = outcomes(make, seeds=range(30), watch=WATCHED)
        assert set(found) <= {("IGNORED", 0), ("IGNORED", 1)}

    def test_callbacks_run_after_the_turn(self) -> None:
        """One that waits for a thread that asks the call must not wait for ever."""
        import threading

        scene = Scene(kind=SharedFlight).begun()
        asked: list[bool] = []

        def callback() -> None:
            asking = threading.Thread(target=lambda: asked.append(scene.flight.cancel()))
            asking.start()
            asking.join(2)
            assert not asking.is_alive()

        scene.flight.done(callback)
        scene.port.natives[0].end(OK)
        assert asked == [False]


def test_what_nobody_can_cancel_goes_to_the_frames_queue() -> None:
    """A finaliser that runs when the loop is closed leaves the tickets to whoever comes next."""
    scene = Scene().begun()
    scene.port.alive = False
    scene.flight.drop()
    assert scene.held == (1, 1, 1)
    scene.flight._segment.outer.enter(Call("next"), [], 0.0)
    scene.flight._segment.inner.enter(Call("next"), [], 0.0)
    assert scene.outer.verdicts == scene.inner.verdicts == ["IGNORED"]
