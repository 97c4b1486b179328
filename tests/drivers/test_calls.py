"""Every way out of a call settles every gate it passed, innermost first, in both colours."""

from __future__ import annotations

import gc
import traceback
import weakref
from collections.abc import Sequence

import pytest

from msgov import sync
from msgov.call import IGNORED, OK, PERMANENT, TRANSIENT, Call, Outcome
from msgov.errors import Rejected
from msgov.pipeline import Pipeline, Policy
from msgov.resilience import Deadline, Fallback, Retry
from msgov.testing import After, ManualClock
from tests.drivers.stage import Again, Aio, Colour, Door, Journal, Stand, raising


def test_reply_settles_innermost_first(colour: Colour) -> None:
    """A gate outside must learn after the one inside: it counts the inner one's work as its own."""
    journal: Journal = []
    played = colour.play([Door(journal, "outer"), Door(journal, "inner")], "done")
    assert played.reply == "done"
    assert journal == [("in", "outer", 1), ("in", "inner", 1), ("out", "inner", 1), ("out", "outer", 1)]


def test_reply_is_ok_with_its_seconds_and_status(colour: Colour) -> None:
    """Adaptive gates and metrics live from the duration, and the edge's own word for success goes with it."""
    door = Door([], "door")
    call = Call("shop")
    call.status = "201"
    colour.play([door], After(0.25, "done"), call=call)
    (outcome,) = door.outcomes
    assert (outcome.verdict, outcome.seconds, outcome.status, outcome.error) == (OK, 0.25, "201", None)


def test_error_passes_untouched_and_settles(colour: Colour) -> None:
    """The target's own exception is the caller's to handle, the same object."""
    door, error = Door([], "door"), ConnectionError("refused")
    played = colour.play([door], error)
    assert played.error is error
    assert door.verdicts == [TRANSIENT]
    assert door.outcomes[0].error is error


def test_traceback_shows_each_frame_of_the_driver_once(colour: Colour) -> None:
    """What is raised through policies must stay readable: no line of ours stands there twice."""
    played = colour.play([Door([], "outer"), Again(1), Door([], "inner")], ConnectionError())
    assert played.error is not None
    entries = [(entry.name, entry.lineno) for entry in traceback.extract_tb(played.error.__traceback__)]
    assert len(entries) == len(set(entries))
    assert all(entry.line for entry in traceback.extract_tb(played.error.__traceback__))


def test_bug_in_the_handler_is_permanent(colour: Colour) -> None:
    """A TypeError would be met again by another attempt, and says nothing about the callee's health."""
    door = Door([], "door")
    colour.play([door], TypeError("bug"))
    assert door.verdicts == [PERMANENT]


def test_rejection_settles_those_outside_as_ignored(colour: Colour) -> None:
    """What was never sent says nothing about the callee, and the inner gates never saw it."""
    journal: Journal = []
    outer, inner = Door(journal, "outer"), Door(journal, "inner")
    played = colour.play([outer, Door(journal, "shut", refuse=Rejected("full")), inner])
    assert isinstance(played.error, Rejected)
    assert played.attempts == 0
    assert outer.verdicts == [IGNORED]
    assert journal == [("in", "outer", 1), ("out", "outer", 1)]


def test_retry_walks_the_inner_frame_once_per_attempt(colour: Colour) -> None:
    """What stands inside the seam acts per attempt, what stands outside per call."""
    journal: Journal = []
    outer, inner = Door(journal, "outer"), Door(journal, "inner")
    played = colour.play([outer, Again(3, apart=2.0), inner], ConnectionError(), ConnectionError(), "done")
    assert (played.reply, played.attempts, played.seconds) == ("done", 3, 4.0)
    assert inner.verdicts == [TRANSIENT, TRANSIENT, OK]
    assert outer.verdicts == [OK]
    assert [entry[:2] for entry in journal] == [
        ("in", "outer"),
        *[("in", "inner"), ("out", "inner")] * 3,
        ("out", "outer"),
    ]


def test_outer_gate_learns_the_whole_duration(colour: Colour) -> None:
    """Waits between attempts are part of the call, not of an attempt."""
    outer, inner = Door([], "outer"), Door([], "inner")
    colour.play([outer, Again(2, apart=2.0), inner], After(0.5, ConnectionError()), After(0.25, "done"))
    assert [outcome.seconds for outcome in inner.outcomes] == [0.5, 0.25]
    assert [outcome.seconds for outcome in outer.outcomes] == [2.75]


