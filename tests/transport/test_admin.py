"""Probes and Prometheus get exactly what they ask for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from msgov.transport.admin import admin
from tests.transport.web import Answer, Server, get, http, raw, run, serving, silent


class Process:
    """What is asked of: whether it is ready, what it counts, whom it knows."""

    def __init__(self) -> None:
        self.missing: Sequence[str] = ()
        self.accepts: list[str] = []
        self.app = admin(ready=lambda: self.missing, metrics=self.metrics, targets=self.targets)

    def metrics(self, accept: str) -> tuple[str, bytes]:
        self.accepts.append(accept)
        return "text/plain; version=0.0.4", b"up 1\n"

    def targets(self) -> list[dict[str, object]]:
        return [{"targets": ["10.0.0.7:9000"], "labels": {"job": "order"}}]


def told(answer: Answer) -> Any:
    """Read a body of JSON."""
    assert answer.headers["content-type"] == "application/json"
    return json.loads(answer.body)


@run
async def test_the_four_pages() -> None:
    """Over a real server, each by its exact path."""
    process = Process()
    async with serving(process.app, lifespan="on") as port:
        health, ready, metrics, targets = [
            await raw(port, get(path, "accept: application/openmetrics-text"))
            for path in ("/healthz", "/readyz", "/metrics", "/sd")
        ]
    assert [health.status, ready.status, metrics.status, targets.status] == [200] * 4
    assert told(health) == {"status": "ok"}
    assert told(ready) == {"status": "ready", "missing": []}
    assert (metrics.body, metrics.headers["content-type"]) == (b"up 1\n", "text/plain; version=0.0.4")
    assert process.accepts == ["application/openmetrics-text"]
    assert told(targets) == [{"targets": ["10.0.0.7:9000"], "labels": {"job": "order"}}]
    assert ready.headers["cache-control"] == "no-store"


@run
async def test_what_is_not_ready_says_what_is_missing_and_nothing_else() -> None:
    """No version, no address (S37); the process lives all the same."""
    process = Process()
    process.missing = ["registry", "database"]
    async with serving(process.app) as port:
        ready, health = await raw(port, get("/readyz")), await raw(port, get("/healthz"))
    assert (ready.status, health.status) == (503, 200)
    assert told(ready) == {"status": "not ready", "missing": ["registry", "database"]}


@run
async def test_head_has_the_headers_and_no_body() -> None:
    """Load balancers probe so."""
    async with serving(Process().app) as port:
        answer = await raw(port, get("/metrics").replace(b"GET", b"HEAD"))
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "5")


async def page(app: Any, path: str, *, method: str = "GET", root: str = "") -> Server:
    """Ask for a page without a server."""
    server = Server()
    await app(http(path, method=method) | {"root_path": root}, server.receive, server.send)
    return server


@pytest.mark.parametrize("path", ["/", "/healthz/", "/metrics/x", "/HEALTHZ", "//sd", "/%2e%2e/sd"])
def test_any_other_path_is_not_found(path: str) -> None:
    """Exact routes: no redirect, no prefix."""
    assert asyncio.run(page(Process().app, path)).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"])
def test_nothing_can_be_written(method: str) -> None:
    """What may be done is said."""
    server = asyncio.run(page(Process().app, "/readyz", method=method))
    assert (server.status, server.headers["allow"]) == (405, "GET, HEAD")


def test_what_is_not_given_is_not_there() -> None:
    """A process without metrics says so to Prometheus."""
    app = admin(ready=lambda: ())
    assert [asyncio.run(page(app, path)).status for path in ("/readyz", "/metrics", "/sd")] == [200, 404, 404]
    assert asyncio.run(page(app, "/")).body == b"/healthz /readyz\n"


def test_it_may_be_mounted() -> None:
    """Under a path of another application's."""
    assert asyncio.run(page(Process().app, "/-/healthz", root="/-")).status == 200
    assert asyncio.run(page(Process().app, "/healthz", root="/-")).status == 200


def test_a_page_that_fails_says_so_and_nothing_of_why() -> None:
    """A probe must get an answer; the reason is in the log."""

    def ready() -> Sequence[str]:
        raise ValueError("secret")

    with silent("msgov.admin"):
        server = asyncio.run(page(admin(ready=ready), "/readyz"))
    assert (server.status, server.body) == (500, b"failed\n")


def test_a_websocket_is_refused() -> None:
    """There is nothing to talk about."""

    async def main() -> list[Any]:
        server = Server({"type": "websocket.connect"})
        await Process().app({"type": "websocket", "path": "/"}, server.receive, server.send)
        return server.sent

    assert asyncio.run(main()) == [{"type": "websocket.close", "code": 1000}]
