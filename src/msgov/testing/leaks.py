"""A test leaves nothing behind: no thread, task, socket, open file, child process or temporary file."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Collection
from types import TracebackType

from msgov.testing import _census as census
from msgov.testing._number import non_negative

# grpc.aio keeps one poller thread, with a socket pair, for as long as any of its objects lives.
_POLLER = "_poll_wrapper"
_TURNS = 100
_POLL = 0.01


class Leaked(AssertionError):
    """Something was left behind; `left` names each thing."""

    def __init__(self, left: Collection[str]) -> None:
        super().__init__(f"{len(left)} left behind:\n  " + "\n  ".join(left))
        self.left = tuple(left)


class no_leaks:  # noqa: N801  called like a function, as contextlib.suppress is
    """Check that a block leaves nothing: `with no_leaks():`, or `async with` to give the loop's tasks time to end.

    Compared before and after, in this process: threads of Python, tasks of the running loop, sockets and open regular
    files, child processes (a dead one that nobody waited for counts; seen where there is a /proc), and the files and
    folders that `tempfile` made. What is on its way out gets `grace` seconds, 2 by default: a thread that was told to
    end needs milliseconds, more on a busy machine. It is polled, so a clean block costs no wait. `known` holds parts of
    names of threads that may stay; grpc.aio's poller is known. A block that raises is not checked: its own error says
    more.

    Raises `Leaked`, an `AssertionError` that names what is left.
    """

    def __init__(self, *, grace: float = 2.0, known: Collection[str] = ()) -> None:
        self._grace = non_negative("no_leaks: grace", grace)
        self._known = (_POLLER, *known)
        self._temporary = census.TemporaryFiles()
        self._before: census.Holdings = {}

    def __enter__(self) -> None:
        """Remember what is there."""
        self._temporary.begin()
        self._before = _held()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Compare."""
        try:
            if error is None:
                self._check()
        finally:
            self._temporary.end()

    async def __aenter__(self) -> None:
        """Remember what is there."""
        self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let tasks that are ending end, then compare."""
        for _ in range(_TURNS):
            if census.tasks().keys() <= self._before.keys():
                break
            await asyncio.sleep(0)
        self.__exit__(kind, error, trace)

    def _check(self) -> None:
        left = self._left()
        if left:
            gc.collect()  # what only a cycle holds is not running; the interpreter has a ResourceWarning for it
            left = self._left()
        deadline = time.monotonic() + self._grace
        while left and time.monotonic() < deadline:
            time.sleep(_POLL)
            left = self._left()
        if left:
            raise Leaked(left)

    def _left(self) -> list[str]:
        new = [what for key, what in (_held() | self._temporary.left()).items() if key not in self._before]
        pairs = 2 * sum(_POLLER in what for what in new)
        left = []
        for what in new:
            if what == census.PAIR and pairs:
                pairs -= 1
            elif not (what.startswith("thread ") and any(name in what for name in self._known)):
                left.append(what)
        return sorted(left)


def _held() -> census.Holdings:
    return census.threads() | census.tasks() | census.descriptors() | census.children()
