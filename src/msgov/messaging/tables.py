"""What a bus remembers, as tables: every step is one function of a connection and a moment, and none of them waits.

A group reads a topic by a cursor. What the cursor has passed and the group has not settled stands in `bus_pending`: of
each key the oldest is ready (1) or held by a consumer (2), the others stand behind it (0). So a key blocks only itself,
and a claim looks at nothing but what can be claimed. One writer at a time, so sequence numbers grow with commits.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from msgov.call import NO
from msgov.errors import DeliveryError
from msgov.messaging.bus import LONGEST_DELAY, Delivery
from msgov.messaging.message import Message, decode_headers, encode_headers

CHUNK = 256  # messages that a cursor moves on at once
CHUNKS = 16  # times it does so in one claim: behind a blocked key may stand many of the same
LAG_LIMIT = 100_000

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS bus_boot (epoch INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE)",
    "CREATE TABLE IF NOT EXISTS bus_topic (name TEXT PRIMARY KEY) WITHOUT ROWID",
    """CREATE TABLE IF NOT EXISTS bus_message (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, id TEXT NOT NULL, key TEXT NOT NULL,
        body BLOB NOT NULL, headers TEXT NOT NULL, stamp REAL NOT NULL, sent REAL NOT NULL, epoch INTEGER NOT NULL,
        audience INTEGER NOT NULL DEFAULT 0)""",
    "CREATE INDEX IF NOT EXISTS bus_message_topic ON bus_message (topic, seq)",
    """CREATE TABLE IF NOT EXISTS bus_reader (
        reader INTEGER PRIMARY KEY, topic TEXT NOT NULL, name TEXT NOT NULL, cursor INTEGER NOT NULL DEFAULT 0,
        UNIQUE (topic, name))""",
    """CREATE TABLE IF NOT EXISTS bus_pending (
        reader INTEGER NOT NULL, seq INTEGER NOT NULL, key TEXT NOT NULL, state INTEGER NOT NULL, due REAL NOT NULL,
        attempt INTEGER NOT NULL DEFAULT 0, holder TEXT NOT NULL DEFAULT '',
        PRIMARY KEY (reader, seq)) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS bus_pending_ready ON bus_pending (reader, due, seq) WHERE state = 1",
    "CREATE INDEX IF NOT EXISTS bus_pending_key ON bus_pending (reader, key, seq) WHERE key <> ''",
    "CREATE INDEX IF NOT EXISTS bus_pending_held ON bus_pending (holder) WHERE state = 2",
    """CREATE TABLE IF NOT EXISTS bus_holder (
        holder TEXT PRIMARY KEY, reader INTEGER NOT NULL, beat INTEGER NOT NULL, bell TEXT NOT NULL) WITHOUT ROWID""",
)


class Moment(NamedTuple):
    """When something happens: `mono` for due times, `wall` for stamps, and the `epoch` (boot) that `mono` counts in."""

    mono: float
    wall: float
    epoch: int


class Lost(DeliveryError):
    """This consumer is no longer known to the bus: its lease ran out, or the file was replaced. Join again."""

    reason = "claim_lost"


def wake(connection: sqlite3.Connection, boot: str, mono: float) -> int:
    """Return the number of this boot; the first to come after a reboot drops the claims and delays of the last one."""
    row = connection.execute("SELECT epoch FROM bus_boot WHERE id = ?", (boot,)).fetchone()
    if row is not None:  # where the system does not tell its boots apart: no delay is longer than this
        connection.execute("UPDATE bus_pending SET due = 0 WHERE due > ?", (mono + LONGEST_DELAY,))
        return int(row[0])
    connection.execute("DELETE FROM bus_boot")
    connection.execute("DELETE FROM bus_holder")
    connection.execute("UPDATE bus_pending SET state = 1, holder = '' WHERE state = 2")
    connection.execute("UPDATE bus_pending SET due = 0")
    return int(connection.execute("INSERT INTO bus_boot (id) VALUES (?)", (boot,)).lastrowid or 0)


