"""Nothing fails on purpose unless it is allowed, and then exactly what was asked for."""

from __future__ import annotations

import asyncio
import time

import pytest

from msgov import aio, sync
from msgov.call import OK, TRANSIENT, YES, Call, Outcome
from msgov.errors import CallFailed, DeadlineExceeded, RuleError
from msgov.event import Event, Observers
from msgov.pipeline import Pipeline, Policy
from msgov.policy import Waiting
from msgov.resilience import Bulkhead, BulkheadRule, Deadline, Fault, FaultRule
from msgov.resilience.fault import ENV
from msgov.testing import LoadedDice, ScriptedHandler, run
from tests.drivers.stage import COLOURS, Again, Colour, Door

CALL = Call("shop", "buy")
DOWN = FaultRule(share=1.0, status="503")
LATE = FaultRule(share=1.0, latency=2.0)
HUNG = FaultRule(share=1.0, hang=True, longest=10.0)


@pytest.fixture(params=COLOURS, ids=lambda colour: colour.name)
def colour(request: pytest.FixtureRequest) -> Colour:
    """Run the test in both colours."""
    found: Colour = request.param
    return found


class Play:
    """Calls in one colour: blocking code waits in real time, so there a unit is a hundredth of a second."""

    def __init__(self, colour: Colour) -> None:
        self.aio = colour.name == "aio"
        self.unit = 1.0 if self.aio else 0.01

    def fault(self, *, latency: float = 0.0, longest: float = 30.0, hang: bool = False, status: str = "") -> Fault:
        """Make a fault that is allowed, its times in units."""
        rule = FaultRule(share=1.0, latency=latency * self.unit, longest=longest * self.unit, hang=hang, status=status)
        return Fault(rule, allowed=True)

    def lasted(self, units: float, seconds: float) -> bool:
        """Whether it took so long: to a turn of the timer wheel, or to what a busy machine adds."""
        slack = 0.011 if self.aio else 2.0
        return units * self.unit - 0.001 <= seconds <= units * self.unit + slack

    def __call__(self, chain: list[Policy], *script: object, within: float | None = None) -> tuple[object, float]:
        """Make a call within so many units; return what came of it, and the seconds that it took."""
        handler = ScriptedHandler(*script)

        def call(now: float) -> Call:
            return Call("shop", "buy", deadline=None if within is None else now + within * self.unit)

        async def scene() -> tuple[object, float]:
            clock = asyncio.get_running_loop().time
            try:
                return await aio.govern(Pipeline(chain), handler.aio, clock=clock)(call(clock())), clock()
            except Exception as error:
                return error, clock()

        if self.aio:
            return run(scene())
        began = time.monotonic()
        try:
            reply = sync.govern(Pipeline(chain), handler.sync)(call(began))
        except Exception as error:
            return error, time.monotonic() - began
        return reply, time.monotonic() - began


@pytest.fixture
def play(colour: Colour) -> Play:
    """Run the test in both colours."""
    return Play(colour)


