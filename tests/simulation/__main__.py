"""Prints the table of docs/why/simulation.md: `python -m tests.simulation`; about two minutes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.simulation.arms import ATTEMPT, BUDGET, CALL, EXPIRED, JITTER, NAIVE, ours
from tests.simulation.scene import Arm, Told, Trigger, play

DEADLINES: Mapping[str, Any] = {"deadline": CALL, "attempt_deadline": ATTEMPT}
ARMS: Mapping[str, Arm] = {
    "four attempts, 0.1 s apart": NAIVE,
    "the same, expired work dropped": EXPIRED,
    "four attempts, full jitter": JITTER,
    "the same, on a budget": BUDGET,
    "**our defaults**": ours(),
    "without the budget": ours({"call": {"callee": {**DEADLINES, "budget": False}}}),
    "without the breaker": ours({"call": {"callee": {**DEADLINES, "breaker": False}}}),
    "without the callee's deadline": ours({"server": {"*": {"deadline": False}}}),
}
TRIGGERS = {"capacity x0.25": Trigger(capacity=0.25), "load x3": Trigger(load=3.0), "outage": Trigger(capacity=0.0)}
SEEDS = 3


def main() -> None:
    names = list(TRIGGERS)
    print("| arm at 90 % load, 10 s of | " + " | ".join(names) + " | most attempts a call |")
    print("| --- |" + " --- |" * len(names) + " --: |")
    for arm, policies in ARMS.items():
        told = {
            name: [play(policies, TRIGGERS[name], load=0.9, seed=s, scale=2) for s in range(SEEDS)] for name in names
        }
        most = max(one.amplification for many in told.values() for one in many)
        print(f"| {arm} | " + " | ".join(_cell(told[name]) for name in names) + f" | {most:.2f} |", flush=True)


def _cell(told: list[Told]) -> str:
    worst = max(one.recovery for one in told)
    during = min(one.goodput(one.ended - 10, one.ended) for one in told)
    back = (
        f"not back after 40 s, goodput {min(one.tail for one in told):.2f}" if worst > 40 else f"back in {worst:.0f} s"
    )
    return f"{back} ({during:.2f} meanwhile)"


main()
