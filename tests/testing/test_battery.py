"""The conformance battery passes our breaker, and names the flaw of one that has it."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from msgov import aio
from msgov.call import TRANSIENT, Call, Outcome
from msgov.errors import RuleError
from msgov.pipeline import Pipeline
from msgov.policy import classify
from msgov.resilience import Breaker, BreakerRule, State
from msgov.testing import run
from msgov.testing.breakers import TRIALS, Guard, Make, Target, battery

Change = Callable[[BreakerRule], BreakerRule]
ROOT = Path(__file__).parents[2]


class Ours:
    """Our breaker on the running loop's time, with a rule that may be spoilt and a habit that may be bad."""

    def __init__(self, rule: BreakerRule, *, forgiving: bool = False, blaming: bool = False) -> None:
        self.breaker = Breaker(rule)
        self.forgiving = forgiving
        self.pipeline = Pipeline([self.breaker], classify=blame if blaming else classify)

    async def call(self, target: Target) -> object:
        """Call through it."""
        clock = asyncio.get_running_loop().time
        reached = False

        async def handler(call: Call) -> object:
            nonlocal reached
            reached = True
            return await target()

        try:
            reply = await aio.govern(self.pipeline, handler, clock=clock)(Call("callee"))
        except asyncio.CancelledError:
            if self.forgiving and reached:
                self.breaker.force(State.CLOSED, now=clock())
            raise
        if self.forgiving:
            self.breaker.force(State.CLOSED, now=clock())
        return reply


def blame(call: Call, error: BaseException) -> Outcome:
    """Take a caller who left for a failure of the callee."""
    return Outcome(TRANSIENT, error=error) if isinstance(error, asyncio.CancelledError) else classify(call, error)


def ours(change: Change = lambda rule: rule, **habits: bool) -> Make:
    """Make the adapter."""

    def make(failures: int, recovery: float, probes: int) -> Guard:
        rule = BreakerRule(
            minimum_calls=failures, open_seconds=recovery, open_cap=recovery, probes=probes, probe_lease=recovery
        )
        return Ours(change(rule), **habits)

    return make


def put(make: Make) -> Mapping[str, str]:
    """Run the battery in virtual time."""
    return run(battery(make))


@pytest.mark.parametrize("recovery", [0.01, 0.2, 60.0])
def test_our_breaker_passes_every_trial(recovery: float) -> None:
    """Whatever its recovery: no other Python breaker does."""
    assert run(battery(ours(), recovery=recovery)) == dict.fromkeys(TRIALS, "ok")


@pytest.mark.parametrize(
    ("make", "trial", "says"),
    [
        (ours(lambda r: replace(r, minimum_calls=r.minimum_calls + 1)), "threshold", "not open after 3 failures"),
        (ours(lambda r: replace(r, minimum_calls=r.minimum_calls - 1)), "threshold", "open after 2 failures, not 3"),
        (ours(lambda r: replace(r, failure_rate=1.0)), "two in three fail", "never opens"),
        (ours(lambda r: replace(r, probes=50)), "probe cap", "50 of 50 let in"),
        (ours(forgiving=True), "late success, open", "closed by a late success"),
        (ours(forgiving=True), "late success, probing", "10 of 10 let in"),
        (ours(forgiving=True), "cancelled probe", "closed by it"),
        (ours(blaming=True), "cancelled probe", "opened again by it"),
        (ours(lambda r: replace(r, probe_lease=3600.0)), "hung probe", "wedged"),
        (ours(blaming=True), "callers leave", "opened by them"),
        (ours(forgiving=True), "generations", "12 let in for 2"),
        (ours(lambda r: replace(r, probes=1)), "probe ratio", "one failed probe decides"),
        (ours(lambda r: replace(r, probes=50)), "probe ratio", "five failed probes do not open it"),
        (ours(lambda r: replace(r, open_seconds=300.0, open_cap=300.0)), "probe cap", "no probe let in"),
    ],
)
def test_broken_breaker_is_told_its_flaw(make: Make, trial: str, says: str) -> None:
    """Each trial fails for its own reason, and says which."""
    assert put(make)[trial] == says


class Bare:
    """No breaker at all."""

    def __init__(self, failures: int, recovery: float, probes: int) -> None:
        pass

    async def call(self, target: Target) -> object:
        """Call straight through."""
        return await target()


def test_no_breaker_at_all_passes_only_what_needs_none() -> None:
    """A target without a guard never wrongly refuses, and that is all."""
    found = put(Bare)
    assert {trial for trial, cell in found.items() if cell == "ok"} == {"callers leave"}


class Deaf(Bare):
    """Forgets what the target said."""

    async def call(self, target: Target) -> object:
        """Lose the reply."""
        await target()
        return None


class Stuck(Bare):
    """Never comes back."""

    async def call(self, target: Target) -> object:
        """Hang."""
        await asyncio.Event().wait()
        return None


def test_adapter_that_loses_replies_or_hangs_is_told_so() -> None:
    """A battery that hangs, or blames the breaker for its adapter, is of no use."""
    assert put(Deaf)["threshold"] == "loses the reply"
    assert set(put(Stuck).values()) == {"hangs"}


def test_breaker_that_cannot_be_made_is_a_row_too() -> None:
    """One library that breaks must not cost the table."""

    def make(failures: int, recovery: float, probes: int) -> Guard:
        raise ZeroDivisionError

    assert put(make) == dict.fromkeys(TRIALS, "raises ZeroDivisionError")


def test_recovery_of_nothing_is_refused() -> None:
    """All waits are measured by it."""
    with pytest.raises(RuleError, match="recovery"):
        run(battery(Bare, recovery=0.0))


def test_the_docs_show_the_table_of_this_battery() -> None:
    """A column that came later, or a row of ours that is not all ok, is seen here."""
    page = (ROOT / "docs/reference/breakers.md").read_text()
    rows = [re.split(r"\s*\|\s*", line.strip("| ")) for line in page.splitlines() if line.startswith("|")]
    assert tuple(rows[0][1:]) == TRIALS
    assert ["msgov", *["ok"] * len(TRIALS)] in rows
    assert {len(row) for row in rows} == {len(TRIALS) + 1}


@pytest.mark.process
def test_the_table_is_printed_from_a_process_per_library() -> None:
    """What wedges is ended, what is not there says so; ours is all ok by the wall clock too."""
    command = [sys.executable, "-m", "benchmarks.compare", "msgov", "purgatory"]
    printed = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert printed.returncode == 0, printed.stderr
    rows = printed.stdout.splitlines()
    assert rows[2] == "| msgov | " + " | ".join(["ok"] * len(TRIALS)) + " |"
    assert rows[3] == "| purgatory | " + " | ".join(["not installed"] * len(TRIALS)) + " |"
