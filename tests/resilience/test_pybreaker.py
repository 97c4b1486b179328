"""A pybreaker keeps its word inside a pipeline: the same state after the same calls, and no lock across any."""

from __future__ import annotations

import asyncio
import importlib
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from msgov.call import IGNORED, OK, PERMANENT, TRANSIENT, Call, Outcome
from msgov.errors import BreakerOpen, MissingExtra, RuleError
from msgov.resilience import policies
from msgov.testing import run
from tests.drivers.stage import COLOURS, Colour

pytest.importorskip("pybreaker", reason="pybreaker is not installed: pip install 'msgov[pybreaker]'")
import pybreaker

from msgov.resilience.pybreaker import CircuitOpen, PyBreaker

CALL = Call("shop", "buy")
WELL = Outcome(OK)
CANCELLED = Outcome(IGNORED, error=asyncio.CancelledError())


def down(error: Exception | None = None) -> Outcome:
    """Make a failure, a fresh one: it may be replaced."""
    return Outcome(TRANSIENT, error=error or ConnectionError("down"), status="ConnectionError")


class Journal(pybreaker.CircuitBreakerListener):
    """A listener that writes down what it is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[object, ...]] = []

    def before_call(self, cb: object, func: Callable[..., object], *args: object, **kwargs: object) -> None:
        self.lines.append(("before", func.__name__, *args))

    def success(self, cb: object) -> None:
        self.lines.append(("success",))

    def failure(self, cb: object, exc: BaseException) -> None:
        self.lines.append(("failure", type(exc).__name__))

    def state_change(self, cb: object, old: object, new: object) -> None:
        self.lines.append(("turned", new.name))  # type: ignore[attr-defined]


class Counting(pybreaker.CircuitMemoryStorage):
    """A storage that counts how often it is asked, as each look would be a round trip."""

    looks = 0

    def __getattribute__(self, name: str) -> object:
        if name in ("state", "counter", "success_counter", "opened_at", "increment_counter", "reset_counter"):
            Counting.looks += 1
        return super().__getattribute__(name)


def guarded(**options: Any) -> PyBreaker:
    """Make a gate round a breaker that opens with the second failure."""
    return PyBreaker(pybreaker.CircuitBreaker(**{"fail_max": 2, "reset_timeout": 30.0, **options}))


def fail(gate: PyBreaker, times: int = 1, now: float = 0.0) -> None:
    """Let calls fail."""
    for _ in range(times):
        gate.settle(gate.admit(CALL, now), down(), now)


def wait(gate: PyBreaker, seconds: float) -> None:
    """Let the time of day pass, for the breaker: it reads no clock but the real one."""
    storage = gate.breaker._state_storage
    assert storage.opened_at is not None
    storage.opened_at -= timedelta(seconds=seconds)


def test_fail_max_opens_it_and_the_refusal_is_both_errors() -> None:
    """Code that catches pybreaker's error goes on working, and so does whatever reads ours."""
    gate = guarded(name="stock")
    fail(gate, 2)
    assert gate.breaker.current_state == pybreaker.STATE_OPEN
    with pytest.raises(pybreaker.CircuitBreakerError, match="stock: pybreaker open, try again in") as refused:
        gate.admit(CALL, 0.0)
    assert isinstance(refused.value, BreakerOpen)
    assert isinstance(refused.value, CircuitOpen)
    assert 29.0 < (refused.value.retry_after or 0.0) <= 30.0
    assert dict(refused.value.facts) == {"state": "open", "fail_max": 2, "reset_timeout": 30.0}
    assert gate.rejected == 1


def test_success_sets_the_count_to_nought() -> None:
    """Failures count in a row, as pybreaker has it."""
    gate = guarded()
    for _ in range(3):
        fail(gate)
        gate.settle(gate.admit(CALL, 0.0), WELL, 0.0)
    assert (gate.breaker.fail_counter, gate.breaker.current_state) == (0, pybreaker.STATE_CLOSED)


