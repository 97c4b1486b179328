"""A failpoint is nothing until it is armed, and breaks the code exactly where and when it was told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from msgov.errors import RuleError
from msgov.failpoint import Failpoint, arm, disarm, failpoint, parse
from msgov.testing import FailpointReached, ManualClock, armed, kill, raises, sleeps

NAME = "testing.somewhere"


def test_unarmed_failpoint_does_nothing() -> None:
    """It stands at every commit boundary of real code."""
    failpoint(NAME)


def test_armed_failpoint_acts_at_every_hit_of_its_own_name_alone() -> None:
    """A test breaks one place."""
    acted: list[int] = []
    with armed(NAME, lambda: acted.append(1)) as point:
        failpoint(NAME)
        failpoint("testing.elsewhere")
        failpoint(NAME)
    assert acted == [1, 1]
    assert point.hits == 2


def test_failpoint_is_harmless_after_its_block_even_if_that_failed() -> None:
    """The next test must not meet it."""
    with pytest.raises(KeyError), armed(NAME, raises(KeyError("planned"))):
        failpoint(NAME)
    failpoint(NAME)


def test_at_acts_at_that_hit_alone_and_counts_on() -> None:
    """The third commit of a loop is a place of its own."""
    acted: list[int] = []
    with armed(NAME, lambda: acted.append(point.hits), at=3) as point:
        for _ in range(5):
            failpoint(NAME)
    assert acted == [3]
    assert point.hits == 5


def test_raised_error_is_the_one_given_and_does_not_grow() -> None:
    """One instance raised at each hit must not hold every frame that it ever passed."""
    error = OSError("disk full")

    def depth() -> int:
        with pytest.raises(OSError, match="disk full") as caught:
            failpoint(NAME)
        assert caught.value is error
        return len(caught.traceback)

    with armed(NAME, raises(error)):
        assert depth() == depth() > 0


def test_sleep_is_by_the_clock_given() -> None:
    """A pause of the process must cost a test no time."""
    clock = ManualClock()
    with armed(NAME, sleeps(30, sleep=clock.sleep)):
        failpoint(NAME)
    assert clock() == 30


def test_name_armed_twice_is_refused() -> None:
    """Two tests, or two blocks, would each believe that the place is theirs."""
    with armed(NAME, kill), pytest.raises(RuleError, match="not armed already"), armed(NAME, kill):
        pass
    failpoint(NAME)


def test_disarming_a_stranger_disarms_nobody() -> None:
    """Only the point that is armed can be disarmed."""
    mine, other = Failpoint(NAME, raises(KeyError("mine"))), Failpoint(NAME, kill)
    arm(mine)
    try:
        disarm(other)
        with pytest.raises(KeyError):
            failpoint(NAME)
    finally:
        disarm(mine)


@pytest.mark.parametrize("name", ["", "Outbox.claim", "a b", "a..b", "a=b"])
def test_name_of_the_wrong_form_is_refused(name: str) -> None:
    """A name that the environment could not say must not exist in code either."""
    with pytest.raises(RuleError, match="joined by dots"):
        Failpoint(name, kill)


def test_hit_below_one_is_refused() -> None:
    """It could never come."""
    with pytest.raises(RuleError, match="hits count from 1"):
        Failpoint(NAME, kill, at=0)


def test_spec_is_read_whole() -> None:
    """All three actions, spaces and a last semicolon included."""
    points = parse(" a.b=kill ; c=raise@3; d=sleep(0.05)@2;")
    assert [(point.name, point.at) for point in points] == [("a.b", None), ("c", 3), ("d", 2)]
    assert points[0].action is kill
    with pytest.raises(FailpointReached, match="failpoint c"):
        points[1].action()
    began = time.monotonic()
    points[2].action()
    assert time.monotonic() - began >= 0.05


def test_empty_spec_arms_nothing() -> None:
    """An unset variable, or one emptied by a script."""
    assert parse("") == parse(" ; ") == []


@pytest.mark.parametrize(
    "entry",
    ["a", "a=", "=kill", "a=explode", "a=raise@0", "a=raise@-1", "a=raise@", "a=sleep", "a=sleep(-1)", "a=sleep(nan)",
     "A=kill", "a=kill=kill", "a=sleep(9999999)"],
)  # fmt: skip
def test_wrong_entry_is_refused_with_its_text_and_what_may_stand_there(entry: str) -> None:
    """A misspelt failpoint that never fires would make a crash test pass."""
    with pytest.raises(RuleError) as caught:
        parse(f"good=kill;{entry}")
    assert caught.value.value == entry
    assert "name=kill, name=raise or name=sleep(SECONDS)" in caught.value.allowed


def test_every_wrong_entry_is_named_at_once() -> None:
    """One look, one repair."""
    with pytest.raises(RuleError) as caught:
        parse("a=kill;a=raise;b=explode")
    assert [problem.value for problem in caught.value.problems] == ["a=raise", "b=explode"]


CHILD = """
from msgov.failpoint import arm_from_env, failpoint
failpoint("loop.step")
for step in range(1, 10):
    arm_from_env()
    print(step, flush=True)
    failpoint("loop.step")
"""


def child(spec: str) -> subprocess.CompletedProcess[str]:
    """Run the loop above with failpoints in its environment."""
    environment = {**os.environ, "MSGOV_FAILPOINTS": spec, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", CHILD], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.process
def test_child_kills_itself_at_the_hit_named_in_its_environment() -> None:
    """A crash test needs the very moment, and no clean-up: and a second reading must not start the count again."""
    ended = child("loop.step=kill@3")
    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout.split() == ["1", "2", "3"]


@pytest.mark.process
def test_child_with_a_wrong_spec_says_what_is_wrong() -> None:
    """It must not run on as if nothing were armed."""
    ended = child("loop.step=kil")
    assert ended.returncode == 1
    assert "environment: MSGOV_FAILPOINTS = 'loop.step=kil'" in ended.stderr
    assert not ended.stdout
