"""A name finds the pattern that governs it in a time that does not grow with the number of patterns.

A pattern is a name, or a beginning of names that ends in `*`. An exact name goes before a beginning, a longer beginning
before a shorter one; the order in which they are written says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

KNOWN: Final = 4_096  # names whose pattern is remembered; clients make names up, so there must be an end
_LONGEST: Final = 200  # characters of a name that is remembered
_UNASKED: Final = ""  # what no name is governed by: a pattern is never empty
_LAST = re.compile(r"^/?[\w.]+/(?=\w+$)")  # of "/shop.v1.Payment/Charge" all but "Charge"; "GET /orders/{id}" stays


def called(target: str, method: str) -> str:
    """Return the name that `call` entries are matched with: a gRPC method goes by its last part."""
    return f"{target}/{_LAST.sub('', method)}"


def canonical(kind: str, pattern: str) -> str:
    """Write a pattern in the one way that names are matched with: `payment` is all that begins with `payment/`."""
    if kind != "call" or pattern.endswith("*"):
        return pattern
    service, slash, method = pattern.partition("/")
    return called(service, method) if slash else f"{service}/*"


class Patterns:
    """The patterns of one kind, indexed by their beginnings: a search looks once at each length there is, no more.

    `find` remembers the answers for `KNOWN` names, and forgets them all when clients have made up more.
    """

    __slots__ = ("_known", "_lengths", "_patterns")

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self._patterns = frozenset(patterns)
        self._lengths = sorted({len(each) for each in self._patterns if each.endswith("*")}, reverse=True)
        self._known: dict[str, str | None] = {}

    def find(self, name: str) -> str | None:
        """Return the most particular pattern that fits a name, None where none does."""
        found = self._known.get(name, _UNASKED)
        if found == _UNASKED:
            found = name if name in self._patterns else next(self._beginnings(name), None)
            if len(name) <= _LONGEST:
                if len(self._known) >= KNOWN:
                    self._known.clear()
                self._known[name] = found
        return found

    def above(self, pattern: str) -> list[str]:
        """Return the patterns from which one inherits, the most general first."""
        beginnings = self._beginnings(pattern.removesuffix("*"))
        return [each for each in beginnings if each != pattern][::-1]

    def _beginnings(self, name: str) -> Iterator[str]:
        size, patterns = len(name), self._patterns
        for length in self._lengths:
            if length <= size + 1:
                pattern = f"{name[: length - 1]}*"
                if pattern in patterns:
                    yield pattern