def test_trial_goes_alone_and_closes_it() -> None:
    """One at a time, though nobody holds the lock that would have made the others wait."""
    gate = guarded()
    fail(gate, 2)
    wait(gate, 31.0)
    trial = gate.admit(CALL, 0.0)
    with pytest.raises(CircuitOpen, match="half-open") as refused:
        gate.admit(CALL, 1.0)
    assert refused.value.retry_after == 9.0
    gate.settle(trial, WELL, 2.0)
    assert gate.breaker.current_state == pybreaker.STATE_CLOSED


def test_trial_that_fails_opens_it_again() -> None:
    """For another whole reset_timeout."""
    gate = guarded()
    fail(gate, 2)
    wait(gate, 31.0)
    fail(gate)
    with pytest.raises(CircuitOpen, match="pybreaker open"):
        gate.admit(CALL, 0.0)


def test_success_threshold_takes_so_many_trials() -> None:
    """One after the other."""
    gate = guarded(success_threshold=2)
    fail(gate, 2)
    wait(gate, 31.0)
    gate.settle(gate.admit(CALL, 0.0), WELL, 0.0)
    assert gate.breaker.current_state == pybreaker.STATE_HALF_OPEN
    gate.settle(gate.admit(CALL, 0.0), WELL, 0.0)
    assert gate.breaker.current_state == pybreaker.STATE_CLOSED


def test_hung_trial_makes_room_for_the_next_and_its_result_says_nothing() -> None:
    """Half-open must not last for ever; pybreaker's own lock would."""
    gate = guarded()
    fail(gate, 2)
    wait(gate, 31.0)
    hung = gate.admit(CALL, 0.0)
    trial = gate.admit(CALL, 10.0)
    gate.settle(hung, WELL, 11.0)
    assert gate.breaker.current_state == pybreaker.STATE_HALF_OPEN
    gate.settle(trial, WELL, 12.0)
    assert gate.breaker.current_state == pybreaker.STATE_CLOSED


def test_trial_is_leased_no_longer_than_its_deadline() -> None:
    """After that nobody waits for it."""
    gate = guarded()
    fail(gate, 2)
    wait(gate, 31.0)
    gate.admit(Call("shop", deadline=3.0), 0.0)
    gate.admit(CALL, 3.0)


def test_cancelled_call_says_nothing_and_frees_the_trial() -> None:
    """pybreaker alone counts a cancellation as a failure of the callee."""
    gate = guarded()
    fail(gate)
    for _ in range(5):
        gate.settle(gate.admit(CALL, 0.0), CANCELLED, 0.0)
    assert gate.breaker.fail_counter == 1
    fail(gate)
    wait(gate, 31.0)
    gate.settle(gate.admit(CALL, 0.0), CANCELLED, 0.0)
    assert gate.breaker.current_state == pybreaker.STATE_HALF_OPEN
    gate.settle(gate.admit(CALL, 0.0), WELL, 0.0)
    assert gate.breaker.current_state == pybreaker.STATE_CLOSED


def test_trial_of_an_earlier_half_open_blocks_no_later_one() -> None:
    """It was opened by hand meanwhile: that is another state."""
    gate = guarded()
    fail(gate, 2)
    wait(gate, 31.0)
    gate.admit(CALL, 0.0)
    gate.breaker.open()
    wait(gate, 31.0)
    gate.settle(gate.admit(CALL, 1.0), WELL, 1.0)
    assert gate.breaker.current_state == pybreaker.STATE_CLOSED


def test_late_result_says_nothing() -> None:
    """A call from before the trip neither closes it nor keeps it open for longer."""
    gate = guarded()
    early = [gate.admit(CALL, 0.0) for _ in range(3)]
    fail(gate, 2)
    opened = gate.breaker._state_storage.opened_at
    gate.settle(early[0], WELL, 1.0)
    gate.settle(early[1], down(), 1.0)
    assert (gate.breaker.fail_counter, gate.breaker._state_storage.opened_at) == (2, opened)
    wait(gate, 31.0)
    trial = gate.admit(CALL, 2.0)
    gate.settle(early[2], WELL, 2.0)
    assert gate.breaker.current_state == pybreaker.STATE_HALF_OPEN
    gate.settle(trial, WELL, 3.0)


