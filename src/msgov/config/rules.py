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
field what shorter ones say. Of two policies that exclude each other the particular entry's word holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, cast

from msgov.config.entries import DEFAULTS, ENTRIES, Entry, Incoming, Outgoing
from msgov.config.kinds import EXCLUSIVE, KINDS, POLICIES, SPOKEN
from msgov.config.layers import shown
from msgov.config.patterns import Patterns, called, canonical
from msgov.errors import Problem, RuleError
from msgov.rule import parse, schema

__all__ = [
    "DEFAULTS",
    "KINDS",
    "Entry",
    "Found",
    "Incoming",
    "Outgoing",
    "RuleBook",
    "called",
    "default_rules",
    "rules_schema",
]

Raw: TypeAlias = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Found:
    """The entry that governs a name: its pattern, its rules, and for each policy the pattern that spoke last of it.

    `written` is the pattern as it stands in the file.
    """

    pattern: str
    rules: Entry
    owners: Mapping[str, str]
    written: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class RuleBook:
    """All rules, validated: equal books govern alike. Finding costs the same among ten entries and ten thousand."""

    entries: Mapping[str, Mapping[str, Found]]
    _patterns: Mapping[str, Patterns] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index the entries by the beginnings of names that they speak of."""
        object.__setattr__(self, "_patterns", {kind: Patterns(found) for kind, found in self.entries.items()})

    @classmethod
    def of(cls, tree: Mapping[str, object], *, where: str = "") -> RuleBook:
        """Read the tables "call", "server", "function" and "consumer" of a tree; others are not looked at.

        Raises one `RuleError` with every problem, each at its path, with value and allowed range.
        """
        problems: list[Problem] = []
        book = cls({kind: _Reading(kind, problems).read(tree.get(kind, {})) for kind in KINDS})
        if problems:
            raise RuleError(problems, where=where)
        return book

    def find(self, kind: str, name: str) -> Found | None:
        """Return the most particular entry for a name ("payment/Charge", "/shop.v1.Order/Place"), None for none."""
        pattern = self._patterns[kind].find(name)
        return None if pattern is None else self.entries[kind][pattern]


def default_rules() -> RuleBook:
    """Return what holds where nothing is configured.

    Outgoing calls: 15 s, at most three attempts on a budget of a tenth of the traffic, and a breaker for each instance.
    Incoming: 60 s. Functions: 15 s, and a breaker. Messages: 60 s.
    """
    return RuleBook.of(DEFAULTS)


def rules_schema() -> Mapping[str, object]:
    """Return the JSON Schema of a rules file, for editors and docs."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {kind: _kind_schema(kind) for kind in KINDS},
    }


