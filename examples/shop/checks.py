"""Input is checked before anything is touched: what, which value, what is allowed."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .errors import Invalid

LINES = 50  # in one order
QUANTITY = 1000  # of one SKU in one order
SKU = re.compile(r"[A-Z0-9][A-Z0-9-]{0,31}", re.ASCII)
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{2,31}", re.ASCII)
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}", re.ASCII)
KEY = re.compile(r"[\x21-\x7e]{1,128}", re.ASCII)
CURRENCY = re.compile(r"[A-Z]{3}", re.ASCII)


def matched(what: str, value: str, pattern: re.Pattern[str], allowed: str) -> str:
    """Return `value` when all of it matches; never echo more than 40 characters of it."""
    if not pattern.fullmatch(value):
        raise Invalid(f"{what} {value[:40]!a} is not allowed: {allowed}")
    return value


def identifier(what: str, value: str) -> str:
    """Return an id: 1 to 64 letters, digits and ._:- in ASCII."""
    return matched(what, value, ID, "1 to 64 letters, digits, '.', '_', ':' or '-', a letter or digit first")


def idempotency_key(value: str) -> str:
    """Return an idempotency key: 1 to 128 printable ASCII characters without spaces."""
    return matched("idempotency key", value, KEY, "1 to 128 printable ASCII characters, no spaces")


def sku(value: str) -> str:
    """Return a SKU: 1 to 32 capitals, digits and hyphens."""
    return matched("SKU", value, SKU, "1 to 32 of A-Z, 0-9 and '-', the first no hyphen")


def text(what: str, value: str, *, least: int, most: int) -> str:
    """Return a text of `least` to `most` characters, all of which can be written as UTF-8."""
    if not least <= len(value) <= most:
        raise Invalid(f"{what} has {len(value)} characters: {least} to {most} are allowed")
    if any("\ud800" <= letter <= "\udfff" or letter == "\0" for letter in value):
        raise Invalid(f"{what} holds a character that cannot be stored")
    return value


def whole(what: str, value: int, *, least: int, most: int) -> int:
    """Return a whole number from `least` to `most`."""
    if not least <= value <= most:
        raise Invalid(f"{what} is {value}: {least} to {most} is allowed")
    return value


def each_once(what: str, skus: Sequence[str]) -> Sequence[str]:
    """Return 1 to LINES SKUs, none of them twice."""
    if not 1 <= len(skus) <= LINES:
        raise Invalid(f"{what} has {len(skus)} lines: 1 to {LINES} are allowed")
    for value in skus:
        sku(value)
    if len(set(skus)) != len(skus):
        raise Invalid(f"{what} names a SKU twice: give each one line, with its whole quantity")
    return skus


def lines(what: str, given: Sequence[tuple[str, int]]) -> dict[str, int]:
    """Return SKU to quantity of 1 to LINES lines; sorted, so that two orders never wait for each other."""
    each_once(what, [value for value, _ in given])
    for value, quantity in given:
        whole(f"quantity of {value}", quantity, least=1, most=QUANTITY)
    return dict(sorted(given))
