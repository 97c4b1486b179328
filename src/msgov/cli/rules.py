"""What is in force comes from layers; both commands ask the same configuration that a service would run on."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from msgov.config.centre import Config
from msgov.config.env import Env
from msgov.config.file import File
from msgov.config.rules import DEFAULTS, KINDS, RuleBook
from msgov.config.source import ConfigSource, Fixed


def explained(file: Path | None, key: str) -> list[str]:
    """Say of each value at or beneath `key` which layer set it, and what that shadows; "" is everything.

    Raises `RuleError` for rules that cannot be and a key that is none, `SourceError` for a file that is not there.
    """
    config = _config(file, {"env": Env()})
    return [str(leaf) for leaf in config.explain(key)]


def checked(file: Path) -> str:
    """Say what a file holds, if it can be used; raises as `explained` does."""
    config = _config(file, {})
    said = [leaf for leaf in config.explain() if leaf.layer == "file"]
    rules = sum(leaf.path[0] in KINDS for leaf in said)
    return f"{file}: good, {rules} values of rules, {len(said) - rules} of settings"


def _config(file: Path | None, above: dict[str, ConfigSource]) -> Config:
    layers: dict[str, ConfigSource] = {"defaults": Fixed(cast("dict[str, object]", DEFAULTS), name="defaults")}
    if file is not None:
        layers["file"] = File(file)
    config = Config({**layers, **above})
    config.load()
    config.derive("rules", RuleBook.of, keys=KINDS)  # raises for rules that cannot be
    return config