def publish(connection: sqlite3.Connection, messages: Sequence[Message], at: Moment, *, capacity: int) -> list[str]:
    """Append messages; return the bells of those who read their topics. Raises `DeliveryError` beyond the capacity."""
    held = span(connection)
    if held > capacity // 2:
        held -= sweep(connection, before=at.wall, capacity=capacity, most=2 * len(messages) + 10)
    if held + len(messages) > capacity:
        raise DeliveryError(
            f"the bus holds {held} messages of at most {capacity}, since a group does not settle them",
            sent=NO,
            held=held,
        )
    topics = dict.fromkeys(message.topic for message in messages)
    connection.executemany("INSERT OR IGNORE INTO bus_topic VALUES (?)", [(topic,) for topic in topics])
    connection.executemany(
        "INSERT INTO bus_message (topic, id, key, body, headers, stamp, sent, epoch) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [(m.topic, m.id, m.key, m.body, encode_headers(m), at.wall, at.mono, at.epoch) for m in messages],
    )
    return bells(connection, topics)


def bells(connection: sqlite3.Connection, topics: Iterable[str]) -> list[str]:
    """Return the bells of those who read these topics."""
    found: dict[str, None] = {}
    for topic in topics:
        rows = connection.execute(
            "SELECT DISTINCT bell FROM bus_holder JOIN bus_reader USING (reader) WHERE topic = ? AND bell <> ''",
            (topic,),
        )
        found |= dict.fromkeys(bell for (bell,) in rows)
    return list(found)


def span(connection: sqlite3.Connection) -> int:
    """Return how many messages are kept, at most: numbers from the oldest to the newest."""
    (first,) = connection.execute("SELECT min(seq) FROM bus_message").fetchone()
    (last,) = connection.execute("SELECT max(seq) FROM bus_message").fetchone()
    return 0 if first is None else int(last - first + 1)


def join(connection: sqlite3.Connection, topic: str, group: str, holder: str, bell: str) -> None:
    """Enter a consumer into its group; a group that is new begins with the oldest message kept."""
    connection.execute("INSERT OR IGNORE INTO bus_reader (topic, name) VALUES (?, ?)", (topic, group))
    connection.execute(
        "INSERT INTO bus_holder SELECT ?, reader, 0, ? FROM bus_reader WHERE topic = ? AND name = ?",
        (holder, bell, topic, group),
    )


def leave(connection: sqlite3.Connection, holder: str, now: float) -> None:
    """Strike a consumer off; what it held goes back and does not count as an attempt."""
    connection.execute("DELETE FROM bus_holder WHERE holder = ?", (holder,))
    connection.execute(
        "UPDATE bus_pending SET state = 1, holder = '', due = ?, attempt = attempt - 1 WHERE holder = ? AND state = 2",
        (now, holder),
    )


def beat(connection: sqlite3.Connection, holder: str) -> dict[str, int]:
    """Move a consumer's counter; return the counters of the others in its group. Raises `Lost`."""
    reader, _, _ = _reading(connection, holder)
    connection.execute("UPDATE bus_holder SET beat = beat + 1 WHERE holder = ?", (holder,))
    rows = connection.execute("SELECT holder, beat FROM bus_holder WHERE reader = ? AND holder <> ?", (reader, holder))
    return {str(other): int(count) for other, count in rows}


def reap(connection: sqlite3.Connection, holder: str, count: int, now: float) -> str | None:
    """Strike off a consumer whose counter still stands at `count` and free its claims; return its bell, None if not."""
    row = connection.execute("SELECT bell FROM bus_holder WHERE holder = ? AND beat = ?", (holder, count)).fetchone()
    if row is None:
        return None
    connection.execute("DELETE FROM bus_holder WHERE holder = ?", (holder,))
    connection.execute(
        "UPDATE bus_pending SET state = 1, holder = '', due = ? WHERE holder = ? AND state = 2", (now, holder)
    )
    return str(row[0])


