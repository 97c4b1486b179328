"""The facade serves what the user already has: bound, registered, governed, drained."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import time
from collections.abc import Awaitable, Callable
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import uvicorn
from grpc_health.v1 import health_pb2, health_pb2_grpc
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from msgov.discovery.memory import Memory
from msgov.errors import BreakerOpen, NoInstance, RuleError
from msgov.service import Service
from tests.transport.grpc import echo_pb2, echo_pb2_grpc
from tests.transport.grpc.echo import AioEcho, Log, SyncEcho

Ask = echo_pb2.Ask


def service(name: str, path: Path, **options: Any) -> Service:
    """Make a quiet service on an embedded registry and bus of the test's own."""
    return Service(
        name,
        registry=options.pop("registry", f"embedded:{path}/registry.db"),
        bus=options.pop("bus", f"embedded:{path}/bus.db"),
        logs="off",
        environ=options.pop("environ", {}),
        **options,
    )


async def until(fact: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run to the end, within a bound."""

    async def bounded() -> None:
        await asyncio.wait_for(main(), 30)

    asyncio.run(bounded())


def test_two_services_find_and_call_each_other(tmp_path: Path) -> None:
    """Registry, channel, interceptors, health and drain, in one go."""

    async def main() -> None:
        log = Log()
        callee, caller = service("echo", tmp_path), service("caller", tmp_path)
        server = grpc.aio.server(interceptors=callee.grpc.interceptors())
        echo_pb2_grpc.add_EchoServicer_to_server(AioEcho(log), server)
        stub = echo_pb2_grpc.EchoStub(caller.grpc.channel("echo"))
        async with caller.running():
            with pytest.raises(NoInstance):
                await stub.Unary(Ask(text="a"))
            async with callee.running(server, at="127.0.0.1:0") as running:
                assert running.ready
                await until(lambda: caller.targets.known["echo"].value.instances)
                assert (await stub.Unary(Ask(text="a"))).text == "a"
                async with grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as bare:
                    answer = await health_pb2_grpc.HealthStub(bare).Check(health_pb2.HealthCheckRequest())
                    assert answer.status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(NoInstance):
                await stub.Unary(Ask(text="a"))
        callee.close()
        caller.close()

    run(main)


def test_draining_loses_no_call(tmp_path: Path) -> None:
    """Two instances, one leaves under load: every call is answered."""

    async def main() -> None:
        caller = service("caller", tmp_path)
        stub = echo_pb2_grpc.EchoStub(caller.grpc.channel("echo"))
        made = []
        for _ in range(2):
            callee = service("echo", tmp_path)
            server = grpc.aio.server(interceptors=callee.grpc.interceptors())
            echo_pb2_grpc.add_EchoServicer_to_server(AioEcho(Log()), server)
            made.append((callee, server))
        async with caller.running(), made[0][0].running(made[0][1]):
            async with made[1][0].running(made[1][1]):
                await until(lambda: len(caller.targets.known["echo"].value.instances) == 2)
                stop = asyncio.Event()
                answered = 0

                async def load() -> None:
                    nonlocal answered
                    while not stop.is_set():
                        await stub.Once(
                            Ask(text="x", sleep=0.01), timeout=5
                        )  # not idempotent: no retry may hide a loss
                        answered += 1

                tasks = [asyncio.create_task(load()) for _ in range(8)]
                await until(lambda: answered > 50)
            before = answered
            await until(lambda: answered > before + 50)
            stop.set()
            await asyncio.gather(*tasks)
        for each, _ in made:
            each.close()
        caller.close()

    run(main)


def test_a_threaded_service_serves_and_calls(tmp_path: Path) -> None:
    """The same names under `sync`, with one loop in one thread beneath."""
    callee = service("echo", tmp_path)
    with futures.ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, interceptors=callee.sync.grpc.interceptors())
        echo_pb2_grpc.add_EchoServicer_to_server(SyncEcho(Log()), server)
        stub = echo_pb2_grpc.EchoStub(callee.sync.grpc.channel("echo"))
        with callee.sync.running(server, at="127.0.0.1:0") as running:
            assert running.ready
            end = time.monotonic() + 5
            while not callee.targets.known["echo"].value.instances and time.monotonic() < end:
                os.sched_yield()
            assert stub.Unary(Ask(text="a"), timeout=5).text == "a"
            assert [m.text for m in stub.Down(Ask(text="a", count=2))] == ["a0", "a1"]
    callee.close()


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    """The error says which address, and everything is closed again."""

    async def main() -> None:
        first, second = service("one", tmp_path), service("two", tmp_path)
        async with first.running(grpc.aio.server()) as running:
            with pytest.raises(OSError, match=f"127.0.0.1:{running.port}"):
                async with second.running(grpc.aio.server(), at=f"127.0.0.1:{running.port}"):
                    pass
        for each in (first, second):
            each.close()

    run(main)
    third = service("three", tmp_path)
    with pytest.raises(RuleError, match="host:port"):
        third.running(at="nonsense")
    third.close()


def test_all_interfaces_are_bound_but_one_address_is_told(tmp_path: Path) -> None:
    """0.0.0.0 is nobody's address."""

    async def main() -> None:
        svc = service("echo", tmp_path)
        svc.grpc.channel("echo")
        async with svc.running(grpc.aio.server(), at="0.0.0.0:0"):
            await until(lambda: svc.targets.known["echo"].value.instances)
            assert svc.targets.known["echo"].value.instances[0].host != "0.0.0.0"  # noqa: S104  what must not be told
        svc.close()

    run(main)


def test_asgi_app_is_served_with_admin_endpoints(tmp_path: Path) -> None:
    """uvicorn in the same loop; /readyz, /metrics and /sd on a port of their own."""

    async def hello(request: Request) -> JSONResponse:
        return JSONResponse({"hello": request.path_params["name"]})

    async def main() -> None:
        import httpx2

        svc = service("front", tmp_path)
        app = svc.asgi(Starlette(routes=[Route("/hello/{name}", hello)]))  # type: ignore[arg-type]  # starlette is an ASGI app
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        client = svc.http.client("front")
        async with svc.running(server, admin="127.0.0.1:0") as running:
            await until(lambda: svc.targets.known["front"].value.instances)
            assert (await client.get("/hello/you")).json() == {"hello": "you"}
            await client.aclose()
            async with httpx2.AsyncClient(trust_env=False, base_url=f"http://127.0.0.1:{running.admin_port}") as admin:
                assert (await admin.get("/readyz")).json() == {"status": "ready", "missing": []}
                page = (await admin.get("/metrics")).text
                assert 'http_route="/hello/{name}"' in page
                assert "/hello/you" not in page
                assert (await admin.get("/sd")).json()[0]["labels"]["job"] == "front"
        svc.close()

    run(main)


def test_rules_reload_live_and_keep_the_last_good(tmp_path: Path) -> None:
    """A changed file reaches the gates; a wrong one changes nothing."""
    rules = tmp_path / "msgov.toml"
    rules.write_text("[function.charge]\nbreaker = {minimum_calls = 2, failure_rate = 0.5}\n[pay]\ntimeout = 1.5\n")

    async def main() -> None:
        svc = service("order", tmp_path, config=rules)
        timeout = svc.config.handle("pay.timeout", float, gt=0)
        fails = True

        @svc.guarded("charge")
        async def charge(amount: int) -> int:
            if fails:
                raise ConnectionError
            return amount

        async with svc.running():
            assert timeout.value == 1.5
            for _ in range(2):
                with pytest.raises(ConnectionError):
                    await charge(1)
            with pytest.raises(BreakerOpen):
                await charge(1)
            rules.write_text("[function.charge]\nbreaker = {minimum_calls = -1}\n[pay]\ntimeout = 9.0\n")
            await until(lambda: svc.config.refused)
            assert timeout.value == 1.5
            with pytest.raises(BreakerOpen):
                await charge(1)
            fails = False
            rules.write_text("[function.charge]\nbreaker = false\n[pay]\ntimeout = 2.5\n")
            await until(lambda: timeout.value == 2.5)
            assert await charge(7) == 7
        svc.close()

    run(main)


def test_a_wrong_file_refuses_to_start(tmp_path: Path) -> None:
    """File, path, value and range are named."""
    rules = tmp_path / "msgov.toml"
    rules.write_text("[call.payment]\ndeadline = -3\n")
    with pytest.raises(RuleError, match=r"deadline") as caught:
        service("order", tmp_path, config=rules)
    assert "-3" in str(caught.value)


def test_events_cross_services_exactly_once_in_effect(tmp_path: Path) -> None:
    """Published in a transaction, relayed, consumed with an inbox."""

    async def main() -> None:
        order = service("order", tmp_path, database=tmp_path / "order.db")
        audit = service("audit", tmp_path, database=tmp_path / "audit.db")

        @audit.on("order.placed", key="order_id")
        async def record(event: Any, tx: Any) -> None:
            await tx.execute("INSERT INTO seen VALUES (?)", (json.loads(event.body)["order_id"],))

        def rows() -> list[Any]:
            connection = sqlite3.connect(tmp_path / "audit.db")
            try:
                return connection.execute("SELECT order_id FROM seen ORDER BY 1").fetchall()
            finally:
                connection.close()

        async with order.running():
            async with audit.running() as running:
                async with audit.store.transaction() as tx:
                    await tx.execute("CREATE TABLE IF NOT EXISTS seen (order_id TEXT)")
                await until(lambda: running.ready)
                for number in range(5):
                    async with order.store.transaction() as tx:
                        await tx.publish("order.placed", {"order_id": f"o{number}"}, key=f"o{number}")
                with pytest.raises(ZeroDivisionError):
                    async with order.store.transaction() as tx:
                        await tx.publish("order.placed", {"order_id": "never"}, key="never")
                        raise ZeroDivisionError
                await until(lambda: len(rows()) >= 5)
        assert rows() == [(f"o{number}",) for number in range(5)]
        for each in (order, audit):
            each.close()

    run(main)


def test_sigterm_drains_and_leaves(tmp_path: Path) -> None:
    """`wait` returns, the instance leaves the registry, the block ends."""

    async def main() -> None:
        registry = Memory()
        svc = service("echo", tmp_path, registry=registry)

        def known() -> int:
            return len(svc.targets.known["echo"].value.instances)

        svc.grpc.channel("echo")
        async with svc.running(grpc.aio.server()) as running:
            await until(known)
            waiting = asyncio.create_task(running.wait())
            await asyncio.sleep(0)
            os.kill(os.getpid(), signal.SIGTERM)
            await waiting
        assert known() == 0
        svc.close()

    run(main)
