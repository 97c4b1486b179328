"""What operators and probes ask a process: /healthz, /readyz, /metrics and /sd, on a port of its own.

A small ASGI application without a framework. /healthz says that the process runs; /readyz whether it should get work,
with the names of what is missing and nothing else; /metrics is for Prometheus, /sd its `http_sd_config` list.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .asgi import App, Receive, Scope, Send

Exposition = Callable[[str], tuple[str, bytes]]


def admin(
    *,
    ready: Callable[[], Sequence[str]],
    metrics: Exposition | None = None,
    targets: Callable[[], Sequence[Mapping[str, object]]] | None = None,
) -> App:
    """Make the application.

    `ready` returns what is missing (empty: ready), `metrics` the exposition for an Accept header, `targets` the
    instances known, in the shape of Prometheus's http_sd.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        status, kind, body = _answer(scope)
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _answer(scope: Scope) -> tuple[int, str, bytes]:
        path = scope["path"]
        if scope["method"] not in ("GET", "HEAD"):
            return 405, "text/plain", b"read only\n"
        if path == "/healthz":
            return 200, "application/json", b'{"status":"ok"}'
        if path == "/readyz":
            missing = list(ready())
            body = json.dumps({"status": "ready" if not missing else "not ready", "missing": missing}).encode()
            return (503 if missing else 200), "application/json", body
        if path == "/metrics" and metrics is not None:
            kind, body = metrics(_header(scope, b"accept"))
            return 200, kind, body
        if path == "/sd" and targets is not None:
            return 200, "application/json", json.dumps(list(targets())).encode()
        return 404, "text/plain", b"/healthz /readyz /metrics /sd\n"

    return app


def _header(scope: Scope, name: bytes) -> str:
    pairs: list[tuple[bytes, bytes]] = scope["headers"]
    return next((value.decode("latin-1") for key, value in pairs if key == name), "")


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message: Any = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return
