"""A message has its effect once: that it was handled is written in the transaction of the effect.

Functions of the connection that holds the transaction. Ids count within a group, message ids and business keys alike:
the same event sent again under another id is still the same event.
"""

from __future__ import annotations

import sqlite3

from msgov.messaging.transaction import Duplicate, Once

RETENTION = 7 * 86_400.0  # seconds: longer than a broker keeps a message, and than a weekend

TABLES = (
    """CREATE TABLE IF NOT EXISTS msgov_inbox (
        name TEXT NOT NULL, id TEXT NOT NULL, at REAL NOT NULL, PRIMARY KEY (name, id)) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS msgov_inbox_at ON msgov_inbox (at)",
)


def create_table(connection: sqlite3.Connection) -> None:
    """Make the inbox's table where it is not there yet, in the transaction of this connection."""
    for statement in TABLES:
        connection.execute(statement)


def enter(connection: sqlite3.Connection, once: Once, now: float) -> None:
    """Write that these ids are handled, `now` being seconds since 1970; raises `Duplicate` if one of them was."""
    for found in once.ids:
        made = connection.execute("INSERT OR IGNORE INTO msgov_inbox VALUES (?, ?, ?)", (once.group, found, now))
        if not made.rowcount:
            raise Duplicate(f"{once.group} has handled {found}")


def handled(connection: sqlite3.Connection, once: Once) -> bool:
    """Whether one of these ids was handled."""
    return any(
        connection.execute("SELECT 1 FROM msgov_inbox WHERE name = ? AND id = ?", (once.group, found)).fetchone()
        for found in once.ids
    )


def forget(connection: sqlite3.Connection, before: float, *, most: int = 1000) -> int:
    """Remove up to `most` entries made before `before`; return how many."""
    return connection.execute(
        "DELETE FROM msgov_inbox WHERE (name, id) IN (SELECT name, id FROM msgov_inbox WHERE at < ? LIMIT ?)",
        (before, most),
    ).rowcount
