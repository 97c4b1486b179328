"""The first good reply is the call's, whatever the others do, and however late they do it."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable
from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from msgov import _race
from msgov._race import Cancel, Ended, Race, refuse
from msgov.call import IGNORED, OK, PERMANENT, TRANSIENT, Call, Outcome
from msgov.errors import BulkheadFull, RuleError
from msgov.policy import Hedging
from msgov.resilience import Hedge, HedgeRule, Retry
from msgov.testing import outcomes


class Timer:
    """A time at which to act."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.act: Callable[[], None] | None = act

    def cancel(self) -> None:
        """Call it off."""
        self.act = None


class Course:
    """A race on numbers: attempts end when the test says so, time passes when the test says so."""

    def __init__(self, plan: Hedging, call: Call | None = None) -> None:
        self.now = 0.0
        self.call = call or Call("shop", "buy", idempotent=True)
        self.begun: dict[int, tuple[Call, Ended]] = {}
        self.running: set[int] = set()
        self.told: list[int] = []
        self.ends: list[tuple[object, Outcome, float]] = []
        self.at_once: dict[int, Outcome] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = count()
        self.race = Race(
            plan,
            self.call,
            begin=self._begin,
            later=self._later,
            over=lambda *end: self.ends.append(end),
            clock=lambda: self.now,
        )

    def start(self) -> Course:
        """Begin."""
        self.race.start(self.now)
        return self

    def _begin(self, fork: Call, ended: Ended) -> Cancel:
        number = fork.attempt
        assert number not in self.begun
        self.begun[number] = fork, ended
        self.running.add(number)
        if number in self.at_once:
            self.end(number, self.at_once[number])
        return lambda: self.told.append(number)

    def _later(self, seconds: float, act: Callable[[], None]) -> Timer:
        assert seconds >= 0
        timer = Timer(act)
        heapq.heappush(self._timers, (self.now + seconds, next(self._order), timer))
        return timer

    def wait(self, seconds: float) -> None:
        """Let time pass, and ring what is due."""
        until = self.now + seconds
        while self._timers and self._timers[0][0] <= until + 1e-9:
            self.now, _, timer = heapq.heappop(self._timers)
            if timer.act is not None:
                timer.act()
        self.now = until

    def end(self, number: int, outcome: Outcome, reply: object = None) -> None:
        """End an attempt."""
        self.running.discard(number)
        self.begun[number][1](reply, outcome, self.now)

    @property
    def armed(self) -> bool:
        """Whether a timer would still do something."""
        return any(timer.act is not None for _, _, timer in self._timers)


def failed(error: BaseException | None = None, *, asked: float | None = None) -> Outcome:
    """Make a failure that may pass."""
    return Outcome(TRANSIENT, error=error or ConnectionError(), retry_after=asked)


WELL = Outcome(OK, seconds=0.1)


def four() -> Hedge:
    """Make the plan of gRFC A6's example: 500 ms between attempts, four of them."""
    return Hedge(HedgeRule(attempts=4, initial=0.5, load=4))


def two() -> Hedge:
    """Make a plan with one hedge, after 100 ms."""
    return Hedge(HedgeRule(initial=0.1, load=4))


def test_grpc_a6_hedging_delay() -> None:
    """gRFC A6: at 1, 501, 1001 and 1501 ms one, two, three and four are in flight, and then no more."""
    course = Course(four()).start()
    in_flight = []
    for wait in (0.001, 0.5, 0.5, 0.5, 5.0):
        course.wait(wait)
        in_flight.append(len(course.running))
    assert in_flight == [1, 2, 3, 4, 4]


def test_first_reply_wins_and_the_others_are_told() -> None:
    """Once each, and what they come to later changes nothing."""
    course = Course(four()).start()
    course.wait(1.0)
    course.end(2, WELL, "second")
    assert [(reply, outcome.error) for reply, outcome, _ in course.ends] == [("second", None)]
    assert course.told == [1, 3]
    course.end(1, WELL, "first")
    course.end(3, Outcome(IGNORED, error=KeyboardInterrupt()))
    course.wait(9.0)
    assert (len(course.ends), len(course.begun), course.armed) == (1, 3, False)


def test_call_is_told_of_the_winner() -> None:
    """Where it went, what the wire said, under which span: as if there had been one attempt."""
    course = Course(two()).start()
    course.wait(0.1)
    fork = course.begun[2][0]
    fork.status = "201"
    course.begun[1][0].status = "200"
    course.end(2, WELL)
    assert (course.call.attempt, course.call.status) == (2, "201")