@pytest.mark.parametrize(
    ("exclude", "outcome"),
    [
        ([KeyError], down(KeyError("x"))),
        ([lambda error: isinstance(error, KeyError)], down(KeyError("x"))),
        ([], Outcome(PERMANENT, error=KeyError("x"))),
    ],
)
def test_exclusion_and_permanent_failure_count_as_a_success(exclude: list[object], outcome: Outcome) -> None:
    """The callee has answered; here as in pybreaker the count begins anew."""
    gate = guarded(exclude=exclude)
    fail(gate)
    gate.settle(gate.admit(CALL, 0.0), outcome, 0.0)
    assert gate.breaker.fail_counter == 0


def test_listeners_are_told_as_by_pybreaker() -> None:
    """In its order, with a function that has the call's name."""
    journal = Journal()
    gate = guarded(fail_max=1, listeners=[journal])
    gate.settle(gate.admit(CALL, 0.0), WELL, 0.0)
    fail(gate)
    wait(gate, 31.0)
    gate.settle(gate.admit(CALL, 0.0), WELL, 0.0)
    assert journal.lines == [
        ("before", "shop buy", CALL),
        ("success",),
        ("before", "shop buy", CALL),
        ("failure", "ConnectionError"),
        ("turned", "open"),
        ("turned", "half-open"),
        ("before", "shop buy", CALL),
        ("turned", "closed"),
        ("success",),
    ]


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """Collect what is reported as unraisable, which would fail the test otherwise."""
    found: list[BaseException] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: found.append(report.exc_value))
    return found


def test_listener_that_raises_is_reported_and_breaks_no_call(reported: list[BaseException]) -> None:
    """Its fault is not the call's."""

    class Faulty(pybreaker.CircuitBreakerListener):
        def before_call(self, cb: object, func: object, *args: object, **kwargs: object) -> None:
            raise KeyError("before")

        def success(self, cb: object) -> None:
            raise KeyError("success")

    gate = guarded(listeners=[Faulty()])
    gate.settle(gate.admit(CALL, 0.0), WELL, 0.0)
    assert [str(error) for error in reported] == ["'before'", "'success'"]


def test_storage_that_is_down_lets_the_call_in(reported: list[BaseException]) -> None:
    """A breaker protects the callee; it must not be the outage."""

    class Lost(pybreaker.CircuitMemoryStorage):
        lost = False

        @property  # type: ignore[misc]  # only read here
        def state(self) -> str:
            if Lost.lost:
                raise ConnectionError("storage")
            return str(super().state)

    gate = guarded(state_storage=Lost(pybreaker.STATE_CLOSED))
    before = gate.admit(CALL, 0.0)
    Lost.lost = True
    gate.settle(gate.admit(CALL, 0.0), down(), 0.0)
    gate.settle(before, WELL, 0.0)
    assert [str(error) for error in reported] == ["storage"]


def test_storage_is_asked_once_at_the_door_and_once_at_the_exit() -> None:
    """With Redis each look is a round trip; pybreaker itself makes two as well."""
    gate = guarded(state_storage=Counting(pybreaker.STATE_CLOSED))
    Counting.looks = 0
    ticket = gate.admit(CALL, 0.0)
    assert Counting.looks == 1
    gate.settle(ticket, WELL, 0.0)
    assert Counting.looks == 2


def test_breakers_over_one_storage_open_together() -> None:
    """Another process, or another breaker of this one."""
    storage = pybreaker.CircuitMemoryStorage(pybreaker.STATE_CLOSED)
    one, other = guarded(state_storage=storage), guarded(state_storage=storage)
    fail(one, 2)
    with pytest.raises(CircuitOpen):
        other.admit(CALL, 0.0)


