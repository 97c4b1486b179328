"""A line goes out whole or not at all, and what cannot be written is counted, never raised.

One line is one JSON object on one line of UTF-8.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from msgov.observability.redact import guarded, shown

try:
    import orjson
except ModuleNotFoundError:  # the extra `json` brings it: the same lines, several times faster
    _dumps: Callable[[object], bytes] = lambda value: json.dumps(  # noqa: E731
        value, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()
else:
    _dumps = orjson.dumps


def encode(fields: Mapping[str, object]) -> bytes:
    """Write fields as JSON; what JSON cannot say is shown as text."""
    try:
        return _dumps(fields)
    except (TypeError, ValueError, RecursionError):
        return _dumps(guarded({key: shown(value) for key, value in fields.items()}))


_THOUSANDTHS: Final = tuple(f"{number:03d}Z" for number in range(1000))


class Stamp:
    """Writes wall time as RFC 3339 in UTC, to the millisecond; formats each second once."""

    __slots__ = ("_second",)

    def __init__(self) -> None:
        self._second = (-1, "")

    def at(self, seconds: float) -> str:
        """Write a time, given in seconds since 1970."""
        thousandths = int(seconds * 1000)
        whole, rest = divmod(thousandths, 1000)
        second, text = self._second  # one tuple, so that no thread sees the text of another second
        if second != whole:
            text = datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
            self._second = (whole, text)
        return text + _THOUSANDTHS[rest]


class Sink:
    """Writes lines to a file descriptor, each by one `write` and with no buffer: a crash loses none.

    What the disk or the pipe refuses is dropped and counted in `dropped`. A line cut short by a full disk is ended
    before the next one begins, so it spoils no other. Safe from any thread, and from a finaliser or a signal handler.
    """

    __slots__ = ("_fd", "_lock", "_torn", "dropped")

    def __init__(self, fd: int = 2) -> None:
        self._fd = fd
        self._lock = threading.RLock()  # a finaliser that logs may run inside a write of its own thread
        self._torn = False
        self.dropped = 0

    def write(self, line: bytes) -> None:
        """Write a line, given without its end."""
        data = line + b"\n"
        with self._lock:  # a pipe takes a long line in pieces, and a short one must not fall in between
            if self._torn:
                data = b"\n" + data
            done = 0
            try:
                while done < len(data):
                    done += os.write(self._fd, data[done:] if done else data)
            except OSError:
                self.dropped += 1
                self._torn = self._torn or done > 0
            else:
                self._torn = False