def test_copies_share_what_was_tried() -> None:
    """Or the hedge would be sent to the instance that is slow."""
    course = Course(two()).start()
    course.wait(0.1)
    (one, _), (other, _) = course.begun.values()
    assert one is not other
    assert one.tried is other.tried is course.call.tried == []


def test_grpc_a6_non_fatal_error_begins_the_next_now() -> None:
    """And the delay starts again from there."""
    course = Course(four()).start()
    course.wait(0.2)
    course.end(1, failed())
    assert sorted(course.begun) == [1, 2]
    course.wait(0.49)
    assert sorted(course.begun) == [1, 2]
    course.wait(0.01)
    assert sorted(course.begun) == [1, 2, 3]


def test_grpc_a6_pushback_sets_the_time_of_the_next() -> None:
    """In place of the hedge that was due; after it the delays go on."""
    course = Course(four()).start()
    course.wait(0.4)
    course.end(1, failed(asked=2.0))
    course.wait(1.99)
    assert sorted(course.begun) == [1]
    course.wait(0.01)
    assert sorted(course.begun) == [1, 2]
    course.wait(0.5)
    assert sorted(course.begun) == [1, 2, 3]


def test_grpc_a6_negative_pushback_begins_no_more() -> None:
    """Those under way go on, and the last of them decides."""
    course = Course(four()).start()
    course.wait(0.5)
    course.end(1, failed(asked=-1.0))
    course.wait(9.0)
    assert (sorted(course.begun), course.ends, course.told) == ([1, 2], [], [])
    course.end(2, WELL, "late")
    assert course.ends[0][0] == "late"


def test_negative_pushback_takes_back_what_was_scheduled() -> None:
    """The callee has spoken after the other attempt's word."""
    course = Course(four()).start()
    course.wait(0.5)
    course.end(1, failed(asked=2.0))
    course.end(2, failed(asked=-1.0))
    assert (len(course.ends), course.armed) == (1, False)


def test_second_failure_does_not_pay_for_what_is_scheduled_already() -> None:
    """One attempt is waited for: two failures need not two."""
    plan = four()
    course = Course(plan).start()
    course.wait(0.5)
    course.end(1, failed(asked=2.0))
    course.end(2, failed())
    assert (plan.retried, sorted(course.begun), course.ends) == (1, [1, 2], [])
    course.wait(2.0)
    assert sorted(course.begun) == [1, 2, 3]


@pytest.mark.parametrize("end", [Outcome(PERMANENT, error=ValueError()), Outcome(IGNORED, error=KeyboardInterrupt())])
def test_grpc_a6_fatal_error_ends_the_call(end: Outcome) -> None:
    """An answer is an answer, and an interrupt is an order: the others are told."""
    course = Course(four()).start()
    course.wait(0.5)
    course.end(2, end)
    assert [outcome.error for _, outcome, _ in course.ends] == [end.error]
    assert course.told == [1]


def test_budget_that_is_spent_fails_nothing_under_way() -> None:
    """failsafe-go 141: it only means that no other attempt joins."""
    plan = Hedge(HedgeRule(initial=0.1, load=0))
    course = Course(plan).start()
    course.wait(5.0)
    assert (sorted(course.begun), course.ends, plan.suppressed["load"]) == ([1], [], 1)
    course.end(1, WELL, "in its own time")
    assert course.ends[0][0] == "in its own time"


def test_rejected_hedge_hides_nothing() -> None:
    """Our own bulkhead was full for the second: the first is still under way, and its failure is the call's."""
    course = Course(two()).start()
    course.wait(0.1)
    course.end(2, Outcome(IGNORED, error=BulkheadFull("full")))
    assert course.ends == []
    lost = ConnectionError("lost")
    course.end(1, failed(lost))
    assert course.ends[0][1].error is lost


def test_rejection_does_not_replace_the_failure_before_it() -> None:
    """The other way round in time."""
    course = Course(two()).start()
    course.wait(0.1)
    lost = ConnectionError("lost")
    course.end(1, failed(lost))
    course.end(2, Outcome(IGNORED, error=BulkheadFull("full")))
    assert course.ends[0][1].error is lost


def test_call_ends_with_the_last_failure() -> None:
    """Both failed: who failed last is who was there last."""
    course = Course(two()).start()
    course.wait(0.1)
    course.end(2, failed(ConnectionError("second")))
    first = ConnectionError("first")
    course.end(1, failed(first))
    assert course.ends[0][1].error is first
    assert course.call.attempt == 1


