from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from msgov.messaging import inbox
from msgov.messaging.transaction import Duplicate, Once


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    """Give a plain connection with the table in it."""
    connection = sqlite3.connect(":memory:")
    inbox.create_table(connection)
    inbox.create_table(connection)
    yield connection
    connection.close()


def test_entry_that_is_rolled_back_was_never_there(db: sqlite3.Connection) -> None:
    """Marking a message before its effect commits is how deduplicators lose messages."""
    once = Once("g", ("id 1",))
    with pytest.raises(KeyError), db:
        inbox.enter(db, once, 0)
        raise KeyError
    assert not inbox.handled(db, once)
    with db:
        inbox.enter(db, once, 0)
    assert inbox.handled(db, once)
    with pytest.raises(Duplicate):
        inbox.enter(db, once, 1)


def test_group_is_part_of_the_entry(db: sqlite3.Connection) -> None:
    """Or one group's effect would be another's duplicate."""
    inbox.enter(db, Once("g", ("id 1",)), 0)
    assert not inbox.handled(db, Once("h", ("id 1",)))


def test_forgetting_goes_by_age_and_in_parts(db: sqlite3.Connection) -> None:
    """A million at once would hold the lock for seconds."""
    for number in range(10):
        inbox.enter(db, Once("g", (str(number),)), number)
    assert inbox.forget(db, 5, most=3) == 3
    assert inbox.forget(db, 5, most=3) == 2
    assert inbox.forget(db, 5) == 0
    assert [inbox.handled(db, Once("g", (str(n),))) for n in (4, 5)] == [False, True]
