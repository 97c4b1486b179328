"""When the trigger is over the trouble is over: our defaults are outside the trap that catches naive retries.

The case of Bronson et al., "Metastable Failures in Distributed Systems" (HotOS 2021): the bars are those of M1-M4.
"""

from __future__ import annotations

import math

import pytest

from tests.simulation.arms import BUDGET, EXPIRED, JITTER, NAIVE, ours
from tests.simulation.scene import Arm, Trigger, play

SLOW, CROWD, OUTAGE = Trigger(capacity=0.25), Trigger(load=3.0), Trigger(capacity=0.0)
TRIGGERS = {"capacity to a quarter": SLOW, "three times the load": CROWD, "outage": OUTAGE}
SERVERS = {"threads": True, "loop": False}


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("trigger", TRIGGERS)
@pytest.mark.parametrize("load", [0.7, 0.9])
def test_defaults_are_back_within_ten_seconds(load: float, trigger: str, server: str) -> None:
    """98 % of the calls go well again, and go on doing so; the callee never sees more than 1.2 attempts a call."""
    told = play(ours(), TRIGGERS[trigger], load=load, seed=1, threads=SERVERS[server])
    assert told.recovery <= 10
    assert told.tail >= 0.99
    assert told.amplification <= 1.2


@pytest.mark.parametrize("trigger", ["capacity to a quarter", "three times the load"])
@pytest.mark.parametrize("arm", [NAIVE, JITTER], ids=["naive", "jitter only"])
def test_naive_arms_collapse_or_the_test_above_is_void(arm: Arm, trigger: str) -> None:
    """Four attempts keep the callee down for good, however well they are spread: jitter cures nothing."""
    told = play(arm, TRIGGERS[trigger], load=0.9, seed=1, after=12.0)
    assert told.tail <= 0.1
    assert told.recovery == math.inf
    assert told.amplification > 3


def test_a_budget_alone_is_too_slow() -> None:
    """It bounds the attempts, but the callee still works for callers who left."""
    told = play(BUDGET, CROWD, load=0.9, seed=1)
    assert told.recovery > 10
    assert told.amplification < 1.3


def test_dropping_expired_work_alone_is_not_enough_either() -> None:
    """Who takes up only what is still wanted takes it up in its last moment: nearly all of it ends too late."""
    assert play(EXPIRED, SLOW, load=0.9, seed=1, after=12.0).tail <= 0.3


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The full grid is for a campaign."""
    if "cell" in metafunc.fixturenames:
        full = metafunc.config.getoption("--campaign")
        loads, seconds, seeds = ([0.5, 0.7, 0.8, 0.9], [1.0, 10.0, 60.0], 5) if full else ([0.8], [1.0], 1)
        cells = [(a, b, c) for a in loads for b in seconds for c in range(seeds)]
        metafunc.parametrize("cell", cells, ids=lambda cell: f"load {cell[0]}, {cell[1]:g} s, seed {cell[2]}")


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("trigger", TRIGGERS)
def test_defaults_are_back_whatever_the_load_and_the_length(
    trigger: str, server: str, cell: tuple[float, float, int], request: pytest.FixtureRequest
) -> None:
    """After a minute of trouble it may take half of one."""
    load, seconds, seed = cell
    what = TRIGGERS[trigger]
    lasting = Trigger(what.capacity, what.load, seconds)
    scale = 2 if request.config.getoption("--campaign") else 1
    told = play(ours(), lasting, load=load, seed=seed, threads=SERVERS[server], after=50.0, scale=scale)
    assert told.recovery <= (30 if seconds > 10 else 10)
    assert told.tail >= 0.99
    assert told.amplification <= 1.2