def look(connection: sqlite3.Connection, holder: str, now: float) -> float | None:
    """Return the seconds until something can be claimed: 0 for now, None when nothing is in sight. Raises `Lost`."""
    reader, topic, cursor = _reading(connection, holder)
    (due,) = connection.execute("SELECT min(due) FROM bus_pending WHERE reader = ? AND state = 1", (reader,)).fetchone()
    if due is not None and due <= now:
        return 0.0
    fresh = connection.execute("SELECT 1 FROM bus_message WHERE topic = ? AND seq > ? LIMIT 1", (topic, cursor))
    if fresh.fetchone() is not None:
        return 0.0
    return None if due is None else float(due - now)


def claim(connection: sqlite3.Connection, holder: str, most: int, at: Moment) -> list[Delivery]:
    """Hand out up to `most` messages, those that are due longest first. Raises `Lost`."""
    reader, topic, cursor = _reading(connection, holder)
    for _ in range(CHUNKS):
        rows = connection.execute(
            "SELECT seq FROM bus_pending WHERE reader = ? AND state = 1 AND due <= ? ORDER BY due, seq LIMIT ?",
            (reader, at.mono, most),
        ).fetchall()
        if len(rows) == most:
            break
        moved = _take_in(connection, reader, topic, cursor, at.mono)
        if moved == cursor:
            break
        cursor = moved
    return [_hand_out(connection, reader, seq, holder, at) for (seq,) in rows]


def settle(connection: sqlite3.Connection, delivery: Delivery) -> bool:
    """Strike a message off its group's list, and let the next of its key be claimed; False if the claim was lost."""
    reader = _claimed(connection, delivery)
    if reader is None:
        return False
    connection.execute("DELETE FROM bus_pending WHERE reader = ? AND seq = ?", (reader, delivery.number))
    key = delivery.message.key
    if key:
        connection.execute(
            "UPDATE bus_pending SET state = 1 WHERE reader = ? AND state = 0 AND seq ="
            " (SELECT min(seq) FROM bus_pending WHERE reader = ? AND key = ? AND key <> '')",
            (reader, reader, key),
        )
    return True


def again(connection: sqlite3.Connection, delivery: Delivery, due: float, *, counted: bool) -> bool:
    """Put a message back until `due`; False if the claim was lost."""
    reader = _claimed(connection, delivery)
    if reader is None:
        return False
    connection.execute(
        "UPDATE bus_pending SET state = 1, holder = '', due = ?, attempt = attempt - ? WHERE reader = ? AND seq = ?",
        (due, 0 if counted else 1, reader, delivery.number),
    )
    return True


def lag(connection: sqlite3.Connection, holder: str) -> int:
    """Count what the consumer's group has not settled, up to a limit. Raises `Lost`."""
    reader, topic, cursor = _reading(connection, holder)
    (pending,) = connection.execute(
        "SELECT count(*) FROM (SELECT 1 FROM bus_pending WHERE reader = ? LIMIT ?)", (reader, LAG_LIMIT)
    ).fetchone()
    (unread,) = connection.execute(
        "SELECT count(*) FROM (SELECT 1 FROM bus_message WHERE topic = ? AND seq > ? AND audience IN (0, ?) LIMIT ?)",
        (topic, cursor, reader, LAG_LIMIT),
    ).fetchone()
    return min(LAG_LIMIT, int(pending) + int(unread))