def test_cancel_tells_all_and_decides_nothing() -> None:
    """The caller has gone: nobody is told of an end."""
    course = Course(four()).start()
    course.wait(0.5)
    assert course.race.cancel() is True
    assert course.race.cancel() is False
    assert (course.told, course.ends, course.armed) == ([1, 2], [], False)
    course.end(1, Outcome(IGNORED))
    course.end(2, failed())
    assert (course.ends, len(course.begun)) == ([], 2)


def test_attempt_may_end_before_it_has_begun() -> None:
    """A breaker refuses at the door: `ended` comes before `begin` returns."""
    course = Course(two())
    course.at_once = {1: failed(), 2: WELL}
    course.start()
    assert (sorted(course.begun), len(course.ends), course.told, course.armed) == ([1, 2], 1, [], False)


def test_all_may_fail_at_once() -> None:
    """As many as the plan allows, and not one more."""
    course = Course(four())
    course.at_once = dict.fromkeys((1, 2, 3, 4), failed())
    course.start()
    assert (sorted(course.begun), len(course.ends), course.race.tries) == ([1, 2, 3, 4], 1, 4)


def test_what_is_begun_while_the_call_is_decided_is_told() -> None:
    """Another thread's reply comes between begin and its return: the new attempt must not run on unknown."""
    course = Course(two())
    begin = course._begin

    def decided_meanwhile(fork: Call, ended: Ended) -> Cancel:
        cancel = begin(fork, ended)
        if fork.attempt == 2:
            course.end(1, WELL)
        return cancel

    course.race._begin = decided_meanwhile
    course.start()
    course.wait(0.1)
    assert (len(course.ends), course.told, course.armed) == (1, [2], False)


def test_unsafe_call_has_one_attempt() -> None:
    """Whatever time it takes."""
    course = Course(two(), Call("shop")).start()
    course.wait(99.0)
    course.end(1, failed())
    assert (sorted(course.begun), len(course.ends)) == ([1], 1)


def test_each_attempt_teaches_once() -> None:
    """The winner, the loser, and the one that failed."""
    seen: list[Outcome] = []

    class Told(Hedge):
        def learn(self, outcome: Outcome, now: float) -> None:
            seen.append(outcome)

    course = Course(Told(HedgeRule(attempts=3, initial=0.1, load=4))).start()
    course.end(1, failed())
    course.wait(0.1)
    course.end(2, WELL)
    course.end(3, Outcome(IGNORED, seconds=0.4))
    assert [outcome.verdict for outcome in seen] == [TRANSIENT, OK, IGNORED]


class Faulty(Hedge):
    """A plan with a mistake in it."""

    def begins(self, call: Call, tries: int, now: float) -> bool:
        """Fail."""
        raise LookupError("begins")

    def next(self, call: Call, tries: int, outcome: Outcome | None, now: float) -> float | None:
        """Fail after a failure."""
        if outcome is not None:
            raise LookupError("next")
        return super().next(call, tries, outcome, now)


