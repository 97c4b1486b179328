"""With every policy of a rules file on at once, each edge still serves, and each policy still acts.

Real servers and clients. All policies are on and give room; then the rules file makes one of them tight, calls go
through until it has acted, and it gives room again. Rules change live, and no edge is made anew.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from msgov.config.kinds import SPOKEN
from msgov.config.rules import RuleBook
from msgov.discovery.memory import Memory
from msgov.errors import CallFailed, RuleError
from msgov.resilience.breaker import Breaker
from msgov.resilience.fault import ENV, Fault
from msgov.service import Service
from tests.service.quiet import run, until
from tests.transport.grpc import echo_pb2, echo_pb2_grpc
from tests.transport.grpc.echo import AioEcho, Log, SyncEcho

Ask = echo_pb2.Ask
Rule = Mapping[str, object]

PATIENT: Rule = {
    "minimum_calls": 100_000,
    "wilson_calls": 0,
    "consecutive_failures": 0,
    "open_seconds": 0.1,
    "open_cap": 0.1,
}
NERVOUS: Rule = {**PATIENT, "consecutive_failures": 1, "open_growth": 1}
ROOM: Mapping[str, object] = {
    "fallback": {"answer": "instead", "on": ["permanent"]},
    "cache": {"ttl": 0.001, "stale_if_error": 0},
    "deadline": 20,
    "coalesce": True,
    "shed": {"cpu": 1, "lag": 60, "delay": 60},
    "limiter": "1000000/second",
    "quota": "1000000/second",
    "throttle": {"multiplier": 100, "minimum_rate": 1_000_000},
    "hedge": {"initial": 30, "load": 4},
    "budget": {"ratio": 1, "minimum": 1000},
    "adaptive": {"initial": 1000, "min_limit": 1000},
    "service_breaker": PATIENT,
    "method_breaker": PATIENT,
    "breaker": PATIENT,
    "attempt_deadline": 10,
    "fault": {"share": 0, "status": "UNAVAILABLE"},
}
TIGHT: Mapping[str, object] = {
    "fallback": {"answer": "instead", "on": ["transient"]},
    "cache": {"ttl": 60},
    "coalesce": True,
    "deadline": 0.02,
    "shed": {"cpu": 0.001, "lag": 0.0001, "delay": 60},
    "limiter": {"rate": "1/hour", "burst": 1},
    "quota": "1/hour",
    "throttle": {"multiplier": 1, "minimum_rate": 0, "window": 1, "buckets": 2},
    "hedge": {"initial": 0.005, "load": 4},
    "adaptive": {"initial": 1, "max_limit": 1, "queue": 0},
    "service_breaker": NERVOUS,
    "method_breaker": NERVOUS,
    "breaker": NERVOUS,
    "attempt_deadline": 0.02,
    "fault": {"share": 1, "status": "UNAVAILABLE"},
}
ACTED: Mapping[str, Callable[[Any], object]] = {
    "fallback": lambda gate: gate.answered,
    "cache": lambda gate: gate.counts["hit"],
    "deadline": lambda gate: gate.exceeded,
    "coalesce": lambda gate: gate.joined,
    "shed": lambda gate: gate.rejected,
    "limiter": lambda gate: gate.rejected,
    "quota": lambda gate: gate.rejected,
    "throttle": lambda gate: gate.held,
    "hedge": lambda gate: gate.hedged,
    "adaptive": lambda gate: gate.rejected,
    "service_breaker": lambda gate: _rejected(gate),
    "method_breaker": lambda gate: _rejected(gate),
    "breaker": lambda gate: _rejected(gate),
    "attempt_deadline": lambda gate: gate.exceeded,
    "fault": lambda gate: gate.failed,
}
NEEDED: Mapping[str, str] = {
    **dict.fromkeys(("hedge", "deadline", "attempt_deadline", "adaptive", "shed"), "slow"),
    **dict.fromkeys(("throttle", "service_breaker", "method_breaker", "breaker", "fallback"), "fail"),
    **dict.fromkeys(("cache", "coalesce"), "same"),
}
"""The calls on which a policy acts; others do on any."""


def _rejected(gate: Any) -> int:
    breakers: list[Breaker] = [*gate.breakers.values()] if hasattr(gate, "breakers") else [gate]
    return sum(each.counts["rejected"] for each in breakers)


class Stage:
    """A service by a rules file with every policy of a kind of entry on."""

    def __init__(self, path: Path, name: str, kind: str, entry: str, registry: Memory) -> None:
        self.kind, self.entry = kind, entry
        self.policies = [each for each in SPOKEN[kind] if each in ROOM]
        self._file = path / f"{name}.json"
        self._write({})
        self.service = Service(name, config=self._file, registry=registry, logs="off", environ={ENV: "1"})

    def _write(self, tight: Rule) -> None:
        on = {**{each: ROOM[each] for each in self.policies}, "bulkhead": False, "retry": False, **tight}
        self._tree: Mapping[str, Any] = {
            self.kind: {self.entry: {k: v for k, v in on.items() if k in SPOKEN[self.kind]}}
        }
        self._file.write_text(json.dumps(self._tree))

    def gate(self, policy: str) -> Any:
        """Return what stands for a policy."""
        (found,) = [each for each in self.service.policies.state if getattr(each, "policy", "") == policy]
        return found

    async def set(self, tight: Rule) -> None:
        """Change the file, and wait until it is in force."""
        self._write(tight)
        rules = self.service.policies

        def there() -> bool:
            wanted, mine = RuleBook.of(self._tree), rules.book
            return {k: v.rules for k, v in wanted.entries[self.kind].items()}.items() <= {
                k: v.rules for k, v in mine.entries[self.kind].items()
            }.items()

        await until(there)

    async def act(self, policy: str, call: Callable[[str], Awaitable[object]]) -> None:
        """Make one policy tight, and call as it needs until it has acted; then give room, until calls go well again.

        Errors are what is looked for, and who refused is told by the gate itself.
        """
        gate, acted, how = self.gate(policy), ACTED[policy], NEEDED.get(policy, "short")
        if policy == "shed":  # it must have seen a second of what is usual
            end = time.monotonic() + 1.3
            while time.monotonic() < end:
                await call("short")
        before = acted(gate)
        await self.set({policy: TIGHT[policy]})
        end = time.monotonic() + 15
        late = 0  # a gRPC transport ends calls by itself, and their status tells
        while acted(gate) == before and not (late and how == "slow" and "deadline" in policy):
            assert time.monotonic() < end, policy
            for ended in await asyncio.gather(*(call(how) for _ in range(8)), return_exceptions=True):
                late += getattr(ended, "code", str)() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert self.gate(policy) is gate
        await self.set({})
        end = time.monotonic() + 15
        while True:  # and it lets go again
            try:
                assert await call("short") == "a", policy
                break
            except Exception:
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(0.05)

    async def all_act(self, call: Callable[[str], Awaitable[object]], *, without: str = "budget") -> None:
        """Go through all policies, then look whether the metrics page speaks of each.

        A budget acts in what spends from it.
        """
        assert await call("short") == "a"
        for policy in self.policies:
            if policy not in without:
                await self.act(policy, call)
        page = self.page()
        assert not [each for each in self.policies if SHOWN[each] not in page]

    def page(self) -> str:
        """Return what a scrape sees."""
        return self.service.observe.exposition()[1].decode()


SHOWN: Mapping[str, str] = {
    "fallback": "msgov_fallbacks_total{",
    "cache": "msgov_cache_entries{",
    "deadline": "msgov_deadline_calls_total{",
    "attempt_deadline": "msgov_deadline_calls_total{",
    "coalesce": "msgov_coalesce_calls_total{",
    "shed": "msgov_shed_threshold{",
    "limiter": "msgov_limiter_decisions_total{",
    "quota": "msgov_quota_store_lost{",
    "throttle": "msgov_throttle_held_ratio{",
    "hedge": "msgov_hedges_total{",
    "budget": "msgov_retry_budget_remaining_ratio{",
    "adaptive": "msgov_limiter_inflight{",
    "service_breaker": "msgov_breaker_state{",
    "method_breaker": "msgov_breaker_state{",
    "breaker": "msgov_breaker_calls_total{",
    "fault": "msgov_fault_allowed{",
}
"""A metric of each."""


def ask(how: str) -> Any:
    """Make what the echo service is asked with."""
    return Ask(text="a", sleep=0.1 if how == "slow" else 0.0, fail="RESOURCE_EXHAUSTED" if how == "fail" else "")


def test_a_guarded_function(tmp_path: Path) -> None:
    """A coroutine that may run twice can have them all."""

    async def main() -> None:
        stage = Stage(tmp_path, "shop", "function", "price", Memory())
        numbers = iter(range(1_000_000))

        @stage.service.guarded("price", idempotent=True)
        async def price(how: str, number: int) -> str:
            if how == "fail":
                raise CallFailed("full", status="503", overloaded=True)
            await asyncio.sleep(0.1 if how == "slow" else 0.001)
            return "a"

        async def call(how: str) -> object:
            return await price(how, -1 if how == "same" else next(numbers))

        async with stage.service.running():
            await stage.all_act(call)
        stage.service.close()

    run(main)


def test_an_asgi_server(tmp_path: Path) -> None:
    """Under uvicorn, asked by a client that is not ours."""

    async def handle(request: Request) -> JSONResponse:
        how = request.path_params["how"]
        await asyncio.sleep(0.1 if how == "slow" else 0)
        return JSONResponse("a", 503 if how == "fail" else 200)

    async def main() -> None:
        import httpx2

        stage = Stage(tmp_path, "shop", "server", "*", Memory())
        app = stage.service.asgi(Starlette(routes=[Route("/{how}", handle)]))  # type: ignore[arg-type]  # an ASGI app
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        async with stage.service.running(server) as running:
            async with httpx2.AsyncClient(trust_env=False, base_url=f"http://127.0.0.1:{running.port}") as client:

                async def call(how: str) -> object:
                    return (await client.get(f"/{how}")).json()

                await stage.all_act(call)
        stage.service.close()

    run(main)


def test_a_grpc_server(tmp_path: Path) -> None:
    """On asyncio, asked over a channel that is not ours."""

    async def main() -> None:
        stage = Stage(tmp_path, "echo", "server", "*", Memory())
        server = grpc.aio.server(interceptors=stage.service.grpc.interceptors())
        echo_pb2_grpc.add_EchoServicer_to_server(AioEcho(Log()), server)
        async with (
            stage.service.running(server) as running,
            grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as channel,
        ):
            stub = echo_pb2_grpc.EchoStub(channel)

            async def call(how: str) -> object:
                return (await stub.Unary(ask(how), timeout=10)).text

            await stage.all_act(call)
        stage.service.close()

    run(main)


def test_a_grpc_server_of_threads(tmp_path: Path) -> None:
    """The same, of the other colour."""

    async def main() -> None:
        stage = Stage(tmp_path, "echo", "server", "*", Memory())
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(8))
            server = grpc.server(pool, interceptors=stage.service.sync.grpc.interceptors())
            echo_pb2_grpc.add_EchoServicer_to_server(SyncEcho(Log()), server)
            running = stack.enter_context(stage.service.sync.running(server, pool=pool, grace=1.0))
            channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{running.port}"))
            stub = echo_pb2_grpc.EchoStub(channel)

            async def call(how: str) -> object:
                return (await asyncio.to_thread(stub.Unary, ask(how), timeout=10)).text

            await stage.all_act(call, without="deadline")  # a plain handler that runs cannot be stopped
        stage.service.close()

    run(main)


@asynccontextmanager
async def echoes(registry: Memory) -> AsyncIterator[None]:
    """Serve two instances, so that a hedge has somewhere to go."""
    async with AsyncExitStack() as stack:
        for _ in range(2):
            callee = Service("echo", registry=registry, logs="off", environ={})
            stack.callback(callee.close)
            server = grpc.aio.server(interceptors=callee.grpc.interceptors())
            echo_pb2_grpc.add_EchoServicer_to_server(AioEcho(Log()), server)
            await stack.enter_async_context(callee.running(server))
        yield


def test_a_grpc_channel(tmp_path: Path) -> None:
    """To two instances, on asyncio."""

    async def main() -> None:
        registry = Memory()
        stage = Stage(tmp_path, "caller", "call", "echo", registry)
        stub = echo_pb2_grpc.EchoStub(stage.service.grpc.channel("echo"))

        async def call(how: str) -> object:
            return (await stub.Unary(ask(how))).text

        async with echoes(registry), stage.service.running():
            await until(lambda: len(stage.service.targets.known["echo"].value.instances) == 2)
            await stage.all_act(call)
        page = stage.page()
        assert (
            'msgov_breaker_keys{breaker="echo/Unary",' in page
        )  # how many of those of its instances are in which state
        assert 'msgov_breaker_state{breaker="echo/* at every method",' in page  # that of the service has its own line
        stage.service.close()

    run(main)


def test_a_grpc_channel_of_threads(tmp_path: Path) -> None:
    """Where a hedge goes over `future()`."""

    async def main() -> None:
        registry = Memory()
        stage = Stage(tmp_path, "caller", "call", "echo", registry)
        stub = echo_pb2_grpc.EchoStub(stage.service.sync.grpc.channel("echo"))

        async def call(how: str) -> object:
            return (await asyncio.to_thread(stub.Unary, ask(how))).text

        async with echoes(registry):
            with stage.service.sync.running():
                await until(lambda: len(stage.service.targets.known["echo"].value.instances) == 2)
                await stage.all_act(call)
        stage.service.close()

    run(main)


def test_no_rules_file_injects_a_fault_where_the_process_does_not_allow_it(tmp_path: Path) -> None:
    """Nor any key of it, nor a centre: only the environment of the process, or code."""

    async def main() -> None:
        tree = {
            "function": {"price": {"fault": {"share": 1, "status": "503"}}},
            "server": {"*": {"fault": {"share": 1, "hang": True}}},
            "MSGOV_FAULTS": 1,
            "faults": True,
            "msgov": {"faults": 1},
        }
        file = tmp_path / "shop.json"
        file.write_text(json.dumps(tree))
        for allowed in (False, True):
            environ = {ENV: "1"} if allowed else {"MSGOV_FAULT": "1", "MSGOV_FAULTS__ALLOWED": "1"}
            svc = Service("shop", config=file, logs="off", environ=environ)

            @svc.guarded("price")
            async def price() -> int:
                return 7

            async with svc.running():
                if allowed:
                    with pytest.raises(CallFailed, match="injected"):
                        await price()
                else:
                    assert await price() == 7
                svc.policies.for_server("/a/B")
                assert [each.allowed for each in svc.policies.state if isinstance(each, Fault)] == [allowed] * 2
            svc.close()
        file.write_text(json.dumps({"function": {"price": {"fault": {"share": 1, "status": "503", "allowed": True}}}}))
        with pytest.raises(RuleError, match="allowed"):
            Service("shop", config=file, logs="off", environ={})

    run(main)
