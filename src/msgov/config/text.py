"""Text becomes a tree, or a refusal that says where: nothing in a file can stall, surprise or run anything.

TOML and JSON by the standard library, YAML by `msgov.config.yaml`. The same things are refused in each: more than
64 KiB, bytes that are no UTF-8, a key twice, tables nested deeper than 32, NaN and infinity, null, dates, integers
beyond 64 bits. A refusal of unreadable text names line and column but never shows the line: it may hold a secret.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

from msgov.config.layers import Path, Tree, problem
from msgov.errors import Problem, RuleError

LIMIT: Final = 64 * 1024  # bytes; a rules file has a few KiB, and the slowest parser needs half a second for 64
DEPTH: Final = 32  # tables within tables; rules need five
KEY: Final = 200  # characters in one part of a key

FORMS: Final[Mapping[str, str]] = {".toml": "toml", ".yaml": "yaml", ".yml": "yaml", ".json": "json"}

UNREADABLE: Final = "(not shown)"


def read(body: bytes, form: str, *, where: str) -> Tree:
    """Parse a file's bytes as "toml", "yaml" or "json".

    Raises `RuleError` with `where` and every problem found; `MissingExtra` for YAML without PyYAML.
    """
    if len(body) > LIMIT:
        raise RuleError.at("size", len(body), f"at most {LIMIT} bytes", where=where)
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise RuleError.at(f"line {line}", UNREADABLE, "UTF-8 text", where=where) from None
    return vet(_reader(form)(text, where), where=where)


def vet(value: object, *, where: str) -> Tree:
    """Check that a value is a tree that any layer may hold; raise `RuleError` with every problem found."""
    problems: list[Problem] = []
    if isinstance(value, Mapping):
        _vet(value, (), problems)
    else:
        problems.append(Problem("", value, "a table of keys and values"))
    if problems:
        raise RuleError(problems, where=where)
    return cast("Tree", value)


def refused(form: str, line: int | None, column: int | None, reason: str, *, where: str) -> RuleError:
    """Say at which place text stops being what it should be."""
    place = "end of text" if line is None else f"line {line}" + (f", column {column}" if column else "")
    return RuleError.at(place, UNREADABLE, f"valid {form}: {reason[:1].lower()}{reason[1:]}", where=where)


def _reader(form: str) -> Callable[[str, str], object]:
    if form == "yaml":
        from msgov.config import yaml  # its package is an extra: needed only where a file is YAML

        return yaml.parse
    return {"toml": _toml, "json": _json}[form]


# tomllib needs time with the square of a dotted key's length: 15 s for one of 60 KiB.
_PART = r"""(?:[\w-]+|"[^"\n]*"|'[^'\n]*')"""
_LONG_KEY = re.compile(rf"(?:^|[\[{{,])[ \t]*{_PART}(?:[ \t]*\.[ \t]*{_PART}){{{DEPTH}}}", re.MULTILINE)
_PLACE = re.compile(r"^(.*) \(at (?:line (\d+), column (\d+)|end of document)\)$", re.DOTALL)


def _toml(text: str, where: str) -> object:
    long = _LONG_KEY.search(text)
    if long is not None:
        raise refused("TOML", text.count("\n", 0, long.start()) + 1, None, f"nested deeper than {DEPTH}", where=where)
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise _deep(where) from None
    except tomllib.TOMLDecodeError as error:
        found = _PLACE.match(str(error))
        if found is None:
            raise refused("TOML", None, None, str(error), where=where) from None
        line, column = (int(found[2]), int(found[3])) if found[2] else (None, None)
        raise refused("TOML", line, column, found[1], where=where) from None
    except ValueError as error:  # a number of thousands of digits, a thirteenth month
        raise refused("TOML", None, None, str(error), where=where) from None


def _json(text: str, where: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_Pairs.of)
    except RecursionError:
        raise _deep(where) from None
    except json.JSONDecodeError as error:
        raise refused("JSON", error.lineno, error.colno, error.msg, where=where) from None
    except ValueError as error:
        raise refused("JSON", None, None, str(error), where=where) from None


def _deep(where: str) -> RuleError:
    return RuleError.at("depth", "more", f"at most {DEPTH} tables within tables", where=where)


class _Pairs(dict[str, object]):
    """An object of JSON that remembers which keys came twice: the parser cannot say where it stands."""

    twice: Sequence[str] = ()

    @classmethod
    def of(cls, pairs: list[tuple[str, object]]) -> dict[str, object]:
        made = cls(pairs)
        if len(made) < len(pairs):
            names = [key for key, _ in pairs]
            made.twice = [key for key in made if names.count(key) > 1]
            return made
        return dict(made)


def _vet(value: object, path: Path, problems: list[Problem]) -> None:
    if isinstance(value, Mapping):
        if len(path) >= DEPTH:
            problems.append(problem(path[:3], "...", f"at most {DEPTH} tables within tables"))
            return
        problems += [problem((*path, key), value[key], "a key only once") for key in getattr(value, "twice", ())]
        for key, inner in value.items():
            wrong = _wrong_key(key)
            if wrong:
                problems.append(problem((*path, str(key)[:KEY]), inner, wrong))
            else:
                _vet(inner, (*path, key), problems)
    elif isinstance(value, list):
        if len(path) >= DEPTH:
            problems.append(problem(path[:3], "...", f"at most {DEPTH} lists within lists"))
            return
        for place, inner in enumerate(value):
            _vet(inner, (*path, str(place)), problems)
    else:
        wrong = _wrong_leaf(value)
        if wrong:
            problems.append(problem(path, value, wrong))


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def _wrong_key(key: object) -> str:
    if not isinstance(key, str):
        return "a key that is text"
    if not 0 < len(key) <= KEY or _CONTROL.search(key):
        return f"a key of 1 to {KEY} printable characters"
    if ".." in key.split("/"):
        return "a key without '..': it names a setting, not a file"
    return ""


def _wrong_leaf(value: object) -> str:
    if isinstance(value, str):
        return "text without lone surrogates" if _SURROGATE.search(value) else ""
    if isinstance(value, float):
        return "" if math.isfinite(value) else "a finite number"
    if isinstance(value, int):
        return "" if -(2**63) <= value < 2**63 else "an integer of at most 64 bits"
    if value is None:
        return "a value; leave the key out where there is none"
    return "text, a number, true, false, a list or a table; write a date in quotes"
