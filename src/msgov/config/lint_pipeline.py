"""A pipeline made in code can stand in any order: say where it does not stand in the documented one, and what of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from msgov.config.findings import Finding, Severity, Stack
from msgov.config.kinds import BUDGET, ORDER, POLICIES, SEAM
from msgov.pipeline import Policy
from msgov.resilience.fallback import Fallback

_COMES_OF: Final[Mapping[tuple[str, str], tuple[str, Severity]]] = {
    ("breaker", "retry"): ("it sees calls and not attempts: what a retry mends hides that the callee is ill", "error"),
    ("breaker", "hedge"): ("it sees calls and not attempts: what a hedge mends hides that the callee is ill", "error"),
    ("bulkhead", "retry"): ("a call keeps its permit while it waits for its next attempt", "warning"),
    ("adaptive", "retry"): ("it measures the waits between attempts as if the callee took them", "warning"),
    ("retry", "fallback"): ("what it answers looks well: nothing is tried again", "error"),
    ("hedge", "fallback"): ("what it answers looks well, and wins the race", "error"),
    ("deadline", "cache"): ("a call that it ends is cancelled, and the old answer at hand does not serve", "warning"),
    ("retry", "limiter"): ("each attempt is counted as a call", "warning"),
    ("retry", "throttle"): ("an attempt that is held back ends the call, and the next one would be too", "warning"),
    ("retry", "pace"): ("each attempt waits for a turn, on top of the pause before it", "warning"),
    ("breaker", "bulkhead"): ("a probe waits in line until its lease has run out", "warning"),
    ("breaker", "adaptive"): ("a probe waits in line until its lease has run out", "warning"),
}
"""What comes of it where the first stands outside the second, which stands outside it in the documented order."""


def stack(policies: Sequence[Policy]) -> Stack:
    """Return the rules of a pipeline by policy; of several of a kind the innermost speaks."""
    rules: dict[str, object] = {}
    places: dict[str, str] = {}
    for at, name, policy in _named(policies):
        places[name] = f"policies[{at}]"
        rules[name] = getattr(policy, "rule", None)
        budget = getattr(policy, BUDGET, None) if name in SEAM else None
        if budget is not None:
            places[BUDGET] = f"policies[{at}].budget"
            rules[BUDGET] = budget.rule
    return Stack(rules, lambda policy: places[policy])


def misplaced(policies: Sequence[Policy]) -> Iterator[Finding]:
    """Say of each policy what stands inside it that should stand outside; the worst of it, once."""
    named = _named(policies)
    right = ", ".join(name for name in ORDER if any(name == mine for _, mine, _ in named))
    for at, outer, _ in named:
        inside = [inner for other, inner, _ in named if other > at and ORDER.index(inner) < ORDER.index(outer)]
        if not inside:
            continue
        worst = min(inside, key=lambda inner: (outer, inner) not in _COMES_OF)
        why, severity = _COMES_OF.get((outer, worst), ("the documented order is the other one", "warning"))
        yield Finding(
            check="order",
            path=f"policies[{at}]",
            value=outer,
            why=f"it stands outside the {worst}: {why}",
            do=f"put it inside the {worst}; outermost first: {right}",
            severity=severity,
        )


def _named(policies: Sequence[Policy]) -> list[tuple[int, str, object]]:
    """Name those policies that the rules file knows: by place, name and gate; a deadline inside the seam is another."""
    found: list[tuple[int, str, object]] = []
    seam = False
    for at, policy in enumerate(policies):
        gate = getattr(policy, "gate", policy)  # of one that wraps another
        name = next((known for kind, known in _NAMES if isinstance(gate, kind)), "")
        seam = seam or name in SEAM
        if name == "deadline" and seam:
            name = "attempt_deadline"
        if name:
            found.append((at, name, gate))
    return found


def _kinds() -> Iterator[tuple[type[object], str]]:
    named = {kind.gate: name for name, kind in [*POLICIES.items()][::-1] if name in ORDER}  # the first counts
    named[Fallback] = "fallback"  # of which the rules file knows only the plainest
    named |= {kind.by_instance: name for name, kind in POLICIES.items() if kind.by_instance is not None}
    for gate, name in named.items():
        if isinstance(gate, type):
            yield gate, name


_NAMES: Final = tuple(_kinds())
