"""The thread's line is bounded."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest

from msgov.connections.sqlite_file import StoreError, WalFile
from msgov.connections.sqlite_thread import QUEUE, Job, Worker, nothing


def test_line_is_bounded(tmp_path: Path) -> None:
    """Callers that could not be served in time are refused at once, and memory stays bounded."""
    worker = Worker(WalFile(tmp_path / "x.db", schema=(), synchronous="NORMAL"))
    held, go = threading.Event(), threading.Event()

    def hold(connection: sqlite3.Connection) -> None:
        held.set()
        go.wait(10)

    first: Future[object] = Future()
    last: Future[object] = Future()
    try:
        worker.submit(Job(hold, 0.0, first, None), writes=False)
        assert held.wait(10)
        for _ in range(QUEUE - 1):
            worker.submit(Job(nothing, 0.0, Future(), None), writes=True)
        worker.submit(Job(nothing, 0.0, last, None), writes=False)
        with pytest.raises(StoreError, match="10000 calls are waiting") as caught:
            worker.submit(Job(nothing, 0.0, Future(), None), writes=False)
        assert caught.value.reason == "store_busy"
    finally:
        go.set()
        worker.close()
    assert first.done()
    assert last.done()
