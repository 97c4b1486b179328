"""What is in force comes from layers; both commands ask the same configuration that a service would run on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

from msgov.config.centre import Config
from msgov.config.env import Env
from msgov.config.file import File
from msgov.config.layers import Path as Key
from msgov.config.layers import path, shown
from msgov.config.rules import DEFAULTS, KINDS, RuleBook
from msgov.config.source import ConfigSource, Fixed
from msgov.rule import as_mapping


def explained(file: Path | None, key: str) -> list[str]:
    """Say of each value at or beneath `key` which layer set it, and what that shadows; then show each rule in force.

    A rule takes from its defaults, and from more general ones, what nobody set. `key` "" is everything. Raises
    `RuleError` for rules that cannot be and a key that is none, `SourceError` for a file that is not there.
    """
    config, book = _config(file, {"env": Env()})
    return [str(leaf) for leaf in config.explain(key)] + list(_in_force(book, path(key) if key else ()))


def checked(file: Path) -> str:
    """Say what a file holds, if it can be used; raises as `explained` does."""
    config, _ = _config(file, {})
    said = [leaf for leaf in config.explain() if leaf.layer == "file"]
    rules = sum(leaf.path[0] in KINDS for leaf in said)
    return f"{file}: good, {rules} values of rules, {len(said) - rules} of settings"


def _in_force(book: RuleBook, wanted: Key) -> Iterator[str]:
    """Write each rule of an entry with all its fields, as a comment."""
    for kind, entries in book.entries.items():
        for pattern, found in entries.items():
            for policy in found.owners:
                rule = getattr(found.rules, policy)
                place = (kind, pattern, policy)
                also = (kind, pattern.removesuffix("/*"), policy)  # as it may be written
                if rule is not None and wanted in (place[: len(wanted)], also[: len(wanted)]):
                    fields = ", ".join(f"{name} {value}" for name, value in as_mapping(rule).items())
                    yield f"# in force: {shown(place)}: {fields}"


def _config(file: Path | None, above: dict[str, ConfigSource]) -> tuple[Config, RuleBook]:
    layers: dict[str, ConfigSource] = {"defaults": Fixed(cast("dict[str, object]", DEFAULTS), name="defaults")}
    if file is not None:
        layers["file"] = File(file)
    config = Config({**layers, **above})
    config.load()
    return config, config.derive("rules", RuleBook.of, keys=KINDS).value  # raises for rules that cannot be
