"""What stands behind a name may not bear every policy: rules that ask it of one are refused before they hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from msgov.config.layers import shown
from msgov.config.rules import Found, RuleBook
from msgov.errors import Problem, RuleError

_VERBS: Final = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST", "PATCH")


class Barred:
    """The policies that the rules must leave off, by kind and name, and why."""

    def __init__(self) -> None:
        self._whys: Mapping[tuple[str, str, str], str] = {}

    def add(self, book: RuleBook, kind: str, name: str, whys: Mapping[str, str]) -> None:
        """Bar policies from a name, each for a reason that says what to write in place of it.

        Of calls the name is that of a service, and its requests are meant: "GET /orders", not the methods of gRPC.
        Raises `RuleError` when the book at hand has one of them on.
        """
        added = {(kind, name, policy): why for policy, why in whys.items()}
        _check(book, added)
        self._whys = {**self._whys, **added}

    def check(self, book: RuleBook) -> RuleBook:
        """Return the book; raises one `RuleError` with every place where it has on what is barred."""
        _check(book, self._whys)
        return book


def _check(book: RuleBook, whys: Mapping[tuple[str, str, str], str]) -> None:
    problems: dict[str, Problem] = {}
    for (kind, name, policy), why in whys.items():
        for found in _governing(book, kind, name):
            if getattr(found.rules, policy) is not None:
                owner = book.entries[kind][found.owners[policy]]
                at = shown((kind, owner.written, policy))
                problems[at] = Problem(at, True, why)
    if problems:
        raise RuleError([*problems.values()])


def _governing(book: RuleBook, kind: str, name: str) -> Iterator[Found]:
    """Yield the entries that may govern a name: of calls, all that a request to the service may come under."""
    names = [f"{name}/{verb} /" for verb in _VERBS] if kind == "call" else [name]
    for each in names:
        found = book.find(kind, each)
        if found is not None:
            yield found
    if kind == "call":
        for pattern, found in book.entries[kind].items():
            if pattern.startswith(f"{name}/") and " " in pattern:
                yield found
