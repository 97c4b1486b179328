"""The demo as a user starts it: a command, in a folder with a space in its name, with a proxy that leads nowhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LONGEST = 100.0  # seconds that any run may take
NOWHERE = "http://127.0.0.1:9"


class Demo:
    """One run of `msgov demo`, and all processes that come of it."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.temporary = folder / "a folder"
        self.temporary.mkdir()
        self.mark = uuid.uuid4().hex
        proxies = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "all_proxy"), NOWHERE)
        self._errors = (folder / "stderr").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "msgov", "demo", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=folder,
            env={**os.environ, **proxies, "TMPDIR": str(self.temporary), "DEMO_MARK": self.mark, **environment},
        )

    def errors(self) -> str:
        """Return what it has said on standard error."""
        return Path(self._errors.name).read_text()

    def wait_for(self, text: str) -> None:
        """Wait until it has said something on standard error."""
        until = time.monotonic() + LONGEST
        while text not in self.errors():
            assert self.process.poll() is None, self.errors()
            assert time.monotonic() < until, self.errors()
            time.sleep(0.02)

    def line(self) -> Mapping[str, Any]:
        """Return the next line of standard output, which is JSON."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.errors()
        found: Mapping[str, Any] = json.loads(line)
        return found

    def end(self) -> tuple[str, int]:
        """Wait for its end; return the rest of its standard output, and the exit code."""
        told, _ = self.process.communicate(timeout=LONGEST)
        return told.decode(), self.process.returncode

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def processes(self) -> dict[int, str]:
        """Return all processes of this run by id, with what they are ("order-1", "msgov")."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if self.mark.encode() not in (entry / "environ").read_bytes():
                    continue
                words = (entry / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            found[int(entry.name)] = f"{words[3]}-{words[7]}" if "--instance" in words else "msgov"
        return found

    def close(self) -> None:
        """End what a failed test left running, by its id."""
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        self.process.wait(10)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._errors.close()


@contextmanager
def demo(folder: Path, *arguments: str, **environment: str) -> Iterator[Demo]:
    """Start a run; at the end of the block nothing of it may be left, no process and no file."""
    made = Demo(folder, *arguments, **environment)
    try:
        yield made
        made.end()
        assert made.processes() == {}
        assert list(made.temporary.iterdir()) == []
    finally:
        made.close()
