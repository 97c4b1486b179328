from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from msgov.errors import DeliveryError, RuleError
from msgov.messaging import bus as messaging
from msgov.messaging.embedded import Embedded
from msgov.messaging.message import Message
from msgov.messaging.tables import Lost
from msgov.testing import no_leaks
from tests.contract.messaging import BusContract, bodies, take
from tests.messaging.children import environment
from tests.messaging.waiting import until

LEASE = 0.5

HOLDER = """
import asyncio, sys
from msgov.messaging.embedded import Embedded
async def main():
    async with Embedded(sys.argv[1], lease=0.5) as bus, bus.subscribe("t", group="g") as group:
        got = await group.fetch(1, wait=10)
        print(got[0].message.body.decode(), flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """Name a file in a short folder with a blank, so that its bell lies beside it."""
    with tempfile.TemporaryDirectory(prefix="m ", dir="/tmp") as name:
        yield Path(name) / "the bus.db"


class TestEmbedded(BusContract):
    def make(self, folder: Path, *, capacity: int = 10_000) -> Embedded:
        return Embedded(folder / "a bus.db", capacity=capacity, lease=1.0)


def test_message_is_there_after_a_restart(path: Path) -> None:
    """Published means on disk."""

    async def main() -> None:
        async with no_leaks():
            async with messaging.open(f"embedded:{path}") as bus:
                await bus.publish(Message("t", b"kept"))
            async with messaging.open(f"embedded:{path}") as bus, bus.subscribe("t", group="g") as group:
                assert bodies(await take(group, 1)) == [b"kept"]

    asyncio.run(main())


def test_nothing_but_the_database_stays_behind(path: Path) -> None:
    """A socket's file left behind is found by nobody."""

    async def main() -> None:
        async with Embedded(path) as bus, bus.subscribe("t", group="g"):
            assert len(list(path.parent.glob("*.bell"))) == 1

    asyncio.run(main())
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_message_of_another_process_arrives_at_once(path: Path) -> None:
    """The bell, not the poll, wakes a waiting consumer."""
    script = (
        "import asyncio, sys\n"
        "from msgov.messaging.embedded import Embedded\n"
        "from msgov.messaging.message import Message\n"
        "async def main():\n"
        "    async with Embedded(sys.argv[1]) as bus:\n"
        "        await bus.publish(Message('t', b'from afar'))\n"
        "asyncio.run(main())\n"
    )

    async def main() -> None:
        async with Embedded(path) as bus, bus.subscribe("t", group="g") as group:
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-c", script, os.fspath(path), env=environment()
            )
            assert bodies(await take(group, 1)) == [b"from afar"]
            assert await child.wait() == 0

    asyncio.run(main())


@pytest.mark.process
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_claim_of_a_dead_or_stopped_process_goes_to_another(path: Path, how: signal.Signals) -> None:
    """Nobody tells that it died; the lease does."""

    async def main() -> None:
        async with Embedded(path, lease=LEASE) as bus:
            await bus.publish(Message("t", b"x", key="k"), Message("t", b"y", key="k"))
            command = [sys.executable, "-c", HOLDER, path]
            out = subprocess.PIPE
            with subprocess.Popen(command, stdout=out, text=True, env=environment()) as child:  # noqa: ASYNC220  quick
                try:
                    assert child.stdout is not None
                    assert await asyncio.to_thread(child.stdout.readline) == "x\n"
                    child.send_signal(how)
                    async with bus.subscribe("t", group="g") as group:
                        (again,) = await take(group, 1)
                        assert (again.message.body, again.attempt) == (b"x", 2)
                        assert bodies(await take(group, 1)) == [b"y"]
                finally:
                    child.kill()

    asyncio.run(main())
    assert list(path.parent.glob("*.bell")) == []


def test_consumer_that_is_only_slow_keeps_its_claim(path: Path) -> None:
    """Its lease is renewed beside the handler, however long that takes."""

    async def main() -> None:
        async with Embedded(path, lease=LEASE) as bus:
            await bus.publish(Message("t", b"x"))
            async with bus.subscribe("t", group="g") as slow, bus.subscribe("t", group="g") as other:
                (held,) = await take(slow, 1, settle=False)
                assert await other.fetch(1, wait=3 * LEASE) == []
                assert slow.live
                assert await slow.ack(held)

    asyncio.run(main())


def test_consumer_whose_lease_ran_out_is_told(path: Path) -> None:
    """It must leave and subscribe again, and readiness must know."""

    async def main() -> None:
        async with Embedded(path, lease=LEASE) as bus, bus.subscribe("t", group="g") as group:
            with sqlite3.connect(path) as other:
                other.execute("DELETE FROM bus_holder")
            other.close()
            with pytest.raises(Lost):
                await group.fetch(1, wait=10)
            await until(lambda: not group.live)

    asyncio.run(main())


def test_locked_file_is_a_delivery_error_that_was_not_sent(path: Path) -> None:
    """The outbox must know that it may send again, and that nothing was stored."""

    async def main() -> None:
        async with Embedded(path) as bus:
            await bus.publish(Message("t"))
            bus._backend._messages.wait = 0.1  # type: ignore[attr-defined]
            other = sqlite3.connect(path, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            try:
                with pytest.raises(DeliveryError, match="locked") as refused:
                    await bus.publish(Message("t"))
            finally:
                other.close()
            assert refused.value.sent.value == "no"

    asyncio.run(main())


def test_urls_name_a_path_with_blanks_relative_or_absolute() -> None:
    """A home folder has blanks."""
    assert Embedded.from_url("embedded:my data/bus.db").path == Path("my data/bus.db")
    assert Embedded.from_url("embedded:///var/lib/bus.db").path == Path("/var/lib/bus.db")
    with pytest.raises(RuleError, match="path"):
        Embedded.from_url("embedded:")
    with pytest.raises(RuleError, match="lease"):
        Embedded("x.db", lease=0.0)