class _Reading:
    """One pass over the entries of a kind: every mistake is told once, where it is written."""

    def __init__(self, kind: str, problems: list[Problem]) -> None:
        self.kind = kind
        self.problems = problems
        self.raws: dict[str, tuple[str, Raw]] = {}  # by canonical pattern: as written, and what it says
        self.patterns = Patterns()
        self.made: dict[tuple[str, ...], object] = {}  # by policy and who speaks of it: heirs share what they inherit
        self.reported: set[tuple[str, str, str]] = set()

    def read(self, table: object) -> Mapping[str, Found]:
        """Read all entries, what an entry inherits before the entry itself."""
        if not isinstance(table, Mapping):
            self.problems.append(Problem(self.kind, table, "a table of names, each with its policies"))
            return {}
        for written, raw in table.items():
            self._take(written, raw)
        self.patterns = Patterns(self.raws)
        return {pattern: self._resolve(pattern) for pattern in sorted(self.raws, key=len)}

    def _take(self, written: str, raw: object) -> None:
        pattern, path = canonical(self.kind, written), shown((self.kind, written))
        if not written or "*" in written[:-1]:
            self.problems.append(Problem(path, written, "a name, or the beginning of names followed by *"))
        elif not isinstance(raw, Mapping):
            self.problems.append(Problem(path, raw, "a table of policies: " + ", ".join(SPOKEN[self.kind])))
        elif pattern in self.raws:
            same = self.raws[pattern][0]
            self.problems.append(Problem(path, written, f"one entry for a name; {same!r} is the same"))
        else:
            self.raws[pattern] = written, raw

    def _resolve(self, pattern: str) -> Found:
        """Lay what a pattern says on what the shorter ones that cover it say, and read the result."""
        written, own = self.raws[pattern]
        chain = [*self.patterns.above(pattern), pattern]
        said = {
            policy: speakers
            for policy in SPOKEN[self.kind]
            if (speakers := [other for other in chain if policy in self.raws[other][1]])
        }
        rules: dict[str, object] = {}
        for policy, speakers in said.items():
            rule = self._rule(pattern, policy, speakers)
            if rule is not None:
                rules[policy] = rule
        owners = {policy: speakers[-1] for policy, speakers in said.items()}
        self._exclude(pattern, chain, rules, owners)
        for key in own:
            if key not in SPOKEN[self.kind]:
                others = [kind for kind in KINDS if key in SPOKEN[kind]]
                what = f"a policy of {' and '.join(others)} entries" if others else "unknown key"
                allowed = f"{what}; known: " + ", ".join(sorted(SPOKEN[self.kind]))
                self.problems.append(Problem(shown((self.kind, written, key)), own[key], allowed))
        made = cast("type[Outgoing]", ENTRIES[self.kind])(**rules)  # type: ignore[arg-type]  # each by its own name's class
        return Found(pattern, made, owners, written)

    def _rule(self, pattern: str, policy: str, speakers: Sequence[str]) -> object | None:
        """Make the rule that some patterns, the general first, say together; None for off, and for what cannot be."""
        key = (policy, *speakers)
        if key in self.made:
            return self.made[key]
        value = _combined(policy, [self.raws[other][1][policy] for other in speakers])
        if value is None:
            return None
        try:
            rule = self.made[key] = parse(POLICIES[policy].rule, value)
        except RuleError as error:
            self._report(pattern, policy, speakers, error)
            return None
        return rule

    def _report(self, pattern: str, policy: str, speakers: Sequence[str], error: RuleError) -> None:
        written, own = self.raws[pattern]
        said = own.get(policy)
        for problem in error.problems:
            known = any((other, policy, problem.path) in self.reported for other in speakers)
            if known and not _says(said, problem.path):
                continue
            self.reported.add((pattern, policy, problem.path))
            at = shown((self.kind, written, policy)) + (f".{problem.path}" if isinstance(said, Mapping) else "")
            self.problems.append(Problem(at.rstrip("."), problem.value, problem.allowed))

    def _exclude(self, pattern: str, chain: Sequence[str], rules: dict[str, object], owners: dict[str, str]) -> None:
        """Of two policies that exclude each other keep the one of which the more particular entry speaks."""
        for one, other, why in EXCLUSIVE:
            if one not in rules or other not in rules:
                continue
            first, second = chain.index(owners[one]), chain.index(owners[other])
            gone = one if first <= second else other
            written, own = self.raws[pattern]
            if (
                first == second and owners[one] == pattern and own[one] is not True
            ):  # true alone asks for nothing of its own
                allowed = f"{other} or {one}, not both: {why}; write {one} = false or {other} = false"
                self.problems.append(Problem(shown((self.kind, written, other)), own[other], allowed))
            del rules[gone], owners[gone]


def _says(said: object, key: str) -> bool:
    """Whether an entry itself says what stands at a key of a policy; a value that is no table says all of it."""
    return key.partition(".")[0] in said if isinstance(said, Mapping) else said is not None


def _combined(policy: str, said: Sequence[object]) -> object:
    """Combine what is said of a policy, the general first: None for off, a table, or what is no table for its error."""
    combined: object = None
    for value in said:
        short = POLICIES[policy].short
        if value is True:
            combined = {} if combined is None else combined
        elif value is False:
            combined = None
        elif isinstance(value, Mapping):
            combined = {**(combined if isinstance(combined, Mapping) else {}), **value}
        elif short and not isinstance(value, list):
            combined = {**(combined if isinstance(combined, Mapping) else {}), short: value}
        else:
            combined = value
    return combined


def _kind_schema(kind: str) -> Mapping[str, object]:
    policies = {
        policy: {"anyOf": [schema(POLICIES[policy].rule), {"type": ["boolean", "number", "string"]}]}
        for policy in SPOKEN[kind]
    }
    entry = {"type": "object", "properties": policies, "additionalProperties": False}
    return {"type": "object", "additionalProperties": entry}
