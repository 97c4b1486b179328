"""A rules file says what governs which calls: by kind, by name, from the general to the particular.

    [call."*"]                      # every outgoing call
    deadline = 5                    # short for {seconds = 5}
    [call.payment]                  # the service: all its methods
    retry = {attempts = 2}
    [call."payment/Charge"]         # one method; what it does not say stays as above
    deadline = 0.8
    breaker = {minimum_calls = 5}
    [server."/shop.v1.Order/*"]     # incoming, by method
    limiter = "100/minute"
    [function.payment-gateway]      # functions guarded under a name
    bulkhead = 10
    [consumer."order.placed"]       # topics
    breaker = false                 # off; true is on, with what stands above or the defaults

A name is exact, or a beginning that ends in `*`. The longest that fits is the particular one, and takes over field by
field what shorter ones say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

from msgov.config.layers import shown
from msgov.errors import Problem, RuleError
from msgov.resilience.breaker import BreakerRule
from msgov.resilience.budget import BudgetRule
from msgov.resilience.bulkhead import BulkheadRule
from msgov.resilience.deadline import DeadlineRule
from msgov.resilience.limiter import LimiterRule
from msgov.resilience.retry import RetryRule
from msgov.rule import field, parse, rule, schema


@rule
class Incoming:
    """The policies of calls that come in, each off where it is None."""

    deadline: DeadlineRule | None = field(None, why="how long handling may take, whatever the caller allows")
    limiter: LimiterRule | None = field(None, why="how many a second")
    bulkhead: BulkheadRule | None = field(None, why="how many at once")
    breaker: BreakerRule | None = field(None, why="one refusal at once in place of failure after failure")


@rule
class Outgoing:
    """The policies of calls that go out, and of guarded functions and consumers, each off where it is None."""

    deadline: DeadlineRule | None = field(None, why="how long a call may take with all its attempts and waits")
    limiter: LimiterRule | None = field(None, why="how many calls a second")
    retry: RetryRule | None = field(None, why="when another attempt starts")
    budget: BudgetRule | None = field(None, why="how many attempts more the traffic pays for; without retry unused")
    bulkhead: BulkheadRule | None = field(None, why="how many attempts at once")
    breaker: BreakerRule | None = field(None, why="when to stop calling what is down, instance by instance")
    attempt_deadline: DeadlineRule | None = field(None, why="how long one attempt may take")


Entry: TypeAlias = "Incoming | Outgoing"
Raw: TypeAlias = Mapping[str, object]

_RULES: Final[Mapping[str, type[object]]] = {
    "deadline": DeadlineRule,
    "limiter": LimiterRule,
    "retry": RetryRule,
    "budget": BudgetRule,
    "bulkhead": BulkheadRule,
    "breaker": BreakerRule,
    "attempt_deadline": DeadlineRule,
}
_ENTRIES: Final[Mapping[str, type[Entry]]] = {
    "call": Outgoing,
    "server": Incoming,
    "function": Outgoing,
    "consumer": Outgoing,
}
KINDS: Final = tuple(_ENTRIES)
_SHORT: Final = {
    "deadline": "seconds",
    "attempt_deadline": "seconds",
    "limiter": "rate",
    "retry": "attempts",
    "bulkhead": "limit",
}
"""What a value that is no table sets: `deadline = 2`."""

DEFAULTS: Final[Mapping[str, Mapping[str, Mapping[str, object]]]] = {
    # Fifteen seconds bound what nobody thought about; a good value is a few times the callee's own p99.
    "call": {"*": {"deadline": {"seconds": 15.0}, "retry": True, "budget": True, "breaker": True}},
    # Whatever the caller allows, nobody waits for longer; a shorter one of the caller stays.
    "server": {"*": {"deadline": {"seconds": 60.0}}},
    # No retry: nothing says that running a function twice does no harm.
    "function": {"*": {"deadline": {"seconds": 15.0}, "breaker": True}},
    # The bus delivers again by itself: a retry in front of it would multiply.
    "consumer": {"*": {"deadline": {"seconds": 60.0}}},
}
"""The lowest layer: what holds where nothing is configured."""


@dataclass(frozen=True, slots=True)
class Found:
    """The entry that governs a name: its pattern, its rules, and for each policy the pattern that spoke last of it."""

    pattern: str
    rules: Entry
    owners: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RuleBook:
    """All rules, validated: equal books govern alike."""

    entries: Mapping[str, Mapping[str, Found]]

    @classmethod
    def of(cls, tree: Mapping[str, object], *, where: str = "") -> RuleBook:
        """Read the tables "call", "server", "function" and "consumer" of a tree; others are not looked at.

        Raises one `RuleError` with every problem, each at its path, with value and allowed range.
        """
        problems: list[Problem] = []
        book = cls({kind: _read(kind, tree.get(kind, {}), problems) for kind in KINDS})
        if problems:
            raise RuleError(problems, where=where)
        return book

    def find(self, kind: str, name: str) -> Found | None:
        """Return the most particular entry for a name ("payment/Charge", "/shop.v1.Order/Place"), None for none."""
        entries = self.entries[kind]
        exact = entries.get(name)
        if exact is not None:
            return exact
        fitting = [found for pattern, found in entries.items() if _fits(pattern, name)]
        return max(fitting, key=lambda found: len(found.pattern), default=None)


def default_rules() -> RuleBook:
    """Return what holds where nothing is configured.

    Outgoing calls: 15 s, at most three attempts on a budget of a tenth of the traffic, and a breaker for each instance.
    Incoming: 60 s. Functions: 15 s, and a breaker. Messages: 60 s.
    """
    return RuleBook.of(DEFAULTS)


def called(target: str, method: str) -> str:
    """Return the name that `call` entries are matched with: a gRPC method goes by its last part."""
    return f"{target}/{_LAST.sub('', method)}"


def rules_schema() -> Mapping[str, object]:
    """Return the JSON Schema of a rules file, for editors and docs."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {kind: _kind_schema(kind) for kind in KINDS},
    }


