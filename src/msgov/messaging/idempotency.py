"""The same request asked twice is done once: its key is kept, with the reply, in the transaction of the effect.

For calls what `msgov.messaging.inbox` is for messages, with the rule of the IETF draft "The Idempotency-Key HTTP
Header Field": the same key with another body is a conflict, never a second effect.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from msgov.call import NO, PERMANENT
from msgov.clock import Clock, wall
from msgov.errors import MsgovError, RuleError
from msgov.messaging.message import Body, to_json
from msgov.messaging.transaction import Params

RETENTION = 86_400.0  # seconds: a client that asks again does so within the day
KEY_LIMIT = 255  # characters
REPLY_LIMIT = 256 * 1024  # bytes

TABLES = (
    """CREATE TABLE IF NOT EXISTS msgov_idempotency (
        name TEXT NOT NULL, key TEXT NOT NULL, digest BLOB NOT NULL, reply BLOB, at REAL NOT NULL,
        PRIMARY KEY (name, key)) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS msgov_idempotency_at ON msgov_idempotency (at)",
)


class KeyConflict(MsgovError):
    """This key came before with another body: nothing was done, and asking again will not help."""

    reason = "idempotency_conflict"
    verdict = PERMANENT
    sent = NO


@dataclass(frozen=True, slots=True)
class Kept:
    """What is known of a key that came before: its `reply`, None while the work is not finished (or broke off)."""

    reply: bytes | None


class Statements(Protocol):
    """Whatever runs a statement in the caller's transaction: a `Tx`, or the user's own."""

    async def execute(self, sql: str, params: Params = (), /) -> Sequence[Sequence[object]]:
        """Run one statement and return its rows."""
        ...


class Idempotency:
    """Keys of one operation, `name`, which tells them from those of another.

    ```python
    async with database.transaction() as tx:
        kept = await orders.begin(tx, key, request)   # KeyConflict: same key, other body
        if kept is None: ...                          # new: do it, in this transaction or in several
        await orders.finish(tx, key, reply)           # with the last of the effect
    ```

    Two requests at once: the second waits for the first one's transaction and then finds what it left. `retention` is
    how long a key is remembered, in seconds, default a day; `forget` removes older ones.
    """

    def __init__(self, name: str, *, retention: float = RETENTION, now: Clock = wall) -> None:
        self.name = name
        self.retention = retention
        self._now = now

    async def begin(self, tx: Statements, key: str, body: Body) -> Kept | None:
        """Take a key: None when it is new (and now ours), else what is kept of it.

        Raises `KeyConflict` when it came with another body, `RuleError` for a key that is empty or longer than 255.
        """
        if not 0 < len(key) <= KEY_LIMIT:
            raise RuleError.at("idempotency-key", key, f"1 to {KEY_LIMIT} characters")
        found = digest(body)
        rows = await tx.execute(
            "SELECT digest, reply FROM msgov_idempotency WHERE name = ? AND key = ?", (self.name, key)
        )
        if not rows:
            await tx.execute(
                "INSERT INTO msgov_idempotency VALUES (?, ?, ?, NULL, ?)", (self.name, key, found, self._now())
            )
            return None
        before, reply = rows[0]
        if before != found:
            raise KeyConflict(f"{self.name}: idempotency key {key!r} came before with another body", key=key)
        return Kept(reply if isinstance(reply, bytes) else None)

    async def finish(self, tx: Statements, key: str, reply: bytes) -> None:
        """Keep the reply; the first one stays. Raises `RuleError` beyond 256 KiB."""
        if len(reply) > REPLY_LIMIT:
            raise RuleError.at("idempotent reply", f"{len(reply)} bytes", f"at most {REPLY_LIMIT} bytes")
        await tx.execute(
            "UPDATE msgov_idempotency SET reply = ? WHERE name = ? AND key = ? AND reply IS NULL",
            (reply, self.name, key),
        )

    async def forget(self, tx: Statements, *, most: int = 1000) -> None:
        """Remove up to `most` keys of this operation that are older than the retention."""
        await tx.execute(
            "DELETE FROM msgov_idempotency WHERE (name, key) IN"
            " (SELECT name, key FROM msgov_idempotency WHERE at < ? AND name = ? LIMIT ?)",
            (self._now() - self.retention, self.name, most),
        )


def create_table(connection: sqlite3.Connection) -> None:
    """Make the table where it is not there yet, in the transaction of this connection."""
    for statement in TABLES:
        connection.execute(statement)


def digest(body: Body) -> bytes:
    """Return what tells one body from another; of a mapping, whatever the order of its keys."""
    if isinstance(body, Mapping):
        body = json.dumps(json.loads(to_json("idempotency", body)), sort_keys=True).encode()
    return hashlib.sha256(body).digest()
