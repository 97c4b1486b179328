"""The tables of the embedded config centre: every change is a row that stays, what is in force is another."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

from msgov.call import NO, PERMANENT
from msgov.config.layers import Value, path, shown
from msgov.config.source import Reading, plant
from msgov.config.text import vet
from msgov.errors import MsgovError, Problem, RuleError

KEYS: Final = 10_000  # set at a time; more are data, not configuration
HISTORY: Final = 10_000  # versions that are kept besides those in force

SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS config_versions (version INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL,"
    " value TEXT, who TEXT NOT NULL, why TEXT NOT NULL, at REAL NOT NULL)",
    "CREATE TABLE IF NOT EXISTS config_values (key TEXT PRIMARY KEY, value TEXT NOT NULL, version INTEGER NOT NULL)"
    " WITHOUT ROWID",
)

Moment: TypeAlias = tuple[int, float]


@dataclass(frozen=True, slots=True)
class Version:
    """One change of one key: its number, the value then (None: deleted), by whom, why, and when (wall clock)."""

    version: int
    key: str
    value: Value | None
    who: str
    why: str
    at: float


class Conflict(MsgovError):
    """Somebody else changed the key first: nothing was written; read it again, then decide anew."""

    reason = "config_conflict"
    verdict = PERMANENT
    sent = NO

    def __init__(self, key: str, *, expected: int, found: int) -> None:
        super().__init__(f"{key} is at version {found}, not at {expected}", key=key, expected=expected, found=found)


def moment(connection: sqlite3.Connection) -> Moment:
    """Read what tells one state from another: the number of the last change, and when it was made."""
    row = connection.execute("SELECT version, at FROM config_versions ORDER BY version DESC LIMIT 1").fetchone()
    return (0, 0.0) if row is None else (int(row[0]), float(row[1]))


def reading(where: str, connection: sqlite3.Connection) -> tuple[Moment, Reading]:
    """Read all that is set, and as of which moment."""
    tree: dict[str, Value] = {}
    problems: list[Problem] = []
    for key, text in connection.execute("SELECT key, value FROM config_values ORDER BY key"):
        try:
            parts = path(key)
            whole: dict[str, Value] = {}
            plant(whole, parts, cast("Value", json.loads(text)), where=where)
            vet(whole, where=where)
            plant(tree, parts, cast("Value", json.loads(text)), where=where)
        except RuleError as error:
            problems += error.problems
        except (ValueError, RecursionError):
            problems.append(Problem(key, "(not shown)", "JSON"))
    return moment(connection), RuleError(problems, where=where) if problems else tree


def current(key: str, connection: sqlite3.Connection) -> Version | None:
    """Read the change that a key's value comes from; None when it is not set."""
    row = connection.execute(
        "SELECT version, key, value, who, why, at FROM config_versions"
        " WHERE version = (SELECT version FROM config_values WHERE key = ?)",
        (key,),
    ).fetchone()
    return None if row is None else _version(row)


def history(key: str, most: int, connection: sqlite3.Connection) -> list[Version]:
    """Read the changes at or beneath a key, the newest first."""
    rows = connection.execute(
        "SELECT version, key, value, who, why, at FROM config_versions"
        " WHERE :key = '' OR key = :key OR substr(key, 1, length(:key) + 1) = :key || '.'"
        " ORDER BY version DESC LIMIT :most",
        {"key": key, "most": most},
    )
    return [_version(row) for row in rows]


def change(
    writes: Mapping[str, str | None],
    expected: Mapping[str, int],
    who: str,
    why: str,
    at: float,
    connection: sqlite3.Connection,
) -> int:
    """Write values, None for no more; return the number of the last change, 0 when there was nothing to change."""
    for key, version in expected.items():
        row = connection.execute("SELECT version FROM config_values WHERE key = ?", (key,)).fetchone()
        found = 0 if row is None else int(row[0])
        if found != version:
            raise Conflict(key, expected=version, found=found)
    last = 0
    for key, text in sorted(writes.items(), key=lambda each: each[1] is not None):  # deletions first: they make room
        if text is None:
            if not connection.execute("DELETE FROM config_values WHERE key = ?", (key,)).rowcount:
                continue
        else:
            _room(key, connection)
        last = _note(connection, key, text, who, why, at)
        if text is not None:
            connection.execute("INSERT OR REPLACE INTO config_values VALUES (?, ?, ?)", (key, text, last))
    connection.execute(
        "DELETE FROM config_versions WHERE version <= ? AND version NOT IN (SELECT version FROM config_values)",
        (last - HISTORY,),
    )
    return last


def _note(connection: sqlite3.Connection, key: str, text: str | None, who: str, why: str, at: float) -> int:
    row = (key, text, who, why, at)
    made = connection.execute("INSERT INTO config_versions (key, value, who, why, at) VALUES (?, ?, ?, ?, ?)", row)
    assert made.lastrowid is not None  # noqa: S101  an insert has one
    return made.lastrowid


def _room(key: str, connection: sqlite3.Connection) -> None:
    """Refuse a key that another one stands above or beneath, and one too many."""
    parts = path(key)
    above = json.dumps([shown(parts[:size]) for size in range(1, len(parts))])
    row = connection.execute(
        "SELECT key FROM config_values WHERE substr(key, 1, length(:key) + 1) = :key || '.'"
        " OR key IN (SELECT value FROM json_each(:above)) LIMIT 1",
        {"key": key, "above": above},
    ).fetchone()
    if row is not None:
        raise RuleError.at(key, "set", f"a key that no other overlaps: {row[0]} is set, change or delete that")
    (count,) = connection.execute("SELECT count(*) FROM config_values WHERE key <> ?", (key,)).fetchone()
    if count >= KEYS:
        raise RuleError.at(key, "one key more", f"at most {KEYS} keys")


def _version(row: tuple[int, str, str | None, str, str, float]) -> Version:
    version, key, text, who, why, at = row
    return Version(version, key, None if text is None else json.loads(text), who, why, at)
