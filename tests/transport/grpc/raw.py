"""As much HTTP/2 as it takes to send what no client library would."""

from __future__ import annotations

import socket
import struct

_DATA, _HEADERS, _RST, _SETTINGS, _GOAWAY = 0, 1, 3, 4, 7
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return struct.pack(">I", len(body))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + body


def _text(value: bytes) -> bytes:
    assert len(value) < 127
    return bytes((len(value),)) + value


def message(body: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    """Frame a gRPC message, truly or not."""
    return bytes((flag,)) + struct.pack(">I", len(body) if length is None else length) + body


def ask(
    port: int, path: str, *more: tuple[bytes, bytes], body: bytes = b"\x00\x00\x00\x00\x00", patience: float = 5.0
) -> bytes:
    """Send one request, and return what came back until its stream ended, frame by frame, not decoded.

    Raises TimeoutError when nothing comes for `patience` seconds.
    """
    headers = [
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", path.encode()), (b":authority", b"x"),
        (b"content-type", b"application/grpc"), (b"te", b"trailers"), *more,
    ]  # fmt: skip
    block = b"".join(b"\x00" + _text(name) + _text(value) for name, value in headers)
    with socket.create_connection(("127.0.0.1", port), timeout=patience) as wire:
        wire.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(_SETTINGS, 0, 0, b"")
            + _frame(_HEADERS, _END_HEADERS, 1, block)
            + _frame(_DATA, _END_STREAM, 1, body)
        )
        got, seen = b"", b""
        while True:
            while len(got) >= 9:
                size, kind, flags = int.from_bytes(got[:3]), got[3], got[4]
                stream = int.from_bytes(got[5:9]) & 0x7FFFFFFF
                if len(got) < 9 + size:
                    break
                part, got = got[9 : 9 + size], got[9 + size :]
                if kind == _SETTINGS and not flags & _ACK:
                    wire.sendall(_frame(_SETTINGS, _ACK, 0, b""))
                if stream == 1:
                    seen += part
                if kind == _GOAWAY or (stream == 1 and (kind == _RST or flags & _END_STREAM)):
                    return seen
            more_bytes = wire.recv(65536)
            if not more_bytes:
                return seen
            got += more_bytes
