"""The shop is found where msgov was installed from: inside the wheel, or beside the sources of a checkout."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Protocol, cast

import msgov
from msgov.errors import MissingExtra, MsgovError


class Options(Protocol):
    """How a run is asked for; made by the shop."""

    def __call__(self, *, together: bool, seconds: float, rate: float, scenario: str, keep: bool, json: bool) -> object:
        """Ask for a run."""
        ...


class Stage(Protocol):
    """What the shop's `demo.run` offers."""

    Options: Options
    SCENARIOS: Collection[str]
    ANYWHERE: Collection[str]

    def run(self, options: object) -> int:
        """Run the shop; return the exit code."""
        ...


def folder() -> Path:
    """Return the folder that holds `shop`; raises `MsgovError` where msgov came without it."""
    package = Path(msgov.__file__).resolve().parent
    found = [package / "_examples", package.parents[1] / "examples"]
    for each in found:
        if (each / "shop" / "demo").is_dir():
            return each
    raise MsgovError(f"the shop is neither in {found[0]} nor in {found[1]}: install msgov from a wheel or a checkout")


def stage() -> Stage:
    """Import the shop; raises `MissingExtra` that names the extra for what it needs."""
    where = str(folder())
    if where not in sys.path:
        sys.path.insert(0, where)
    try:
        return cast("Stage", importlib.import_module("shop.demo.run"))
    except ModuleNotFoundError as missing:
        raise MissingExtra(missing.name or "a package", extra="demo") from missing
