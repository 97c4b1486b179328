"""A message is written in the transaction that makes it true, and sent from there: no event without its state.

Two tables and a lease in the user's own database. The functions take the connection that holds the transaction; a
`Relay` sends what has been committed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgov.call import NO, NOTHING
from msgov.clock import Clock, wall
from msgov.errors import DeliveryError
from msgov.messaging.message import Body, Message, decode_headers, encode_headers

LIMIT = 1_000_000  # messages not sent yet: with a bus that is away for that long, the state must not run on unheard

TABLES = (
    """CREATE TABLE IF NOT EXISTS msgov_outbox (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, topic TEXT NOT NULL, key TEXT NOT NULL,
        body BLOB NOT NULL, headers TEXT NOT NULL, stamp REAL NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS msgov_outbox_refused (
        seq INTEGER PRIMARY KEY, id TEXT NOT NULL, topic TEXT NOT NULL, key TEXT NOT NULL,
        body BLOB NOT NULL, headers TEXT NOT NULL, stamp REAL NOT NULL, cause TEXT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS msgov_outbox_lease (
        one INTEGER PRIMARY KEY CHECK (one = 1), holder TEXT NOT NULL, beat INTEGER NOT NULL)""",
)


class Row(NamedTuple):
    """One message as it stands in the outbox; `stamp` is when it was written, in seconds since 1970."""

    seq: int
    id: str
    topic: str
    key: str
    body: bytes
    headers: str
    stamp: float

    def message(self, now: float) -> Message:
        """Make the message that is sent at `now`: the time it has waited here is taken off its deadline."""
        made = Message(self.topic, self.body, key=self.key, id=self.id, headers=decode_headers(self.headers))
        return made.aged(now - self.stamp)


class Batch(NamedTuple):
    """What a relay may send now: nothing when another one, `holder`, is at it; `lost` when that one took our place."""

    rows: list[Row]
    holder: str
    beat: int
    lost: bool = False


def create_table(connection: sqlite3.Connection) -> None:
    """Make the outbox's tables where they are not there yet, in the transaction of this connection."""
    for statement in TABLES:
        connection.execute(statement)


def publish(
    connection: sqlite3.Connection,
    topic: str,
    body: Body,
    *,
    key: str = "",
    headers: Mapping[str, str] = NOTHING,
    source: str = "",
    expires: float | None = None,
    now: Clock = wall,
) -> Message:
    """Write a message in the transaction of this connection; it is sent if, and only if, that commits.

    Messages of one key are sent in the order they were written. The arguments are those of `Message.of`, and so is the
    error, `Poison`. Raises `DeliveryError` when a million messages wait already.
    """
    message = Message.of(topic, body, key=key, headers=headers, source=source, expires=expires, now=now)
    put(connection, message, now())
    return message


def put(connection: sqlite3.Connection, message: Message, stamp: float) -> None:
    """Write a message that is made already; `stamp` is the time, in seconds since 1970."""
    pending, _ = backlog(connection)
    if pending >= LIMIT:
        raise DeliveryError(f"{message.topic}: the outbox holds {pending} messages that the bus did not take", sent=NO)
    connection.execute(*insert(message, stamp))


def insert(message: Message, stamp: float) -> tuple[str, tuple[object, ...]]:
    """Return the statement, with its parameters, that writes a message: for whoever runs his statements himself."""
    return (
        "INSERT INTO msgov_outbox (id, topic, key, body, headers, stamp) VALUES (?, ?, ?, ?, ?, ?)",
        (message.id, message.topic, message.key, message.body, encode_headers(message), stamp),
    )


def backlog(connection: sqlite3.Connection) -> tuple[int, float | None]:
    """Return how many messages wait to be sent, and the stamp of the oldest; rows leave in order, so it is exact."""
    first = connection.execute("SELECT seq, stamp FROM msgov_outbox ORDER BY seq LIMIT 1").fetchone()
    if first is None:
        return 0, None
    (last,) = connection.execute("SELECT max(seq) FROM msgov_outbox").fetchone()
    return int(last - first[0] + 1), float(first[1])


def lease(connection: sqlite3.Connection) -> tuple[str, int]:
    """Return who sends at this moment, "" for nobody, and the counter that it moves."""
    row = connection.execute("SELECT holder, beat FROM msgov_outbox_lease").fetchone()
    return ("", 0) if row is None else (str(row[0]), int(row[1]))


def advance(
    connection: sqlite3.Connection, me: str, *, done: Sequence[int], most: int, dead: tuple[str, int] = ("", 0)
) -> Batch:
    """Strike off what was sent, then claim the next messages; with none left, make room for other relays.

    Only one relay sends at a time, so none overtakes another. `dead` is a holder, with its counter, whose place may be
    taken. What a relay sent after it had lost its place stays: whoever took over sends it again.
    """
    holder, beat = lease(connection)
    if holder == me:
        connection.executemany("DELETE FROM msgov_outbox WHERE seq = ?", [(seq,) for seq in done])
    elif holder and (holder, beat) != dead:
        return Batch([], holder, beat, lost=bool(done))
    rows = [
        Row(*row)
        for row in connection.execute(
            "SELECT seq, id, topic, key, body, headers, stamp FROM msgov_outbox ORDER BY seq LIMIT ?", (most,)
        )
    ]
    lost = bool(done) and holder != me
    connection.execute(
        "INSERT INTO msgov_outbox_lease VALUES (1, ?, ?)"
        " ON CONFLICT (one) DO UPDATE SET holder = excluded.holder, beat = excluded.beat",
        (me if rows else "", beat + 1),
    )
    return Batch(rows, me if rows else "", beat + 1, lost)


def renew(connection: sqlite3.Connection, me: str) -> bool:
    """Move the counter while sending takes long; False when another has taken our place."""
    return bool(connection.execute("UPDATE msgov_outbox_lease SET beat = beat + 1 WHERE holder = ?", (me,)).rowcount)


def vacate(connection: sqlite3.Connection, me: str) -> None:
    """Make room for other relays."""
    connection.execute("UPDATE msgov_outbox_lease SET holder = '', beat = beat + 1 WHERE holder = ?", (me,))


def refuse(connection: sqlite3.Connection, me: str, seq: int, cause: str) -> bool:
    """Set a message aside that the bus can never take, so that it blocks no other; False without the lease."""
    if lease(connection)[0] != me:
        return False
    connection.execute(
        "INSERT OR IGNORE INTO msgov_outbox_refused SELECT seq, id, topic, key, body, headers, stamp, ?"
        " FROM msgov_outbox WHERE seq = ?",
        (cause[:1000], seq),
    )
    connection.execute("DELETE FROM msgov_outbox WHERE seq = ?", (seq,))
    return True