@pytest.mark.parametrize("gates", [0, 1])
def test_plan_alone_needs_no_gate(colour: Colour, gates: int) -> None:
    """A pipeline of one retry is the most common of all, with nothing outside or inside of it."""
    played = colour.play([Again(2), *(Door([], "door") for _ in range(gates))], ConnectionError(), "done")
    assert (played.reply, played.attempts) == ("done", 2)


def test_attempt_number_is_on_the_call(colour: Colour) -> None:
    """It goes onto the wire, so that a callee can tell retries from traffic."""
    seen: list[int] = []

    class Look(Door):
        def admit(self, call: Call, now: float) -> int:
            seen.append(call.attempt)
            return self.ticket()

    colour.play([Again(3), Look([], "look")], ConnectionError(), ConnectionError(), "done")
    assert seen == [1, 2, 3]


def test_plan_is_asked_at_the_start_and_after_each_failure(colour: Colour) -> None:
    """A hedge answers at the start and a budget takes its deposit there."""
    plan = Again(2, apart=1.0)
    colour.play([plan], After(0.5, ConnectionError()), ConnectionError())
    assert [(tries, outcome and outcome.verdict, now) for tries, outcome, now in plan.asked] == [
        (1, None, 0.0),
        (1, TRANSIENT, 0.5),
        (2, TRANSIENT, 1.5),
    ]


def test_exhausted_attempts_raise_the_last_error_with_a_note(colour: Colour) -> None:
    """The caller sees what failed last, and that it was tried before."""
    last = ConnectionError("third")
    played = colour.play([Again(3)], ConnectionError("first"), ConnectionError("second"), last)
    assert played.error is last
    assert last.__notes__ == ["after 3 attempts"]


def test_note_is_added_once_to_an_error_raised_again_and_again(colour: Colour) -> None:
    """A module-level error object must not grow with every call that it ends."""
    always = ConnectionError("always the same object")
    for _ in range(3):
        colour.play([Again(2)], always, always)
    assert always.__notes__ == ["after 2 attempts"]


def test_rejection_of_a_later_attempt_does_not_hide_the_failure(colour: Colour) -> None:
    """The breaker opening under a retry is not what went wrong."""
    real = ConnectionError("what went wrong")
    first = Door([], "first")

    class Shut(Door):
        def admit(self, call: Call, now: float) -> int:
            if call.attempt > 1:
                raise Rejected("shut")
            return self.ticket()

    played = colour.play([Again(3), first, Shut([], "shut")], real)
    assert played.error is real
    assert first.verdicts == [TRANSIENT, IGNORED]


def test_nor_do_several_rejections_in_a_row(colour: Colour) -> None:
    """Attempts that found only open doors say nothing: what was sent and failed does."""

    class Stubborn(Again):
        def next(self, call: Call, tries: int, outcome: Outcome | None, now: float) -> float | None:
            return None if outcome is None or tries >= 3 else 0.0

    real = ConnectionError("what went wrong")
    played = colour.play([Stubborn()], real, Rejected("shut"), Rejected("shut"))
    assert played.error is real


def test_classifier_judges_once_per_attempt_and_once_for_the_call(colour: Colour) -> None:
    """It is the user's code on the failing path: asking it for each layer would cost and confuse."""
    judged: list[BaseException] = []

    def judge(call: Call, error: BaseException) -> Outcome:
        judged.append(error)
        return Outcome(TRANSIENT, error=error)

    colour.play([Door([], "outer"), Again(2), Door([], "inner")], ConnectionError(), ConnectionError(), judge=judge)
    assert len(judged) == 3


def test_classifier_that_forgets_the_error_changes_nothing(colour: Colour) -> None:
    """Substitutes and gates read the error from the outcome; the driver knows it anyway."""
    door, stand = Door([], "door"), Stand(lambda call, error: "instead")
    played = colour.play([stand, door], ConnectionError("x"), judge=lambda call, error: Outcome(PERMANENT))
    assert played.reply == "instead"
    assert isinstance(door.outcomes[0].error, ConnectionError)
    assert door.verdicts == [PERMANENT]


