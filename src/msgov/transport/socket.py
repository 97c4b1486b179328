"""One WebSocket, watched over: whether it was accepted, whether its peer has left."""

from __future__ import annotations

from msgov.call import Call
from msgov.observability import spans
from msgov.transport.limits import App, Message, Receive, Scope, Send
from msgov.transport.problem import Refusal

_TRY_AGAIN = 1013  # RFC 6455's registry: the server is overloaded


class Socket:
    """A WebSocket under way.

    `began` says that the application ran, `answered` that it accepted or refused the handshake, `gone` that the peer
    has left. Nothing ends it but its two ends: `starved` is what a request can be, never a WebSocket.
    """

    __slots__ = ("_call", "_connected", "_receive", "_send", "answered", "began", "gone", "scope", "status")

    starved = False

    def __init__(self, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.began = self.answered = self.gone = False
        self.status = 101
        self._call = call
        self._connected = False
        self._receive = receive
        self._send = send

    async def run(self, app: App) -> None:
        """Run the application until either side closes."""
        self.began = True
        with spans.attached(self._call):
            await app(self.scope, self.receive, self.send)

    async def receive(self) -> Message:
        """Hand the application its next message."""
        message = await self._receive()
        self._connected = True
        if message["type"] == "websocket.disconnect":
            self.gone = True
        return message

    async def send(self, message: Message) -> None:
        """Pass the application's message on."""
        if not self.answered:
            self.answered = True
            if message["type"] != "websocket.accept":
                self.status = message.get("status", 403)  # a close before the handshake goes out as 403
        await self._send(message)

    async def deny(self, answer: Refusal) -> None:
        """Refuse before the handshake: with a reply where the server can, else with a close."""
        if not self._connected:
            await self._receive()  # websocket.connect comes first
        if "websocket.http.response" not in (self.scope.get("extensions") or {}):
            await self._send({"type": "websocket.close", "code": _TRY_AGAIN, "reason": answer.reason})
            return
        start = {"type": "websocket.http.response.start", "status": answer.status, "headers": answer.headers}
        await self._send(start)
        await self._send({"type": "websocket.http.response.body", "body": answer.body})
