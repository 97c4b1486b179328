"""Secrets stay out of what people read: by type, by the key they stand under, by how they look.

`Secret` is a value that shows itself only when asked to. Everything else is a second line of defence, on by default.
"""

from __future__ import annotations

import hmac
import math
import re
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Final, NoReturn

MASK: Final = "**********"
LONGEST: Final = 8192  # characters of one value that a line keeps
DEEPEST: Final = 6  # levels of nesting that a line keeps
MOST: Final = 500  # items that a line keeps, however they are nested


class Secret:
    """A value that prints as stars: pass it around, and call `reveal` where it is needed.

    It compares in constant time, hashes by its value, and refuses to be pickled.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value itself."""
        return self._value

    def __repr__(self) -> str:
        """Show stars."""
        return f"Secret({MASK!r})"

    def __str__(self) -> str:
        """Show stars."""
        return MASK

    def __format__(self, spec: str) -> str:
        """Show stars, whatever the format."""
        return MASK

    def __bool__(self) -> bool:
        """Whether there is anything to hide."""
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        """Compare in constant time."""
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        """Hash by the value."""
        return hash((Secret, self._value))

    def __reduce__(self) -> NoReturn:
        """Refuse: a pickle is plain text."""
        raise TypeError("a Secret cannot be pickled: reveal() it where it is needed")


# Squashed keys (lower case, letters and digits only) are denied when they contain one of these ...
_PARTS: Final = (
    "password", "passwd", "passphrase", "secret", "credential", "authoriz", "cookie", "apikey", "accesskey",
    "privatekey", "signingkey", "encryptionkey", "cardnumber", "cardno", "accesstoken", "bearer",
)  # fmt: skip
# ... end with one of these, or are one of these.
_ENDS: Final = ("token", "jwt", "pwd")
_WHOLE: Final = frozenset(("auth", "cvc", "cvv", "dsn", "iban", "otp", "pan", "pass", "pin", "pwd", "sessionid", "ssn"))
_SQUASH: Final = re.compile(r"[\W_]+")


@lru_cache(maxsize=2048)
def denied(key: str) -> bool:
    """Whether what stands under this key is never shown."""
    squashed = _SQUASH.sub("", key.lower())
    return squashed in _WHOLE or squashed.endswith(_ENDS) or any(part in squashed for part in _PARTS)


# One pass over the text. Each part starts at a word of its own or consumes what it scans: no text makes it quadratic.
_LOOKS: Final = re.compile(
    r"(?P<header>(?i:(?:authorization|cookie)[\"']?\s{0,8}[=:]))[^\n]+"
    r"|(?P<scheme>\b(?i:bearer|basic)\s{1,8})[A-Za-z0-9+/=._~-]{6,}"
    r"|(?<![\w-])eyJ[\w-]{5,}\.[\w-]{5,}(?:\.[\w-]*)?"
    r"|\b(?:sk|rk|pk)[_-](?:live|test|proj|ant)[_-][\w-]{8,}|\bsk[_-][A-Za-z0-9]{12,}"
    r"|\bgh[opusr]_[A-Za-z0-9]{12,}|\bgithub_pat_\w{12,}|\bglpat-[\w-]{12,}"
    r"|\bxox[abeoprs]-[A-Za-z0-9-]{8,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|(?P<before>[A-Za-z][A-Za-z0-9+.-]{0,20}://)[^\s/@:]*:[^\s/@]+(?P<after>@)"
    r"|(?P<name>(?i:password|passwd|pwd|passphrase|secret|token|api[_-]?key|access[_-]?key|private[_-]?key)"
    r"[\"']?\s{0,8}[=:]\s{0,8})(?!\*{4})(?:\"[^\"\n]*\"?|'[^'\n]*'?|[^\s\"',;&}]+)",
    re.DOTALL | re.ASCII,
)


def _masked(found: re.Match[str]) -> str:
    kept = found["header"] or found["scheme"] or found["before"] or found["name"] or ""
    return kept + MASK + (found["after"] or "")


def scrub(text: str) -> str:
    """Mask what looks like a secret inside a text.

    Bearer and basic credentials, JWTs, vendors' keys, private keys, passwords in URLs, and `password=...` in its many
    spellings.
    """
    return _LOOKS.sub(_masked, text)


# What no line may hold as it is: controls but tab and newline (an encoder escapes those), the separators and direction
# marks that let a text pass for another line or run backwards, and lone surrogates, which no encoder takes.
_UNCLEAN: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


def _spelled(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def clean(text: str) -> str:
    """Spell out what could forge a line or drive a terminal, and cut at 8192 characters."""
    return _UNCLEAN.sub(_spelled, text if len(text) <= LONGEST else _cut(text, len(text)))


def fit(text: str) -> str:
    """Make any text fit to be shown: scrubbed of secrets, cleaned, and cut at 8192 characters."""
    if len(text) <= LONGEST:
        return _UNCLEAN.sub(_spelled, scrub(text))
    # Searching costs as much as the text is long; a little past the cut, or it could leave half a secret.
    return _UNCLEAN.sub(_spelled, _cut(scrub(text[: LONGEST + 1024]), len(text)))


def _cut(text: str, size: int) -> str:
    return f"{text[:LONGEST]}... ({size} characters)"


def shown(value: object) -> object:
    """Make a value fit to be shown: plain data, bounded in size and depth, with no secret in it.

    What is no plain data is shown as text, scrubbed; bytes by their length alone.
    """
    return _Show().value(value, 0)


def guarded(values: Mapping[str, object]) -> dict[str, object]:
    """Make the fields of a line fit to be shown: each as `shown` does, and masked under a denied key."""
    return _Show().mapping(values, 0)


class _Show:
    """One look at a value, with so many items left to show of all that is nested in it."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MOST

    def value(self, value: object, depth: int) -> object:
        if value is None or value is True or value is False:
            return value
        if isinstance(value, str):
            return fit(value)
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
        if isinstance(value, int):
            return value if -(2**63) <= value < 2**63 else f"({value.bit_length()} bits)"
        if isinstance(value, bytes | bytearray | memoryview):
            return f"({len(value)} bytes)"
        if isinstance(value, Mapping):
            return self.mapping(value, depth + 1) if depth < DEEPEST else "..."
        if isinstance(value, list | tuple | set | frozenset):
            return self._items(value, depth + 1) if depth < DEEPEST else "..."
        plain = type(value).__str__ is not object.__str__ and not isinstance(value, BaseException)
        return fit(_told(str if plain else repr, value))

    def mapping(self, values: Mapping[str, object], depth: int) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in values.items():
            if self.left <= 0:
                found["..."] = f"({len(values)} items)"
                break
            self.left -= 1
            name = key if isinstance(key, str) else _told(str, key)
            found[clean(name)] = MASK if value is not None and denied(name) else self.value(value, depth)
        return found

    def _items(self, values: Collection[object], depth: int) -> list[object]:
        found: list[object] = []
        for value in values:
            if self.left <= 0:
                found.append(f"... ({len(values)} items)")
                break
            self.left -= 1
            found.append(self.value(value, depth))
        return found


def _told(how: Callable[[object], str], value: object) -> str:
    try:
        return how(value)
    except Exception as error:  # noqa: BLE001  a broken repr must not cost the line
        return f"({type(value).__name__}, whose text raised {type(error).__name__})"
