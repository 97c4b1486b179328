"""A password is kept as its scrypt hash, a token as its digest: who reads the database can be nobody."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .. import checks
from ..errors import AlreadyExists, Forbidden, Invalid, NotFound, Unauthenticated
from ..seams import Clock, Store, Tx

SCHEMA = """
CREATE TABLE IF NOT EXISTS users (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, password TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS user_roles (
  user_id TEXT NOT NULL REFERENCES users (id), role TEXT NOT NULL, PRIMARY KEY (user_id, role)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tokens (
  digest TEXT PRIMARY KEY, user_id TEXT NOT NULL REFERENCES users (id), expires REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tokens_by_age ON tokens (expires);
"""

_CUSTOMER = frozenset({"order.place", "order.read", "order.cancel"})
_CLERK = _CUSTOMER | {"order.read.any", "order.cancel.any", "order.ship", "product.put", "stock.receive"}
ROLES: Final[Mapping[str, frozenset[str]]] = {
    "customer": _CUSTOMER,
    "clerk": _CLERK,
    "admin": _CLERK | {"user.grant"},
}
LIFETIME = 8 * 3600.0  # seconds a token lives: one working day


@dataclass(frozen=True, slots=True)
class Account:
    """A registered user."""

    user_id: str
    name: str
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Session:
    """What logging in gives: the only place where a token stands in full."""

    token: str
    user_id: str
    expires_in: float


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a token speaks for."""

    user_id: str
    roles: tuple[str, ...]
    permissions: frozenset[str]


class Users:
    """Register, log in, verify, grant.

    `cost` is scrypt's N, a power of two. The default 2**14 takes 16 MiB and some 50 ms a password, so that two cores
    can log in a crowd; OWASP asks for 2**17 in production. `lifetime` is how many seconds a token lives, measured by
    `wall`, because it is stored.
    """

    def __init__(self, db: Store, *, cost: int = 2**14, lifetime: float = LIFETIME, wall: Clock = time.time) -> None:
        self._db = db
        self._cost = cost
        self._lifetime = lifetime
        self._wall = wall

    async def register(self, name: str, password: str, *, role: str = "customer") -> Account:
        """Add a user; raises `AlreadyExists` when the name is taken."""
        checks.matched("user name", name, checks.NAME, "3 to 32 of a-z, 0-9, '.', '_' and '-', a letter or digit first")
        checks.text("password", password, least=8, most=128)
        _known(role)
        hashed = await asyncio.to_thread(_hash, password, self._cost)
        account = Account(uuid.uuid4().hex, name, (role,))
        async with self._db.transaction() as tx:
            if await tx.execute("SELECT 1 FROM users WHERE name = ?", (name,)):
                raise AlreadyExists(f"the user name {name!r} is taken", reason="NAME_TAKEN")
            await tx.execute("INSERT INTO users VALUES (?, ?, ?)", (account.user_id, name, hashed))
            await tx.execute("INSERT INTO user_roles VALUES (?, ?)", (account.user_id, role))
        return account

    async def log_in(self, name: str, password: str) -> Session:
        """Give a token; raises `Unauthenticated`, the same and as late for an unknown name as for a wrong password."""
        if len(name) > 32 or len(password) > 128:
            raise Unauthenticated("name or password is wrong")
        rows = await self._db.fetch("SELECT id, password FROM users WHERE name = ?", (name,))
        stored = rows[0]["password"] if rows else _stand_in(self._cost)
        if not await asyncio.to_thread(_matches, password, stored) or not rows:
            raise Unauthenticated("name or password is wrong")
        session = Session(secrets.token_urlsafe(32), rows[0]["id"], self._lifetime)
        now = self._wall()
        async with self._db.transaction() as tx:
            await tx.execute("DELETE FROM tokens WHERE expires <= ?", (now,))
            await tx.execute(
                "INSERT INTO tokens VALUES (?, ?, ?)", (_digest(session.token), session.user_id, now + self._lifetime)
            )
        return session

    async def verify(self, token: str) -> Identity:
        """Say whom the token speaks for; raises `Unauthenticated` when it is unknown or expired."""
        rows = await self._db.fetch(
            "SELECT user_id, role FROM tokens JOIN user_roles USING (user_id) WHERE digest = ? AND expires > ?",
            (_digest(token), self._wall()),
        )
        if not rows:
            raise Unauthenticated("the token is unknown or has expired: log in again")
        roles = tuple(sorted(row["role"] for row in rows))
        return Identity(rows[0]["user_id"], roles, frozenset().union(*(ROLES[role] for role in roles)))

    async def grant(self, user_id: str, role: str, *, token: str) -> Account:
        """Give a role; raises `Forbidden` unless the token carries user.grant."""
        if "user.grant" not in (await self.verify(token)).permissions:
            raise Forbidden("granting a role needs the permission user.grant")
        _known(role)
        async with self._db.transaction() as tx:
            users = await tx.execute("SELECT name FROM users WHERE id = ?", (user_id,))
            if not users:
                raise NotFound("there is no such user")
            await tx.execute("INSERT OR IGNORE INTO user_roles VALUES (?, ?)", (user_id, role))
            return Account(user_id, users[0]["name"], await _roles(tx, user_id))


async def _roles(tx: Tx, user_id: str) -> tuple[str, ...]:
    rows = await tx.execute("SELECT role FROM user_roles WHERE user_id = ? ORDER BY role", (user_id,))
    return tuple(row["role"] for row in rows)


def _known(role: str) -> None:
    if role not in ROLES:
        raise Invalid(f"role {role[:40]!a} is unknown: {', '.join(ROLES)}")


def _digest(token: str) -> str:
    # A token is 256 random bits: a plain hash is enough, where a password needs a slow one.
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def _hash(password: str, cost: int) -> str:
    salt = secrets.token_bytes(16)
    return f"{cost}${salt.hex()}${_scrypt(password, salt, cost).hex()}"


def _matches(password: str, stored: str) -> bool:
    cost, salt, expected = stored.split("$")
    return hmac.compare_digest(_scrypt(password, bytes.fromhex(salt), int(cost)).hex(), expected)


def _stand_in(cost: int) -> str:
    return f"{cost}${bytes(16).hex()}$"


def _scrypt(password: str, salt: bytes, cost: int) -> bytes:
    # 128 * r * N bytes are needed; OpenSSL refuses to use more than maxmem.
    return hashlib.scrypt(
        password.encode("utf-8", "replace"), salt=salt, n=cost, r=8, p=1, maxmem=256 * 8 * cost + 2**20
    )
