"""Two instances, one killed at each place where it could hurt, and started again: the books are exact.

Real processes on real files. Laws: every order has one effect, in order per key; the outbox is empty; the dead letters
are the poison, exactly.
"""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from msgov.messaging.consumer import Consumer
from msgov.messaging.embedded import Embedded
from msgov.messaging.message import Message
from msgov.messaging.sqlite import Sqlite
from tests.messaging.children import environment
from tests.messaging.waiting import until
from tests.messaging.worker import KEYS, POISON, record

COUNT = 40

pytestmark = [pytest.mark.process, pytest.mark.slow]


@contextmanager
def instance(folder: Path, first: int, failpoints: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """Start an instance that places every second order, from `first` on; it is killed if it outlives the block."""
    command = [sys.executable, "-m", "tests.messaging.worker", str(folder), str(first), "2", str(COUNT)]
    with subprocess.Popen(command, env=environment(MSGOV_FAILPOINTS=failpoints)) as child:
        try:
            yield child
        finally:
            child.kill()


def effects(folder: Path) -> list[tuple[int, str]]:
    """Read the effects in the order in which they came to be."""
    connection = sqlite3.connect(folder / "audit.db")
    try:
        return connection.execute("SELECT n, key FROM effect ORDER BY id").fetchall()
    finally:
        connection.close()


def check(folder: Path) -> None:
    """See that the laws hold."""
    found = effects(folder)
    assert sorted(n for n, _ in found) == [n for n in range(COUNT) if n != POISON], "one effect each, none but theirs"
    orders = sqlite3.connect(folder / "orders.db")
    assert orders.execute("SELECT count(*) FROM placed").fetchone() == (COUNT,)
    assert orders.execute("SELECT count(*) FROM msgov_outbox").fetchone() == (0,)
    orders.close()

    async def letters() -> list[int]:
        async with Embedded(folder / "bus.db") as bus:
            return [int(letter.message.json()["n"]) for letter in await bus.letters()]  # type: ignore[call-overload]

    assert asyncio.run(letters()) == [POISON]
    for first in range(2):  # each instance placed its own in order: so they must have come, within a key
        for key in range(KEYS):
            line = [n for n, of in found if of == str(key) and n % 2 == first]
            assert line == sorted(line), f"key {key} was reordered"


@pytest.mark.parametrize(
    "point",
    [
        "outbox.after_claim",
        "outbox.after_publish_before_confirm",
        "outbox.after_confirm_before_mark",
        "inbox.after_begin",
        "inbox.after_effect_before_commit",
        "inbox.after_commit_before_ack",
        "dlq.after_publish_before_ack",
    ],
)
def test_kill_at_a_failpoint_loses_and_doubles_nothing(tmp_path: Path, point: str) -> None:
    """The other instance takes over, the new one goes on where the dead one was."""
    at = 1 if point.startswith("dlq") else 3
    mine = POISON % 2
    with instance(tmp_path, mine, f"{point}=kill@{at}") as doomed:
        assert doomed.wait(60) == -signal.SIGKILL, "the place was not reached"
    with instance(tmp_path, mine) as again, instance(tmp_path, 1 - mine) as other:
        assert again.wait(60) == 0
        assert other.wait(60) == 0
    check(tmp_path)


def test_instance_that_stops_while_it_publishes_reorders_nothing(tmp_path: Path) -> None:
    """Its lease runs out, another relay sends the same and more; what it sends late is known already."""
    with (
        instance(tmp_path, 0, "outbox.after_claim=sleep(2)@2;inbox.after_commit_before_ack=sleep(2)@9") as slow,
        instance(tmp_path, 1) as other,
    ):
        assert slow.wait(60) == 0
        assert other.wait(60) == 0
    check(tmp_path)


def test_replay_of_the_whole_topic_has_no_effects(tmp_path: Path) -> None:
    """Ids and inbox outlive the processes."""
    with instance(tmp_path, 0) as one, instance(tmp_path, 1) as two:
        assert one.wait(60) == 0
        assert two.wait(60) == 0
    before = effects(tmp_path)

    async def replay() -> None:
        bus_file = sqlite3.connect(tmp_path / "bus.db")
        rows = bus_file.execute("SELECT topic, body, key, id FROM bus_message ORDER BY seq").fetchall()
        bus_file.close()
        async with Embedded(tmp_path / "bus.db") as bus, Sqlite(tmp_path / "audit.db") as audit:
            messages = [Message(topic, body, key=key, id=number) for topic, body, key, number in rows]
            good = [message for message in messages if message.json()["n"] != POISON]
            assert len(good) >= COUNT - 1
            await bus.publish(*good)
            async with Consumer(bus, "order", record, group="audit", database=audit) as again:
                await until(lambda: again.duplicates == len(good))

    asyncio.run(replay())
    assert effects(tmp_path) == before
