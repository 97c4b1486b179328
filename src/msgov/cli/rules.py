"""What is in force comes from layers; each command asks the same configuration that a service would run on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

from msgov.config.centre import Config
from msgov.config.env import Env
from msgov.config.file import File
from msgov.config.kinds import ORDERS, PICK
from msgov.config.layers import Path as Key
from msgov.config.layers import path, shown
from msgov.config.lint import Finding, Traffic, lint
from msgov.config.rules import DEFAULTS, KINDS, Found, RuleBook, called
from msgov.config.source import ConfigSource, Fixed
from msgov.errors import version
from msgov.rule import as_mapping


def explained(file: Path | None, key: str) -> list[str]:
    """Say of each value at or beneath `key` which layer set it, and what that shadows; then show each rule in force.

    Then each entry's order, outermost first. A rule takes from its defaults, and from more general ones, what nobody
    set; its version is what a rejection names. `key` "" is everything; a key that nothing is set at and that begins
    with a kind ("call.payment/Refund") is a name, and the entry that governs it is shown. Raises `RuleError` for rules
    that cannot be and a key that is none, `SourceError` for a file that is not there.
    """
    config, book = _config(file, {"env": Env()})
    where = path(key) if key else ()
    values = [str(leaf) for leaf in config.explain(key)]
    if values:
        return values + [line for place in _places(book, where) for line in place]
    return _governing(book, where)


def checked(file: Path) -> str:
    """Say what a file holds, if it can be used; raises as `explained` does."""
    config, _ = _config(file, {})
    said = [leaf for leaf in config.explain() if leaf.layer == "file"]
    rules = sum(leaf.path[0] in KINDS for leaf in said)
    return f"{file}: good, {rules} values of rules, {len(said) - rules} of settings"


def linted(file: Path, traffic: Traffic) -> tuple[Finding, ...]:
    """Return what is wrong between the rules of a file, laid on the defaults; raises as `explained` does."""
    return lint(_config(file, {})[1], traffic)


def _places(book: RuleBook, wanted: Key) -> Iterator[list[str]]:
    """Write what is in force at the entries and policies that a key names, as comments."""
    for kind, entries in book.entries.items():
        for found in entries.values():
            lines = [
                line
                for policy in found.owners
                if any(wanted == place[: len(wanted)] for place in ((*at, policy) for at in _written(kind, found)))
                for line in _rule(kind, found, policy)
            ]
            if lines and any(wanted == at[: len(wanted)] for at in _written(kind, found)):
                lines.append(f"# order: {shown((kind, found.pattern))}: {_order(kind, found)}")
            yield lines


def _written(kind: str, found: Found) -> tuple[Key, Key]:
    """Return the places that an entry goes by: as names are matched with it, and as it stands in the file."""
    return (kind, found.pattern), (kind, found.written)


def _rule(kind: str, found: Found, policy: str) -> Iterator[str]:
    rule = getattr(found.rules, policy)
    if rule is not None:
        fields = ", ".join(f"{name} {value}" for name, value in as_mapping(rule).items())
        owner = "" if found.owners[policy] == found.pattern else f"  (from {kind}.{found.owners[policy]})"
        yield f"# in force: {shown((kind, found.pattern, policy))}: {fields}  [{version(rule)}]{owner}"


def _order(kind: str, found: Found) -> str:
    """Name the policies of an entry as a call meets them."""
    return ", ".join(each for each in ORDERS[kind] if getattr(found.rules, each, each == PICK))


def _governing(book: RuleBook, key: Key) -> list[str]:
    """Say which entry governs a name that no entry is written for; nothing for what is no name."""
    if len(key) != 2 or key[0] not in KINDS:
        return []
    kind, name = key
    found = book.find(kind, called(*name.split("/", 1)) if kind == "call" and "/" in name else name)
    if found is None:
        return []
    head = f"# {shown(key)} is governed by {shown((kind, found.written))}"
    return [
        head,
        *(line for policy in found.owners for line in _rule(kind, found, policy)),
        f"# order: {_order(kind, found)}",
    ]


def _config(file: Path | None, above: dict[str, ConfigSource]) -> tuple[Config, RuleBook]:
    layers: dict[str, ConfigSource] = {"defaults": Fixed(cast("dict[str, object]", DEFAULTS), name="defaults")}
    if file is not None:
        layers["file"] = File(file)
    config = Config({**layers, **above})
    config.load()
    return config, config.derive("rules", RuleBook.of, keys=KINDS).value  # raises for rules that cannot be