def test_rule_alone_injects_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A config centre must not be able to break what nobody allowed to be broken."""
    monkeypatch.delenv(ENV, raising=False)
    fault = Fault(DOWN)
    assert fault.admit(CALL, 0.0) == 0.0
    assert (fault.allowed, fault.waits, fault.learns, fault.failed) == (False, False, False, 0)


@pytest.mark.parametrize(
    ("said", "allowed", "fails"),
    [("1", None, True), ("1", False, False), ("0", True, True), ("", None, False), ("true", None, False)],
)
def test_environment_allows_where_code_says_nothing(
    monkeypatch: pytest.MonkeyPatch, said: str, allowed: bool | None, fails: bool
) -> None:
    """Code has the last word, and only "1" is a yes."""
    monkeypatch.setenv(ENV, said)
    assert Fault(DOWN, allowed=allowed).allowed is fails


def test_status_fails_like_the_callee_would() -> None:
    """TRANSIENT and sent, so that breakers count it and only what is idempotent is tried again."""
    fault = Fault(DOWN, allowed=True)
    with pytest.raises(CallFailed, match="shop buy: injected fault 503") as failed:
        fault.admit(CALL, 0.0)
    error = failed.value
    assert (error.status, error.verdict, error.sent, error.facts) == ("503", TRANSIENT, YES, {"injected": True})
    assert fault.failed == 1


def test_error_may_be_the_library_s_own() -> None:
    """What the code beneath would raise, so that its handling is tried too."""
    fault = Fault(DOWN, allowed=True, error=lambda call: ConnectionResetError(call.target))
    with pytest.raises(ConnectionResetError, match="shop"):
        fault.admit(CALL, 0.0)


def test_share_of_the_calls_fails() -> None:
    """The dice decides, below the share."""
    fault = Fault(FaultRule(share=0.25, status="503"), allowed=True, dice=LoadedDice(0.2499, 0.25, 0.9))
    with pytest.raises(CallFailed):
        fault.admit(CALL, 0.0)
    assert [fault.admit(CALL, 0.0) for _ in range(2)] == [0.0, 0.0]


def test_share_of_nothing_fails_nothing() -> None:
    """Off without a change of shape."""
    fault = Fault(FaultRule(share=0.0, status="503"), allowed=True, dice=LoadedDice(0.0, cycle=True))
    assert fault.admit(CALL, 0.0) == 0.0


@pytest.mark.parametrize(
    ("metadata", "fails"),
    [({"x-test": "blue"}, True), ({"x-test": "red"}, False), ({}, False)],
)
def test_header_chooses_its_own_calls(metadata: dict[str, str], fails: bool) -> None:
    """A test breaks its own traffic, and nobody else's."""
    rule = FaultRule(share=1.0, status="503", header="X-Test", value="blue")
    fault = Fault(rule, allowed=True, trusted=lambda call: True)
    try:
        fault.admit(Call("shop", metadata=metadata), 0.0)
    except CallFailed:
        assert fails
    else:
        assert not fails


def test_header_without_a_value_needs_only_be_there() -> None:
    """Whatever it says."""
    fault = Fault(FaultRule(share=1.0, status="503", header="x-test"), allowed=True, trusted=lambda call: True)
    with pytest.raises(CallFailed):
        fault.admit(Call("shop", metadata={"x-test": ""}), 0.0)


def test_header_from_a_stranger_breaks_nothing() -> None:
    """By default nobody is trusted; else anybody could switch a service off for himself and count his retries."""
    rule = FaultRule(share=1.0, status="503", header="x-test")
    call = Call("shop", metadata={"x-test": "1"}, key="10.0.0.1")
    assert Fault(rule, allowed=True).admit(call, 0.0) == 0.0
    assert Fault(rule, allowed=True, trusted=lambda call: call.key == "10.0.0.2").admit(call, 0.0) == 0.0


def test_latency_comes_before_the_call(play: Play) -> None:
    """The reply is the callee's own, only later."""
    fault = play.fault(latency=2.0)
    reply, seconds = play([fault], "reply")
    assert (reply, fault.delayed) == ("reply", 1)
    assert play.lasted(2.0, seconds)


def test_latency_counts_as_the_callee_s_time(play: Play) -> None:
    """What measures it (slow calls, adaptive limits) sees a slow callee, inside the seam and outside it."""
    outer, inner = Door([], "outer"), Door([], "inner")
    play([outer, Again(), inner, play.fault(latency=2.0)], "reply")
    assert all(play.lasted(2.0, outcome.seconds) for outcome in (*inner.outcomes, *outer.outcomes))
    assert (len(inner.outcomes), len(outer.outcomes)) == (1, 1)


def test_latency_with_a_status_fails_after_it(play: Play) -> None:
    """The worst of both, as an overloaded callee has it."""
    fault = play.fault(latency=2.0, status="503")
    error, seconds = play([fault])
    assert isinstance(error, CallFailed)
    assert play.lasted(2.0, seconds)
    assert (fault.delayed, fault.failed) == (1, 1)


def test_hang_ends_with_the_deadline(play: Play) -> None:
    """As a callee that never answers: the call may have been done, for all that the caller knows."""
    fault, door = play.fault(hang=True), Door([], "breaker")
    error, seconds = play([Deadline(3.0 * play.unit), door, fault])
    assert isinstance(error, DeadlineExceeded)
    assert play.lasted(3.0, seconds)
    assert (door.verdicts, fault.hung) == ([TRANSIENT], 1)


