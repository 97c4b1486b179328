"""An instance that is killed under load takes nobody's answer with it but those it was giving."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from msgov.discovery.instance import Instance, Snapshot
from msgov.discovery.pick import Pick
from msgov.discovery.two_choices import TwoChoices
from msgov.latest import Latest
from msgov.resilience.retry import Retry, RetryRule
from msgov.transport.grpc.aio_channel import Channel
from msgov.transport.grpc.sync_channel import Channel as SyncChannel
from tests.transport.grpc import echo_pb2, echo_pb2_grpc
from tests.transport.grpc.gates import Count
from tests.transport.grpc.gates import Pick as Turns
from tests.transport.grpc.worlds import until, wait

Ask = echo_pb2.Ask
ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.process


@contextmanager
def instances(count: int) -> Iterator[tuple[list[subprocess.Popen[str]], tuple[Any, ...], Count]]:
    """Start servers in processes of their own; yield them with the policies of their caller."""
    command = [sys.executable, "-m", "tests.transport.grpc.serve"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT, "env": environ}
    processes = [subprocess.Popen(command, **pipes) for _ in range(count)]
    try:
        ports = [int(process.stdout.readline()) for process in processes]
        known = Latest("echo", Snapshot("echo", tuple(Instance("echo", "127.0.0.1", port) for port in ports)))
        gate = Count()
        retry = Retry(RetryRule(attempts=5, base=0.01, overloaded_base=0.01))
        yield processes, (retry, Pick(known, TwoChoices()), gate), gate
    finally:
        for process in processes:
            process.kill()
            process.wait(5)
            process.stdin.close()
            process.stdout.close()


class Tally:
    """How calls ended."""

    def __init__(self) -> None:
        self.well = 0
        self.failed: list[grpc.RpcError] = []


async def _load(method: Any, tally: Tally, ended: asyncio.Event) -> None:
    while not ended.is_set():
        try:
            await method(Ask(text="a", sleep=0.005), timeout=5)
            tally.well += 1
        except grpc.RpcError as error:
            tally.failed.append(error)


def test_calls_move_to_the_other_instance() -> None:
    """What may run twice fails for nobody; of the rest, exactly what was under way has an unknown end."""

    async def main() -> None:
        with instances(2) as (processes, policies, gate):
            async with Channel("echo", lambda path: policies) as channel:
                stub, ended = echo_pb2_grpc.EchoStub(channel), asyncio.Event()
                safe, once = Tally(), Tally()
                work = [asyncio.create_task(_load(stub.Unary, safe, ended)) for _ in range(8)]
                work += [asyncio.create_task(_load(stub.Once, once, ended)) for _ in range(4)]
                await until(lambda: safe.well > 100 and once.well > 50, 20)
                processes[0].kill()
                before = safe.well, once.well
                await until(lambda: safe.well > before[0] + 200 and once.well > before[1] + 100, 20)
                ended.set()
                await asyncio.gather(*work)
        assert safe.failed == []
        assert len(once.failed) <= 4  # one each of its callers may have had under way
        assert {error.code() for error in once.failed} <= {grpc.StatusCode.UNAVAILABLE}
        assert {o.sent.name for o in gate.outcomes if o.error in once.failed} <= {"MAYBE"}
        assert gate.inside == 0

    asyncio.run(main())


def test_threads_move_too() -> None:
    """The same, with plain calls."""
    with instances(2) as (processes, policies, gate), SyncChannel("echo", lambda path: policies) as channel:
        stub, ended = echo_pb2_grpc.EchoStub(channel), threading.Event()
        safe, once = Tally(), Tally()

        def load(method: Any, tally: Tally) -> None:
            while not ended.is_set():
                try:
                    method(Ask(text="a", sleep=0.005), timeout=5)
                    tally.well += 1
                except grpc.RpcError as error:
                    tally.failed.append(error)

        work = [threading.Thread(target=load, args=(stub.Unary, safe)) for _ in range(6)]
        work += [threading.Thread(target=load, args=(stub.Once, once)) for _ in range(4)]
        for thread in work:
            thread.start()
        wait(lambda: safe.well > 100 and once.well > 50, 20)
        processes[0].kill()
        before = safe.well, once.well
        wait(lambda: safe.well > before[0] + 200 and once.well > before[1] + 100, 20)
        ended.set()
        for thread in work:
            thread.join(10)
    assert safe.failed == []
    assert len(once.failed) <= 4
    assert {error.code() for error in once.failed} <= {grpc.StatusCode.UNAVAILABLE}
    assert gate.inside == 0


def test_a_stream_that_breaks_before_its_first_message_begins_elsewhere() -> None:
    """One that has given something out ends with the error."""

    async def drawn(stream: Any) -> bool:
        try:
            for _ in range(40):
                await stream.read()
        except grpc.RpcError:
            return False
        stream.cancel()
        return True

    async def main() -> None:
        with instances(2) as (processes, policies, gate):
            retry, pick, _ = policies
            in_turn = Turns(*(instance.port for instance in pick.latest.value.instances))
            async with Channel("echo", lambda path: (retry, in_turn, gate)) as channel:
                stub = echo_pb2_grpc.EchoStub(channel)
                streams = [stub.Down(Ask(text="a", count=1, sleep=0.5)) for _ in range(6)]
                given = [stub.Down(Ask(text="b", count=1000, sleep=0.01)) for _ in range(6)]
                for stream in given:
                    await stream.read()
                processes[0].kill()
                assert [[m.text async for m in stream] for stream in streams] == [["a0"]] * 6
                assert sorted(await asyncio.gather(*(drawn(stream) for stream in given))) == [False] * 3 + [True] * 3
            await until(lambda: gate.inside == 0)

    asyncio.run(main())