_LAST = re.compile(r"^/?[\w.]+/(?=\w+$)")  # of "/shop.v1.Payment/Charge" all but "Charge"; "GET /orders/{id}" stays


def _fits(pattern: str, name: str) -> bool:
    return pattern.endswith("*") and name.startswith(pattern[:-1])


def _canonical(kind: str, pattern: str) -> str:
    """Write a pattern in the one way that names are matched with: `payment` is all that begins with `payment/`."""
    if kind != "call" or pattern.endswith("*"):
        return pattern
    service, slash, method = pattern.partition("/")
    return called(service, method) if slash else f"{service}/*"


def _read(kind: str, table: object, problems: list[Problem]) -> Mapping[str, Found]:
    if not isinstance(table, Mapping):
        problems.append(Problem(kind, table, "a table of names, each with its policies"))
        return {}
    raws: dict[str, tuple[str, Raw]] = {}  # by canonical pattern: as written, and what it says
    for written, raw in table.items():
        pattern, path = _canonical(kind, written), shown((kind, written))
        if not written or "*" in written[:-1]:
            problems.append(Problem(path, written, "a name, or the beginning of names followed by *"))
        elif not isinstance(raw, Mapping):
            problems.append(Problem(path, raw, "a table of policies: " + ", ".join(_policies(kind))))
        elif pattern in raws:
            problems.append(Problem(path, written, f"one entry for a name; {raws[pattern][0]!r} is the same"))
        else:
            raws[pattern] = written, raw
    reported: set[tuple[str, str, str]] = set()
    shortest_first = sorted(raws, key=len)  # what an entry inherits has been read, and its mistakes reported, before it
    return {pattern: _resolve(kind, pattern, raws, problems, reported) for pattern in shortest_first}


def _resolve(
    kind: str,
    pattern: str,
    raws: Mapping[str, tuple[str, Raw]],
    problems: list[Problem],
    reported: set[tuple[str, str, str]],
) -> Found:
    """Lay what a pattern says on what the shorter ones that cover it say, and read the result."""
    written, own = raws[pattern]
    literal = pattern.removesuffix("*")
    chain = [*sorted((other for other in raws if _fits(other, literal) and other != pattern), key=len), pattern]
    rules: dict[str, object] = {}
    owners: dict[str, str] = {}
    for policy in _policies(kind):
        speakers = [other for other in chain if policy in raws[other][1]]
        if not speakers:
            continue
        owners[policy] = speakers[-1]
        value = _combined(policy, [raws[other][1][policy] for other in speakers])
        if value is None:
            continue
        try:
            rules[policy] = parse(_RULES[policy], value)
        except RuleError as error:
            for problem in error.problems:
                said = own.get(policy)
                if not _says(said, problem.path) and any((o, policy, problem.path) in reported for o in speakers):
                    continue
                reported.add((pattern, policy, problem.path))
                at = shown((kind, written, policy)) + (f".{problem.path}" if isinstance(said, Mapping) else "")
                problems.append(Problem(at.rstrip("."), problem.value, problem.allowed))
    for key in own:
        if key not in _policies(kind):
            known = ", ".join(sorted(_policies(kind)))
            problems.append(Problem(shown((kind, written, key)), own[key], f"unknown key; known: {known}"))
    made = cast("type[Outgoing]", _ENTRIES[kind])(**rules)  # type: ignore[arg-type]  # each by its own name's class
    return Found(pattern, made, owners)


def _says(said: object, key: str) -> bool:
    """Whether an entry itself says what stands at a key of a policy; a value that is no table says all of it."""
    return key.partition(".")[0] in said if isinstance(said, Mapping) else said is not None


def _combined(policy: str, said: Sequence[object]) -> object:
    """Combine what is said of a policy, the general first: None for off, a table, or what is no table for its error."""
    combined: object = None
    for value in said:
        short = _SHORT.get(policy)
        if value is True:
            combined = {} if combined is None else combined
        elif value is False:
            combined = None
        elif isinstance(value, Mapping):
            combined = {**(combined if isinstance(combined, Mapping) else {}), **value}
        elif short is not None and not isinstance(value, list):
            combined = {**(combined if isinstance(combined, Mapping) else {}), short: value}
        else:
            combined = value
    return combined


def _policies(kind: str) -> Sequence[str]:
    return [name for name in _RULES if name in _ENTRIES[kind].__dataclass_fields__]


def _kind_schema(kind: str) -> Mapping[str, object]:
    policies = {
        policy: {"anyOf": [schema(_RULES[policy]), {"type": ["boolean", "number", "string"]}]}
        for policy in _policies(kind)
    }
    entry = {"type": "object", "properties": policies, "additionalProperties": False}
    return {"type": "object", "additionalProperties": entry}
