"""Every driver test runs in both colours, save those that only one can have."""

from __future__ import annotations

import sys

import pytest

from tests.drivers.stage import COLOURS, Colour


@pytest.fixture(params=COLOURS, ids=lambda colour: colour.name)
def colour(request: pytest.FixtureRequest) -> Colour:
    """Run the test once under asyncio and once in blocking code."""
    found: Colour = request.param
    return found


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """Collect what is reported as unraisable, which would fail the test otherwise."""
    found: list[BaseException] = []

    def hook(report: sys.UnraisableHookArgs) -> None:
        assert report.exc_value is not None
        found.append(report.exc_value)

    monkeypatch.setattr(sys, "unraisablehook", hook)
    return found
