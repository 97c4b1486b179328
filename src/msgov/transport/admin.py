"""What operators and probes ask a process: /healthz, /readyz, /metrics and /sd, on a port of its own.

A small ASGI application without a framework. /healthz says that the process runs; /readyz whether it should get work,
with the names of what is missing and nothing else; /metrics is for Prometheus, /sd its `http_sd_config` list.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence

from msgov.transport.limits import App, Receive, Scope, Send

Exposition = Callable[[str], tuple[str, bytes]]
_Page = tuple[int, str, bytes]

_log = logging.getLogger("msgov.admin")


def admin(
    *,
    ready: Callable[[], Sequence[str]],
    metrics: Exposition | None = None,
    targets: Callable[[], Sequence[Mapping[str, object]]] | None = None,
) -> App:
    """Make the application.

    `ready` returns what is missing (empty: ready), `metrics` the content type and the page for an Accept header,
    `targets` the instances known, in the shape of Prometheus's http_sd. What is not given is not found.
    """

    def healthz(scope: Scope) -> _Page:
        return 200, "application/json", b'{"status": "ok"}'

    def readyz(scope: Scope) -> _Page:
        missing = list(ready())
        told = {"status": "not ready" if missing else "ready", "missing": missing}
        return (503 if missing else 200), "application/json", json.dumps(told).encode()

    pages: dict[str, Callable[[Scope], _Page]] = {"/healthz": healthz, "/readyz": readyz}
    if metrics is not None:
        pages["/metrics"] = lambda scope: (200, *metrics(_accept(scope)))
    if targets is not None:
        pages["/sd"] = lambda scope: (200, "application/json", json.dumps(list(targets())).encode())
    known = (" ".join(pages) + "\n").encode()

    def answer(scope: Scope) -> _Page:
        page = pages.get(scope["path"].removeprefix(scope.get("root_path", "")))
        if page is None:
            return 404, "text/plain", known
        if scope["method"] not in ("GET", "HEAD"):
            return 405, "text/plain", b"read only\n"
        try:
            return page(scope)
        except Exception as error:  # noqa: BLE001  a probe must get an answer, and no text of an exception
            _log.error("%s failed", scope["path"], exc_info=error)
            return 500, "text/plain", b"failed\n"

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await _lifespan(receive, send)
        elif kind == "http":
            await _send(send, scope, *answer(scope))
        elif kind == "websocket":
            await receive()  # websocket.connect comes first
            await send({"type": "websocket.close", "code": 1000})

    return app


async def _send(send: Send, scope: Scope, status: int, kind: str, body: bytes) -> None:
    headers = [
        (b"content-type", kind.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if status == 405:
        headers.append((b"allow", b"GET, HEAD"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _accept(scope: Scope) -> str:
    pairs: list[tuple[bytes, bytes]] = scope["headers"]
    return ",".join(value.decode("latin-1") for name, value in pairs if name == b"accept")


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return
