"""gRPC unary echo over loopback, client and server in their own processes: CPU per call, bare and governed.

Every slice of a variant follows a slice of bare; ratios are taken pair by pair, medians over rounds are printed. CPU
time of both processes is the figure to trust. Bare against itself shows what such a run can resolve.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import sys
import threading
import time
from concurrent import futures
from contextlib import ExitStack
from typing import Any

import grpc
import grpc.aio

from benchmarks.children import Child, answer, cpu

VARIANTS = ("bare", "bare again", "no-op interceptors", "msgov, policies off", "msgov, all on", "hand-written stack")
METHOD = "/msgov.bench.Echo/Echo"
BODY = b"x" * 64


def run(rounds: int) -> None:
    for colour in ("aio", "sync"):
        _run(colour, rounds)


def _run(colour: str, rounds: int) -> None:
    with ExitStack() as stack:
        clients: dict[str, tuple[Child, int]] = {}
        for variant in VARIANTS:
            server = stack.enter_context(Child("-m", "benchmarks.grpc_echo", "server", colour, variant))
            client = Child("-m", "benchmarks.grpc_echo", "client", colour, variant, str(server.ready["port"]))
            clients[variant] = (stack.enter_context(client), server.pid)

        def ask(variant: str, calls: int, at_once: int) -> dict[str, float]:
            client, server_pid = clients[variant]
            before = cpu(client.pid) + cpu(server_pid)
            told = client.ask(calls=calls, at_once=at_once)
            spent = cpu(client.pid) + cpu(server_pid) - before
            return {**told, "cpu": spent / told["calls"] * 1e6}

        for variant in VARIANTS:
            ask(variant, 200, 1)
            ask(variant, 640, 64)
        for at_once, calls in ((1, 500), (64, 1600)):
            ratios: dict[str, dict[str, list[float]]] = {
                v: {k: [] for k in ("cpu", "p50", "p99", "rate")} for v in VARIANTS
            }
            absolute: dict[str, list[float]] = {v: [] for v in VARIANTS}
            for turn in range(rounds):
                order = list(VARIANTS)
                random.Random(turn).shuffle(order)
                for variant in order:
                    bare, mine = ask("bare", calls, at_once), ask(variant, calls, at_once)
                    absolute[variant].append(mine["cpu"])
                    for key, values in ratios[variant].items():
                        values.append(mine[key] / bare[key])
            print(f"\n## gRPC echo, {colour}, {at_once} at once\n")
            print("| what | CPU us/call | x bare | quartiles | p50 x | p99 x | calls/s x |")
            print("| --- | ---: | ---: | --- | ---: | ---: | ---: |")
            for variant in VARIANTS:
                mine = ratios[variant]
                low, middle, high = statistics.quantiles(mine["cpu"], n=4)
                rest = [statistics.median(mine[key]) for key in ("p50", "p99", "rate")]
                print(
                    f"| {variant} | {statistics.median(absolute[variant]):.0f} | {middle:.2f} | {low:.2f}-{high:.2f} |"
                    f" {rest[0]:.2f} | {rest[1]:.2f} | {rest[2]:.2f} |"
                )


def _service(name: str, *, rules: dict[str, Any]) -> Any:
    """A service whose lines go nowhere, governed by `rules` alone."""
    from msgov.service import Service

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    service = Service(name, logs="json", environ={})
    from msgov.config.rules import RuleBook

    service.policies.update(RuleBook.of(rules))
    return service


EVERYTHING = {
    "call": {
        "*": {"deadline": 5, "retry": True, "budget": True, "breaker": True, "limiter": 1_000_000, "bulkhead": 128}
    },
    "server": {"*": {"deadline": 5, "breaker": True, "limiter": 1_000_000, "bulkhead": 128}},
}


class _Nop(grpc.aio.ServerInterceptor):
    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        return await continuation(details)


class _NopSync(grpc.ServerInterceptor):
    def intercept_service(self, continuation: Any, details: Any) -> Any:
        return continuation(details)


class _NopClient(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(details, request)


class _NopClientSync(grpc.UnaryUnaryClientInterceptor):
    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(details, request)


def _handlers(function: Any) -> Any:
    return grpc.method_handlers_generic_handler(
        "msgov.bench.Echo", {"Echo": grpc.unary_unary_rpc_method_handler(function)}
    )


async def aio_server(variant: str) -> None:
    interceptors: list[Any] = []
    if variant == "no-op interceptors":
        interceptors = [_Nop()]
    elif variant.startswith("msgov"):
        service = _service("echo", rules=EVERYTHING if variant.endswith("on") else {})
        interceptors = service.grpc.interceptors()
        if variant.endswith("off"):
            interceptors = _bare_edge()

    async def echo(request: bytes, context: Any) -> bytes:
        return request

    function: Any = echo
    if variant == "hand-written stack":
        from benchmarks import stacks

        function = stacks.Observed(stacks.provider(0.01)).around(stacks.typical(echo))
    server = grpc.aio.server(interceptors=interceptors)
    server.add_generic_rpc_handlers((_handlers(function),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    answer({"port": port})
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(0)


def _bare_edge() -> list[Any]:
    from msgov.transport.grpc.aio_server import ServerInterceptor
    from msgov.transport.grpc.serving import Edge

    nothing: tuple[Any, ...] = ()
    return [ServerInterceptor(Edge(service="echo", policies=lambda path: nothing))]


def sync_server(variant: str) -> None:
    interceptors: list[Any] = []
    if variant == "no-op interceptors":
        interceptors = [_NopSync()]
    elif variant == "msgov, all on":
        interceptors = _service("echo", rules=EVERYTHING).sync.grpc.interceptors()
    elif variant == "msgov, policies off":
        from msgov.transport.grpc.serving import Edge
        from msgov.transport.grpc.sync_server import ServerInterceptor

        nothing: tuple[Any, ...] = ()
        interceptors = [ServerInterceptor(Edge(service="echo", policies=lambda path: nothing))]

    def echo(request: bytes, context: Any) -> bytes:
        return request

    function: Any = echo
    if variant == "hand-written stack":
        from benchmarks import stacks

        function = stacks.Observed(stacks.provider(0.01)).around_sync(stacks.typical_sync(echo))
    with futures.ThreadPoolExecutor(16) as pool:
        server = grpc.server(pool, interceptors=interceptors)
        server.add_generic_rpc_handlers((_handlers(function),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        answer({"port": port})
        sys.stdin.read()
        server.stop(0).wait()


async def aio_client(variant: str, port: int) -> None:
    where = f"127.0.0.1:{port}"
    if variant.startswith("msgov"):
        call = _governed_stub(variant, port, blocking=False)
    else:
        interceptors = [_NopClient()] if variant == "no-op interceptors" else None
        call = grpc.aio.insecure_channel(where, interceptors=interceptors).unary_unary(METHOD)
        if variant == "hand-written stack":
            from benchmarks import stacks

            call = stacks.Observed(stacks.provider(0.01)).around(stacks.typical(call))
    assert await call(BODY) == BODY
    answer({"ready": True})
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        question = __import__("json").loads(line)
        each = question["calls"] // question["at_once"]
        seconds: list[float] = []

        async def work(each: int = each, seconds: list[float] = seconds) -> None:
            for _ in range(each):
                began = time.perf_counter()
                await call(BODY)
                seconds.append(time.perf_counter() - began)

        began = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(question["at_once"])))
        answer(_summary(seconds, time.perf_counter() - began))


def sync_client(variant: str, port: int) -> None:
    where = f"127.0.0.1:{port}"
    if variant.startswith("msgov"):
        call = _governed_stub(variant, port, blocking=True)
    else:
        channel = grpc.insecure_channel(where)
        if variant == "no-op interceptors":
            channel = grpc.intercept_channel(channel, _NopClientSync())
        call = channel.unary_unary(METHOD)
        if variant == "hand-written stack":
            from benchmarks import stacks

            call = stacks.Observed(stacks.provider(0.01)).around_sync(stacks.typical_sync(call))
    assert call(BODY) == BODY
    answer({"ready": True})
    for line in sys.stdin:
        question = __import__("json").loads(line)
        each = question["calls"] // question["at_once"]
        seconds: list[float] = []

        def work(each: int = each, seconds: list[float] = seconds) -> None:
            mine = []
            for _ in range(each):
                began = time.perf_counter()
                call(BODY)
                mine.append(time.perf_counter() - began)
            seconds.extend(mine)

        began = time.perf_counter()
        if question["at_once"] == 1:
            work()
        else:
            threads = [threading.Thread(target=work) for _ in range(question["at_once"])]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        answer(_summary(seconds, time.perf_counter() - began))


def _governed_stub(variant: str, port: int, *, blocking: bool) -> Any:
    from msgov.discovery.instance import Instance, Snapshot

    service = _service("caller", rules=EVERYTHING if variant.endswith("on") else {})
    service.targets.pick("echo").latest.put(Snapshot("echo", (Instance("echo", "127.0.0.1", port),)), 0.0)
    if variant.endswith("on"):
        return (service.sync.grpc if blocking else service.grpc).channel("echo").unary_unary(METHOD)
    chain = (service.targets.pick("echo"),)
    if blocking:
        from msgov.transport.grpc.sync_channel import Channel as SyncChannel

        return SyncChannel("echo", lambda path: chain).unary_unary(METHOD)
    from msgov.transport.grpc.aio_channel import Channel

    return Channel("echo", lambda path: chain).unary_unary(METHOD)


def _summary(seconds: list[float], wall: float) -> dict[str, float]:
    seconds.sort()
    count = len(seconds)
    return {
        "calls": count,
        "p50": seconds[count // 2] * 1e6,
        "p99": seconds[min(count - 1, int(count * 0.99))] * 1e6,
        "rate": count / wall,
    }


def main() -> None:
    role, colour, variant, *port = sys.argv[1:]
    if role == "server":
        asyncio.run(aio_server(variant)) if colour == "aio" else sync_server(variant)
    elif colour == "aio":
        asyncio.run(aio_client(variant, int(port[0])))
    else:
        sync_client(variant, int(port[0]))


if __name__ == "__main__":
    main()
