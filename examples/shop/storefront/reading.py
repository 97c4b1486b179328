"""A request is read with a limit on everything, and a word on what is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.requests import Request

from .problems import Problem

LARGEST = 64 * 1024  # bytes of a body: fifty lines are four thousand

Fields = Mapping[str, object]


async def fields(request: Request) -> Fields:
    """Return the body as a JSON object."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST:
            raise Problem(413, f"the body is larger than {LARGEST} bytes")
    try:
        found = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise Problem(400, "the body is not JSON") from error
    if not isinstance(found, dict):
        raise Problem(400, "the body is not a JSON object")
    return found


def text(given: Fields, name: str) -> str:
    """Return a member that must be a text."""
    value = given.get(name)
    if not isinstance(value, str):
        raise Problem(422, f"{name!r} is missing or no text")
    return encodable(name, value)


def flag(given: Fields, name: str, *, default: bool) -> bool:
    """Return a member that may be true or false."""
    value = given.get(name, default)
    if not isinstance(value, bool):
        raise Problem(422, f"{name!r} is neither true nor false")
    return value


def lines(given: Fields) -> list[tuple[str, int]]:
    """Return the basket: a list of objects with sku and quantity."""
    found = given.get("lines")
    if not isinstance(found, list) or not found or len(found) > 50:
        raise Problem(422, "'lines' is missing, or not a list of 1 to 50 lines")
    return [_line(place, line) for place, line in enumerate(found)]


def number(request: Request, name: str) -> int:
    """Return a query parameter that must be a small whole number; 0 when it is not there."""
    value = request.query_params.get(name, "0")
    if not (value.isascii() and value.isdigit() and len(value) < 7):
        raise Problem(422, f"{name!r} is no whole number from 0 to 999999")
    return int(value)


def encodable(name: str, value: str) -> str:
    """Return `value` unless it holds half a character, which no other service could read."""
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise Problem(422, f"{name!r} holds half a character")
    return value


def _line(place: int, line: object) -> tuple[str, int]:
    sku = line.get("sku") if isinstance(line, dict) else None
    quantity = line.get("quantity") if isinstance(line, dict) else None
    if not isinstance(sku, str):
        raise Problem(422, f"line {place + 1}: 'sku' is missing or no text")
    if not isinstance(quantity, int) or isinstance(quantity, bool) or not 1 <= quantity <= 1000:
        raise Problem(422, f"line {place + 1}: 'quantity' is not a whole number from 1 to 1000")
    return encodable("sku", sku), quantity
