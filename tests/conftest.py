"""Every test ends with nothing left over; real servers come from `tests.servers`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from msgov import scope
from msgov.testing import no_leaks

# A busy machine is no defect of the test: examples are bounded in number, not in time.
settings.register_profile("msgov", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("campaign", settings.get_profile("msgov"), max_examples=2000)
settings.load_profile("msgov")

pytest_plugins = ("tests.servers.plugin",)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let `make campaign` ask for the full numbers."""
    parser.addoption("--campaign", action="store_true", help="run the long tests with the references' full numbers")


def pytest_configure(config: pytest.Config) -> None:
    """Walk the machines twenty times as far in a campaign."""
    if config.getoption("--campaign"):
        settings.load_profile("campaign")


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """No thread, task, socket, file or process outlives its test, and no scope leaks out of it."""
    if "shared_server" in request.fixturenames:  # one server serves several tests, and ends with the last of them
        yield
        return
    known = ("msgov-timers",)  # the shared timers' thread ends by itself a second after the last timer
    with no_leaks(grace=5.0, known=known):
        yield
    assert scope.current.get() is scope.EMPTY