def test_hang_without_a_deadline_ends_too(play: Play) -> None:
    """Nothing here waits without end."""
    error, seconds = play([play.fault(hang=True, longest=10.0)])
    assert isinstance(error, DeadlineExceeded)
    assert "injected fault, no answer in" in str(error)
    assert play.lasted(10.0, seconds)


def test_latency_that_the_deadline_has_no_room_for_is_a_time_out(play: Play) -> None:
    """Not a second later than the call has, and it says what it was."""
    fault = play.fault(latency=20.0, status="503")
    error, seconds = play([fault], within=5.0)
    assert isinstance(error, DeadlineExceeded)
    assert play.lasted(5.0, seconds)
    assert (fault.delayed, fault.failed) == (1, 0)


def test_faults_are_tried_again_like_real_ones(colour: Colour) -> None:
    """That is what they are for."""
    fault = Fault(FaultRule(share=0.5, status="503"), allowed=True, dice=LoadedDice(0.1, 0.9))
    assert colour.play([Again(), fault], "reply").reply == "reply"


def test_permits_come_back_from_a_fault(play: Play) -> None:
    """What stands outside it is settled, whatever was injected."""
    bulkhead = Bulkhead(BulkheadRule(limit=1))
    for fault in (play.fault(status="503"), play.fault(latency=2.0), play.fault(hang=True, longest=1.0)):
        play([bulkhead, fault], "reply")
    assert bulkhead.inflight == 0


def test_cancelled_wait_leaves_nothing() -> None:
    """A caller that gives up on a hung call."""
    fault = Fault(HUNG, allowed=True)

    async def scene() -> None:
        task = asyncio.ensure_future(_played(fault))
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.get_running_loop().time() == 1.0

    run(scene())
    assert fault._late == {}


async def _played(fault: Fault) -> object:
    async def never(call: Call) -> object:
        raise AssertionError("the call was made")

    return await aio.govern(Pipeline([fault]), never, clock=asyncio.get_running_loop().time)(Call("shop"))


def test_leaving_before_the_time_is_over_gives_no_ticket() -> None:
    """By numbers: the one way out of the line."""
    fault = Fault(LATE, allowed=True)
    waiting = fault.admit(CALL, 0.0)
    assert isinstance(waiting, Waiting)
    assert fault.withdraw(waiting, 1.0) is None


def test_new_rule_is_for_new_calls() -> None:
    """Those that wait are let go as they were told."""
    fault = Fault(LATE, allowed=True)
    waiting = fault.admit(CALL, 0.0)
    assert isinstance(waiting, Waiting)
    fault.rule = DOWN
    ticket = fault.withdraw(waiting, 2.0)
    assert ticket == 2.0
    outcome = Outcome(OK, seconds=0.5)
    fault.settle(ticket, outcome, 2.5)
    assert outcome.seconds == 2.5


def test_every_fault_is_told() -> None:
    """Nobody should look for a cause that is on purpose."""
    told: list[Event] = []
    for rule in (DOWN, LATE, HUNG):
        fault = Fault(rule, allowed=True, name="chaos", observers=Observers(told.append))
        try:
            fault.admit(CALL, 7.0)
        except CallFailed:
            pass
    assert [(event.kind, event.name, event.target, event.at, dict(event.facts)) for event in told] == [
        ("fault.injected", "chaos", "shop", 7.0, {"what": "error", "seconds": 0.0}),
        ("fault.injected", "chaos", "shop", 7.0, {"what": "latency", "seconds": 2.0}),
        ("fault.injected", "chaos", "shop", 7.0, {"what": "hang", "seconds": 10.0}),
    ]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({}, "share"),
        ({"share": 1.1, "status": "503"}, "share"),
        ({"share": 1.0}, "nothing to inject"),
        ({"share": 1.0, "hang": True, "latency": 1.0}, "hang"),
        ({"share": 1.0, "hang": True, "status": "503"}, "hang"),
        ({"share": 1.0, "latency": 31.0}, "latency"),
        ({"share": 1.0, "status": "503", "value": "blue"}, "value"),
        ({"share": 1.0, "hang": True, "longest": 0.0}, "longest"),
    ],
)
def test_rule_that_cannot_be_is_refused(wrong: dict[str, float], field: str) -> None:
    """How much is broken has no default, and what is broken must be said."""
    with pytest.raises(RuleError, match=field):
        FaultRule(**wrong)  # type: ignore[arg-type]
