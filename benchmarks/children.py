"""Starts the processes of a benchmark, talks to them in lines of JSON, and leaves none."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from types import TracebackType
from typing import Any, Self


class Child:
    """One process of ours: it prints a JSON line when it is ready, answers each line, and ends when its stdin does."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.ready = self._read()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, **question: Any) -> Any:
        """Send one question; return the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args} ended with {self._process.wait(5)}")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def answer(value: Any) -> None:
    """Answer the parent."""
    print(json.dumps(value), flush=True)


def cpu(pid: int) -> float:
    """CPU seconds of another process, all threads (Linux)."""
    return time.clock_gettime(((~pid) << 3) | 2)