def test_storage_that_keeps_utc_without_saying_so_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """As older ones did; a time zone must not open a breaker for hours."""
    gate = guarded()
    fail(gate, 2)
    gate.breaker._state_storage.opened_at = datetime.now(UTC).replace(tzinfo=None)
    try:
        with monkeypatch.context() as far:
            far.setenv("TZ", "UTC-9")
            time.tzset()
            with pytest.raises(CircuitOpen) as refused:
                gate.admit(CALL, 0.0)
    finally:
        time.tzset()
    assert 29.0 < (refused.value.retry_after or 0.0) <= 30.0


def test_breaker_opened_by_hand_without_a_time_is_tried_at_once() -> None:
    """pybreaker tries it too."""
    gate = PyBreaker(pybreaker.CircuitBreaker(state_storage=pybreaker.CircuitMemoryStorage(pybreaker.STATE_OPEN)))
    gate.settle(gate.admit(CALL, 0.0), WELL, 0.0)
    assert gate.breaker.current_state == pybreaker.STATE_CLOSED


def test_failure_without_an_exception_counts_too() -> None:
    """Some edge may have only a status."""
    journal = Journal()
    gate = guarded(listeners=[journal])
    gate.settle(gate.admit(CALL, 0.0), Outcome(TRANSIENT, status="503"), 0.0)
    assert journal.lines[-1] == ("failure", "CallFailed")


def test_breaker_used_beside_the_pipeline_is_the_same_breaker() -> None:
    """Code that is not moved yet goes on calling it."""
    gate = guarded()
    fail(gate)
    with pytest.raises(pybreaker.CircuitBreakerError, match="threshold"):
        gate.breaker.call(int, "no number")
    with pytest.raises(CircuitOpen):
        gate.admit(CALL, 0.0)


@pytest.mark.parametrize("colour", COLOURS, ids=lambda colour: colour.name)
@pytest.mark.parametrize("throws", [True, False])
def test_failure_that_opens_it_ends_as_pybreaker_says(colour: Colour, throws: bool) -> None:
    """throw_new_error_on_trip: its own error with the failure as the cause, or the failure."""
    gate = guarded(fail_max=1, throw_new_error_on_trip=throws)
    failure = ConnectionError("down")
    played = colour.play([gate], failure)
    if throws:
        assert type(played.error) is pybreaker.CircuitBreakerError
        assert played.error.__cause__ is failure
    else:
        assert played.error is failure
    assert isinstance(colour.play([gate], "never").error, CircuitOpen)


@pytest.mark.parametrize("colour", COLOURS, ids=lambda colour: colour.name)
def test_failure_that_is_another_breaker_s_refusal_is_not_its_own_cause(colour: Colour) -> None:
    """A breaker further down may raise the same class."""
    failure = pybreaker.CircuitBreakerError("further down")
    played = colour.play([guarded(fail_max=1, throw_new_error_on_trip=False)], failure)
    assert played.error is failure
    assert failure.__cause__ is None