def test_faulty_classifier_is_reported_and_the_default_judges(colour: Colour, reported: list[BaseException]) -> None:
    """A bug in the user's judge must not cost a settle, nor replace the error."""
    fault, error, door = ZeroDivisionError("judge"), ConnectionError("real"), Door([], "door")

    def judge(call: Call, error: BaseException) -> Outcome:
        raise fault

    played = colour.play([door], error, judge=judge)
    assert played.error is error
    assert door.verdicts == [TRANSIENT]
    assert reported == [fault]


@pytest.mark.parametrize("step", ["done", ConnectionError("x")])
def test_faulty_settle_is_reported_and_the_others_settle(
    colour: Colour, step: object, reported: list[BaseException]
) -> None:
    """One gate's bug must not leak another gate's permit."""
    journal: Journal = []
    fault = ZeroDivisionError("settle")
    colour.play([Door(journal, "outer"), Door(journal, "faulty", fault=fault), Door(journal, "inner")], step)
    assert [entry[1] for entry in journal if entry[0] == "out"] == ["inner", "faulty", "outer"]
    assert reported == [fault]


def test_faulty_admit_fails_the_call_and_settles_those_before(colour: Colour) -> None:
    """A bug at the door is loud; the gates passed before it get their tickets back."""
    fault, outer = ZeroDivisionError("admit"), Door([], "outer")
    played = colour.play([outer, Door([], "faulty", refuse=fault)])
    assert played.error is fault
    assert len(outer.outcomes) == 1


def test_fallback_answers_and_those_outside_see_success(colour: Colour) -> None:
    """Outside of the fallback the call went well; inside of it the failure was learnt."""
    outer, inner = Door([], "outer"), Door([], "inner")
    played = colour.play([outer, Stand(lambda call, error: f"instead of {error}"), inner], ConnectionError("x"))
    assert played.reply == "instead of x"
    assert (outer.verdicts, inner.verdicts) == ([OK], [TRANSIENT])


def test_fallback_that_declines_lets_the_error_pass(colour: Colour) -> None:
    """Only what it wants to answer is answered."""
    outer, error = Door([], "outer"), ConnectionError("x")
    played = colour.play([outer, Stand(None)], error)
    assert played.error is error
    assert outer.verdicts == [TRANSIENT]


def test_fallback_that_fails_settles_those_outside_with_its_error(colour: Colour) -> None:
    """The answer's own failure is what the caller meets."""
    outer, worse = Door([], "outer"), ValueError("worse")
    played = colour.play([outer, Stand(raising(worse))], ConnectionError("x"))
    assert played.error is worse
    assert outer.outcomes[0].error is worse


def test_fallbacks_chain_from_the_inside_out(colour: Colour) -> None:
    """When the inner answer fails too, the next one is asked with the inner one's error."""
    worse = ValueError("worse")
    outermost = Stand(lambda call, error: f"last resort for {error}")
    between, door = Door([], "between"), Door([], "door")
    played = colour.play([outermost, between, Stand(raising(worse)), door], ConnectionError("x"))
    assert played.reply == "last resort for worse"
    assert outermost.asked == [worse]
    assert between.outcomes[0].error is worse


def test_fallback_is_not_asked_on_success(colour: Colour) -> None:
    """There is nothing to answer for."""
    stand = Stand(lambda call, error: "instead")
    assert colour.play([stand], "done").reply == "done"
    assert stand.asked == []


def test_faulty_fallback_is_reported_and_the_error_passes(colour: Colour, reported: list[BaseException]) -> None:
    """A bug in a choice must not cost those outside their settle."""
    fault, error, outer = ZeroDivisionError("choice"), ConnectionError("x"), Door([], "outer")
    played = colour.play([outer, Stand(None, fault=fault)], error)
    assert played.error is error
    assert outer.verdicts == [TRANSIENT]
    assert reported == [fault]


def test_fallback_inside_the_seam_answers_for_its_attempt(colour: Colour) -> None:
    """What stands inside the seam acts per attempt, a fallback too: there is then nothing to retry."""
    played = colour.play([Again(3), Stand(lambda call, error: "instead")], ConnectionError("x"))
    assert (played.reply, played.attempts) == ("instead", 1)


def test_fallback_inside_the_seam_that_fails_is_retried(colour: Colour) -> None:
    """The plan then decides on the answer's own failure."""
    played = colour.play([Again(2), Stand(raising(TimeoutError("worse")))], ConnectionError("x"), "done")
    assert (played.reply, played.attempts) == ("done", 2)


