"""YAML, without its traps: the scalars of JSON, and neither anchors, aliases, tags nor a second document.

`NO`, `on` and `1:30:00` are text, as they look; true and false are written so and in no other way. The parser is asked
for events only, so nothing is ever constructed from a tag, and an alias bomb is refused at its first alias.
"""

from __future__ import annotations

import re

from msgov.config.layers import Path, problem
from msgov.config.text import DEPTH, refused
from msgov.errors import MissingExtra, Problem, RuleError

try:
    import yaml
except ImportError:
    raise MissingExtra("PyYAML", extra="yaml") from None

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one is ten times as fast, where it was built
_DIGITS = 30  # a longer integer is beyond 64 bits anyway

_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|nan)", re.IGNORECASE)
_NULL = ("", "~", "null", "Null", "NULL")


def parse(text: str, where: str) -> object:
    """Return the one document in `text`, {} for none; raises `RuleError` with the line of what is refused."""
    builder = _Builder(where)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (None, None)
        raise refused("YAML", line, column, error.problem or str(error.context), where=where) from None
    except yaml.YAMLError as error:
        place = getattr(error, "position", None)
        line = None if place is None else text.count("\n", 0, place) + 1
        raise refused("YAML", line, None, getattr(error, "reason", "not readable"), where=where) from None
    if builder.problems:
        raise RuleError(builder.problems, where=where)
    return builder.root


class _Open:
    """A table or a list under way; `key` is the table's key that waits for its value."""

    __slots__ = ("key", "node", "path")

    def __init__(self, node: dict[str, object] | list[object], path: Path) -> None:
        self.node = node
        self.path = path
        self.key: str | None = None


class _Builder:
    """Build plain values from events, and stop at the first that has no place in a configuration."""

    def __init__(self, where: str) -> None:
        self.root: object = {}
        self.problems: list[Problem] = []
        self._where = where
        self._open: list[_Open] = []
        self._documents = 0

    def take(self, event: yaml.Event) -> None:
        mark = event.start_mark
        line = 0 if mark is None else mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise self._no(line, "---", "one document")
        elif isinstance(event, yaml.AliasEvent):
            raise self._no(line, f"*{event.anchor}", "no alias: write the value out")
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self._open.pop()
        elif isinstance(event, yaml.NodeEvent):
            if event.anchor is not None:
                raise self._no(line, f"&{event.anchor}", "no anchor: write the value out")
            tag = getattr(event, "tag", None)
            if tag is not None:
                raise self._no(line, str(tag), "no tag: a value is what it looks like")
            self._node(event, line)

    def _node(self, event: yaml.NodeEvent, line: int) -> None:
        top = self._open[-1] if self._open else None
        if top is not None and isinstance(top.node, dict) and top.key is None:
            if not isinstance(event, yaml.ScalarEvent):
                raise self._no(line, "?", "a key that is text")
            top.key = event.value
            if event.value in top.node:
                self.problems.append(_at((*top.path, event.value), line, "...", "a key only once"))
            return
        path = self._path(top)
        node: object
        if isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event, path, line)
        else:
            node = {} if isinstance(event, yaml.MappingStartEvent) else []
        if top is None:
            self.root = node
        elif isinstance(top.node, list):
            top.node.append(node)
        else:
            assert top.key is not None  # noqa: S101  else the node would be a key
            top.node[top.key] = node
            top.key = None
        if isinstance(node, dict | list):
            if len(self._open) >= DEPTH:
                raise self._no(line, "...", f"at most {DEPTH} tables within tables")
            self._open.append(_Open(node, path))

    def _path(self, top: _Open | None) -> Path:
        if top is None:
            return ()
        return (*top.path, str(len(top.node)) if isinstance(top.node, list) else top.key or "")

    def _scalar(self, event: yaml.ScalarEvent, path: Path, line: int) -> object:
        text = event.value
        if not event.implicit[0]:  # quoted, or a block
            return text
        if text in ("true", "false"):
            return text == "true"
        if text in _NULL:
            self.problems.append(_at(path, line, text, "a value; leave the key out where there is none"))
        elif _NOT_FINITE.fullmatch(text):
            self.problems.append(_at(path, line, text, "a finite number"))
        elif _LEADING_ZERO.fullmatch(text):
            self.problems.append(_at(path, line, text, "a number without a leading zero, or text in quotes"))
        elif _INT.fullmatch(text):
            if len(text) <= _DIGITS:
                return int(text)
            self.problems.append(_at(path, line, text, "an integer of at most 64 bits"))
        elif _FLOAT.fullmatch(text):
            return float(text)
        return text

    def _no(self, line: int, value: str, allowed: str) -> RuleError:
        return RuleError.at(f"line {line}", value, allowed, where=self._where)


def _at(path: Path, line: int, value: object, allowed: str) -> Problem:
    found = problem(path, value, allowed)
    return Problem(f"{found.path} (line {line})", found.value, found.allowed)
