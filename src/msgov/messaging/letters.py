"""A dead letter keeps the message, the cause and the count, until somebody drives it back to the group that gave up.

The tables stand beside those of `msgov.messaging.tables`, so a letter is written as its message is settled: both or
neither.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from msgov.failpoint import failpoint
from msgov.messaging.bus import CAUSE_LIMIT, Delivery, Letter
from msgov.messaging.message import Message, decode_headers, encode_headers
from msgov.messaging.tables import Moment, bells, settle

KEPT = 100_000  # letters; the oldest go beyond that: a store of errors must not fill the disk
PAGE = 1000  # letters shown at once

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS bus_dead (
        number INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, name TEXT NOT NULL, id TEXT NOT NULL,
        key TEXT NOT NULL, body BLOB NOT NULL, headers TEXT NOT NULL, reason TEXT NOT NULL, cause TEXT NOT NULL,
        attempts INTEGER NOT NULL, at REAL NOT NULL, UNIQUE (topic, name, id))""",
)


def bury(connection: sqlite3.Connection, delivery: Delivery, reason: str, cause: str, at: Moment) -> bool:
    """Settle a message as a dead letter, one for each id however often it came; False if the claim was lost."""
    message = delivery.message
    row = connection.execute(
        "SELECT name FROM bus_holder JOIN bus_reader USING (reader) WHERE holder = ?", (delivery.holder,)
    ).fetchone()
    if row is None or not settle(connection, delivery):
        return False
    connection.execute(
        "INSERT INTO bus_dead (topic, name, id, key, body, headers, reason, cause, attempts, at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (topic, name, id) DO UPDATE SET"
        " reason = excluded.reason, cause = excluded.cause, attempts = excluded.attempts, at = excluded.at",
        (
            message.topic,
            row[0],
            message.id,
            message.key,
            message.body,
            encode_headers(message),
            reason,
            cause[:CAUSE_LIMIT],
            delivery.attempt,
            at.wall,
        ),
    )
    connection.execute("DELETE FROM bus_dead WHERE number <= (SELECT max(number) FROM bus_dead) - ?", (KEPT,))
    failpoint("dlq.after_publish_before_ack")
    return True


def page(connection: sqlite3.Connection, *, topic: str, group: str, after: int, most: int) -> list[Letter]:
    """List letters with a number above `after`; "" stands for any topic or group."""
    rows = connection.execute(
        "SELECT number, name, topic, body, key, id, headers, reason, cause, attempts, at FROM bus_dead"
        " WHERE number > ? AND ? IN ('', topic) AND ? IN ('', name) ORDER BY number LIMIT ?",
        (after, topic, group, max(0, min(most, PAGE))),
    )
    return [
        Letter(
            number,
            name,
            Message(about, body, key=key, id=message_id, headers=decode_headers(headers)),
            reason,
            cause,
            attempts,
            at,
        )
        for number, name, about, body, key, message_id, headers, reason, cause, attempts, at in rows
    ]


def redrive(connection: sqlite3.Connection, numbers: Sequence[int], at: Moment) -> tuple[int, list[str]]:
    """Append dead letters to their topics again, for the group that gave them up; return how many, and the bells."""
    topics: dict[str, None] = {}
    driven = 0
    for number in numbers:
        row = connection.execute(
            "SELECT topic, reader FROM bus_dead JOIN bus_reader USING (topic, name) WHERE number = ?", (number,)
        ).fetchone()
        if row is None:
            continue
        topic, reader = row
        connection.execute(
            "INSERT INTO bus_message (topic, id, key, body, headers, stamp, sent, epoch, audience)"
            " SELECT topic, id, key, body, headers, ?, ?, ?, ? FROM bus_dead WHERE number = ?",
            (at.wall, at.mono, at.epoch, reader, number),
        )
        connection.execute("DELETE FROM bus_dead WHERE number = ?", (number,))
        topics[topic] = None
        driven += 1
    return driven, bells(connection, topics)