def sweep(connection: sqlite3.Connection, *, before: float, capacity: int, most: int = 500) -> int:
    """Remove up to `most` messages of each topic that all its groups have settled; return how many.

    Those go that are stamped before `before`, and the younger ones too once half of the capacity is taken.
    """
    crowded = span(connection) > capacity // 2
    removed = 0
    for (topic,) in connection.execute("SELECT name FROM bus_topic").fetchall():
        rows = connection.execute(
            "SELECT seq, stamp FROM bus_message WHERE topic = ? ORDER BY seq LIMIT ?", (topic, most)
        ).fetchall()
        floor = _floor(connection, topic)
        old = [(seq,) for seq, stamp in rows if (floor is None or seq < floor) and (crowded or stamp < before)]
        connection.executemany("DELETE FROM bus_message WHERE seq = ?", old)
        removed += len(old)
    return removed


def _floor(connection: sqlite3.Connection, topic: str) -> int | None:
    """Return the oldest number that some group of the topic has not settled; None when no group reads it."""
    lowest: int | None = None
    for reader, cursor in connection.execute(
        "SELECT reader, cursor FROM bus_reader WHERE topic = ?", (topic,)
    ).fetchall():
        (first,) = connection.execute("SELECT min(seq) FROM bus_pending WHERE reader = ?", (reader,)).fetchone()
        floor = int(cursor) + 1 if first is None else int(first)
        lowest = floor if lowest is None else min(lowest, floor)
    return lowest


def _reading(connection: sqlite3.Connection, holder: str) -> tuple[int, str, int]:
    row = connection.execute(
        "SELECT reader, topic, cursor FROM bus_holder JOIN bus_reader USING (reader) WHERE holder = ?", (holder,)
    ).fetchone()
    if row is None:
        raise Lost(f"consumer {holder} is not known any more", sent=NO)
    return int(row[0]), str(row[1]), int(row[2])


def _claimed(connection: sqlite3.Connection, delivery: Delivery) -> int | None:
    """Return the reader whose message this is, if this delivery still holds it."""
    row = connection.execute(
        "SELECT reader FROM bus_pending WHERE holder = ? AND state = 2 AND seq = ? AND attempt = ?",
        (delivery.holder, delivery.number, delivery.attempt),
    ).fetchone()
    return None if row is None else int(row[0])


def _take_in(connection: sqlite3.Connection, reader: int, topic: str, cursor: int, now: float) -> int:
    """Move a cursor on by a chunk; return where it stands."""
    rows = connection.execute(
        "SELECT seq, key, audience FROM bus_message WHERE topic = ? AND seq > ? ORDER BY seq LIMIT ?",
        (topic, cursor, CHUNK),
    ).fetchall()
    for seq, key, audience in rows:
        if audience in (0, reader):
            ahead = (
                key
                and connection.execute(
                    "SELECT 1 FROM bus_pending WHERE reader = ? AND key = ? AND key <> '' LIMIT 1", (reader, key)
                ).fetchone()
            )
            connection.execute(
                "INSERT INTO bus_pending (reader, seq, key, state, due) VALUES (?, ?, ?, ?, ?)",
                (reader, seq, key, 0 if ahead else 1, now),
            )
    if rows:
        cursor = int(rows[-1][0])
        connection.execute("UPDATE bus_reader SET cursor = ? WHERE reader = ?", (cursor, reader))
    return cursor


def _hand_out(connection: sqlite3.Connection, reader: int, seq: int, holder: str, at: Moment) -> Delivery:
    connection.execute(
        "UPDATE bus_pending SET state = 2, holder = ?, attempt = attempt + 1 WHERE reader = ? AND seq = ?",
        (holder, reader, seq),
    )
    topic, number, key, body, headers, stamp, sent, epoch, attempt = connection.execute(
        "SELECT topic, id, m.key, body, headers, stamp, sent, epoch, attempt"
        " FROM bus_pending p JOIN bus_message m USING (seq) WHERE reader = ? AND seq = ?",
        (reader, seq),
    ).fetchone()
    age = at.mono - sent if epoch == at.epoch else at.wall - stamp
    message = Message(topic, body, key=key, id=number, headers=decode_headers(headers))
    return Delivery(message, int(attempt), max(0.0, age), seq, holder)
