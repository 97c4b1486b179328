"""A fresh server on a free port is one `with` away, and is gone when the block ends."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Protocol

from tests.servers.recipe import HOST, Installed, Place, Recipe

PORT_TRIES = 5
READY_POLL_SECONDS = 0.02
_LOG = "server.log"
_GUARD_SECONDS = 15.0  # what the guard may take beyond the server's own time to stop
_GUARD = Path(__file__).with_name("guard.py")


class StartFailed(Exception):
    """The server ended before it was ready, or was not ready in time; the text ends with its last words."""


class PortLost(StartFailed):
    """Somebody else took a port between our choice and the server's bind."""


class Server:
    """One real server at one place; it can be stopped, killed and started again there."""

    def __init__(self, recipe: Recipe, installed: Installed, place: Place, arguments: Sequence[str] = ()) -> None:
        self.name = recipe.name
        self.host = HOST
        self.ports = place.ports
        self.port = place.port
        self.url = recipe.url.format(host=HOST, port=place.port)
        self.data = place.data
        self.installed = installed
        self._recipe = recipe
        self._place = place
        self._arguments = list(arguments)
        self._guard: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None

    @property
    def pid(self) -> int:
        """The server's own process id; RuntimeError when it is not running."""
        if self._pid is None or self._guard is None or self._guard.poll() is not None:
            raise RuntimeError(f"{self.name} on port {self.port} is not running")
        return self._pid

    @property
    def log(self) -> str:
        """All it has printed so far, over all its starts."""
        with contextlib.suppress(FileNotFoundError):
            return (self.data / _LOG).read_text(errors="replace")
        return ""

    def start(self) -> None:
        """Start here and wait for a real answer. Raises `StartFailed`; `PortLost` when the port is no longer ours."""
        if self._guard is not None:
            raise RuntimeError(f"{self.name} on port {self.port} was started already; stop() or kill() it first")
        already = len(self.log)
        command = self._recipe.launch(self.installed, self._place)
        order = {
            "owner": os.getpid(),
            "command": [*command.arguments, *self._arguments],
            "environment": {**self.installed.environment, **command.environment},
            "data": str(self.data),
            "signal": int(self._recipe.stop_signal),
            "seconds": self._recipe.stop_seconds,
        }
        with (self.data / _LOG).open("ab") as log:
            self._guard = guard = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_GUARD), json.dumps(order)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C in a terminal reaches the owner, and through it the server
                bufsize=0,
            )
        try:
            assert guard.stdout is not None
            with guard.stdout as said:
                line = said.readline()
            self._pid = int(line) if line else None
            self._wait_until_ready(guard, already)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ask it to stop, wait until it has, and keep its data and port for another `start`."""
        guard, self._guard, self._pid = self._guard, None, None
        if guard is None:
            return
        assert guard.stdin is not None
        with guard.stdin as pipe, contextlib.suppress(BrokenPipeError):
            pipe.write(b"s")  # said aloud: a fork of this process may hold the pipe open beyond its closing here
        try:
            guard.wait(self._recipe.stop_seconds + _GUARD_SECONDS)
        except subprocess.TimeoutExpired:
            guard.kill()  # which kills the server too
            guard.wait()

    def kill(self) -> None:
        """End it as a crash would, with SIGKILL to its own process; its data stays."""
        os.kill(self.pid, signal.SIGKILL)
        self.stop()

    def close(self) -> None:
        """Stop it if it runs, and remove its data."""
        self.stop()
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.data)

    def _wait_until_ready(self, guard: subprocess.Popen[bytes], already: int) -> None:
        deadline = time.monotonic() + self._recipe.start_seconds
        while time.monotonic() < deadline:
            if (code := guard.poll()) is not None:
                said = self.log[already:]
                lost = re.search("address already in use|eaddrinuse", said, re.IGNORECASE)
                raise (PortLost if lost else StartFailed)(f"{self.name} ended with {code} at its start: {_tail(said)}")
            with contextlib.suppress(OSError, HTTPException, ValueError, LookupError):
                if self._recipe.ready(self._place):
                    return
            time.sleep(READY_POLL_SECONDS)
        raise StartFailed(
            f"{self.name} was not ready after {self._recipe.start_seconds:g} s: {_tail(self.log[already:])}"
        )


class StartServer(Protocol):
    """Start the server called `name`; its `files` lie in its data folder, `arguments` go on its command line."""

    def __call__(self, name: str, *, files: Mapping[str, str] | None = None, arguments: Sequence[str] = ()) -> Server:
        """Return it ready; it is stopped by the fixture. The test is skipped where it cannot be had."""
        ...


class SharedServer(Protocol):
    """Hand out the one server called `name` that the whole run shares, with what others left in it."""

    def __call__(self, name: str) -> Server:
        """Return it ready, started at the first call. The test is skipped where it cannot be had."""
        ...


@contextlib.contextmanager
def running(
    recipe: Recipe, installed: Installed, *, files: Mapping[str, str] | None = None, arguments: Sequence[str] = ()
) -> Iterator[Server]:
    """A started server on free ports with a data folder of its own, removed at the end.

    `files` are written into the data folder before the start (name to text), and `arguments` are added to
    the server's command line. A port lost to somebody else is tried again with another, up to 5 times.
    """
    for tries_left in reversed(range(PORT_TRIES)):
        data = Path(tempfile.mkdtemp(prefix=f"msgov-{recipe.name}-")).resolve()
        server = Server(recipe, installed, Place(data, free_ports(recipe.ports)), arguments)
        try:
            for name, text in (files or {}).items():
                (data / name).write_text(text)
            server.start()
        except PortLost:
            server.close()
            if tries_left == 0:
                raise
            continue
        except BaseException:
            server.close()
            raise
        break
    with contextlib.closing(server):
        yield server


def free_ports(names: Sequence[str]) -> dict[str, int]:
    """A different free loopback port for each name, held all at once so that none is given twice."""
    with contextlib.ExitStack() as held:
        sockets = {name: held.enter_context(socket.socket()) for name in names}
        for each in sockets.values():
            each.bind((HOST, 0))
        return {name: each.getsockname()[1] for name, each in sockets.items()}


def _tail(text: str) -> str:
    return " / ".join(text.strip().splitlines()[-5:]) or "it printed nothing"
