"""Named places where a test may break the code: one falsy global check when off."""

from __future__ import annotations

from collections.abc import Callable

_armed: dict[str, Callable[[str], None]] | None = None


def failpoint(name: str) -> None:
    """Do what a test armed for `name`; nothing otherwise."""
    if _armed is not None:
        action = _armed.get(name)
        if action is not None:
            action(name)