def test_faulty_plan_costs_no_attempt_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is reported, and no more attempts begin."""
    reported: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", lambda report: reported.append(str(report.exc_value)))
    course = Course(Faulty(HedgeRule(initial=0.1, load=4))).start()
    course.wait(0.2)
    course.end(1, failed())
    assert reported == ["begins", "next"]
    assert (len(course.begun), len(course.ends)) == (1, 1)


def test_pushback_of_half_a_second_is_one() -> None:
    """Short ones too."""
    course = Course(four()).start()
    course.end(1, failed(asked=0.25))
    course.wait(0.24)
    assert sorted(course.begun) == [1]
    course.wait(0.01)
    assert sorted(course.begun) == [1, 2]


@pytest.mark.parametrize("asked", [0.0, 0.5])
def test_second_pushback_does_not_move_what_is_scheduled(asked: float) -> None:
    """It is paid for, and the first word stands."""
    plan = four()
    course = Course(plan).start()
    course.wait(0.5)
    course.end(1, failed(asked=2.0))
    course.end(2, failed(asked=asked))
    assert (plan.retried, sorted(course.begun)) == (1, [1, 2])


def test_plan_that_said_no_is_not_asked_again() -> None:
    """A callee that said "do not" to one attempt said it to the call."""
    plan = four()
    course = Course(plan).start()
    course.wait(0.5)
    course.end(1, failed(asked=-1.0))
    course.end(2, failed())
    assert (plan.retried, sorted(course.begun), len(course.ends)) == (0, [1, 2], 1)


def test_delay_counts_from_the_start_of_the_attempt() -> None:
    """Not from when it was sent: what its gates took is part of what its caller waits."""
    course = Course(four())
    begin = course._begin

    def slowly(fork: Call, ended: Ended) -> Cancel:
        course.now += 0.2
        return begin(fork, ended)

    course.race._begin = slowly
    course.start()
    course.wait(0.29)
    assert sorted(course.begun) == [1]
    course.wait(0.02)
    assert sorted(course.begun) == [1, 2]


def test_timer_that_rings_although_it_was_called_off_is_not_heard() -> None:
    """On another thread it was ringing already: of a decided call, and of one that has begun its next attempt since."""
    course = Course(four()).start()
    late = course._timers[0][2].act
    assert late is not None
    course.end(1, failed())
    late()
    assert sorted(course.begun) == [1, 2]
    later = course._timers[-1][2].act
    assert later is not None
    course.end(2, WELL)
    later()
    assert (sorted(course.begun), len(course.ends)) == ([1, 2], 1)


def test_timer_that_rings_before_it_is_known() -> None:
    """A delay of no time, on another thread: it begins one attempt, and is called off for all that follows."""
    plan = Hedge(HedgeRule(attempts=3, initial=0.1, load=4))
    rung: list[Timer] = []
    course = Course(plan)
    later = course._later

    def at_once(seconds: float, act: Callable[[], None]) -> Timer:
        timer = later(seconds, act)
        if not rung:
            rung.append(timer)
            act()
        return timer

    course.race._later = at_once
    course.start()
    assert sorted(course.begun) == [1, 2]
    assert rung[0].act is None
    course.wait(0.1)
    assert sorted(course.begun) == [1, 2, 3]


def test_faulty_plan_after_a_start_costs_only_the_attempts_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that has begun goes on, and the fault is reported."""
    reported: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", lambda report: reported.append(str(report.exc_value)))

    class Tired(Hedge):
        def next(self, call: Call, tries: int, outcome: Outcome | None, now: float) -> float | None:
            if tries > 1:
                raise LookupError("tired")
            return super().next(call, tries, outcome, now)

    course = Course(Tired(HedgeRule(attempts=4, initial=0.1, load=4))).start()
    course.wait(9.0)
    assert (sorted(course.begun), reported) == ([1, 2], ["tired"])
    course.end(2, WELL)
    assert len(course.ends) == 1


def test_refuse_names_the_plan() -> None:
    """What cannot be called off is refused where it is built."""
    refuse(None, "no")
    refuse(Retry(), "no")
    with pytest.raises(RuleError, match="it cannot be stopped"):
        refuse(Hedge(), "it cannot be stopped")


Scene = tuple[list[Callable[[], object]], Callable[[], Hashable]]


def test_two_threads_reply_at_once() -> None:
    """One wins, and the other is told or was over already: never two ends, never none."""

    def scene() -> Scene:
        course = Course(two()).start()
        course.wait(0.1)
        return (
            [lambda: course.end(1, WELL, "one"), lambda: course.end(2, WELL, "two")],
            lambda: (len(course.ends), course.ends[0][0], course.call.attempt),
        )

    assert set(outcomes(scene, watch=[_race], seeds=range(30))) == {(1, "one", 1), (1, "two", 2)}


def test_two_threads_fail_at_once() -> None:
    """With one attempt left they begin one: two would be one too many."""

    def scene() -> Scene:
        course = Course(Hedge(HedgeRule(attempts=3, initial=0.1, load=4))).start()
        course.wait(0.1)
        return (
            [lambda: course.end(1, failed()), lambda: course.end(2, failed())],
            lambda: (len(course.begun), len(course.running), len(course.ends)),
        )

    assert set(outcomes(scene, watch=[_race], seeds=range(30))) == {(3, 1, 0)}


def test_reply_and_timer_at_once() -> None:
    """The hedge begins and is told, or does not begin: either way nothing runs on untold."""

    def scene() -> Scene:
        course = Course(two()).start()
        course.now = 0.1
        ring = course._timers[0][2].act
        assert ring is not None

        def told() -> Hashable:
            untold = course.running - set(course.told)
            return len(course.ends), len(untold), course.armed

        return [lambda: course.end(1, WELL), ring], told

    assert set(outcomes(scene, watch=[_race], seeds=range(40))) == {(1, 0, False)}


WAYS = ["well", "fatal", "transient", "transient", "pushback", "stop", "rejected"]


