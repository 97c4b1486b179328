"""Users are known by their password, and trusted by their token, for as long as it lives."""

from __future__ import annotations

from pathlib import Path

import pytest

from shop.errors import AlreadyExists, Forbidden, Invalid, NotFound, Unauthenticated
from shop.user.service import ROLES, Users
from tests.shop.town import Town, in_town

PASSWORD = "correct horse"


def test_a_registered_user_logs_in_and_is_verified(tmp_path: Path) -> None:
    """A customer may order, and no more."""

    async def story(town: Town) -> None:
        account = await town.users.register("ann", PASSWORD)
        session = await town.users.log_in("ann", PASSWORD)
        who = await town.users.verify(session.token)
        assert who.user_id == account.user_id == session.user_id
        assert who.roles == ("customer",)
        assert who.permissions == ROLES["customer"]
        assert "order.ship" not in who.permissions

    in_town(tmp_path, story)


def test_neither_password_nor_token_stands_in_the_database(tmp_path: Path) -> None:
    """Who steals the file can be nobody."""

    async def story(town: Town) -> str:
        await town.users.register("ann", PASSWORD)
        return (await town.users.log_in("ann", PASSWORD)).token

    token = in_town(tmp_path, story)
    raw = b"".join(path.read_bytes() for path in tmp_path.glob("user.db*"))
    assert PASSWORD.encode() not in raw
    assert token.encode() not in raw
    assert b"ann" in raw


def test_the_same_password_is_stored_differently(tmp_path: Path) -> None:
    """A salt of its own each time: equal hashes would tell who shares a password."""

    async def story(town: Town) -> None:
        for name in ("ann", "bob"):
            await town.users.register(name, PASSWORD)
        rows = await town.stores["user"].fetch("SELECT DISTINCT password FROM users")
        assert len(rows) == 2

    in_town(tmp_path, story)


@pytest.mark.parametrize(
    ("name", "password"),
    [("ann", "wrong horse"), ("bob", PASSWORD), ("", ""), ("x" * 99, PASSWORD), ("ann", "x" * 999), ("ann", "\ud800")],
)
def test_wrong_name_and_wrong_password_look_the_same(tmp_path: Path, name: str, password: str) -> None:
    """The answer must not tell which names exist."""

    async def story(town: Town) -> None:
        await town.users.register("ann", PASSWORD)
        with pytest.raises(Unauthenticated, match=r"^name or password is wrong$"):
            await town.users.log_in(name, password)

    in_town(tmp_path, story)


def test_a_token_expires(tmp_path: Path) -> None:
    """And is swept out at the next login, so that the table does not grow for ever."""

    async def story(town: Town) -> None:
        now = 1_000.0
        users = Users(town.stores["user"], cost=2, lifetime=60.0, wall=lambda: now)
        await users.register("ann", PASSWORD)
        old = await users.log_in("ann", PASSWORD)
        now = 1_059.9
        await users.verify(old.token)
        now = 1_060.0
        with pytest.raises(Unauthenticated):
            await users.verify(old.token)
        await users.log_in("ann", PASSWORD)
        assert len(await town.stores["user"].fetch("SELECT * FROM tokens")) == 1

    in_town(tmp_path, story)


def test_a_name_is_given_once(tmp_path: Path) -> None:
    """The second is told so, whatever the password."""

    async def story(town: Town) -> None:
        await town.users.register("ann", PASSWORD)
        with pytest.raises(AlreadyExists):
            await town.users.register("ann", "another horse")

    in_town(tmp_path, story)


def test_only_an_admin_grants_roles(tmp_path: Path) -> None:
    """The permission comes with the token, not with the request."""

    async def story(town: Town) -> None:
        ann = await town.users.register("ann", PASSWORD)
        await town.users.register("root", PASSWORD, role="admin")
        hers = (await town.users.log_in("ann", PASSWORD)).token
        admins = (await town.users.log_in("root", PASSWORD)).token
        with pytest.raises(Forbidden):
            await town.users.grant(ann.user_id, "clerk", token=hers)
        for _ in range(2):
            assert (await town.users.grant(ann.user_id, "clerk", token=admins)).roles == ("clerk", "customer")
        assert "order.ship" in (await town.users.verify(hers)).permissions
        with pytest.raises(Invalid, match="customer, clerk, admin"):
            await town.users.grant(ann.user_id, "king", token=admins)
        with pytest.raises(NotFound):
            await town.users.grant("nobody", "clerk", token=admins)

    in_town(tmp_path, story)


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("an", PASSWORD),
        ("a" * 33, PASSWORD),
        ("Ann", PASSWORD),
        ("an n", PASSWORD),
        ("ann\n", PASSWORD),
        ("ann", "short"),
        ("ann", "x" * 129),
        ("ann", "lone half \ud800"),
        ("ann", "nul \0 inside"),
    ],
)
def test_bad_names_and_passwords_are_refused(tmp_path: Path, name: str, password: str) -> None:
    """Before anything is hashed or stored."""

    async def story(town: Town) -> None:
        with pytest.raises(Invalid):
            await town.users.register(name, password)
        assert not await town.stores["user"].fetch("SELECT * FROM users")

    in_town(tmp_path, story)