@pytest.mark.parametrize("colour", COLOURS, ids=lambda colour: colour.name)
def test_traceback_of_a_failure_shows_nothing_of_the_breaker(colour: Colour) -> None:
    """pybreaker raises it once more on the way, which is nobody's business and would hold the frames."""
    gate = guarded(fail_max=1, throw_new_error_on_trip=False)
    error = colour.play([gate], ConnectionError("down")).error
    files = []
    trace = error.__traceback__ if error is not None else None
    while trace is not None:
        files.append(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    assert not [name for name in files if "pybreaker" in name]


def test_lock_is_not_held_during_the_call() -> None:
    """pybreaker alone lets 20 threads through one after the other; here all are inside at once."""
    inside = threading.Barrier(20)
    gate = guarded()

    @policies(gate)
    def ask() -> str:
        inside.wait(10.0)
        return "reply"

    with ThreadPoolExecutor(20) as pool:
        replies = [future.result(20.0) for future in [pool.submit(ask) for _ in range(20)]]
    assert replies == ["reply"] * 20


def test_asyncio_calls_are_inside_at_once() -> None:
    """And the loop is never blocked by a lock that another task holds across its wait."""
    gate = guarded()

    @policies(gate)
    async def ask() -> float:
        await asyncio.sleep(1.0)
        return asyncio.get_running_loop().time()

    async def scene() -> list[float]:
        return await asyncio.gather(*(ask() for _ in range(20)))

    assert run(scene()) == [1.0] * 20


def test_half_open_lets_one_of_many_threads_in() -> None:
    """However they come."""
    gate = guarded()
    fail(gate, 2)
    wait(gate, 31.0)
    start = threading.Barrier(8)

    def come() -> bool:
        start.wait(10.0)
        try:
            gate.admit(CALL, 0.0)
        except CircuitOpen:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(future.result(10.0) for future in [pool.submit(come) for _ in range(8)]) == 1


@pytest.mark.parametrize("wrong", [None, "breaker", object()])
def test_what_is_no_pybreaker_is_refused(wrong: object) -> None:
    """Where it is written."""
    with pytest.raises(RuleError, match=r"a pybreaker.CircuitBreaker"):
        PyBreaker(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("lease", [0.0, -1.0, 3601.0])
def test_lease_out_of_range_is_refused(lease: float) -> None:
    """With the range."""
    with pytest.raises(RuleError, match="lease"):
        PyBreaker(pybreaker.CircuitBreaker(), lease=lease)


def test_missing_pybreaker_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the import of the adapter, and nowhere else."""
    name = "msgov.resilience.pybreaker"
    monkeypatch.setitem(sys.modules, "pybreaker", None)
    monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtra, match=r"msgov\[pybreaker\]"):
        importlib.import_module(name)


class Twins(RuleBasedStateMachine):
    """The gate and pybreaker itself make the same of the same calls, one after the other."""

    @initialize(fails=st.integers(1, 3), successes=st.integers(1, 3), throws=st.booleans())
    def begin(self, fails: int, successes: int, throws: bool) -> None:
        """Draw the settings."""
        self.journals = Journal(), Journal()
        ours, self.plain = (
            pybreaker.CircuitBreaker(
                fail_max=fails,
                reset_timeout=30.0,
                success_threshold=successes,
                throw_new_error_on_trip=throws,
                exclude=[KeyError],
                listeners=[journal],
            )
            for journal in self.journals
        )
        self.gate = PyBreaker(ours)

    def through_gate(self, error: Exception | None) -> str:
        """Make a call as a driver does."""
        try:
            ticket = self.gate.admit(CALL, 0.0)
        except CircuitOpen:
            return "refused"
        outcome = WELL if error is None else down(error)
        self.gate.settle(ticket, outcome, 0.0)
        return "reply" if error is None else type(outcome.error).__name__

    def through_pybreaker(self, error: Exception | None) -> str:
        """Make the same call its way."""
        made = []

        def asked() -> str:
            made.append(True)
            if error is not None:
                raise error
            return "reply"

        try:
            return str(self.plain.call(asked))
        except Exception as got:
            return type(got).__name__ if made else "refused"

    @rule(kind=st.sampled_from([None, ConnectionError, KeyError]))
    def call(self, kind: type[Exception] | None) -> None:
        """Make it on both."""
        assert self.through_gate(kind() if kind else None) == self.through_pybreaker(kind() if kind else None)

    @rule(seconds=st.sampled_from([1.0, 31.0]))
    def wait(self, seconds: float) -> None:
        """Let time pass for both."""
        for breaker in (self.gate.breaker, self.plain):
            storage = breaker._state_storage
            if storage.opened_at is not None:
                storage.opened_at -= timedelta(seconds=seconds)

    @rule()
    def by_hand(self) -> None:
        """Close both."""
        self.gate.breaker.close()
        self.plain.close()

    @invariant()
    def agree(self) -> None:
        """State, counts, and what the listeners were told."""
        if hasattr(self, "gate"):
            ours, plain = self.gate.breaker, self.plain
            assert ours.current_state == plain.current_state
            assert (ours.fail_counter, ours.success_counter) == (plain.fail_counter, plain.success_counter)
            told, plainly = (
                [line[:1] + line[1:2] * (line[0] != "before") for line in journal.lines] for journal in self.journals
            )
            assert told == plainly


TestTwins = Twins.TestCase
TestTwins.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
