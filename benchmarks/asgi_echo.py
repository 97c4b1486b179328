"""ASGI: uvicorn and Starlette hello world in a process of their own, CPU per request, bare and governed.

The load is a keep-alive client of raw sockets in another process; only the server's CPU counts.
"""

from __future__ import annotations

import os
import random
import socket
import statistics
import sys
import threading
import time
from contextlib import ExitStack
from typing import Any

from benchmarks.children import Child, answer, cpu

VARIANTS = ("bare", "bare again", "msgov, policies off", "msgov, all on")
REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
CONNECTIONS = 16


def run(rounds: int) -> None:
    with ExitStack() as stack:
        servers = {
            variant: stack.enter_context(Child("-m", "benchmarks.asgi_echo", "server", variant)) for variant in VARIANTS
        }
        load = stack.enter_context(Child("-m", "benchmarks.asgi_echo", "load"))

        def ask(variant: str, requests: int) -> dict[str, float]:
            server = servers[variant]
            before = cpu(server.pid)
            told: dict[str, float] = load.ask(port=server.ready["port"], requests=requests)
            return {**told, "cpu": (cpu(server.pid) - before) / told["requests"] * 1e6}

        for variant in VARIANTS:
            ask(variant, 1000)
        ratios: dict[str, dict[str, list[float]]] = {
            v: {k: [] for k in ("cpu", "p50", "p99", "rate")} for v in VARIANTS
        }
        added: dict[str, list[float]] = {v: [] for v in VARIANTS}
        for turn in range(rounds):
            order = list(VARIANTS)
            random.Random(turn).shuffle(order)
            for variant in order:
                bare, mine = ask("bare", 4000), ask(variant, 4000)
                added[variant].append(mine["cpu"] - bare["cpu"])
                for key, values in ratios[variant].items():
                    values.append(mine[key] / bare[key])
    print("\n## ASGI hello world, 16 connections\n")
    print("| what | CPU x bare | quartiles | added us | p50 x | p99 x | requests/s x |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: |")
    for variant in VARIANTS:
        mine = ratios[variant]
        low, middle, high = statistics.quantiles(mine["cpu"], n=4)
        rest = [statistics.median(mine[key]) for key in ("p50", "p99", "rate")]
        print(
            f"| {variant} | {middle:.2f} | {low:.2f}-{high:.2f} | {statistics.median(added[variant]):.0f} |"
            f" {rest[0]:.2f} | {rest[1]:.2f} | {rest[2]:.2f} |"
        )


def server(variant: str) -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def hello(request: Any) -> PlainTextResponse:
        return PlainTextResponse("hello world")

    app: Any = Starlette(routes=[Route("/", hello)])
    if variant == "msgov, all on":
        from benchmarks.grpc_echo import EVERYTHING, _service

        app = _service("front", rules=EVERYTHING).asgi(app)
    elif variant == "msgov, policies off":
        from msgov.transport.asgi import HttpEdge, Middleware

        nothing: tuple[Any, ...] = ()
        app = Middleware(app, HttpEdge(service="front", policies=lambda operation: nothing))
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, log_config=None, access_log=False, loop="uvloop", http="httptools", lifespan="off", server_header=False
    )
    running = uvicorn.Server(config)

    def watch() -> None:
        while not running.started:
            time.sleep(0.01)
        answer({"port": listening.getsockname()[1]})
        sys.stdin.read()
        running.should_exit = True

    threading.Thread(target=watch, daemon=True).start()
    running.run(sockets=[listening])


def load() -> None:
    answer({"ready": os.getpid()})
    import json

    for line in sys.stdin:
        question = json.loads(line)
        each = question["requests"] // CONNECTIONS
        seconds: list[float] = []
        sockets = [socket.create_connection(("127.0.0.1", question["port"])) for _ in range(CONNECTIONS)]
        for each_socket in sockets:
            each_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.perf_counter()
        for _ in range(each):  # all connections have one request out at a time
            sent = time.perf_counter()
            for each_socket in sockets:
                each_socket.sendall(REQUEST)
            for each_socket in sockets:
                while not each_socket.recv(4096).endswith(b"hello world"):
                    pass
                seconds.append(time.perf_counter() - sent)
        wall = time.perf_counter() - began
        for each_socket in sockets:
            each_socket.close()
        seconds.sort()
        count = len(seconds)
        answer(
            {
                "requests": count,
                "p50": seconds[count // 2] * 1e6,
                "p99": seconds[int(count * 0.99)] * 1e6,
                "rate": count / wall,
            }
        )


if __name__ == "__main__":
    server(sys.argv[2]) if sys.argv[1] == "server" else load()
