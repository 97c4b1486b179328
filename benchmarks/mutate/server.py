"""Runs inside pytest, collected once: for each mutant a fork puts it in place and runs the tests that reach it."""

from __future__ import annotations

import gc
import os
import resource
import select
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from types import CodeType, FrameType, FunctionType

import pytest

from benchmarks.mutate.operators import Mutant, mutants

KILLED, SURVIVED, HUNG, UNREACHED = "killed", "survived", "hung", "unreached"
GRACE, WALL = 10.0, 30.0  # seconds of CPU, and of waiting, beyond twice what the tests take: a busy machine is no hang


@dataclass
class Found:
    """One mutant, and what the tests made of it."""

    file: str
    mutant: Mutant
    fate: str


@dataclass
class Server:
    """A pytest plugin whose test loop is the mutants' loop."""

    modules: dict[str, Path]
    tell: Callable[[Found], None]
    survives: Callable[[str, Mutant], bool] = lambda file, mutant: False
    only: str = ""
    quick: bool = False
    failed: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    reached: dict[str, set[tuple[str, str]]] = field(default_factory=dict)
    races: set[str] = field(default_factory=set)
    functions: dict[tuple[str, str, int], list[FunctionType]] = field(default_factory=dict)

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self) -> None:
        """The same examples each time, and no shrinking: one failure is enough."""
        from hypothesis import Phase, settings  # its pytest plugin wants to be first

        settings.register_profile(
            "mutate",
            settings.get_profile("msgov"),
            derandomize=True,
            database=None,
            max_examples=50,
            phases=(Phase.explicit, Phase.generate),
            print_blob=False,
        )
        settings.load_profile("mutate")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run all tests once as they are, then each mutant."""
        files = {}
        for name, path in self.modules.items():
            import_module(name)
            files[str(path)] = name
        self._baseline(session.items, files)
        self.functions = _functions(files)
        for name, path in self.modules.items():
            kills: Counter[str] = Counter()
            for mutant in mutants(path.read_text(), str(path)):
                if self.only in f"{mutant.function} {mutant.was}":
                    self.tell(self._fate(session.items, name, path, mutant, kills))
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take note of a failure."""
        self.failed = self.failed or report.failed

    def _baseline(self, items: list[pytest.Item], files: dict[str, str]) -> None:
        for item, after in _pairs(items):
            began = time.process_time()
            with _seen(files) as seen, _started() as started:
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            if started:
                self.races.add(item.nodeid)
            self.seconds[item.nodeid] = time.process_time() - began
            self.reached[item.nodeid] = seen
            if self.failed:
                raise pytest.UsageError(f"{item.nodeid} fails as it is: nothing to be learnt from mutants")

    def _fate(self, items: list[pytest.Item], module: str, path: Path, mutant: Mutant, kills: Counter[str]) -> Found:
        where = (str(path), mutant.function.split(" (")[0])
        reaching = [item for item in items if mutant.code is None or where in self.reached[item.nodeid]]
        quick = [item for item in reaching if item.nodeid not in self.races]
        races = [item for item in reaching if item.nodeid in self.races]
        fate = SURVIVED if reaching else UNREACHED
        # What starts threads looks for races, slowly: it is asked last, and not of what is known to survive.
        for chosen in (quick, [] if quick and (self.quick or self.survives(path.name, mutant)) else races):
            chosen.sort(key=lambda item: (-kills[item.nodeid], self.seconds[item.nodeid]))
            if not chosen:
                continue
            limit = 2 * sum(self.seconds[item.nodeid] for item in chosen)
            killer = _fork(partial(self._run, chosen, module, path, mutant), limit)
            if killer is None:
                return Found(path.name, mutant, HUNG)
            if killer >= 0:
                kills[chosen[killer].nodeid] += 1
                return Found(path.name, mutant, KILLED)
        return Found(path.name, mutant, fate)

    def _run(self, items: list[pytest.Item], module: str, path: Path, mutant: Mutant) -> int:
        """In the fork: put the mutant in place, and return the number of the test that fails, -1 for none."""
        if mutant.code is None:
            setattr(sys.modules[module], mutant.function, mutant.value)
        else:
            code = mutant.code
            for each in self.functions.get((str(path), code.co_qualname, code.co_firstlineno), ()):
                each.__code__ = code
        for at, item in enumerate(items):
            try:
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
            except BaseException:  # noqa: BLE001  whatever ends the test has noticed it
                return at
            if self.failed:
                return at
        return -1


def _pairs(items: list[pytest.Item]) -> Iterator[tuple[pytest.Item, pytest.Item | None]]:
    return zip(items, [*items[1:], None], strict=True)


def _functions(files: dict[str, str]) -> dict[tuple[str, str, int], list[FunctionType]]:
    """Find every function of the files, wherever it hangs: in a class, a property, a decorator."""
    found: dict[tuple[str, str, int], list[FunctionType]] = {}
    for each in gc.get_objects():
        if type(each) is FunctionType and each.__code__.co_filename in files:
            code = each.__code__
            found.setdefault((code.co_filename, code.co_qualname, code.co_firstlineno), []).append(each)
    return found


@contextmanager
def _seen(files: dict[str, str]) -> Iterator[set[tuple[str, str]]]:
    """Note which outermost functions of the files are called, on any thread."""
    codes: dict[int, tuple[str, str] | None] = {}
    seen: set[tuple[str, str]] = set()

    def profile(frame: FrameType, event: str, arg: object) -> None:
        if event == "call":
            code = frame.f_code
            try:
                found = codes[id(code)]
            except KeyError:
                inside = code.co_filename in files
                found = (code.co_filename, code.co_qualname.split(".<locals>")[0]) if inside else None
                codes[id(code)] = found
                kept.append(code)  # so that no other gets its id
            if found is not None:
                seen.add(found)

    kept: list[CodeType] = []
    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        yield seen
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]  # None takes it away


@contextmanager
def _started() -> Iterator[list[threading.Thread]]:
    """Note the threads that are started."""
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def noted(thread: threading.Thread) -> None:
        started.append(thread)
        start(thread)

    threading.Thread.start = noted  # type: ignore[method-assign]  # for one test
    try:
        yield started
    finally:
        threading.Thread.start = start  # type: ignore[method-assign]


def _fork(work: Callable[[], int], limit: float) -> int | None:
    """Run in a fork of this process and return what it says, None when it takes longer than the limit."""
    here, there = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(here)
        quiet = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(quiet, standard)
        most = int(GRACE + limit)
        resource.setrlimit(resource.RLIMIT_CPU, (most, most))
        code = work()
        os.write(there, code.to_bytes(4, "big", signed=True))
        os._exit(0)
    os.close(there)
    try:
        ready, _, _ = select.select([here], [], [], WALL + limit)
        said = os.read(here, 4) if ready else b""
        if not ready:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(here)
    if said:
        return int.from_bytes(said, "big", signed=True)
    slow = not ready or os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)
    return None if slow else 0  # it died of the mutant: that is noticed
