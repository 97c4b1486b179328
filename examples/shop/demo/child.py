"""One process of the shop, from its start to its end: what it prints first is where it listens, its silence its end."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

START: Final = 30.0  # seconds until it must be ready; an idle machine takes one
LAST: Final = 5  # lines of its log that are shown when it died
SHOP: Final = (__package__ or "shop.demo").rpartition(".")[0]  # under whatever name it was copied
FOLDER: Final = Path(__file__).resolve().parents[SHOP.count(".") + 2]


class Died(Exception):
    """A service did not get ready; the message says which and why."""


class Child:
    """Started when made. It ends when its standard input is closed, also by this process's own death.

    `pid`, `port` and `admin` are known once it is `ready`. Raises OSError when it cannot be started at all.
    """

    def __init__(self, service: str, number: int, *, folder: Path) -> None:
        self.service = service
        self.number = number
        self.name = f"{service}-{number}"
        self.log = folder / "logs" / f"{self.name}.log"
        self.port = self.admin = 0
        self.up = False
        self._heard: asyncio.StreamReader | None = None
        path = os.pathsep.join(filter(None, [str(FOLDER), os.environ.get("PYTHONPATH")]))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  ourselves
                [sys.executable, "-m", SHOP, service, "--data", str(folder), "--instance", str(number)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # a Ctrl-C is for the parent, who ends all of them
            )
        self.pid = self._process.pid

    async def ready(self) -> None:
        """Wait until it says that it is; raises `Died`."""
        try:
            async with asyncio.timeout(START):
                line = await (await self._output()).readline()
        except TimeoutError:
            raise Died(f"{self.name} was not ready within {START:g} s\n{self.last_words()}") from None
        if not line:
            code = await self.ended()
            raise Died(f"{self.name} {_fate(code)} while it was starting\n{self.last_words()}")
        try:
            told = json.loads(line)
            self.port, self.admin, self.up = told["port"], told["admin"], True
        except (ValueError, KeyError, TypeError):
            raise Died(f"{self.name} began with {line[:80]!a} instead of where it listens") from None

    async def ended(self) -> int:
        """Wait for its end; return the exit code, negative for a signal."""
        heard = await self._output()
        while await heard.read(65536):
            pass
        self.up = False
        while (code := self._process.poll()) is None:  # its output ends a moment before it does
            await asyncio.sleep(0.005)
        self.close()
        return code

    def end(self) -> None:
        """Ask it to drain and go; one that has not begun to serve has nothing to drain."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        if not self.up:
            self._process.terminate()

    def kill(self) -> None:
        """Give it no choice."""
        self._process.kill()

    def close(self) -> None:
        """Let go of the pipes."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def last_words(self) -> str:
        """Return the end of its log, without what is only information."""
        lines = self.log.read_text(errors="replace").splitlines()
        said = [line for line in lines if '"level":"info"' not in line][-LAST:] or lines[-1:]
        return "\n".join(f"  {line[:500]}" for line in said) or "  (it wrote no log)"

    async def _output(self) -> asyncio.StreamReader:
        if self._heard is None:
            loop = asyncio.get_running_loop()
            self._heard = heard = asyncio.StreamReader()
            await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(heard), self._process.stdout)
        return self._heard


def _fate(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
