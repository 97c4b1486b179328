"""How the registry lies in its file: who holds which lease, who watches what, what operators want.

A service has a revision, counted up with each change of its membership and not with each renewal, so that a watcher
that polls reads one number. The era is drawn anew with each new file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from secrets import randbits
from typing import Final

from msgov.discovery.instance import MOST
from msgov.discovery.leases import Override, Row
from msgov.errors import RuleError

SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS discovery_era (one INTEGER PRIMARY KEY CHECK (one = 1), era TEXT NOT NULL)",
    "INSERT OR IGNORE INTO discovery_era VALUES (1, hex(randomblob(8)))",
    "CREATE TABLE IF NOT EXISTS discovery_service (service TEXT PRIMARY KEY, revision INTEGER NOT NULL) WITHOUT ROWID",
    """CREATE TABLE IF NOT EXISTS discovery_lease (
        service TEXT, id TEXT, holder TEXT, record TEXT NOT NULL, beat INTEGER NOT NULL, ttl REAL NOT NULL,
        origin TEXT NOT NULL, PRIMARY KEY (service, id, holder)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS discovery_watcher (
        service TEXT, watcher TEXT, holder TEXT NOT NULL, seen INTEGER NOT NULL, beat INTEGER NOT NULL,
        origin TEXT NOT NULL, PRIMARY KEY (service, watcher)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS discovery_override (
        service TEXT, id TEXT, offline INTEGER NOT NULL, weight REAL, PRIMARY KEY (service, id)) WITHOUT ROWID""",
)


def put(connection: sqlite3.Connection, row: tuple[str, str, str], record: str, ttl: float, origin: str) -> int:
    """Write a lease under (service, id, holder) and return the revision; saying the same again is no change."""
    old = connection.execute(
        "SELECT beat, record FROM discovery_lease WHERE service = ? AND id = ? AND holder = ?", row
    ).fetchone()
    beat, before = old or (randbits(32), None)  # anywhere, so that a deleted lease never looks like its next one
    connection.execute(
        "INSERT OR REPLACE INTO discovery_lease VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, record, beat + 1, ttl, origin)
    )
    if before != record:
        bump(connection, row[0])
    return state(connection, row[0])[1]


def move(connection: sqlite3.Connection, row: tuple[str, str, str]) -> bool:
    """Move the counter of a lease; return whether it is there."""
    moved = connection.execute(
        "UPDATE discovery_lease SET beat = beat + 1 WHERE service = ? AND id = ? AND holder = ?", row
    )
    return moved.rowcount == 1


def delete(connection: sqlite3.Connection, service: str, ended: Sequence[tuple[str, str, int]]) -> None:
    """Delete leases by id, holder and counter; one that has moved since stays."""
    rows = [(service, *each) for each in ended]
    _delete(connection, "service = ? AND id = ? AND holder = ? AND beat = ?", rows)


def release(connection: sqlite3.Connection, row: tuple[str, str, str]) -> None:
    """Delete a lease by service, id and holder."""
    _delete(connection, "service = ? AND id = ? AND holder = ?", [row])


def _delete(connection: sqlite3.Connection, which: str, rows: Sequence[tuple[str | int, ...]]) -> None:
    deleted = connection.executemany(f"DELETE FROM discovery_lease WHERE {which}", rows)  # noqa: S608  ours, above
    if deleted.rowcount > 0:
        bump(connection, str(rows[0][0]))


def leases(connection: sqlite3.Connection, service: str) -> list[Row]:
    """Read the leases of a service; a bounded number, whatever somebody wrote into the file."""
    rows = connection.execute(
        "SELECT id, holder, record, beat, ttl, origin FROM discovery_lease WHERE service = ? LIMIT ?",
        (service, 2 * MOST),
    )
    return [Row(*row) for row in rows]


def wish(connection: sqlite3.Connection, service: str, name: str, override: Override | None) -> None:
    """Write what an operator wants of an instance, or take it back."""
    connection.execute("DELETE FROM discovery_override WHERE service = ? AND id = ?", (service, name))
    if override is not None:
        row = (service, name, override.offline, override.weight)
        connection.execute("INSERT INTO discovery_override VALUES (?, ?, ?, ?)", row)
    bump(connection, service)


def wishes(connection: sqlite3.Connection, service: str) -> dict[str, Override]:
    """Read what operators want, by id."""
    found = {}
    rows = connection.execute(
        "SELECT id, offline, weight FROM discovery_override WHERE service = ? LIMIT ?", (service, MOST)
    )
    for name, offline, weight in rows:
        with suppress(RuleError, TypeError):  # written past us: nobody's wish
            found[name] = Override(offline=bool(offline), weight=weight)
    return found


def tell(connection: sqlite3.Connection, row: tuple[str, str, str, int, str]) -> None:
    """Write (service, watcher, holder, seen, origin), and move the counters of all watchers of that holder."""
    connection.execute(
        "INSERT INTO discovery_watcher VALUES (?, ?, ?, ?, 0, ?) "
        "ON CONFLICT (service, watcher) DO UPDATE SET seen = excluded.seen",
        row,
    )
    connection.execute("UPDATE discovery_watcher SET beat = beat + 1 WHERE holder = ?", (row[2],))


def leave(connection: sqlite3.Connection, service: str, watchers: Sequence[str]) -> None:
    """Delete watchers."""
    connection.executemany(
        "DELETE FROM discovery_watcher WHERE service = ? AND watcher = ?", [(service, watcher) for watcher in watchers]
    )


def behind(connection: sqlite3.Connection, service: str, revision: int) -> list[tuple[str, int, str]]:
    """Return watcher, counter and origin of all that have not seen a revision."""
    return connection.execute(
        "SELECT watcher, beat, origin FROM discovery_watcher WHERE service = ? AND seen < ?", (service, revision)
    ).fetchall()


def state(connection: sqlite3.Connection, service: str) -> tuple[str, int]:
    """Return the registry's era and the service's revision."""
    era, revision = connection.execute(
        "SELECT era, (SELECT revision FROM discovery_service WHERE service = ?) FROM discovery_era", (service,)
    ).fetchone()
    return era, revision or 0


def bump(connection: sqlite3.Connection, service: str) -> None:
    """Count a change of a service."""
    connection.execute(
        "INSERT INTO discovery_service VALUES (?, 1) ON CONFLICT (service) DO UPDATE SET revision = revision + 1",
        (service,),
    )