def test_retry_inside_the_fallback_is_exhausted_first(colour: Colour) -> None:
    """The documented order: the fallback answers for the whole call, not for an attempt."""
    played = colour.play([Stand(lambda call, error: "instead"), Again(2)], ConnectionError(), ConnectionError())
    assert (played.reply, played.attempts) == ("instead", 2)


def test_layers_stand_where_they_are_written(colour: Colour) -> None:
    """A user's own Handler -> Handler is a policy like any other."""
    journal: Journal = []

    def layer(handler: object) -> object:
        journal.append(("wrapped", "layer", 0))
        return handler

    played = colour.play([Door(journal, "outer"), layer, Door(journal, "inner")], "done")
    assert played.reply == "done"
    assert [entry[1] for entry in journal] == ["layer", "outer", "inner", "inner", "outer"]


def test_deadline_is_given_back_before_the_next_attempt(colour: Colour) -> None:
    """A per-try deadline is each attempt's own; the call's stays what it was."""
    seen: list[float | None] = []

    class Look(Door):
        def admit(self, call: Call, now: float) -> int:
            seen.append(call.deadline)
            return self.ticket()

    call = Call("shop")
    colour.play([Deadline(60), Again(2, apart=10.0), Deadline(5), Look([], "x")], ConnectionError(), "done", call=call)
    assert seen == [5.0, 15.0]
    assert call.deadline is None


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_interrupt_is_ignored_by_gates_and_never_answered(interrupt: BaseException) -> None:
    """Ctrl-C says nothing about the callee, and nothing may stand in its way."""
    door, fallback, clock = Door([], "door"), Fallback("instead", on=Exception), ManualClock()

    def handler(call: Call) -> object:
        raise interrupt

    pipeline = Pipeline([fallback, Retry(), door])
    with pytest.raises(type(interrupt)):
        sync.govern(pipeline, handler, clock=clock, sleep=clock.sleep)(Call("shop", idempotent=True))
    assert door.verdicts == [IGNORED]
    assert fallback.answered == 0


def test_interrupt_inside_a_settle_leaves_the_rest_to_the_next_walk() -> None:
    """Ctrl-C may hit between two settles: those that are left are settled, late but surely."""
    journal: Journal = []
    clock = ManualClock()
    outer, interrupted = Door(journal, "outer"), Door(journal, "interrupted", fault=KeyboardInterrupt())
    governed = sync.govern(Pipeline([outer, interrupted]), lambda call: "done", clock=clock)
    with pytest.raises(KeyboardInterrupt):
        governed(Call("shop"))
    assert outer.outcomes == []
    interrupted.fault = None
    governed(Call("shop"))
    assert outer.verdicts == [IGNORED, OK]


@pytest.mark.parametrize("policies", ["plain", "retry", "fallback"])
def test_failed_call_leaves_no_knot_for_the_collector(colour: Colour, policies: str) -> None:
    """An error whose traceback holds a frame that holds the error keeps the whole request alive until a collection."""

    class Big(ConnectionError):
        pass

    chains: dict[str, Sequence[Policy]] = {
        "plain": [Door([], "door")],
        "retry": [Door([], "outer"), Again(2), Door([], "inner")],
        "fallback": [Stand(_fail_anew), Door([], "door")],
    }
    chain = chains[policies]
    for policy in chain:  # those of the stage remember outcomes, hence errors: here they must not
        setattr(policy, "outcomes" if isinstance(policy, Door) else "asked", Forgetful())
    gc.collect()
    gc.disable()
    try:
        assert [made() for made in _fail(colour, chain, Big)] in ([None], [None, None])
    finally:
        gc.enable()


def _fail_anew(call: Call, error: BaseException) -> object:
    raise ValueError("worse")


class Forgetful(list[object]):
    """A list that keeps nothing."""

    def append(self, item: object) -> None:
        """Drop it."""


def _fail(colour: Colour, chain: Sequence[Policy], kind: type[Exception]) -> list[weakref.ref[BaseException]]:
    made: list[weakref.ref[BaseException]] = []

    def fresh() -> BaseException:
        error = kind("x")
        made.append(weakref.ref(error))
        return error

    def layer(handler: object) -> object:
        if isinstance(colour, Aio):

            async def failing_later(call: Call) -> object:
                raise fresh()

            return failing_later

        def failing(call: Call) -> object:
            raise fresh()

        return failing

    played = colour.play([*chain, layer])
    assert played.error is not None
    played.error = None
    return made
