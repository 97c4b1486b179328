"""A test asks for a server by a fixture; where none can be had it is skipped, and the run says so at its end.

    def test_set(redis_server): ...                         # a fresh one for this test
    def test_any(server): server("etcd"); server("etcd")    # any recipe, several, with files and arguments
    def test_cheap(shared_server): shared_server("redis")   # one for the whole run: use keys of your own

Such tests carry the mark `server`. With `MSGOV_REQUIRE_SERVERS=1` a server that cannot be had is a failure.
Servers named by a fixture (`redis_server`) are fetched before the first test, so that a download is never charged
to a test's time limit.
"""

import collections
import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence

import pytest

from tests.servers.cache import Cache
from tests.servers.recipe import Unavailable
from tests.servers.recipes import recipe, recipes
from tests.servers.running import Server, SharedServer, StartServer, running

REQUIRE = "MSGOV_REQUIRE_SERVERS"
_CACHE = pytest.StashKey[Cache]()


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[StartServer]:
    """Start any number of servers for this test alone."""
    with contextlib.ExitStack() as started:

        def start(name: str, *, files: Mapping[str, str] | None = None, arguments: Sequence[str] = ()) -> Server:
            return _start(request.config, started, name, files, arguments)

        yield start


@pytest.fixture(scope="session")
def shared_server(request: pytest.FixtureRequest) -> Iterator[SharedServer]:
    """Servers that live as long as the run, each started when first asked for."""
    running_ones: dict[str, Server] = {}
    with contextlib.ExitStack() as started:

        def share(name: str) -> Server:
            if name not in running_ones:
                running_ones[name] = _start(request.config, started, name, None, ())
            return running_ones[name]

        yield share


@pytest.fixture
def redis_server(server: StartServer) -> Server:
    """An empty Redis for this test alone."""
    return server("redis")


@pytest.fixture
def prometheus_server(server: StartServer) -> Server:
    """A Prometheus for this test alone, which scrapes nothing; promtool is `.installed.programs["promtool"]`."""
    return server("prometheus")


def pytest_configure(config: pytest.Config) -> None:
    """One cache a run, which also remembers what could not be had."""
    config.stash[_CACHE] = Cache()
    config.addinivalue_line("markers", "server: needs a real server; set by the fixture that gives one")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a server before `-m` chooses, so that no test can forget to."""
    for item in items:
        if not {"server", "shared_server"}.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker("server")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fetch what the collected tests name; a failure is told by the tests that need it."""
    if session.config.option.collectonly:
        return
    wanted = {fixture for item in session.items for fixture in getattr(item, "fixturenames", ())}
    for each in recipes().values():
        if f"{each.name}_server" in wanted:
            with contextlib.suppress(Unavailable):
                session.config.stash[_CACHE].obtain(each)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """After everything else that is reported: which servers were missing, why, and how many tests that cost."""
    yield
    missing: collections.Counter[tuple[str, str]] = collections.Counter()
    for outcome in ("skipped", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, ()):
            told = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
            if found := re.search(r"server \S+ cannot be had: .*", told):
                missing[outcome, found[0]] += 1
    for (outcome, reason), tests in sorted(missing.items()):
        count = f"{tests} test{'s' if tests > 1 else ''}"
        terminalreporter.write_line(f"{count} {'skipped' if outcome == 'skipped' else 'failed'}: {reason}", yellow=True)


def _start(
    config: pytest.Config,
    started: contextlib.ExitStack,
    name: str,
    files: Mapping[str, str] | None,
    arguments: Sequence[str],
) -> Server:
    chosen = recipe(name)
    try:
        installed = config.stash[_CACHE].obtain(chosen)
    except Unavailable as absent:
        if os.environ.get(REQUIRE) == "1":
            pytest.fail(f"{absent} ({REQUIRE}=1)", pytrace=False)
        pytest.skip(str(absent))
    return started.enter_context(running(chosen, installed, files=files, arguments=arguments))
