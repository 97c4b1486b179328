"""A value outside a file is written as in TOML where it can be, and is text where it cannot."""

from __future__ import annotations

import tomllib

_MARK = "v"


def scalar(text: str) -> str | int | float | bool:
    """Read `2`, `0.5`, `true` or `"quoted"` as TOML does; whatever else, and a date or a list, is text as it stands.

    `"007"` and `"true"` in quotes stay text. NaN and infinity are numbers here: the layer they stand in refuses them.
    """
    if "\n" in text or "\r" in text:
        return text
    try:
        found = tomllib.loads(f"{_MARK} = {text}")[_MARK]
    except (ValueError, RecursionError):
        return text
    return found if isinstance(found, str | int | float | bool) else text
