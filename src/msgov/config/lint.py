"""Rules that are right one by one can be wrong together: say which, why, and what to do.

Pure: rules in, findings out. It looks at nothing that runs; what rules do not say of themselves it is told (`Traffic`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

from msgov.config import lint_pipeline
from msgov.config.entries import Outgoing
from msgov.config.findings import Finding, Stack, Traffic
from msgov.config.kinds import POLICIES, SEAM
from msgov.config.layers import shown
from msgov.config.lint_checks import CHECKS
from msgov.config.rules import Found, RuleBook
from msgov.pipeline import Pipeline, Policy

__all__ = ["Finding", "Traffic", "lint"]

MOST: Final = 10  # attempts that one call of a user may end in; three layers of three are 27, and an outage for good

Lintable: TypeAlias = "RuleBook | Pipeline | Sequence[Policy]"
_KNOWN_NOTHING: Final = Traffic()
_UNSAFE = re.compile(r"(?:^|/)(?:POST|PATCH) ")


def lint(subject: Lintable, traffic: Traffic = _KNOWN_NOTHING) -> tuple[Finding, ...]:
    """Return what is wrong with a rule book, or with a pipeline made in code; nothing for good ones.

    The defaults give no finding, and what is inherited is told once, where it is written. Of a pipeline the order is
    looked at too: `docs/why/order.md` says which is documented, and why. Never raises.
    """
    if isinstance(subject, RuleBook):
        found = [*_book(subject, traffic)]
    else:
        policies = subject.policies if isinstance(subject, Pipeline) else tuple(subject)
        found = [*lint_pipeline.misplaced(policies), *_checked(lint_pipeline.stack(policies), traffic)]
    unique = {(each.check, each.path, each.why): each for each in found}
    return tuple(sorted(unique.values(), key=lambda each: (each.severity, each.path, each.check)))


def _checked(stack: Stack, traffic: Traffic) -> Iterator[Finding]:
    for check in CHECKS:
        yield from check(stack, traffic)


def _book(book: RuleBook, traffic: Traffic) -> Iterator[Finding]:
    for kind, entries in book.entries.items():
        for found in entries.values():
            yield from _checked(_stack(book, kind, found), traffic)
    yield from _handled(book)
    yield from _repeats(book, traffic)
    yield from _called_inside(book)
    for chain in traffic.chains:
        yield from _chained(book, chain)


def _stack(book: RuleBook, kind: str, found: Found) -> Stack:
    rules = {policy: rule for policy in POLICIES if (rule := getattr(found.rules, policy, None)) is not None}

    def place(policy: str) -> str:
        owner = book.entries[kind][found.owners.get(policy, found.pattern)]
        return shown((kind, owner.written, policy))

    return Stack(rules, place)


def _repeats(book: RuleBook, traffic: Traffic) -> Iterator[Finding]:
    """Whether what must not be done twice may be done twice."""
    for found in book.entries["call"].values():
        plan, attempts = _attempts(found)
        if attempts <= 1 or found.owners[plan] != found.pattern or not _UNSAFE.search(found.pattern):
            continue  # where nobody asked for it: without an Idempotency-Key it is not repeated
        yield Finding(
            check="not-idempotent",
            path=_attempts_at(book, "call", found),
            value=attempts,
            why=f"{found.written} is repeated only if it was never sent, or carries an Idempotency-Key",
            do=f'{plan} = false under [call."{found.written}"], or send such a key',
            severity="warning",
        )
    for name in traffic.not_idempotent:
        governed = book.find("call", name)
        if governed is None or _attempts(governed)[1] <= 1:
            continue
        plan, attempts = _attempts(governed)
        yield Finding(
            check="not-idempotent",
            path=_attempts_at(book, "call", governed),
            value=attempts,
            why=f"{name} does harm when done twice",
            do=f'{plan} = false under [call."{name}"]',
            severity="error",
        )


def _handled(book: RuleBook) -> Iterator[Finding]:
    """A call that is made while something is handled has only what is left of that."""
    coming = [(kind, found) for kind in ("server", "consumer") for found in book.entries[kind].values()]
    bounds = [
        (math.inf, "") if bound is None else (bound.seconds, _stack(book, kind, found).place("deadline"))
        for kind, found in coming
        for bound in (found.rules.deadline,)
    ]
    longest, where = max(bounds, default=(math.inf, ""))
    for found in book.entries["call"].values():
        deadline = found.rules.deadline
        if deadline is not None and deadline.seconds > longest:
            yield Finding(
                check="inner-timeout",
                path=f"{_stack(book, 'call', found).place('deadline')}.seconds",
                value=deadline.seconds,
                why=f"nothing that comes in may be handled for so long ({where} = {longest:g} s)",
                do="a shorter one here, or a longer one there",
                severity="warning",
            )


def _called_inside(book: RuleBook) -> Iterator[Finding]:
    """Attempts of a function or a consumer, and those of the calls that it makes, multiply."""
    calls = [(_attempts(found)[1], found) for found in book.entries["call"].values()]
    inner, call = max(calls, key=lambda each: each[0], default=(1, None))
    for kind in ("function", "consumer"):
        for found in book.entries[kind].values():
            outer = _attempts(found)[1]
            if call is None or outer * inner <= MOST:
                continue
            yield Finding(
                check="attempts",
                path=_attempts_at(book, kind, found),
                value=outer,
                why=f"{outer} x {inner} attempts where it makes a call that {call.written} governs: more than {MOST}",
                do="retry in one layer: the innermost that knows what may be repeated",
                severity="warning",
            )


def _chained(book: RuleBook, chain: Sequence[str]) -> Iterator[Finding]:
    """Attempts of chained services multiply; a budget in each layer bounds what an outage makes of them."""
    found = [entry for name in chain if (entry := book.find("call", name)) is not None]
    each = [_attempts(entry)[1] for entry in found]
    if math.prod(each) <= MOST:
        return
    worst = max(found, key=lambda entry: _attempts(entry)[1])
    paid = all(isinstance(entry.rules, Outgoing) and entry.rules.budget is not None for entry in found)
    yield Finding(
        check="attempts",
        path=_attempts_at(book, "call", worst),
        value=max(each),
        why=f"{' x '.join(map(str, each))} = {math.prod(each)} attempts along {' > '.join(chain)}: more than {MOST}"
        + (", though each layer has a budget" if paid else ", and not every layer has a budget"),
        do="retry in one layer, next to what fails; retry = false in the others",
        severity="warning" if paid else "error",
    )


def _attempts(found: Found) -> tuple[str, int]:
    """Return the plan of an entry, and how many attempts it may make of one call."""
    for plan in SEAM:
        rule = getattr(found.rules, plan, None)
        if rule is not None:
            return plan, rule.attempts
    return "", 1


def _attempts_at(book: RuleBook, kind: str, found: Found) -> str:
    return f"{_stack(book, kind, found).place(_attempts(found)[0])}.attempts"