class Walk(RuleBasedStateMachine):
    """A race against a plain account of who runs, what is due, and what is decided."""

    @initialize(attempts=st.integers(2, 5), load=st.sampled_from([0.0, 1.0, 4.0]))
    def begin(self, attempts: int, load: float) -> None:
        """Start one."""
        self.plan = Hedge(HedgeRule(attempts=attempts, initial=1.0, load=load))
        self.course = Course(self.plan).start()
        self.attempts = attempts
        self.purse = load
        self.begun, self.alive = 1, {1}
        self.due: float | None = 1.0
        self.paid = False
        self.more = True
        self.decided: str | None = None
        self.told: set[int] = set()

    def one_more(self) -> None:
        """Account for an attempt that begins."""
        self.begun += 1
        self.alive.add(self.begun)
        self.due, self.paid = (self.course.now + 1.0, False) if self.begun < self.attempts else (None, False)

    def decide(self, how: str) -> None:
        """Account for the end."""
        self.decided, self.due, self.more = how, None, False
        if how != "failed":
            self.told |= self.alive

    @rule(seconds=st.sampled_from([0.25, 1.0, 2.5]))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        until = self.course.now + seconds
        while self.due is not None and self.due <= until:
            self.course.wait(self.due - self.course.now)
            pays = self.paid or self.purse >= 1
            if not self.paid and pays:
                self.purse -= 1
            self.due = None
            if pays:
                self.one_more()
        self.course.wait(until - self.course.now)

    @precondition(lambda self: bool(self.alive))
    @rule(
        data=st.data(), how=st.sampled_from(["well", "fatal", "transient", "transient", "pushback", "stop", "rejected"])
    )
    def end(self, data: st.DataObject, how: str) -> None:
        """Let one of those under way end, before or after the decision."""
        number = data.draw(st.sampled_from(sorted(self.alive)))
        self.alive.discard(number)
        outcome = {
            "well": WELL,
            "fatal": Outcome(PERMANENT, error=ValueError()),
            "transient": failed(),
            "pushback": failed(asked=2.0),
            "stop": failed(asked=-1.0),
            "rejected": Outcome(IGNORED, error=BulkheadFull("full")),
        }[how]
        if self.decided is None:
            if how in ("well", "fatal"):
                self.decide(how)
            elif self.more and not (self.paid and self.due is not None and how != "stop"):
                allowed = how in ("transient", "pushback") and self.begun < self.attempts and self.purse >= 1
                if not allowed:
                    self.more, self.due = False, None
                else:
                    self.purse -= 1
                    if how == "pushback":
                        self.due, self.paid = self.course.now + 2.0, True
                    else:
                        self.one_more()
            if self.decided is None and not self.alive and self.due is None:
                self.decide("failed")
        self.course.end(number, outcome, number)

    @precondition(lambda self: self.decided is None)
    @rule()
    def cancel(self) -> None:
        """Let the caller go."""
        self.decide("cancelled")
        self.course.race.cancel()

    @invariant()
    def agrees(self) -> None:
        """Both see the same."""
        if not hasattr(self, "course"):
            return
        course = self.course
        assert sorted(course.begun) == list(range(1, self.begun + 1))
        assert course.running == self.alive
        assert course.race.over == (self.decided is not None)
        assert len(course.ends) == (self.decided not in (None, "cancelled"))
        assert sorted(course.told) == sorted(self.told)
        assert course.armed == (self.due is not None)
        assert self.plan.load.balance(course.now) == pytest.approx(self.purse) or course.now > 9


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=150, stateful_step_count=20, deadline=None)


def test_plan_hears_which_hedge_gave_the_reply() -> None:
    """Hedges that never win are load for nothing; one that was never begun is nobody's."""
    won, lost, none = two(), two(), two()
    for plan, winner in ((won, 2), (lost, 1)):
        course = Course(plan).start()
        course.wait(0.2)
        course.end(winner, WELL)
        course.end(3 - winner, Outcome(IGNORED, error=RuntimeError(), status="lost"))
    Course(none).start().end(1, WELL)
    assert [(plan.hedged, plan.won, plan.lost) for plan in (won, lost, none)] == [(1, 1, 0), (1, 0, 1), (0, 0, 0)]


def test_attempt_after_a_failure_is_no_hedge_that_won() -> None:
    """It was begun for another reason; and a call that fails has no winner."""
    plan = two()
    course = Course(plan).start()
    course.end(1, failed())
    course.end(2, WELL)
    waiting = Course(plan).start()
    waiting.end(1, failed(asked=0.05))
    waiting.wait(0.06)
    waiting.end(2, WELL)
    failing = Course(plan).start()
    failing.wait(0.2)
    failing.end(1, failed())
    failing.end(2, failed())
    assert (plan.hedged, plan.retried, plan.won, plan.lost) == (1, 2, 0, 0)
