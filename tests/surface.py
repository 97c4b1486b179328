"""Lists the public surface: `python -m tests.surface > tests/surface.txt` after a change that means it."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from enum import Enum

import msgov


def surface() -> list[str]:
    """Return "module.name" of everything public, with the parameters of what can be called."""
    found = [f"msgov.{name}" for name in msgov.__all__]
    for module in pkgutil.walk_packages(msgov.__path__, "msgov."):
        if any(part.startswith("_") for part in module.name.split(".")[1:]) or module.name.startswith("msgov.cli"):
            continue
        loaded = importlib.import_module(module.name)
        for name, value in vars(loaded).items():
            home = getattr(value, "__module__", None)
            # What lives in a private part of a package is public where a module says so.
            said = name in getattr(loaded, "__all__", ()) and str(home).rpartition(".")[2].startswith("_")
            if name.startswith("_") or not (home == module.name or said):
                continue
            if inspect.isfunction(value) or inspect.isclass(value):
                found.append(f"{module.name}.{name}{_parameters(value)}")
    return sorted(found)


def _parameters(value: object) -> str:
    if isinstance(value, type) and issubclass(value, Enum):
        return ""  # of an enum each Python tells other ones
    try:
        names = inspect.signature(value).parameters  # type: ignore[arg-type]  # a function or a class
    except (TypeError, ValueError):
        return ""
    return "(" + ", ".join(names) + ")"


if __name__ == "__main__":
    print("\n".join(surface()))
